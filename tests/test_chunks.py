"""The general sweep in chunks: the same numbers as all rows at once, and no array of N x K."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pytest
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer.util import log_density
from oracles import ROUNDING, x64
from programs import BY_ID

import bayesmix as bm
from bayesmix import density
from bayesmix.density import chunks
from bayesmix.draws import draw_responsibilities, evaluate_draws
from bayesmix.mstep import plan_for
from bayesmix.mstep.newton import newton, turns_in
from bayesmix.symmetry import moved

N, SIZE = 70, 16
RNG = np.random.default_rng(7)
X = RNG.normal(size=(N, 2))
Y = X @ [1.0, -2.0] + 3.0 * (RNG.random(N) < 0.4) + 0.3 * RNG.standard_t(4, N)
W = RNG.integers(0, 3, N).astype(float)
LABELS = np.where(RNG.random(N) < 0.2, RNG.integers(0, 2, N), -1)
GAPS = np.where(RNG.random(N) < 0.1, np.nan, Y)
PARAMS = {
    "weights": np.array([0.4, 0.6]),
    "slope": np.array([[0.1, 0.8, -1.5], [2.0, 0.5, -1.0]]),
    "scale": np.array([0.5, 0.9]),
}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "SHORTEST", SIZE)
    monkeypatch.setattr(chunks, "LONGEST", SIZE)


def tails(y, X, w=None, labels=None):
    """Two lines with Student-t errors; row weights, known labels, missing responses."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("cluster", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    known = {} if labels is None else {"obs": labels, "obs_mask": labels >= 0}
    weighted = nullcontext() if w is None else handlers.scale(scale=w)
    with numpyro.plate("obs_id", len(y)), weighted:
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"}, **known)
        loc = slope[z, 0] + jnp.sum(slope[z, 1:] * X, -1)
        component = dist.StudentT(4.0, loc, scale[z])
        numpyro.sample("y", component, obs=y, infer={"missing": "marginal"})


def centred(y, X):
    """Components that depend on a mean over all rows, and on their number."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("cluster", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("obs_id", len(y)):
        loc = slope[:, 0] + y.mean() / len(y) + (X - X.mean(0)) @ slope[:, 1:].T
        mixed = dist.MixtureSameFamily(dist.Categorical(weights), dist.StudentT(4.0, loc, scale))
        numpyro.sample("y", mixed, obs=y)


def drifting(y, X):
    """Locations that add up over the rows: no row stands alone."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("cluster", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("obs_id", len(y)):
        loc = jnp.cumsum(slope[:, 0] + X @ slope[:, 1:].T, 0)
        mixed = dist.MixtureSameFamily(dist.Categorical(weights), dist.StudentT(4.0, loc, scale))
        numpyro.sample("y", mixed, obs=y)


def of_row_effects(y):
    """A latent site with a value for every row: params have rows, too."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("cluster", 2):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("obs_id", len(y)):
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        component = dist.StudentT(4.0, effect[:, None] * jnp.ones(2), scale)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), component), obs=y)


def of_captured_rows(y):
    drift = jnp.asarray(X[:, 0])[:, None]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("cluster", 2):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("obs_id", len(y)):
        component = dist.StudentT(4.0, drift * jnp.ones(2), scale)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), component), obs=y)


def whole(program, *args):
    """The mixture with all rows at once."""
    mixture = bm.trace(program, *args)
    mixture.cache["portion", True] = None
    return mixture


def everything(mixture, params, at):
    """Value, gradient, Q, its gradient, counts, responsibilities, pointwise log densities."""
    own, data = density.density_of(mixture), density.data_of(mixture)

    @jax.jit
    def found(params, at, data):
        value, statistics = own.e_step(at, data)
        q = jax.value_and_grad(lambda p: own.expected(p, statistics, data))(params)
        joint = jax.value_and_grad(lambda p: own.log_joint(p, data))(params)
        return joint, q, value, own.counts(statistics)

    pointwise = bm.responsibilities(mixture, params), density.log_density(mixture, params)
    return found(params, at, data), pointwise


TASKS = {
    "explicit": (tails, (Y, X)),
    "weights": (tails, (Y, X, W)),
    "labels": (tails, (Y, X, W, LABELS)),
    "missing": (tails, (GAPS, X, W, LABELS)),
    "shared": (centred, (Y, X)),
}
IDS = ("weibull", "poisson_regression", "explicit_gated", "zeros_and_poisson", "student_columns")


@pytest.mark.parametrize("name", [*TASKS, *IDS])
def test_chunks_give_what_all_rows_give(name):
    with x64():
        if name in TASKS:
            (program, args), params = TASKS[name], PARAMS
            at = {n: v * 1.1 if n != "weights" else v[::-1] for n, v in params.items()}
        else:
            row = BY_ID[name]
            program, args = row.program, row.args
            params, at = oracles.draw_params(row), oracles.draw_params(row, seed=1)
        params, at = (jax.tree.map(jnp.asarray, p) for p in (params, at))
        mixture, plain = bm.trace(program, *args), whole(program, *args)
        assert density.density_of(mixture).portion.size == SIZE < mixture.N
        assert density.density_of(plain).portion is None
        mine, theirs = everything(mixture, params, at), everything(plain, params, at)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max())


def test_what_all_rows_share_is_of_all_rows():
    with x64():
        params = jax.tree.map(jnp.asarray, PARAMS)
        expected = log_density(centred, (jnp.asarray(Y), jnp.asarray(X)), {}, params)[0]
        found = bm.log_joint(bm.trace(centred, Y, X), params)
        assert float(found) == pytest.approx(float(expected), rel=ROUNDING)


@pytest.mark.parametrize(
    ("program", "args"),
    [(drifting, (Y, X)), (of_captured_rows, (Y,)), (of_row_effects, (Y,))],
    ids=["cumsum", "captured", "row-effects"],
)
def test_rows_that_cannot_be_taken_apart_stay_together(program, args):
    with x64():
        params = jax.tree.map(jnp.asarray, PARAMS)
        mixture = bm.trace(program, *args)
        assert density.density_of(mixture).portion is None
        params["effect"] = jnp.linspace(-1.0, 1.0, N)
        params = {name: params[name] for name in mixture.sites}
        expected = log_density(program, tuple(map(jnp.asarray, args)), {}, params)[0]
        assert float(bm.log_joint(mixture, params)) == pytest.approx(float(expected), rel=1e-12)


def sizes(jaxpr):
    """Sizes of all arrays that a jaxpr makes, also inside of its loops."""
    for eqn in jaxpr.eqns:
        yield from (int(np.prod(var.aval.shape)) for var in eqn.outvars)
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_an_em_step_makes_no_array_of_rows_by_clusters():
    """Nor any other that grows with the rows, taken apart or all at once."""
    from bayesmix.engine import Engine

    with x64():
        params = jax.tree.map(jnp.asarray, PARAMS)

        def largest(mixture):
            engine = Engine(density.density_of(mixture), plan_for(mixture))
            data = density.data_of(mixture)

            def step(params):
                statistics = engine.e_step(params, data)[2]
                inverse = engine.init(params, statistics, data).inverse
                return engine.m_step(params, statistics, inverse, data, False)

            return max(sizes(jax.make_jaxpr(step)(params).jaxpr))

        twice = [np.concatenate([each, each]) for each in (Y, X, W)]
        assert largest(bm.trace(tails, *twice)) == largest(bm.trace(tails, Y, X, W))
        assert largest(whole(tails, *twice)) >= 2 * largest(whole(tails, Y, X, W))


def test_em_ends_at_the_same_mode():
    """From params and from responsibilities: the same first step, and the same end."""
    em = bm.EM(tails, tol=1e-9, progress_bar=False)
    resp = RNG.dirichlet([1.0, 1.0], N)
    for start in ({"init_params": PARAMS}, {"init_resp": resp}):
        mine = em.run(jax.random.key(0), Y, X, W, **start)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "LONGEST", 1024)
            patch.setattr(chunks, "SHORTEST", 1024)
            theirs = em.run(jax.random.key(0), Y, X, W, **start)
        with x64():
            assert density.density_of(theirs.mixture).portion is None
            assert density.density_of(mine.mixture).portion is not None
        assert mine.steps == len(mine.history)
        # The first M-step is an ascent to convergence, where Q is flat to half the digits.
        assert mine.history[0] == pytest.approx(theirs.history[0], rel=1e-8)
        # What remains is estimated, and trusted to a factor of 10 (engine.SAFETY).
        assert mine.log_joint == pytest.approx(theirs.log_joint, rel=0, abs=1e-8)


def test_a_sample_of_the_rows_is_weighted_up():
    """The log likelihood of a sample: that of its rows, times what they stand for."""
    with x64():
        params = jax.tree.map(jnp.asarray, PARAMS)
        mixture = bm.trace(tails, Y, X, W)
        own, data = density.density_of(mixture), density.data_of(mixture)
        x, some, everything = density.sample_of(mixture, data, 40, np.random.default_rng(0))
        index = [int(np.flatnonzero(value == Y)[0]) for value in x[:, 0]]
        assert not everything
        assert len(set(index)) == 40
        assert (W[index] > 0).all()
        of_rows = np.asarray(density.log_density(mixture, params))[index]
        expected = of_rows.sum() * W.sum() / W[index].sum()
        found = float(own.log_likelihood(params, some))
        assert found == pytest.approx(expected, rel=ROUNDING * 10)


@pytest.mark.parametrize("name", TASKS)
def test_draws_in_chunks_are_those_of_all_rows(name):
    program, args = TASKS[name]
    draws = {site: np.stack([v, v[::-1]])[None] for site, v in PARAMS.items()}
    mine, theirs = (evaluate_draws(make(program, *args), draws) for make in (bm.trace, whole))
    assert mine.keys() == theirs.keys()
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max())
    flat = {site: v[0] for site, v in draws.items()}
    resp = draw_responsibilities(bm.trace(program, *args), flat)
    np.testing.assert_allclose(resp, theirs["responsibilities"][0], atol=ROUNDING)


def test_the_public_q_is_taken_in_chunks_and_has_both_gradients():
    """Value, slope in both arguments and the mixed second derivatives are those of all rows."""
    with x64():
        at = {n: jnp.asarray(v * 1.1 if n != "weights" else v[::-1]) for n, v in PARAMS.items()}
        params = jax.tree.map(jnp.asarray, PARAMS)

        def q(mixture):
            return lambda params, at: bm.expected_log_joint(mixture, params, at)

        def found(mixture):
            def slope(at):
                return jax.grad(q(mixture))(params, at)["slope"]

            return jax.value_and_grad(q(mixture), (0, 1))(params, at), jax.jacfwd(slope)(at)

        mixture, plain = bm.trace(tails, Y, X, W), whole(tails, Y, X, W)
        mine, theirs = found(mixture), found(plain)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max())

        def largest(mixture):
            jaxpr = jax.make_jaxpr(jax.grad(q(mixture)))(params, at)
            return max(sizes(jaxpr.jaxpr))

        assert largest(mixture) <= SIZE * 2 * 3
        assert largest(plain) >= N * 2


# ------------------------------------------------------------------------------- Newton's M-step

EVENTS = RNG.poisson(np.exp(0.5 + 0.4 * X[:, 0]))


def counts(y, X):
    """Poisson regressions: every cluster's component sees its own coefficients alone."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    with numpyro.plate("cluster", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        level = numpyro.sample("level", dist.Normal(0.0, 3.0))
    with numpyro.plate("obs_id", len(y)):
        rate = jnp.exp(X @ slope.T + level)
        mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Poisson(rate))
        numpyro.sample("y", mixture, obs=y)


def gated(y, X):
    """Levels that add up over the clusters, a slope for all, weights that depend on X."""
    gate = numpyro.sample("gate", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    with numpyro.plate("cluster", 2):
        rise = numpyro.sample("rise", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs_id", len(y)):
        rate = jnp.exp(slope * X[:, :1] + jnp.cumsum(rise))
        mixing = dist.Categorical(logits=X @ gate)
        numpyro.sample("y", dist.MixtureSameFamily(mixing, dist.Poisson(rate)), obs=y)


BENDING = {
    "counts": (counts, (EVENTS, X), {"slope": 0, "level": 0}),
    "gated": (gated, (EVENTS, X), {"gate": None, "slope": None, "rise": None}),
    "tails": (tails, (Y, X, W, LABELS), {"slope": None, "scale": 0}),
}


@pytest.mark.parametrize("name", BENDING)
def test_the_pass_brings_the_hessian_of_q(name):
    """Against automatic differentiation of Q twice, on all rows at once."""
    program, args, apart = BENDING[name]
    mixture, theirs = bm.trace(program, *args), whole(program, *args)
    with x64():
        turns = turns_in(mixture, tuple(apart))
        assert plan_for(mixture).turns == (() if name == "tails" else turns)
        assert {turn.site: turn.apart for turn in turns} == apart
        own, data = density.density_of(mixture), density.data_of(mixture)
        params = {k: jnp.asarray(v) for k, v in moved(mixture, own.centre(data)).items()}
        value, bent = jax.jit(own.bent_e_step, static_argnums=2)(params, data, turns)
        flat, restore = ravel_pytree({turn.site: params[turn.site] for turn in turns})
        q, given = density.density_of(theirs), density.data_of(theirs)
        expected, statistics = q.e_step(params, given)
        at_once = jax.jit(q.bent_e_step, static_argnums=2)(params, given, turns)[1]

        def fit(flat):
            at = params | restore(flat)
            return q.expected(at, statistics, given) - q.log_prior(at, given)

        slope, hessian = jax.grad(fit)(flat), jax.hessian(fit)(flat)
        # turns are in the program's order of sites, a flat vector in that of the alphabet
        order = np.concatenate([restore(np.arange(flat.size))[t.site].reshape(-1) for t in turns])
        order = order.astype(int)
        mine = ravel_pytree({turn.site: bent.slope[turn.site] for turn in turns})[0]
    size = N * np.abs(hessian).max()
    assert float(value) == pytest.approx(float(expected), rel=ROUNDING)
    np.testing.assert_allclose(mine, slope, rtol=0, atol=ROUNDING * size)
    there = np.asarray(hessian)[np.ix_(order, order)]
    for found in (bent, at_once):
        np.testing.assert_allclose(found.bend, there, rtol=0, atol=ROUNDING * size)


def test_the_precision_of_products_is_no_part_of_the_arithmetic():
    """The whole program and its portion may be read in different contexts, as with float32."""
    mixture = bm.trace(counts, EVENTS, X)  # X @ slope.T
    with x64(), jax.default_matmul_precision("highest"):
        assert density.density_of(mixture).portion is not None
        assert plan_for(mixture).turns


def test_a_newton_step_that_is_too_long_is_shortened():
    """Rates far too low: the quadratic's maximum is far beyond Q's, and worse than the start."""
    mixture = bm.trace(counts, EVENTS, X)
    with x64():
        own, data, plan = density.density_of(mixture), density.data_of(mixture), plan_for(mixture)
        before = {
            "weights": jnp.array([0.4, 0.6]),
            "slope": jnp.array([[0.3, 0.0], [0.1, 0.2]]),
            "level": jnp.array([-4.0, -5.0]),
        }
        far = newton(own, plan.turns, before, own.bent_e_step(before, data, plan.turns)[1], data)
        start, beyond, after = (
            float(own.log_joint(params, data))
            for params in (before, far, bm.em.step(mixture, before))
        )
    assert not beyond > start
    assert after > start


def test_where_q_has_no_second_derivatives_newton_goes_up_the_slope():
    """A power of 1.5 at x = 0: what would stay where it is, would be taken for a mode."""

    def bent(y, x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
        with numpyro.plate("cluster", 2):
            c = numpyro.sample("c", dist.Normal(1.0, 1.0))
        with numpyro.plate("obs_id", len(y)):
            rate = jnp.exp(jnp.abs(c * x[:, None]) ** 1.5)
            mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Poisson(rate))
            numpyro.sample("y", mixture, obs=y)

    x = np.where(np.arange(N) < 5, 0.0, np.abs(X[:, 0]))
    mixture = bm.trace(bent, EVENTS, x)
    before = {"weights": np.array([0.4, 0.6]), "c": np.array([0.3, 0.9])}
    with x64():
        assert plan_for(mixture).turns
        after = bm.em.step(mixture, before)
        start, end = (float(bm.log_joint(mixture, params)) for params in (before, after))
    assert end > start
    assert not np.array_equal(after["c"], before["c"])


def test_idle_rows_with_impossible_values_are_refused():
    """A row of weight 0 whose density has no slope; a family's sweep does not ask for it."""

    def costs(y, w, kind):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
        with numpyro.plate("cluster", 2):
            level = numpyro.sample("level", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("obs_id", len(y)), handlers.scale(scale=w):
            of = dist.Weibull(level, 2.0) if kind == "weibull" else dist.Exponential(level)
            numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), of), obs=y)

    y, w = np.abs(Y), np.where(np.arange(N) == 5, 0.0, 1.0)
    y[5] = -1.0
    with pytest.raises(ValueError, match=r"row 5 is -1.*Weibull.*its weight of 0"):
        bm.EM(costs, progress_bar=False).run(jax.random.key(0), y, w, "weibull")
    with pytest.raises(ValueError, match=r"row 5 is -1.*its weight of 0"):
        bm.NUTS(costs).run(jax.random.key(0), y, w, "weibull", start="prior")
    em = bm.EM(costs, restarts=1, max_steps=5, progress_bar=False)
    assert np.isfinite(em.run(jax.random.key(0), y, w, "exponential").log_joint)
