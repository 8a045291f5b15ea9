"""Explicit assignments: the sum over z, marginalize, partial labels, simulation, refusals.

The properties that every program must have are tested over the table in tests/programs.py, which
holds explicit programs too. Here NumPyro's own density of program and assignment is summed over all
K^N assignments, one by one.
"""

import itertools
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pytest
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from oracles import ROUNDING, x64
from programs import ANSWERS, BY_ID, COVARIATE, LABELS, PANEL, RESPONSE, VISITS, WEIGHTS, Y
from scipy.special import logsumexp

import bayesmix as bm

N = 6
SOME = slice(None, None, 7)


def nested(y):
    """One assignment per person as one would write it: the outer plate has the last axis."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("person", y.shape[1]):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        with numpyro.plate("visit", y.shape[0]):
            numpyro.sample("x", dist.Normal(loc[z], jnp.sqrt(var[z])), obs=y)


# program, a few rows of data, shape of the assignment
SMALL = {
    "explicit_normal": ((Y[SOME],), (N,)),
    "explicit_mixed": ((Y[SOME], VISITS[SOME], ANSWERS[SOME]), (N,)),
    "explicit_where": ((Y[SOME],), (N,)),
    "explicit_regression": ((COVARIATE[:N], RESPONSE[:N]), (N,)),
    "explicit_groups": ((PANEL[4:10],), (N, 1)),
    "explicit_labelled": ((Y[SOME], VISITS[SOME], LABELS[SOME]), (N,)),
    "explicit_gated": ((COVARIATE[:N], RESPONSE[:N]), (N,)),
}


def enumerated(row, args, shape, params):
    """log of the sum of exp(NumPyro's log density) over every assignment the labels allow."""
    name = "z_unobserved" if row.id == "explicit_labelled" else "z"
    every = np.array(list(itertools.product(range(row.K), repeat=N)))
    if row.id == "explicit_labelled":  # a label's own entry of z_unobserved is no variable
        every = every[np.all(every[:, args[2] >= 0] == 0, 1)]

    params = jax.tree.map(jnp.asarray, params)

    def one(z):
        return log_density(row.program, args, row.kwargs, params | {name: z.reshape(shape)})[0]

    return logsumexp(np.asarray(jax.jit(jax.vmap(one))(every)))


@pytest.mark.parametrize("row_id", SMALL)
def test_sums_over_every_assignment(row_id):
    """marginalize and the log joint, against NumPyro's density of program and assignment."""
    row, (args, shape) = BY_ID[row_id], SMALL[row_id]
    params = oracles.draw_params(row, 2)
    with x64():
        expected = enumerated(row, args, shape, params)
        marginal = float(log_density(bm.marginalize(row.program), args, row.kwargs, params)[0])
        ours = float(bm.log_joint(bm.trace(row.program, *args, **row.kwargs), params))
    assert abs(marginal - expected) <= ROUNDING * (1 + abs(expected))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


def test_some_rows_of_the_small_data_are_labelled():
    assert 0 < (LABELS[SOME] >= 0).sum() < N


@pytest.mark.skipif(find_spec("funsor") is None, reason="funsor is not installed")
@pytest.mark.parametrize("row_id", ["explicit_normal", "explicit_mixed", "explicit_regression"])
def test_equals_funsors_enumeration(row_id):
    from numpyro.contrib.funsor import config_enumerate
    from numpyro.contrib.funsor import log_density as funsor_log_density

    row, params = BY_ID[row_id], oracles.draw_params(BY_ID[row_id], 2)
    with x64():
        model = config_enumerate(row.program)
        expected = float(funsor_log_density(model, row.args, row.kwargs, params)[0])
        ours = float(bm.log_joint(bm.trace(row.program, *row.args, **row.kwargs), params))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


def test_nested_plates_in_their_natural_order():
    """The inner plate may have the axis left of the groups': the same density, data turned."""
    row = BY_ID["explicit_groups"]
    params = oracles.draw_params(row, 1)
    turned = bm.trace(nested, PANEL.T)
    assert turned.rows == (len(PANEL),)
    assert turned.row_dims == ("person",)
    np.testing.assert_array_equal(turned.value, PANEL)
    with x64():
        expected = float(bm.log_joint(bm.trace(row.program, PANEL), params))
        ours = float(bm.log_joint(turned, params))
        marginal = float(log_density(bm.marginalize(nested), (PANEL.T,), {}, params)[0])
    assert abs(ours - expected) <= ROUNDING * abs(expected)
    assert abs(marginal - expected) <= ROUNDING * abs(expected)


def test_an_assignment_changes_nothing():
    """With and without z written out: the same plan, and EM takes the same steps."""
    explicit, mixture = BY_ID["explicit_normal"], BY_ID["normal_inverse_gamma_variance"]
    fits = [
        bm.EM(row.program, restarts=4, progress_bar=False).run(jax.random.key(1), Y)
        for row in (explicit, mixture)
    ]
    assert fits[0].plan == fits[1].plan
    assert fits[0].steps == fits[1].steps
    np.testing.assert_allclose(fits[0].history, fits[1].history, rtol=1e-12)


def test_a_repeated_row_is_a_row_of_weight_two():
    plain, scaled = BY_ID["explicit_normal"], BY_ID["explicit_scaled"]
    params = oracles.draw_params(plain, 3)
    with x64():
        copies = bm.trace(plain.program, np.repeat(Y, WEIGHTS.astype(int)))
        expected = float(bm.log_joint(copies, params))
        ours = float(bm.log_joint(bm.trace(scaled.program, *scaled.args), params))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


def test_rows_under_a_mask_do_not_count():
    """A mask around assignment and observation equals leaving the rows out."""
    plain, keep = BY_ID["explicit_normal"], np.arange(Y.size) % 5 > 0
    program = handlers.mask(plain.program, mask=True)
    params = oracles.draw_params(plain, 3)

    def masked(x, keep):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("cluster", 2):
            loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
            var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
        with numpyro.plate("obs_id", len(x)), handlers.mask(mask=keep):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(loc[z], jnp.sqrt(var[z])), obs=x)

    with x64():
        expected = float(bm.log_joint(bm.trace(program, Y[keep]), params))
        ours = float(bm.log_joint(bm.trace(masked, np.where(keep, Y, 9.0), keep), params))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


# ---------------------------------------------------------------------------------- partial labels


@pytest.fixture(scope="module")
def labelled():
    row = BY_ID["explicit_labelled"]
    return bm.EM(row.program, restarts=6, progress_bar=False).run(jax.random.key(0), *row.args)


def test_known_labels_are_certain_and_name_the_clusters(labelled):
    known = LABELS >= 0
    np.testing.assert_array_equal(labelled.responsibilities[known], np.eye(2)[LABELS[known]])
    assert labelled.params["loc"][0] < labelled.params["loc"][1]
    assert len(labelled.modes) == 1


def test_new_rows_need_no_labels(labelled):
    """Without a label the responsibilities are those of the density; labels are not predicted."""
    none = np.full(4, -1)
    proba = labelled.predict_proba(Y[:4], VISITS[:4], none)
    p = labelled.params
    terms = BY_ID["explicit_normal"].terms(p | {"var": np.ones(2)}, Y[:4])
    terms = terms + VISITS[:4, None] * np.log(p["rate"]) - p["rate"]
    expected = np.exp(terms - logsumexp(terms, -1, keepdims=True))
    np.testing.assert_allclose(proba, expected, atol=1e-10)


# -------------------------------------------------------------------------------------- simulation


def test_simulated_rows_have_the_joint_distribution(labelled):
    """New rows: x and visits go together as the clusters do, labels play no part."""
    n = 20_000
    rows = labelled.sample(jax.random.key(3), n)
    p = labelled.params
    assert {name: value.shape for name, value in rows.items()} == {"x": (n,), "visits": (n,)}
    expected = (p["weights"] * p["loc"] * p["rate"]).sum()
    product = rows["x"] * rows["visits"]
    assert abs(product.mean() - expected) <= oracles.Z * product.std() / np.sqrt(n)


def test_marginalized_program_samples_the_joint():
    """Predictive draws each site given those before it; together they are the joint."""
    row = BY_ID["explicit_mixed"]
    params, draws = oracles.draw_params(row, 0), 5_000

    def program():
        return handlers.uncondition(row.program)(jnp.zeros(4), None, None)

    with x64():
        held = jax.tree.map(lambda v: jnp.broadcast_to(v, (draws, *v.shape)), params)
        predictive = Predictive(bm.marginalize(program), held)
        drawn = predictive(jax.random.key(0))
    product = (np.asarray(drawn["x"]) * np.asarray(drawn["visits"])).reshape(-1)
    expected = (params["weights"] * params["loc"] * params["rate"]).sum()
    assert abs(product.mean() - expected) <= oracles.Z * product.std() / np.sqrt(product.size)
    assert drawn["answers"].shape == (draws, 4, 2)
    assert "z" not in drawn


@pytest.mark.parametrize("row_id", ["explicit_mixed", "explicit_groups", "explicit_regression"])
def test_replicates_have_the_shape_of_the_data(row_id):
    from bayesmix.predict import replicate

    row = BY_ID[row_id]
    mixture = bm.trace(row.program, *row.args, **row.kwargs)
    draws = {n: np.stack([[v, v]]) for n, v in oracles.draw_params(row, 0).items()}
    values = replicate(jax.random.key(0), mixture, draws)
    values = values if isinstance(values, dict) else {mixture.name: values}
    for site in mixture.observed:
        assert values[site.name].shape == (1, 2, *site.value.shape)
    three = replicate(jax.random.key(0), mixture, draws, 3)
    assert jax.tree.leaves(three)[0].shape[:3] == (1, 2, 3)


# ---------------------------------------------------------------------------- the rest of the house


@pytest.mark.parametrize("row_id", ["explicit_labelled", "explicit_groups", "explicit_regression"])
def test_certified(row_id):
    row = BY_ID[row_id]
    certificate = bm.certify(jax.random.key(0), bm.trace(row.program, *row.args), points=2)
    assert certificate.passed, certificate


def test_the_tree_has_every_observed_site(labelled):
    tree = labelled.to_datatree(predictive_key=jax.random.key(0))
    assert set(tree["observed_data"].data_vars) == {"x", "visits"}
    assert set(tree["posterior_predictive"].data_vars) == {"x", "visits"}
    assert tree["log_likelihood"]["x+visits"].dims == ("chain", "draw", "obs_id")
    np.testing.assert_array_equal(tree["constant_data"]["labels"], LABELS)


def test_nuts_samples_an_explicit_program(labelled):
    row = BY_ID["explicit_labelled"]
    nuts = bm.NUTS(row.program, chains=2, warmup=100, draws=100, progress_bar=False)
    result = nuts.run(jax.random.key(0), *row.args, start=labelled)
    draws = result.get_samples()
    gap = abs(draws["loc"].mean(0) - labelled.params["loc"])
    assert np.all(gap < 5 * draws["loc"].std(0))
    resp = result.to_datatree()["responsibilities"]["resp"].to_numpy()
    known = LABELS >= 0
    assert np.all(resp[:, :, known] == np.eye(2)[LABELS[known]])


# ---------------------------------------------------------------------------------- what it refuses


def _base(K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    return weights, loc


def _by_arithmetic(x):
    """The cluster as a number, also as a float, and a deterministic site made of it."""
    weights, loc = _base()
    step = numpyro.sample("step", dist.HalfNormal(1.0))
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        mean = numpyro.deterministic("mean", loc[0] + step * z)
        numpyro.sample("x", dist.Normal(mean, jnp.exp(0.5 * z.astype(float))), obs=x)


def _by_indicators(x):
    """One line for each cluster, picked by an inner product with its indicator."""
    weights, loc = _base()
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    lines = loc + slope * jnp.linspace(0.0, 1.0, len(x))[:, None]
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal((jax.nn.one_hot(z, 2) * lines).sum(-1), 1.0), obs=x)


def _by_a_list(x):
    """Separate sites stacked, weights that differ by row, and a site that is no part of it."""
    means = [numpyro.sample(f"mean{k}", dist.Normal(k, 1.0)) for k in range(2)]
    first = jax.nn.sigmoid(means[0] * x)
    with numpyro.plate("obs_id", len(x)):
        mixing = dist.Categorical(jnp.stack([first, 1 - first], -1))
        z = numpyro.sample("z", mixing, infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.StudentT(4.0, jnp.take(jnp.stack(means), z), 1.0), obs=x)
        numpyro.sample("same", dist.Normal(means[1], 3.0), obs=x)


@pytest.mark.parametrize("program", [_by_arithmetic, _by_indicators, _by_a_list])
def test_z_may_be_used_as_one_likes(program):
    x = Y[SOME]
    with x64():
        mixture = bm.trace(program, x)
        seeded = handlers.seed(mixture.marginal, 0)
        sites = handlers.trace(seeded).get_trace(x)
        params = {name: jnp.asarray(sites[name]["value"], float) for name in mixture.sites}
        every = jnp.array(list(itertools.product(range(2), repeat=N)))
        one = jax.vmap(lambda z: log_density(program, (x,), {}, params | {"z": z})[0])
        expected = logsumexp(np.asarray(jax.jit(one)(every)))
        ours = float(bm.log_joint(mixture, params))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


def _unused(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(loc[0], 1.0), obs=x)


def _two_assignments(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        u = numpyro.sample("u", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(loc[z] + loc[u], 1.0), obs=x)


def _a_coin(x):
    _, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(jnp.where(z == 1, loc[0], loc[1]), 1.0), obs=x)


def _outside(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
    numpyro.sample("total", dist.Normal(loc[z], 1.0), obs=0.5)


def _one_for_all(x):
    weights, loc = _base()
    z = numpyro.sample("z", dist.Categorical(weights))
    with numpyro.plate("obs_id", len(x)):
        numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def _latent(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        u = numpyro.sample("u", dist.Normal(loc[z], 1.0))
        numpyro.sample("x", dist.Normal(u, 1.0), obs=x)


def _factor(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
        numpyro.factor("bonus", loc[z])


def _scaled_apart(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        with handlers.scale(scale=2.0):
            numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def _scaled_otherwise(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        with handlers.scale(scale=3.0):
            z = numpyro.sample("z", dist.Categorical(weights))
        with handlers.scale(scale=2.0):
            numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def _masked_apart(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        with handlers.mask(mask=x > 0):
            z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def _and_a_mixture(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
        parts = dist.Normal(loc, 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)


def _without_index(x):
    weights, loc = _base()
    with numpyro.plate("group", 3):
        z = numpyro.sample("z", dist.Categorical(weights))
    with numpyro.plate("obs_id", len(x)):
        numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def _branching(x):
    weights, loc = _base()
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(loc[0] if z == 0 else loc[1], 1.0), obs=x)


def _answers(x):
    weights, _ = _base()
    probs = numpyro.sample("probs", dist.Dirichlet(jnp.ones((2, 3))).to_event(1))
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("answer", dist.Categorical(probs[z]), obs=x)


def _labels(labels):
    row = BY_ID["explicit_labelled"]
    return lambda x: row.program(x, np.ones(len(x)), labels)


THREE = np.full(Y.size, -1)
THREE[8] = 3

REFUSED = [
    ("no site uses it", _unused, Y, ["'z'", "no observed site"]),
    ("two assignments", _two_assignments, Y, ["'z'", "'u'"]),
    ("a coin", _a_coin, Y, ["'z'", "Bernoulli", "dist.Categorical(probs="]),
    ("outside its plate", _outside, Y, ["'total'", "'z'", "'obs_id'"]),
    ("one for all", _one_for_all, Y, ["'z'", "plate"]),
    ("a latent site", _latent, Y, ["'u'", "'z'"]),
    ("a factor", _factor, Y, ["'bonus'", "'z'"]),
    ("scale on one", _scaled_apart, Y, ["'z'", "'x'", "handlers.scale"]),
    ("other scale", _scaled_otherwise, Y, ["'z'", "handlers.scale"]),
    ("mask on one", _masked_apart, Y, ["'z'", "handlers.mask"]),
    ("a mixture beside it", _and_a_mixture, Y, ["'z'", "'y'"]),
    ("groups without an index", _without_index, Y, ["(40,)", "(3,)", "plates"]),
    ("a Python if", _branching, Y, ["Python `if`", "jnp.where(z == 0, a, b)"]),
    ("a negative code", _answers, np.array([0, 1, -1, 2]), ["'answer'", "row 2", "-1"]),
    ("an unknown code", _answers, np.array([0, 1, 2, 3]), ["'answer'", "row 3", "3"]),
    ("a label out of range", _labels(THREE), Y, ["'z'", "row 8", "3", "0 to 1"]),
]


@pytest.mark.parametrize("program, x, words", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refuses_in_words(program, x, words):
    with pytest.raises(ValueError) as caught:
        bm.trace(program, x)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 400
