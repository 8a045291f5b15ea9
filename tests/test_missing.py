"""Missing cells: integrated out exactly, whatever their pattern, by both engines and in prediction.

The densities and the modes of four programs of the table (tests/programs.py) are checked with it;
here are outside results, the statistics of the E-step, and what a user meets.
"""

import io

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pandas as pd
import pytest
from matplotlib.text import Text
from numpyro.distributions import constraints
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from oracles import ROUNDING, x64
from programs import ANSWERS, BY_ID, ITEMS, MISSING, X_GAPS, X, with_gaps
from scipy import stats
from scipy.special import logsumexp, softmax

import bayesmix as bm
from bayesmix.density import data_of, density_of
from bayesmix.models.moments import damped_covariance
from bayesmix.models.summaries import covariance

# ------------------------------------------------------------------------------ outside results


def maximum_likelihood(x, K=2):
    D = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.ImproperUniform(constraints.real_vector, (), (D,)))
        support = constraints.positive_definite
        cov = numpyro.sample("cov", dist.ImproperUniform(support, (), (D, D)))
    with numpyro.plate("obs_id", len(x)):
        mixing, parts = dist.Categorical(probs=weights), dist.MultivariateNormal(loc, cov)
        numpyro.sample("x", dist.MixtureSameFamily(mixing, parts), obs=x, infer=MISSING)


@pytest.mark.parametrize(
    "name, data", [("iris_mcar15", "iris_mcar15"), ("airquality", "airquality_missing")]
)
def test_reaches_the_reference(reference, name, data):
    """An independent EM in NumPy; its optima for K > 1 are the best of its random starts."""
    found = reference(f"ml/missing_{name}.json")
    x = reference(f"data/{data}.csv")[found["columns"]]
    for fit in found["fits"][:2]:
        params = {
            "weights": np.array(fit["weights"]),
            "loc": np.array(fit["means"]),
            "cov": np.array(fit["covariances"]),
        }
        with x64():
            mixture = bm.trace(maximum_likelihood, x, K=fit["K"])
            pointwise = np.asarray(bm.log_density(mixture, params))
        assert abs(pointwise.sum() - fit["loglik_observed"]) < 1e-6
        em = bm.EM(maximum_likelihood, restarts=4, progress_bar=False).run(
            jax.random.key(0), x, K=fit["K"]
        )
        assert em.modes[0].regular
        assert em.log_likelihood > fit["loglik_observed"] - 1e-6
        if fit["K"] == 1:
            assert abs(em.log_likelihood - fit["loglik_observed"]) < 1e-6
            np.testing.assert_allclose(em.params["loc"], fit["means"], rtol=1e-5)
    count = sum(found["missing_per_column"])
    assert f"{count} missing cells in" in em.notes[-1]
    assert "integrated out" in str(mixture)


# ------------------------------------------------------------------------------- ready-made models


def fitted(program, *args, **given):
    em = bm.EM(program, restarts=2, progress_bar=False)
    return em.run(jax.random.key(0), *args, **given)


def test_a_ready_model_reaches_the_reference(reference):
    found = reference("ml/missing_airquality.json")
    x = reference("data/airquality_missing.csv")[found["columns"]]
    best = next(fit["loglik_observed"] for fit in found["fits"] if fit["K"] == 2)
    em = bm.EM(bm.models.gaussian(2, prior="flat"), restarts=4, progress_bar=False).run(
        jax.random.key(0), x
    )
    assert em.log_likelihood > best - 1e-6


@pytest.mark.parametrize("covariance", ["full", "diag", "VVE"])
def test_ready_gaussians_are_certified_with_gaps(covariance):
    """The default prior of gappy data is proper: sampled from, finite, and NumPyro's own."""
    em = fitted(bm.models.gaussian(2, covariance=covariance), X_GAPS)
    assert em.converged
    assert all(np.isfinite(value).all() for value in em.params.values())
    assert bm.certify(jax.random.key(0), em.mixture, points=1).passed


POSITIVE = np.exp(X_GAPS)
BITS = np.where(np.isnan(X_GAPS), np.nan, X_GAPS > 0)


@pytest.mark.parametrize(
    "program, x",
    [
        (bm.models.log_normal(2), POSITIVE),
        (bm.models.gamma(2), POSITIVE),
        (bm.models.student_t(2), X_GAPS[:, 0]),
        (bm.models.poisson(2), np.floor(POSITIVE)),
        (bm.models.bernoulli(2), BITS),
        (bm.models.categorical(2), BITS),
    ],
    ids=["log_normal", "gamma", "student_t", "poisson", "bernoulli", "categorical"],
)
def test_rows_without_any_value_change_no_ready_model(program, x):
    """Neither its prior nor its likelihood: summaries are of the observed cells."""
    rest = x[~np.isnan(x.reshape(len(x), -1)).all(1)]
    em = fitted(program, x)
    with x64():
        values = [float(bm.log_joint(bm.trace(program, data), em.params)) for data in (x, rest)]
    assert abs(values[0] - values[1]) <= ROUNDING * len(x)
    assert np.isfinite(values[0])


def test_priors_of_complete_data_do_not_change():
    """The program itself goes to NumPyro; gaps in a row of their own change rounding alone."""
    with x64():
        row = np.vstack([X, [[np.nan, np.nan]]])
        plain, gappy = (bm.trace(bm.models.gaussian(2), x) for x in (X, row))
        params = oracles.draw_params(BY_ID["mvn_niw"], 2)
        values = [float(bm.log_joint(mixture, params)) for mixture in (plain, gappy)]
    assert plain.marginal is plain.program
    assert abs(values[0] - values[1]) <= ROUNDING * len(X)


def test_the_covariance_of_available_pairs():
    """Observed variances; correlations of the rows with both; never indefinite."""
    rng = np.random.default_rng(0)
    x = with_gaps(rng.normal(size=(40, 3)) @ rng.normal(size=(3, 3)), 5) + 1e6
    frame = pd.DataFrame(x)
    deviations = np.sqrt(frame.var().to_numpy())
    with x64():
        ours = np.asarray(covariance(jnp.asarray(x)))
    np.testing.assert_allclose(ours, frame.corr() * np.outer(deviations, deviations), rtol=1e-7)
    gone = np.nan  # each two columns in rows of their own: r = 1, 1, -1
    pairs = np.array([[1.0, 1, gone], [gone, 1, 1], [1, gone, -1]])
    signed = np.vstack([pairs, 0 * pairs, -pairs])
    with x64():
        ours = np.asarray(covariance(jnp.asarray(signed)))
        damped = np.asarray(damped_covariance(jnp.asarray(signed)))
    np.testing.assert_allclose(np.diag(ours), pd.DataFrame(signed).var(), rtol=1e-12)
    assert np.linalg.eigvalsh(ours)[0] == pytest.approx(0.0, abs=1e-12)
    np.linalg.cholesky(damped)


def _check_names(em, table):
    """The columns and categories of the table, in what is filled in and in the tree."""
    filled = bm.impute(em)
    assert list(filled.columns) == list(table.columns)
    assert list(filled["region"].cat.categories) == ["north", "south"]
    seen = table["region"].notna()
    assert (filled["region"][seen].astype(str) == table["region"][seen]).all()
    resp, probs = em.responsibilities[1], em.params["region_probs"]
    assert filled["region"][1] == ("north", "south")[(resp @ probs).argmax()]
    drawn = bm.impute(em, jax.random.key(0), draws=2)
    assert list(drawn["feature"].values) == list(table.columns)
    assert drawn.attrs["levels of region"] == ["north", "south"]
    tree = em.to_datatree()
    assert list(tree["posterior"]["region_level"].values) == ["north", "south"]
    assert tree["observed_data"]["region"].attrs["levels"] == ["north", "south"]


def test_mixed_columns_may_have_gaps():
    """Codes, text and pandas' NA; what is missing is no category."""
    table = pd.DataFrame(
        {
            "size": X_GAPS[:, 0],
            "visits": pd.array([None, 1, 2, 5] * 9, dtype="Int64"),
            "region": ["north", None, "south"] * 12,
            "smoker": [True, False, None, False] * 9,
        }
    )
    kinds = {"size": "normal", "visits": "poisson", "region": "categorical", "smoker": "bernoulli"}
    em = fitted(bm.models.mixed(kinds, 2), table)
    gaps = int(table.isna().to_numpy().sum())
    assert f"{gaps} missing cells" in em.notes[-1]
    assert em.params["region_probs"].shape == (2, 2)
    _check_names(em, table)
    row = pd.DataFrame({"size": [0.5], "visits": [None], "region": [None], "smoker": [None]})
    with x64():
        size = dist.Normal(em.params["size_loc"], np.sqrt(em.params["size_var"])).log_prob(0.5)
    expected = softmax(np.log(em.params["weights"]) + np.asarray(size))
    np.testing.assert_allclose(em.predict_proba(row)[0], expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"'visits'.*no value at all"):
        fitted(
            bm.models.mixed({"size": "normal", "visits": "poisson"}, 2), table.assign(visits=None)
        )
    assert bm.certify(jax.random.key(0), em.mixture, points=1).passed


def test_parts_of_a_multivariate_t_are_multivariate_t():
    """Of the same degrees of freedom, by SciPy; the certificate; a fit."""
    em = fitted(bm.models.student_t(2), X_GAPS)
    assert em.converged
    assert bm.certify(jax.random.key(0), em.mixture, points=1).passed
    p = em.params
    terms = np.tile(np.log(p["weights"]), (len(X_GAPS), 1))
    for n, x in enumerate(X_GAPS):
        seen = ~np.isnan(x)
        for k in range(2) if seen.any() else ():
            block = p["scale_matrix"][k][np.ix_(seen, seen)]
            part = stats.multivariate_t(p["loc"][k][seen], block, df=p["df"][k])
            terms[n, k] += part.logpdf(x[seen])
    # A row without any value has density 1, up to the rounding of the weights' sum.
    expected = logsumexp(terms, 1)
    np.testing.assert_allclose(em.log_density(X_GAPS), expected, rtol=1e-9, atol=1e-14)


def test_imputes_multivariate_t_by_its_conditional_t():
    """Ding (2016): location as a normal's, scale by the distance of the observed cell, df + 1."""
    program = bm.models.student_t(1, df=6)
    x = np.vstack([X, [[2.5, np.nan]]])
    em = fitted(program, x)
    (loc,), (matrix,) = em.params["loc"], em.params["scale_matrix"]
    gap = 2.5 - loc[0]
    mean = loc[1] + matrix[1, 0] / matrix[0, 0] * gap
    assert bm.impute(em)[-1, 1] == pytest.approx(mean, rel=1e-9)
    scale = matrix[1, 1] - matrix[1, 0] ** 2 / matrix[0, 0]
    variance = scale * (6 + gap**2 / matrix[0, 0]) / 7 * 7 / (7 - 2)
    drawn = bm.impute(em, jax.random.key(0), draws=20_000)[:, -1, 1].to_numpy()
    squares = (drawn - mean) ** 2
    assert abs(drawn.mean() - mean) <= oracles.Z * np.sqrt(variance / len(drawn))
    assert abs(squares.mean() - variance) <= oracles.Z * squares.std() / np.sqrt(len(drawn))


_rng = np.random.default_rng(4)
COVARIATES, TIMES = _rng.normal(size=(24, 2)), np.full(24, 8.0)
UNSEEN = np.isin(np.arange(24), [3, 8, 9, 20])
GROUPS = np.arange(24) // 4  # rows 8 and 9 are of a group with other rows
RESPONSES = [
    ("normal", _rng.normal(size=24), {}),
    ("normal", _rng.normal(size=24), {"groups": GROUPS}),
    ("poisson", _rng.poisson(3.0, 24), {"gating": COVARIATES[:, :1]}),
    ("binomial", _rng.binomial(8, 0.4, 24), {"trials": TIMES}),
]


@pytest.mark.parametrize("family, y, given", RESPONSES)
def test_a_missing_response_tells_nothing(family, y, given):
    """Its row has density 1, and the weights of its group or covariates; the others are as ever."""
    program = bm.models.regression(2, family=family)
    gappy = np.where(UNSEEN, np.nan, y)
    em = fitted(program, COVARIATES, gappy, **given)
    assert em.converged
    assert "4 missing cells in" in em.notes[-1]
    assert bm.certify(jax.random.key(0), em.mixture, points=1).passed
    rest = {name: value[~UNSEEN] for name, value in given.items()}
    some = em.log_density(COVARIATES[~UNSEEN], y[~UNSEEN], **rest)
    every = em.log_density(COVARIATES, gappy, **given)
    if "groups" in given:
        np.testing.assert_allclose(every, some, rtol=1e-10)
        return
    np.testing.assert_allclose(every[~UNSEEN], some, rtol=1e-10)
    np.testing.assert_allclose(every[UNSEEN], 0.0, atol=1e-12)


def test_a_column_of_a_table_may_be_the_response():
    """None and pandas' NA are missing."""
    y = pd.array([1, None, 2, 5, 3, 0, 2, 1], dtype="Int64")
    X = np.arange(8.0)[:, None] % 5
    one, two = (
        bm.trace(bm.models.regression(2, family="poisson"), X, values)
        for values in (y, pd.Series(y.astype(float)))
    )
    np.testing.assert_array_equal(one.value, two.value)
    assert (
        one.gaps == "1 missing cells in 1 of 8 rows are integrated out; rows without any value: 1"
    )


# ------------------------------------------------------------------------------------ the E-step


def test_completed_statistics_are_conditional_moments():
    """Row by row: E[x | observed cells, k] and its covariance, from the textbook formula."""
    row = BY_ID["mvn_missing"]
    params = oracles.draw_params(row, 1)
    with x64():
        mixture = bm.trace(row.program, X_GAPS)
        density, data = density_of(mixture), data_of(mixture)
        statistics = density.whole(density.e_step(params, data)[1])
        resp = np.asarray(bm.responsibilities(mixture, params))
        shift, scale = np.asarray(data.rows.shift), np.asarray(data.rows.scale)
    i, j = np.triu_indices(2)
    expected = np.zeros((2, 5))
    for n, x in enumerate(X_GAPS):
        seen = ~np.isnan(x)
        for k in range(2):
            loc, cov = params["loc"][k], params["cov"][k]
            slope = cov[:, seen] @ np.linalg.inv(cov[np.ix_(seen, seen)])
            z = (loc + slope @ (x[seen] - loc[seen]) - shift) / scale
            spread = (cov - slope @ cov[seen]) / np.outer(scale, scale)
            moments = np.concatenate([z, (np.outer(z, z) + spread)[i, j]])
            expected[k] += resp[n, k] * moments
    np.testing.assert_allclose(np.asarray(statistics.mass), resp.sum(0), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(statistics.features), expected, atol=1e-11)


def test_a_start_takes_the_moments_of_the_observed_cells():
    """Without params a missing cell is as the observed ones of its column and cluster."""
    resp = np.eye(2)[np.arange(len(X_GAPS)) % 2]
    with x64():
        mixture = bm.trace(BY_ID["mvn_missing"].program, X_GAPS)
        density, data = density_of(mixture), data_of(mixture)
        mass, features = density.statistics_of(jnp.asarray(resp), data).completed
    z = (X_GAPS - np.asarray(data.rows.shift)) / np.asarray(data.rows.scale)
    for k in range(2):
        own = z[resp[:, k] == 1]
        np.testing.assert_allclose(features[k, :2] / mass[k], np.nanmean(own, 0), atol=1e-12)
        second = np.asarray(features[k, [2, 4]] / mass[k])
        np.testing.assert_allclose(second, np.nanmean(own**2, 0), atol=1e-12)


# ------------------------------------------------------------------------------------- identities


def test_nothing_missing_is_as_if_not_declared():
    params = oracles.draw_params(BY_ID["mvn_niw"], 2)
    with x64():
        declared = bm.trace(BY_ID["mvn_missing"].program, X)
        plain = bm.trace(BY_ID["mvn_niw"].program, X)
        values = [float(bm.log_joint(m, params)) for m in (declared, plain)]
    assert abs(values[0] - values[1]) <= ROUNDING * len(X)
    assert declared.gaps == ""
    assert "missing" not in str(declared)


def test_a_row_without_any_value_changes_nothing():
    params = oracles.draw_params(BY_ID["mvn_missing"], 2)
    rest = X_GAPS[~np.isnan(X_GAPS).all(1)]
    with x64():
        whole, others = (bm.trace(BY_ID["mvn_missing"].program, x) for x in (X_GAPS, rest))
        values = [float(bm.log_joint(m, params)) for m in (whole, others)]
        resp = np.asarray(bm.responsibilities(whole, params))
    assert abs(values[0] - values[1]) <= ROUNDING * len(X)
    np.testing.assert_allclose(resp[4], params["weights"], rtol=1e-12)
    assert "rows without any value: 2" in str(whole)


def test_columns_that_are_never_missing_together_keep_one_density():
    """Both kinds of rows, by their own factor: p(x1) for some, p(x1, x2) for the others."""
    x = X.copy()
    x[::2, 1] = np.nan
    params = oracles.draw_params(BY_ID["mvn_missing"], 3)
    terms = BY_ID["mvn_missing"].terms(params, x)
    with x64():
        mixture = bm.trace(BY_ID["mvn_missing"].program, x)
        pointwise = np.asarray(bm.log_density(mixture, params))
    np.testing.assert_allclose(pointwise, logsumexp(terms, -1), rtol=1e-12)
    assert len(data_of(mixture).rows.patterns) == 2


def weighted(x, w):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        cov = numpyro.sample("cov", dist.InverseWishart(5.0, scale_matrix=1.5 * jnp.eye(2)))
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
    with numpyro.plate("obs_id", len(x)), numpyro.handlers.scale(scale=w):
        mixing, parts = dist.Categorical(probs=weights), dist.MultivariateNormal(loc, cov)
        numpyro.sample("x", dist.MixtureSameFamily(mixing, parts), obs=x, infer=MISSING)


def test_a_weight_of_two_is_the_row_twice():
    w = np.arange(len(X_GAPS)) % 3
    params = oracles.draw_params(BY_ID["mvn_missing"], 3)
    copies = np.repeat(X_GAPS, w, 0)
    with x64():
        scaled = bm.trace(weighted, X_GAPS, w.astype(float))
        copied = bm.trace(weighted, copies, np.ones(len(copies)))
        values = [float(bm.log_joint(m, params)) for m in (scaled, copied)]
        rows = np.asarray(bm.log_density(scaled, params))
    assert abs(values[0] - values[1]) <= ROUNDING * len(copies)
    assert (rows[w == 0] == 0).all()


def test_repeated_rows_with_gaps_are_merged():
    items = with_gaps(np.tile(ITEMS, (200, 1)), 7)
    params = oracles.draw_params(BY_ID["bernoulli_missing"], 3)
    with x64():
        mixture = bm.trace(BY_ID["bernoulli_missing"].program, items)
        ours = float(bm.log_joint(mixture, params))
        theirs = oracles.other_terms(BY_ID["bernoulli_missing"], params)
    terms = logsumexp(BY_ID["bernoulli_missing"].terms(params, items), -1)
    assert "distinct" in str(mixture)
    assert abs(ours - float(theirs) - terms.sum()) <= ROUNDING * np.abs(terms).sum()


def test_offset_and_scale_of_the_columns_do_not_matter():
    """Statistics are centred by the observed cells: units and a large offset change nothing."""
    scale, shift = np.array([1e-3, 1e4]), np.array([1e7, -1e7])
    moved = X_GAPS * scale + shift * scale
    plain, other = (
        bm.EM(maximum_likelihood, restarts=2, progress_bar=False).run(jax.random.key(0), x, K=1)
        for x in (X_GAPS, moved)
    )
    seen = (~np.isnan(X_GAPS)).sum(0)
    change = -(seen * np.log(scale)).sum()
    assert other.log_likelihood == pytest.approx(plain.log_likelihood + change, abs=1e-5)
    np.testing.assert_allclose(other.params["loc"][0] / scale - shift, plain.params["loc"][0],
                               atol=1e-6)  # fmt: skip


def test_float32():
    settings = {"restarts": 4, "progress_bar": False}
    program = BY_ID["mvn_missing"].program
    double = bm.EM(program, **settings).run(jax.random.key(0), X_GAPS)
    single = bm.EM(program, dtype="float32", tol=1e-4, **settings).run(jax.random.key(0), X_GAPS)
    assert single.log_joint == pytest.approx(double.log_joint, abs=1e-2)


# --------------------------------------------------------------------------- families and programs


def product_of(kind):
    """A program of two products, and their components as a function of p (K, D)."""
    components = {
        "exponential": lambda p: dist.Exponential(p),
        "log normal": lambda p: dist.LogNormal(jnp.log(p), 0.7),
        "geometric": lambda p: dist.Geometric(probs=p / (1 + p)),
        "categorical": lambda p: dist.Categorical(logits=jnp.stack([p, 0 * p, -p], -1)),
    }[kind]

    def program(x):
        with numpyro.plate("cluster", 2):
            p = numpyro.sample("p", dist.Gamma(20.0, 20.0).expand([2]).to_event(1))
        with numpyro.plate("obs_id", len(x)):
            parts = components(p).to_event(1)
            mixing = dist.Categorical(probs=jnp.array([0.3, 0.7]))
            numpyro.sample("x", bm.VectorMixture(mixing, parts), obs=x, infer=MISSING)

    return program, components


@pytest.mark.parametrize("kind", ["exponential", "log normal", "geometric", "categorical"])
def test_products_count_the_observed_cells(kind):
    """Registered families and the general sweep alike: the cells' densities, NumPyro's own."""
    program, components = product_of(kind)
    x = with_gaps(ANSWERS[:20], 8) + (0 if kind in ("categorical", "geometric") else 0.5)
    p = np.array([[0.8, 1.3], [1.1, 0.6]])
    with x64():
        mixture = bm.trace(program, x)
        ours = np.asarray(bm.log_density(mixture, {"p": p}))
        total = np.tile(np.log([0.3, 0.7]), (len(x), 1))
        for n, d in np.argwhere(~np.isnan(x)):
            cell = x[n, d] if kind != "categorical" else int(x[n, d])
            total[n] += np.asarray(components(jnp.asarray(p[:, d])).log_prob(cell))
        certificate = bm.certify(jax.random.key(0), mixture, points=1)
    np.testing.assert_allclose(ours, logsumexp(total, -1), rtol=1e-10, atol=1e-12)
    assert certificate.passed


def test_successes_may_be_missing_from_their_trials():
    def program(x, trials):
        with numpyro.plate("cluster", 2):
            probs = numpyro.sample("probs", dist.Beta(2.0, 2.0))
        with numpyro.plate("obs_id", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
            numpyro.sample("x", dist.Binomial(trials, probs[z]), obs=x, infer=MISSING)

    x, trials = np.array([3.0, np.nan, 1.0, 6.0, 9.0]), np.array([10, 10, 4, 9, 9])
    mixture = bm.trace(program, x, trials)
    with x64():
        value = bm.log_joint(mixture, {"probs": jnp.array([0.3, 0.6])})
        rest = bm.trace(program, np.delete(x, 1), np.delete(trials, 1))
        other = bm.log_joint(rest, {"probs": jnp.array([0.3, 0.6])})
    assert float(value) == pytest.approx(float(other), rel=1e-12)
    assert bm.certify(jax.random.key(0), mixture, points=1).passed


def test_the_ready_binomial_takes_missing_successes():
    """Trials of a cell whose successes are not known count neither in the prior nor anywhere."""
    rng = np.random.default_rng(0)
    trials = rng.integers(5, 20, (30, 2)).astype(float)
    x = np.floor(trials * rng.uniform(size=(30, 2)))
    x[rng.random((30, 2)) < 0.2] = np.nan
    x[4] = np.nan
    program, other = bm.models.binomial(2), np.where(np.isnan(x), 1000.0, trials)
    params = {"weights": np.array([0.4, 0.6]), "probs": np.array([[0.2, 0.5], [0.7, 0.6]])}
    with x64():
        values = [
            float(bm.log_joint(bm.trace(program, *data), params))
            for data in ((x, trials), (x, other), (np.delete(x, 4, 0), np.delete(trials, 4, 0)))
        ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)
    em = bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), x, trials)
    assert em.converged
    assert bm.certify(jax.random.key(0), em.mixture, points=1).passed
    filled = bm.impute(em)
    assert ((filled >= 0) & (filled <= trials)).all()


@pytest.mark.parametrize("row_id", ["mvn_missing", "explicit_missing"])
def test_certified_against_the_explicit_marginal(row_id):
    row = BY_ID[row_id]
    assert bm.certify(jax.random.key(1), bm.trace(row.program, *row.args), points=1).passed


def test_numpyro_runs_the_marginalised_program():
    """Its own log_density and Predictive, of a program that declares missing cells."""
    row = BY_ID["explicit_missing"]
    params = oracles.draw_params(row, 1)
    marginal = bm.marginalize(row.program)
    with x64():
        value = float(log_density(marginal, row.args, {}, params)[0])
        theirs = float(oracles.numpyro_log_joint(row, params))
        held = {name: jnp.asarray(v)[None] for name, v in params.items()}
        drawn = Predictive(marginal, held)(jax.random.key(0), *row.args)
    assert value == pytest.approx(theirs, rel=1e-12)
    assert "weights" not in drawn


# -------------------------------------------------------------------------------- prediction, NUTS


def test_new_rows_may_have_gaps_too():
    row = BY_ID["mvn_missing"]
    em = bm.EM(row.program, restarts=2, progress_bar=False).run(jax.random.key(0), X)
    new = np.array([[0.5, np.nan], [np.nan, np.nan], [np.nan, -1.0], [1e200, np.nan]])
    terms = row.terms(em.params, new[:3])
    np.testing.assert_allclose(em.predict_proba(new)[:3], softmax(terms, -1), rtol=1e-9)
    np.testing.assert_allclose(em.log_density(new[:3]), logsumexp(terms, -1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(em.predict_proba(new).sum(1), 1.0)
    np.testing.assert_allclose(em.predict_proba(new[1:2]), em.params["weights"][None])


def test_nuts_samples_the_exact_posterior():
    """One normal of known covariance: given the observed cells its location is exactly normal."""
    covariance = np.array([[1.0, 0.6], [0.6, 0.8]])

    def program(x):
        with numpyro.plate("cluster", 1):
            loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(2), 4.0 * jnp.eye(2)))
        parts = dist.MultivariateNormal(loc, covariance)
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=jnp.ones(1))
            numpyro.sample("x", dist.MixtureSameFamily(mixing, parts), obs=x, infer=MISSING)

    x = X_GAPS[:12]
    precision, pull = np.eye(2) / 4.0, np.zeros(2)
    for row in x:
        pick = np.eye(2)[~np.isnan(row)]
        own = pick.T @ np.linalg.inv(pick @ covariance @ pick.T) @ pick
        precision, pull = precision + own, pull + own @ np.nan_to_num(row)
    exact = np.linalg.inv(precision)
    nuts = bm.NUTS(program, chains=2, warmup=200, draws=1000, progress_bar=False).run(
        jax.random.key(0), x
    )
    draws = nuts.samples["loc"][:, :, 0]
    summary = nuts.summary()
    size = np.sqrt(np.diag(exact) / summary["ess_bulk"].to_numpy(float))
    assert (np.abs(draws.mean((0, 1)) - exact @ pull) < oracles.Z * size).all()
    spread = draws.reshape(-1, 2).std(0)
    error = np.sqrt(np.diag(exact) / (2 * summary["ess_tail"].to_numpy(float)))
    assert (np.abs(spread - np.sqrt(np.diag(exact))) < oracles.Z * error).all()
    assert "missing cells" in nuts.notes[-1]
    pick = np.isnan(x) & ~np.isnan(x[:, ::-1])  # given one column, the other is linear in loc
    other = (x - draws.mean((0, 1)))[:, ::-1] * covariance[0, 1] / np.diag(covariance)[::-1]
    np.testing.assert_allclose(bm.impute(nuts)[pick], (draws.mean((0, 1)) + other)[pick], rtol=1e-9)


# ------------------------------------------------------------------------------------- imputation


def conditional_means(params, x):
    """E[x | observed cells] of a mixture of multivariate normals, row by row."""
    resp, filled = softmax(BY_ID["mvn_missing"].terms(params, x), -1), x.copy()
    for n, row in enumerate(x):
        seen, parts = ~np.isnan(row), []
        for loc, cov in zip(params["loc"], params["cov"], strict=True):
            slope = cov[:, seen] @ np.linalg.inv(cov[np.ix_(seen, seen)])
            parts.append(loc + slope @ (row[seen] - loc[seen]))
        filled[n, ~seen] = (resp[n] @ parts)[~seen]
    return filled


def test_imputes_conditional_means_and_draws_around_them():
    frame = pd.DataFrame(X_GAPS, columns=["width", "length"], index=range(100, 136))
    em = bm.EM(BY_ID["mvn_missing"].program, restarts=2, progress_bar=False).run(
        jax.random.key(0), frame
    )
    filled = bm.impute(em)
    assert list(filled.columns) == ["width", "length"]
    assert filled.index[0] == 100
    expected = conditional_means(em.params, X_GAPS)
    np.testing.assert_allclose(filled.to_numpy(), expected, rtol=1e-9)
    drawn = bm.impute(em, jax.random.key(1), draws=2000)
    assert drawn.dims == ("draw", "obs_id", "feature")
    seen = ~np.isnan(X_GAPS)
    assert (drawn.to_numpy()[:, seen] == X_GAPS[seen]).all()
    error = drawn.to_numpy().std(0)[~seen] / np.sqrt(2000)
    assert (np.abs(drawn.to_numpy().mean(0) - expected)[~seen] < oracles.Z * error).all()
    with pytest.raises(ValueError, match="random key"):
        bm.impute(em, draws=3)
    with pytest.raises(ValueError, match="the data of the fit"):
        bm.impute(em, X_GAPS[:2])


def test_imputes_counts_and_categories():
    row = BY_ID["explicit_missing"]
    em = bm.EM(row.program, restarts=2, progress_bar=False).run(jax.random.key(0), *row.args)
    filled, x = bm.impute(em), row.x
    seen = ~np.isnan(x)
    assert (filled[seen] == x[seen]).all()
    rates = em.responsibilities @ em.params["rate"]
    np.testing.assert_allclose(filled[~seen[:, 2], 2], rates[~seen[:, 2]], rtol=1e-9)
    shares = np.einsum("nk,kdl->ndl", em.responsibilities, em.params["probs"])
    assert (filled[:, 3:][~seen[:, 3:]] == shares.argmax(-1)[~seen[:, 3:]]).all()
    drawn = bm.impute(em, jax.random.key(1), draws=50).to_numpy()
    assert (drawn[..., 2:] == np.floor(drawn[..., 2:])).all()


# ------------------------------------------------------------------------------------------ plots


def test_plots_show_complete_rows_and_count_the_others():
    plt.switch_backend("Agg")
    gone = int(np.isnan(X_GAPS).any(1).sum())
    em = fitted(bm.models.gaussian(2), X_GAPS)
    (ax,) = bm.plots.clusters(em).axes
    assert f"{gone} rows with missing values not shown" in str(words_on(ax))
    one = fitted(bm.models.gaussian(2), X_GAPS[:, 0])
    (ax,) = bm.plots.density(one).axes
    assert f"{np.isnan(X_GAPS[:, 0]).sum()} rows with missing" in str(words_on(ax))
    labels = np.tile(em.responsibilities.argmax(1), (1, 4, 1))
    (ax,) = bm.plots.uncertainty(labels, labels[0, 0], data=np.c_[X_GAPS, X_GAPS[:, 0]]).axes
    assert f"columns; {gone} rows with missing" in str(words_on(ax))
    ax.figure.savefig(io.BytesIO())  # a line width for each row: masked rows upset matplotlib
    drawn = np.ma.filled(ax.collections[0].get_offsets(), np.nan)
    assert np.isfinite(drawn).all(1).sum() == len(X_GAPS) - gone
    empty = np.where(np.eye(2)[np.arange(len(X_GAPS)) % 2] > 0, np.nan, 1.0)
    with pytest.raises(ValueError, match="every row has a missing value in"):
        bm.plots.uncertainty(labels, labels[0, 0], data=empty)


def words_on(ax):
    return [text.get_text() for text in ax.findobj(Text)]


# ------------------------------------------------------------------------------- what is refused


def test_undeclared_gaps_are_refused_with_the_remedy():
    frame = pd.DataFrame(X_GAPS, columns=["width", "length"])
    with pytest.raises(ValueError, match=r"row \d+, column '(width|length)' is missing.*infer="):
        bm.trace(BY_ID["mvn_niw"].program, frame)


def multinomial(x):
    with numpyro.plate("cluster", 2):
        probs = numpyro.sample("probs", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("obs_id", len(x)):
        mixing, parts = dist.Categorical(probs=jnp.ones(2) / 2), dist.Multinomial(9, probs)
        numpyro.sample("x", bm.VectorMixture(mixing, parts), obs=x, infer=MISSING)


def misspelt(x):
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0, 1))
    with numpyro.plate("obs_id", len(x)):
        mixing, parts = dist.Categorical(probs=jnp.ones(2) / 2), dist.Normal(loc, 1)
        mixture = dist.MixtureSameFamily(mixing, parts)
        numpyro.sample("x", mixture, obs=x, infer={"missing": "drop"})


def prior_of_nan(x):
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(x.mean(), 1))
    with numpyro.plate("obs_id", len(x)):
        mixing, parts = dist.Categorical(probs=jnp.ones(2) / 2), dist.Normal(loc, 1)
        numpyro.sample("x", dist.MixtureSameFamily(mixing, parts), obs=x, infer=MISSING)


GAP = np.array([[3.0, 4, 2], [1, np.nan, 2], [5, 2, 2]])


@pytest.mark.parametrize(
    "program, x, words",
    [
        (multinomial, GAP, "cannot be integrated out of Multinomial.*fixed sum"),
        (misspelt, X[:, 0], "infer=.*'marginal'"),
        (prior_of_nan, GAP[:, 1], "prior's 'loc' is NaN.*nanmean"),
        (BY_ID["mvn_missing"].program, GAP[:, 1:] * [np.nan, 1], "column 0 has no value at all"),
        (BY_ID["bernoulli_missing"].program, GAP, "row 0, column 0 is 3.0, outside"),
    ],
)
def test_refused_in_one_sentence(program, x, words):
    with pytest.raises(ValueError, match=words):
        bm.EM(program, progress_bar=False).run(jax.random.key(0), x)


def test_blocks_have_no_gaps():
    blocks = bm.Blocks(np.tile(X_GAPS, (4000, 1)))
    with pytest.raises(ValueError, match="missing from Blocks are not integrated out"):
        bm.trace(BY_ID["mvn_missing"].program, blocks)
