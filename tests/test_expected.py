"""Expected values of new rows, by the sums on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from oracles import Z
from programs import BY_ID
from scipy.special import expit, softmax

import bayesmix as bm
from bayesmix.predict import replicate

ROUNDING = 1e-12
_rng = np.random.default_rng(3)
N, NEW = 40, 5
AGE = _rng.normal(50, 10, N)
SIDE = np.where(_rng.random(N) < 0.5, "left", "right")
GATE = _rng.normal(size=N)
KIND = _rng.integers(0, 2, N)
Y = np.where(KIND == 0, 0.1 * AGE, 9 - 0.05 * AGE) + 0.3 * _rng.normal(size=N)
FRAME = pd.DataFrame({"age": AGE, "side": SIDE}, index=[f"r{n}" for n in range(N)])
AHEAD = pd.DataFrame(
    {"age": _rng.normal(50, 10, NEW), "side": ["left", "right", "right", "left", "left"]},
    index=list("abcde"),
)


def fit(program, *args, **kwargs):
    em = bm.EM(program, restarts=2, progress_bar=False)
    return em.run(jax.random.key(0), *args, **kwargs)


@pytest.fixture(scope="module")
def gated():
    return fit(bm.models.regression(2, shared="side"), FRAME, Y, gating=GATE)


@pytest.fixture(scope="module")
def nuts(gated):
    sampler = bm.NUTS(gated.mixture.program, chains=2, warmup=30, draws=20, progress_bar=False)
    return sampler.run(jax.random.key(1), FRAME, Y, gating=GATE, start=gated)


def lines(params, frame):
    """The clusters' lines on paper, (..., N, K)."""
    slope = params["coef"][..., None, :, 0] * frame["age"].to_numpy()[:, None]
    side = (frame["side"] == "right").to_numpy() * 1.0
    shared = params["coef_shared"][..., None, :] * side[:, None]
    return params["intercept"][..., None, :] + slope + shared


def shares(params, gate):
    """Weights of each row, (..., N, K)."""
    gates = params["gate"][..., None, :, :]
    return softmax(gates[..., 0, :] + gate[:, None] * gates[..., 1, :], -1)


def test_a_regression_expects_its_lines_at_new_covariates(gated):
    gate = np.linspace(-1, 1, NEW)
    found = gated.expected(AHEAD, gating=gate)
    line, weight = lines(gated.params, AHEAD), shares(gated.params, gate)
    np.testing.assert_allclose(found["y_by_cluster"][0, 0], line, rtol=ROUNDING)
    np.testing.assert_allclose(found["weights"][0, 0], weight, rtol=ROUNDING)
    np.testing.assert_allclose(found["y"][0, 0], (line * weight).sum(-1), rtol=ROUNDING)
    assert list(found["obs_id"].values) == list("abcde")
    np.testing.assert_allclose(
        gated.predict_mean(AHEAD, gating=gate), (line * weight).sum(-1), rtol=ROUNDING
    )


def test_without_a_response_rows_have_the_weights_of_their_covariates(gated):
    gate = np.linspace(-1, 1, NEW)
    weight = shares(gated.params, gate)
    np.testing.assert_allclose(gated.predict_proba(AHEAD, gating=gate), weight, rtol=ROUNDING)
    y = np.full(NEW, 5.0)
    line, scale = lines(gated.params, AHEAD), np.sqrt(gated.params["var"])
    joint = weight * np.exp(-0.5 * ((y[:, None] - line) / scale) ** 2) / scale
    posterior = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(gated.predict_proba(AHEAD, y, gating=gate), posterior, rtol=1e-9)
    with pytest.raises(ValueError, match="y, the response, is missing"):
        fit(gated.mixture.program, FRAME)


def test_nuts_has_the_lines_of_every_draw_and_averages_them(nuts):
    gate = np.linspace(-1, 1, NEW)
    draws = nuts._aligned()
    line, weight = lines(draws, AHEAD), shares(draws, gate)
    found = nuts.expected(AHEAD, gating=gate)
    assert found["y_by_cluster"].dims == ("chain", "draw", "obs_id", "cluster")
    np.testing.assert_allclose(found["y_by_cluster"], line, rtol=1e-10)
    np.testing.assert_allclose(found["y"], (line * weight).sum(-1), rtol=1e-10)
    np.testing.assert_allclose(
        nuts.predict_mean(AHEAD, gating=gate), (line * weight).sum(-1).mean((0, 1)), rtol=1e-10
    )


def own(x, y=None):
    """A logistic regression as users write it, predicting where y is None."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("obs_id", len(x)):
        parts = dist.Bernoulli(logits=x[:, None] * slope)
        numpyro.sample("y", bm.VectorMixture(dist.Categorical(probs=weights), parts), obs=y)


def test_a_program_of_ones_own_needs_no_response():
    em = fit(own, GATE, KIND)
    chance = expit(GATE[:3, None] * em.params["slope"])
    expected = chance @ em.params["weights"]
    np.testing.assert_allclose(em.predict_mean(GATE[:3]), expected, rtol=ROUNDING)
    np.testing.assert_allclose(em.predict_mean(GATE[:3], y=None), expected, rtol=ROUNDING)


def test_groups_have_the_weights_of_their_group():
    group = np.repeat(np.arange(8), 5)
    gate = np.repeat(GATE[:8], 5)
    em = fit(bm.models.regression(2), FRAME[["age"]], Y, groups=group, gating=gate)
    line = em.params["intercept"] + AGE[:, None] * em.params["coef"][:, 0]
    weight = shares(em.params, gate)
    np.testing.assert_allclose(em.predict_mean(), (line * weight).sum(-1), rtol=ROUNDING)


def test_columns_of_several_kinds_have_a_mean_each():
    table = pd.DataFrame({"age": AGE, "side": SIDE, "visits": KIND})
    program = bm.models.mixed({"age": "normal", "side": "categorical", "visits": "poisson"}, 2)
    em = fit(program, table)
    found = em.predict_mean(table[:2])
    for site, name in {"age": "age_loc", "side": "side_probs", "visits": "visits_rate"}.items():
        both = np.stack([em.params["weights"] @ em.params[name]] * 2)
        np.testing.assert_allclose(found[site], both, rtol=ROUNDING)
    assert em.expected(table[:2])["side_by_cluster"].shape == (1, 1, 2, 2, 2)


SIMULATED = (
    "mvn_niw",
    "explicit_mixed",
    "explicit_groups",
    "normal_and_uniform",
    "gated_regression",
)


@pytest.mark.parametrize("name", SIMULATED)
def test_means_are_those_of_many_simulated_rows(name):
    """The mean of replicates of the data, from the same program, within Z standard errors."""
    row = BY_ID[name]
    em = bm.EM(row.program, restarts=1, max_steps=20, progress_bar=False).run(
        jax.random.key(0), *row.args
    )
    draws = {site: np.broadcast_to(v, (1, 4000, *v.shape)) for site, v in em.params.items()}
    many = replicate(jax.random.key(1), em.mixture, draws)
    found = em.predict_mean()
    if not isinstance(found, dict):
        many, found = {row.id: many}, {row.id: found}
    for site, mean in found.items():
        values = many[site][0]
        if mean.ndim == values.ndim:  # categories: the shares of each
            values = values[..., None] == np.arange(mean.shape[-1])
        error = values.std(0) / np.sqrt(len(values))
        assert values.shape[1:] == mean.shape
        assert (np.abs(values.mean(0) - mean) < Z * error + ROUNDING).all()


def test_a_series_and_a_table_of_one_column_are_the_same_rows():
    series, table = FRAME["age"], FRAME[["age"]]
    for fitted, new in ((series, table), (table, series)):
        em = fit(bm.models.gaussian(2), fitted)
        np.testing.assert_array_equal(em.predict_proba(new), em.responsibilities)


def beside(X, Z):
    """Two tables: a regression of one column of Z on those of X, weights aside."""
    with numpyro.plate("cluster", 2):
        slope = numpyro.sample("slope", dist.Normal(0, 2).expand([X.shape[1]]).to_event(1))
    mixing = dist.Categorical(probs=jnp.ones(2) / 2)
    with numpyro.plate("obs_id", len(X)):
        parts = dist.Normal(X @ slope.T + Z[:, :1], 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(mixing, parts), obs=Z[:, 1])


def test_columns_of_every_table_are_those_of_the_fit():
    X = pd.DataFrame({"a": AGE, "b": GATE})
    Z = pd.DataFrame({"c": GATE, "d": Y})
    em = bm.EM(beside, restarts=1, max_steps=3, progress_bar=False).run(jax.random.key(0), X, Z)
    em.predict(X[:3], Z[:3])
    with pytest.raises(ValueError, match="column 0 of argument 2 of the new data is 'd'"):
        em.predict(X[:3], Z[["d", "c"]][:3])


def test_angles_have_no_mean():
    em = fit(bm.models.von_mises(2), np.linspace(-3, 3, 30))
    with pytest.raises(ValueError, match="VonMises components, which have no mean"):
        em.predict_mean()
