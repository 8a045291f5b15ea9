"""Components with a kink at their location: weighted medians, against scans over all rows.

A slope tells nothing at a kink, so the oracles here are values: of Q at every row and around the
answer, and of the log joint from SciPy at every row and where its own climbers end.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import constraints
from oracles import ROUNDING, x64
from programs import BY_ID, LABELS, VISITS, WEIGHTS, Y
from scipy import optimize, stats
from scipy.special import logsumexp

import bayesmix as bm
from bayesmix.density import chunks, data_of, density_of
from bayesmix.mstep import Plan, m_step, plan_for

SCALES = {
    "flat": dist.ImproperUniform(constraints.positive, (), ()),
    "InverseGamma": dist.InverseGamma(3.0, 2.0),
    "LogNormal": dist.LogNormal(0.0, 0.5),
    "HalfNormal": dist.HalfNormal(1.5),
    "Gamma": dist.Gamma(2.0, 1.0),
}


def of_scale(prior):
    def program(x, K=2):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
        with numpyro.plate("cluster", K):
            loc = numpyro.sample("loc", dist.ImproperUniform(constraints.real, (), ()))
            scale = numpyro.sample("scale", SCALES[prior])
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Laplace(loc, scale)), obs=x)

    return program


def in_company(x, visits, w, labels, near=0.05, K=2):
    """A weighted Laplace column beside counts, some assignments known; a narrow prior: the answer
    may lie between rows.
    """
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(jnp.arange(K) - 0.5, near))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("obs_id", len(x)), handlers.scale(scale=w):
        known = {"obs": labels, "obs_mask": labels >= 0}
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"}, **known)
        numpyro.sample("x", dist.Laplace(loc[z], 0.8), obs=x)
        numpyro.sample("visits", dist.Poisson(rate[z]), obs=visits)


def stepped(mixture, site, params, at):
    """Params after the block of a site, and Q at params, responsibilities being those of ``at``."""
    density, data = density_of(mixture), data_of(mixture)
    block = next(block for block in plan_for(mixture).blocks if site in block.sites)
    assert block.kind == "closed"

    @jax.jit
    def carried_out(params, at):
        statistics = density.e_step(at, data)[1]
        zero = jnp.zeros((0, 0))
        return m_step(density, Plan((block,)), params, zero, statistics, data, 1)[0]

    @jax.jit
    def q(values):
        statistics = density.e_step(at, data)[1]
        return jax.lax.map(
            lambda value: density.expected(params | {site: value}, statistics, data), values
        )

    return carried_out(params, at)[site], q


LOCATIONS = {
    "columns": (BY_ID["laplace_columns"].program, BY_ID["laplace_columns"].args),
    "leaning": (BY_ID["leaning_laplace"].program, (Y,)),
    "flat": (of_scale("flat"), (Y,)),
    "company": (in_company, (Y, VISITS, WEIGHTS, LABELS)),
}


def drawn(mixture, seed):
    rng = np.random.default_rng(seed)
    found = {name: rng.lognormal(0, 0.3, site.shape) for name, site in mixture.sites.items()}
    found["weights"] = rng.dirichlet(np.full(mixture.K, 5.0))
    return found | {"loc": rng.normal(0, 1, mixture.sites["loc"].shape)}


@pytest.mark.parametrize("name", LOCATIONS)
def test_no_row_and_no_place_beside_the_answer_has_a_higher_q(name):
    program, args = LOCATIONS[name]
    with x64():
        mixture = bm.trace(program, *args)
        params, at = drawn(mixture, 1), drawn(mixture, 2)
        found, q = stepped(mixture, "loc", params, at)
        found = np.asarray(found)
        columns = np.asarray(args[0]).reshape(len(args[0]), -1)
        tried = [found]
        for index in np.ndindex(found.shape):
            rows = columns[:, index[1] if len(index) > 1 else 0]
            steps = found[index] + np.array([-1e-2, -1e-4, -1e-6, 1e-6, 1e-4, 1e-2])
            for value in (*rows, *steps):
                tried.append(found.copy())
                tried[-1][index] = value
        values = np.asarray(q(np.array(tried)))
    assert (values[0] >= values[1:] - ROUNDING * (abs(values[0]) + len(columns))).all()
    near = np.abs(columns.T[..., None] - found.reshape(2, -1).T[:, None]).min(1)
    assert (near == 0).any() if name != "company" else (near > 0).any()


def test_rows_in_chunks_give_the_same_median(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 1)
    monkeypatch.setattr(chunks, "SHORTEST", 16)
    row = BY_ID["laplace_columns"]
    with x64():
        parts, whole = (bm.trace(row.program, *row.args) for _ in range(2))
        whole.cache["portion", True] = None
        assert density_of(parts).portion is not None
        params, at = drawn(parts, 1), drawn(parts, 2)
        for site in ("loc", "scale"):
            found = [np.asarray(stepped(each, site, params, at)[0]) for each in (parts, whole)]
            np.testing.assert_allclose(*found, rtol=1e-13)


@pytest.mark.parametrize("prior", SCALES)
def test_slope_of_q_along_a_scale_is_zero(prior):
    """Of the log joint's, at a single step; the scale has no kink."""
    with x64():
        mixture = bm.trace(of_scale(prior), Y)
        params, at = drawn(mixture, 1), drawn(mixture, 2)
        scale, q = stepped(mixture, "scale", params, at)
        slope = jax.grad(lambda scale: q(scale[None])[0])(scale)
    np.testing.assert_allclose(slope, 0.0, atol=1e3 * ROUNDING * len(Y))


def test_the_search_ends_where_no_scan_and_no_other_climber_gets_higher():
    """Three overlapping clusters, two keys: each location is at the best of all rows, and SciPy's
    climbers, which use values alone, gain less than ``tol``.
    """
    rng = np.random.default_rng(0)
    x = rng.laplace(
        np.repeat([-2.0, 0.5, 4.0], [120, 100, 80]), np.repeat([1.0, 0.6, 1.5], [120, 100, 80])
    )
    program = of_scale("LogNormal")
    fits = [bm.EM(program, progress_bar=False).run(jax.random.key(key), x, K=3) for key in (0, 1)]
    assert all(em.converged for em in fits)
    assert fits[0].log_joint == pytest.approx(fits[1].log_joint, abs=1e-9)

    def log_joint(weights, loc, scale):
        prior = stats.dirichlet.logpdf(weights / weights.sum(), np.full(3, 2.0))
        prior += stats.lognorm.logpdf(scale, 0.5).sum()
        terms = np.log(weights) + stats.laplace.logpdf(x[:, None], loc, scale)
        return prior + logsumexp(terms, axis=1).sum()

    best = [fits[0].params[name] for name in ("weights", "loc", "scale")]
    here = log_joint(*best)
    assert here == pytest.approx(fits[0].log_joint, abs=1e-9)
    for k in range(3):
        for row in x:
            moved = best[1].copy()
            moved[k] = row
            assert log_joint(best[0], moved, best[2]) <= here + 1e-9

    def lost(free):
        weights = np.exp(free[:3] - logsumexp(free[:3]))
        return here - log_joint(weights, free[3:6], np.exp(free[6:]))

    start = np.concatenate([np.log(best[0]), best[1], np.log(best[2])])
    for method, options in (("Nelder-Mead", {"maxfev": 4000}), ("Powell", {"maxfev": 4000})):
        assert optimize.minimize(lost, start, method=method, options=options).fun > -1e-9


def absolute_line(t, y, K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("obs_id", len(y)):
        parts = dist.Laplace(beta[:, 0] + beta[:, 1] * t[:, None], 0.5)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(probs=weights), parts), obs=y)


def edges(x, K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    with numpyro.plate("cluster", K):
        high = numpyro.sample("high", dist.Gamma(20.0, 4.0))
    with numpyro.plate("obs_id", len(x)):
        parts = dist.Uniform(0.0, high)
        numpyro.sample("x", bm.VectorMixture(dist.Categorical(probs=weights), parts), obs=x)


STALLING = {
    "line": (
        absolute_line,
        (np.linspace(-1, 1, 60), np.tile([1.0, -1.0], 30) + Y[np.arange(60) % 40]),
    ),
    "edges": (edges, (abs(Y),)),
}


@pytest.mark.parametrize("name", STALLING)
def test_a_run_that_a_kink_holds_up_is_not_called_converged(name):
    program, args = STALLING[name]
    em = bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), *args)
    assert not em.converged
    assert em.stop.startswith("not converged: stopped at a kink or an edge")


def beside_a_climbed_location(x, y, K=2):
    """The location of x is a weighted median; that of y, without a kink, is climbed."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0))
        middle = numpyro.sample("middle", dist.Normal(0.0, 3.0))
    with numpyro.plate("obs_id", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Laplace(loc[z], 0.7), obs=x)
        numpyro.sample("y", dist.Normal(middle[z], 1.0), obs=y)


EXACT = {name: LOCATIONS[name] for name in ("columns", "leaning")} | {
    "beside": (beside_a_climbed_location, (np.round(3 * Y), Y[::-1].copy()))
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_medians_are_converged_at_their_kinks(name):
    program, args = EXACT[name]
    em = bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), *args)
    assert em.converged
    with pytest.raises(ValueError, match="has a kink there"):  # differences across it are no slope
        em.laplace(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="'loc' moves a location at which the log density has a k"):
        em.standard_errors()
    nuts = bm.NUTS(program, chains=2, draws=20, progress_bar=False)
    found = nuts.run(jax.random.key(1), *args, start=em)
    assert any("has a kink there" in note for note in found.notes)
    assert "close together" in found.start_policy
