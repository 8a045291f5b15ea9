"""Groups of different size that share an assignment: z in the groups' plate, z[group] in the rows.

The oracle is the sum over all K^G assignments of NumPyro's own density of program and assignment.
"""

import itertools
from contextlib import nullcontext
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from oracles import ROUNDING, Z, x64
from programs import BY_ID, PANEL
from scipy.special import logsumexp

import bayesmix as bm

K, G = 2, 5
GROUP = np.array([3, 0, 1, 3, 4, 2, 0, 3, 2, 4, 3])  # sizes 2, 1, 2, 4, 2, in no order
_rng = np.random.default_rng(3)
HEIGHT = _rng.normal(np.where(np.arange(G)[GROUP] % 2, 1.2, -0.8), 1.0)
VISITS = _rng.poisson(np.where(np.arange(G)[GROUP] % 2, 5.0, 2.0))


def people(height, visits, group, count):
    """Two observed sites; the heights of a person and the visits share the person's cluster."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 1.5)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    with numpyro.plate("person", count):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
    with numpyro.plate("visit", len(height)):
        mine = z[group]
        numpyro.sample("height", dist.Normal(loc[mine], jnp.sqrt(var[mine])), obs=height)
        numpyro.sample("visits", dist.Poisson(rate[mine]), obs=visits)


ARGS = (HEIGHT, VISITS, GROUP, G)
PARAMS = {
    "weights": np.array([0.35, 0.65]),
    "loc": np.array([-0.5, 0.9]),
    "var": np.array([0.8, 1.3]),
    "rate": np.array([2.2, 4.1]),
}


def _enumerated():
    """Every assignment (K^G, G) and NumPyro's log density with it."""
    every = np.array(list(itertools.product(range(K), repeat=G)))
    held = jax.tree.map(jnp.asarray, PARAMS)
    one = jax.jit(jax.vmap(lambda z: log_density(people, ARGS, {}, held | {"z": z})[0]))
    return every, np.asarray(one(every))


def test_sums_over_every_assignment_of_groups():
    """The log joint, the marginalised program and the responsibilities, by brute force."""
    with x64():
        every, terms = _enumerated()
        expected = logsumexp(terms)
        marginal = float(log_density(bm.marginalize(people), ARGS, {}, PARAMS)[0])
        mixture = bm.trace(people, *ARGS)
        ours = float(bm.log_joint(mixture, PARAMS))
        resp = np.asarray(bm.responsibilities(mixture, PARAMS))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))
    assert abs(marginal - expected) <= ROUNDING * (1 + abs(expected))
    share = np.exp(terms - expected)
    exact = np.stack([[share[every[:, g] == k].sum() for k in range(K)] for g in range(G)])
    np.testing.assert_allclose(resp, exact, atol=ROUNDING)


def test_certified():
    certificate = bm.certify(jax.random.key(0), bm.trace(people, *ARGS), points=2)
    assert certificate.passed, certificate


@cache
def _fitted():
    return bm.EM(people, restarts=4, progress_bar=False).run(jax.random.key(0), *ARGS)


def test_everything_is_by_group():
    em = _fitted()
    assert em.converged
    assert em.responsibilities.shape == (G, K)
    assert em.mixture.rows == (G,)
    assert em.mixture.row_dims == ("person",)
    tree = em.to_datatree(predictive_key=jax.random.key(0))
    assert tree["log_likelihood"]["height+visits"].dims == ("chain", "draw", "person")
    assert tree["responsibilities"]["resp"].shape == (1, 1, G, K)
    assert tree["observed_data"]["height"].dims == ("visit",)
    np.testing.assert_array_equal(tree["observed_data"]["visits"], VISITS)
    assert tree["posterior_predictive"]["visits"].shape == (1, 1, len(GROUP))
    with pytest.raises(ValueError, match="predictive_key"):
        em.sample(jax.random.key(0), 3)


def test_new_groups_are_told_by_all_of_their_rows():
    em, rows = _fitted(), GROUP == 3
    alone = em.predict_proba(HEIGHT[rows], VISITS[rows], np.zeros(rows.sum(), int), 1)
    np.testing.assert_allclose(alone[0], em.responsibilities[3], atol=1e-9)
    pointwise = em.log_density(HEIGHT[rows], VISITS[rows], np.zeros(rows.sum(), int), 1)
    assert pointwise.shape == (1,)


def by_index(x, group, count):
    """``explicit_groups`` of the table, its panel laid out in rows."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("person", count):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
    with numpyro.plate("visit", len(x)):
        mine = z[group]
        numpyro.sample("x", dist.Normal(loc[mine], jnp.sqrt(var[mine])), obs=x)


def test_groups_of_one_size_are_a_panel():
    """The same mode, reached on the general sweep and on the panel's own statistics."""
    panel, row = BY_ID["explicit_groups"], np.repeat(np.arange(len(PANEL)), PANEL.shape[1])
    fit = bm.EM(by_index, restarts=4, progress_bar=False)
    em = fit.run(jax.random.key(0), PANEL.ravel(), row, len(PANEL))
    with x64():
        there = float(bm.log_joint(bm.trace(panel.program, PANEL), em.params))
    assert abs(there - em.log_joint) <= ROUNDING * (1 + abs(there))
    np.testing.assert_allclose(em.mixture.value[:, 0], PANEL.mean(1))


def test_rows_of_a_group_are_drawn_from_one_cluster():
    """Well apart, narrow clusters: the rows of a group lie together, their shares as the weights"""
    apart = PARAMS | {"loc": np.array([-50.0, 50.0])}

    def draw(key):
        held = handlers.substitute(handlers.seed(bm.marginalize(people), key), data=apart)
        unseen = handlers.uncondition(held)
        return handlers.trace(unseen).get_trace(*ARGS)["height"]["value"]

    heights = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000)))
    side = heights > 0
    first = np.unique(GROUP, return_index=True)[1]
    np.testing.assert_array_equal(side, side[:, first][:, GROUP])
    share, expected = side[:, first].mean(), PARAMS["weights"][1]
    assert abs(share - expected) <= Z * np.sqrt(expected * (1 - expected) / (4000 * G))


# ------------------------------------------------------------------------------------------ weights


def weighed(height, visits, group, count, of_groups, of_rows):
    """``people`` with weights of the persons and, within them, of the visits."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 1.5)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    with handlers.scale(scale=of_groups), numpyro.plate("person", count):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
    both = of_groups[group] * of_rows
    with numpyro.plate("visit", len(height)), handlers.scale(scale=both):
        mine = z[group]
        numpyro.sample("height", dist.Normal(loc[mine], jnp.sqrt(var[mine])), obs=height)
        numpyro.sample("visits", dist.Poisson(rate[mine]), obs=visits)


def _joint(program, *args):
    """Our log joint, held against that of the program with its assignments summed out."""
    mixture = bm.trace(program, *args)
    ours = float(bm.log_joint(mixture, PARAMS))
    marginal = float(log_density(bm.marginalize(program), args, {}, PARAMS)[0])
    assert abs(ours - marginal) <= ROUNDING * (1 + abs(ours))
    return ours, mixture


SEEN = np.array([1, 2, 1, 3, 1, 1, 2, 1, 1, 1, 2])  # times that each visit was made
MET = np.array([2.0, 1.0, 3.0, 1.0, 2.0])  # times that each person was met


def test_rows_of_weight_two_are_rows_seen_twice():
    """Within the groups: the visits written out, and NumPyro's own scaled density summed over z."""
    args = (HEIGHT, VISITS, GROUP, G, np.ones(G), SEEN * 1.0)
    with x64():
        ours, mixture = _joint(weighed, *args)
        written_out = np.repeat(np.arange(len(GROUP)), SEEN)
        rows = [array[written_out] for array in (HEIGHT, VISITS, GROUP)]
        out = bm.trace(people, *rows, G)
        expected = float(bm.log_joint(out, PARAMS))
        every = np.array(list(itertools.product(range(K), repeat=G)))
        held = jax.tree.map(jnp.asarray, PARAMS)
        one = jax.jit(jax.vmap(lambda z: log_density(weighed, args, {}, held | {"z": z})[0]))
        summed = logsumexp(np.asarray(one(every)))
        resp, theirs = bm.responsibilities(mixture, PARAMS), bm.responsibilities(out, PARAMS)
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))
    assert abs(ours - summed) <= ROUNDING * (1 + abs(summed))
    np.testing.assert_allclose(resp, theirs, atol=ROUNDING)


def test_groups_of_weight_two_are_groups_seen_twice():
    """Every person written out, with all visits, as often as they count."""
    with x64():
        ours, _ = _joint(weighed, HEIGHT, VISITS, GROUP, G, MET, SEEN * 1.0)
        copies, count = [], 0
        for person, times in enumerate(MET.astype(int)):
            own = np.repeat(np.arange(len(GROUP)), SEEN)
            own = own[GROUP[own] == person]
            copies += [(row, count + copy) for copy in range(times) for row in own]
            count += times
        rows, group = np.array(copies).T
        out = bm.trace(people, HEIGHT[rows], VISITS[rows], group, count)
        expected = float(bm.log_joint(out, PARAMS))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


def test_weighed_groups_fit():
    """EM and the certificate; a weight of the groups' is that of the rows in its criteria."""
    args = (HEIGHT, VISITS, GROUP, G, MET, SEEN * 1.0)
    em = bm.EM(weighed, restarts=2, progress_bar=False).run(jax.random.key(0), *args)
    assert em.converged
    np.testing.assert_array_equal(em.mixture.weights, MET)
    certificate = bm.certify(jax.random.key(0), em.mixture, points=2)
    assert certificate.passed, certificate


def panel(x, of_rows, of_groups=None):
    """``explicit_groups`` of the table; weights of the visits and, where given, of the persons."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    persons = nullcontext() if of_groups is None else handlers.scale(scale=of_groups[:, None])
    with persons, numpyro.plate("person", x.shape[0], dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        with numpyro.plate("visit", x.shape[1], dim=-1), handlers.scale(scale=of_rows):
            numpyro.sample("x", dist.Normal(loc[z], jnp.sqrt(var[z])), obs=x)


TIMES_SEEN = np.array([1.0, 2.0, 1.0])


def test_inner_rows_of_weight_two_are_inner_rows_seen_twice():
    """In a panel: the visits written out, and NumPyro's own scaled density summed over z."""
    x, many = PANEL[:6], len(PANEL[:6])
    params = {name: value for name, value in PARAMS.items() if name != "rate"}
    out = BY_ID["explicit_groups"].program
    with x64():
        mixture = bm.trace(panel, x, TIMES_SEEN)
        ours = float(bm.log_joint(mixture, params))
        marginal = float(log_density(bm.marginalize(panel), (x, TIMES_SEEN), {}, params)[0])
        copied = bm.trace(out, np.repeat(x, TIMES_SEEN.astype(int), axis=1))
        expected = float(bm.log_joint(copied, params))
        every = np.array(list(itertools.product(range(K), repeat=many)))[..., None]
        held = jax.tree.map(jnp.asarray, params)
        one = jax.vmap(lambda z: log_density(panel, (x, TIMES_SEEN), {}, held | {"z": z})[0])
        summed = logsumexp(np.asarray(jax.jit(one)(every)))
        resp, theirs = (np.asarray(bm.responsibilities(m, params)) for m in (mixture, copied))
    for value in (ours, marginal, summed):
        assert abs(value - expected) <= ROUNDING * (1 + abs(expected))
    np.testing.assert_allclose(resp, theirs, atol=ROUNDING)


def test_weighed_panels_fit():
    """Persons of weight two are persons seen twice, with all their weighed visits; EM, NUTS."""
    met = 1.0 + np.arange(len(PANEL)) % 2
    args = (PANEL, TIMES_SEEN, met)
    em = bm.EM(panel, restarts=2, progress_bar=False).run(jax.random.key(0), *args)
    assert em.converged
    twice = np.repeat(PANEL, met.astype(int), axis=0)
    with x64():
        there = float(bm.log_joint(bm.trace(panel, twice, TIMES_SEEN), em.params))
    assert abs(there - em.log_joint) <= ROUNDING * (1 + abs(there))
    assert bm.certify(jax.random.key(0), em.mixture, points=2).passed
    nuts = bm.NUTS(panel, chains=2, draws=20, progress_bar=False).run(
        jax.random.key(1), *args, start=em
    )
    assert np.isfinite(nuts.sample_stats["lp"]).all()


# ---------------------------------------------------------------------------------- what it refuses


def _two_ways(x, group):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([K]))
    with numpyro.plate("person", G):
        z = numpyro.sample("z", dist.Categorical(weights))
    with numpyro.plate("visit", len(x)):
        numpyro.sample("x", dist.Normal(loc[z[group]], jnp.exp(loc[z[group % 2]])), obs=x)


def _weighted(x, group):
    """The groups have weights, and their rows none."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([K]))
    with handlers.scale(scale=2.0), numpyro.plate("person", G):
        z = numpyro.sample("z", dist.Categorical(weights))
    with numpyro.plate("visit", len(x)):
        numpyro.sample("x", dist.Normal(loc[z[group]], 1.0), obs=x)


def _negative(x, group):
    weighed(x, VISITS, group, G, np.ones(G), jnp.where(group == 2, -1.0, 1.0))


def _counted(x, group):
    by_index(x, group, G)


GAP = np.where(GROUP == 1, 0, GROUP)
REFUSED = [
    ("two indices", _two_ways, GROUP, ["'z'", "two ways"]),
    ("weights", _weighted, GROUP, ["'z'", "handlers.scale", "weight[group]"]),
    ("negative", _negative, GROUP, ["weight", "negative"]),
    ("a gap", _counted, GAP, ["'x'", "group 1", "no rows"]),
    ("out of range", _counted, GROUP + 1, ["row 4", "group 5", "0 to 4"]),
    ("not whole", _counted, GROUP + 0.5, ["float64", "integer"]),
]


@pytest.mark.parametrize(
    "program, group, words", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refuses_in_words(program, group, words):
    with pytest.raises(ValueError) as caught:
        bm.trace(program, HEIGHT, group)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 400
