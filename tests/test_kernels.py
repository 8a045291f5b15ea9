"""The transitions: one posterior however they adapt and take turns, one compilation."""

from functools import cache

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from numpyro.infer.util import ParamInfo
from oracles import Z
from programs import BY_ID

import bayesmix as bm
from bayesmix.nuts import orbits, sampler, session
from bayesmix.nuts.divergences import LONG, divergences, stays
from bayesmix.nuts.starts import Frame

ROW = BY_ID["poisson_gamma"]
SETTINGS = {"chains": 2, "draws": 400, "progress_bar": False}
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compilations.append(event) if "backend_compile" in event else None
)

# --------------------------------------------------------------------- one posterior in any metric


@cache
def em():
    return bm.EM(ROW.program, restarts=2, progress_bar=False).run(jax.random.key(0), *ROW.args)


WAYS = {
    "orbits": {},
    "whitened": {"kernel": "nuts"},
    "adapted": {"metric": "adapted"},
}


@cache
def drawn(way):
    return bm.NUTS(ROW.program, **WAYS[way], **SETTINGS).run(
        jax.random.key(1), *ROW.args, start=em()
    )


def moments(result):
    """Mean and Monte-Carlo standard error of quantities without labels."""
    weights, rate = result.samples["weights"], result.samples["rate"]
    total = (weights * rate).sum(-1)
    values = [
        result.sample_stats["lp"],
        (weights**2).sum(-1),
        total,
        total**2,
        np.log(rate).sum(-1),
    ]
    error = [array_stats.mcse(v, chain_axis=0, draw_axis=1, method="mean") for v in values]
    return np.array([v.mean() for v in values]), np.array(error, float)


@pytest.mark.parametrize("way", ["whitened", "orbits"])
def test_all_kernels_and_metrics_sample_the_same_posterior(way):
    (ours, error), (theirs, other) = moments(drawn("adapted")), moments(drawn(way))
    assert np.all(np.abs(ours - theirs) <= Z * np.hypot(error, other))
    assert not drawn("adapted").notes
    assert not drawn(way).notes


@pytest.mark.parametrize("way", ["whitened", "orbits"])
@pytest.mark.parametrize("together", [True, False])
def test_chains_in_turn_draw_what_they_draw_side_by_side(monkeypatch, together, way):
    monkeypatch.setattr(session, "side_by_side", lambda *_: together)
    ours = bm.NUTS(ROW.program, **WAYS[way], **SETTINGS | {"draws": 20}).run(
        jax.random.key(1), *ROW.args, start=em()
    )
    theirs = drawn(way).samples["rate"]
    np.testing.assert_allclose(ours.samples["rate"], theirs[:, :20], rtol=1e-6)


def field(precision, centre):
    """Potential and gradient of a Gaussian, for points (chain, n)."""
    return jax.vmap(jax.value_and_grad(lambda u: 0.5 * (u - centre) @ precision @ (u - centre)))


def walk(u, of, steps):
    potential, gradient = of(u)
    first = orbits.begun(ParamInfo(u, potential, gradient), jax.random.key(0))
    return first._replace(steps=np.int32(steps))


def test_a_standard_gaussian_anywhere_is_followed_without_error():
    """Energy is conserved, so every move is accepted, wherever the Gaussian lies."""
    with jax.enable_x64(True):
        of = field(np.eye(3), np.array([40.0, -7.0, 0.5]))
        start = walk(np.random.default_rng(0).normal(size=(4, 3)), of, 2)
        _, noted = orbits._move(start, of)
    assert np.all(np.asarray(noted["acceptance_rate"]) > 1 - 1e-10)


def test_moves_leave_a_gaussian_of_another_shape_as_it_is():
    """20000 chains drawn from it; moments of their points after three moves, within their errors.

    The variances, 0.5 to 1.6, are off enough that many proposals are refused.
    """
    variance, centre, count = np.array([0.5, 1.0, 1.6]), np.array([1.0, 0.0, -2.0]), 20_000
    with jax.enable_x64(True):
        of = field(np.diag(1 / variance), centre)
        z = np.random.default_rng(0).normal(size=(count, 3))
        state = walk(centre + np.sqrt(variance) * z, of, 1)
        for _ in range(3):
            state, noted = orbits._move(state, of)
        found = (np.asarray(state.u) - centre) / np.sqrt(variance)
    assert np.asarray(noted["acceptance_rate"]).mean() < 0.9
    assert np.all(np.abs(found.mean(0)) <= Z / np.sqrt(count))
    assert np.all(np.abs((found**2).mean(0) - 1) <= Z * np.sqrt(2 / count))
    assert np.all(np.abs((found**4).mean(0) - 3) <= Z * np.sqrt(96 / count))


def warmed_up(first, moves=150):
    """The walk after a warm-up on exp(u) - u: a whitened mode, and a tail that is steep."""
    with jax.enable_x64(True):
        of = jax.vmap(jax.value_and_grad(lambda u: (np.e**u - u).sum()))

        @jax.jit
        def once(state):
            state, noted = orbits._move(state, of)
            return orbits._adapted(state, noted["acceptance_rate"], moves, orbits.ENOUGH)

        state = walk(np.asarray(first)[:, None], of, 1)
        for _ in range(moves):
            state = once(state)
        return state


def test_a_chain_that_cannot_leave_its_start_is_not_outvoted():
    """At 4.5 a move of the three steps that serve the other 15 chains is never accepted.

    It gets more steps. At 12 no number of them helps: then orbits do not fit the posterior.
    """
    others = np.log(np.random.default_rng(0).gamma(1.0, size=15))
    freed = warmed_up([4.5, *others])
    assert np.asarray(freed.u)[0, 0] < 2
    assert not orbits.unfit(freed)
    assert orbits.unfit(warmed_up([12.0, *others]))
    assert orbits.unfit(warmed_up([4.5, *others], moves=10))  # too few to look at the steps


def test_a_wrong_metric_gives_way_to_ordinary_adaptation(monkeypatch):
    def stretched(*given):
        starts = right(*given)
        wrong = Frame(starts.frame.centre, starts.frame.factor * np.array([1e3, 1.0, 1.0]))
        return starts._replace(frame=wrong, points=starts.points / np.array([1e3, 1.0, 1.0]))

    right, good = sampler.starts_of, drawn("orbits")  # drawn before the metric is spoilt
    monkeypatch.setattr(sampler, "starts_of", stretched)
    ours = bm.NUTS(ROW.program, **SETTINGS).run(jax.random.key(1), *ROW.args, start=em())
    assert "no guide to the posterior" in str(ours)
    assert ours.settings["warmup"] == sum(session.WARMUP.values())
    assert "moves: NUTS with NumPyro's adaptation" in str(ours)
    assert "moves: Hamiltonian orbits" in str(good)
    (found, error), (theirs, other) = moments(ours), moments(good)
    assert np.all(np.abs(found - theirs) <= Z * np.hypot(error, other))


# --------------------------------------------------------------------------------- divergences


def half_normal(x):
    weights = numpyro.sample("weights", dist.Dirichlet(np.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    with numpyro.plate("obs_id", x.shape[0]):
        components = dist.Normal(loc, scale)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=x)


@pytest.mark.parametrize("count", [0, 2, 20])
def test_divergences_are_laid_to_the_scale_that_goes_to_zero(count):
    rng = np.random.default_rng(0)
    diverging = np.arange(1000).reshape(2, 500) < count
    samples = {"weights": rng.dirichlet([2, 2], (2, 500)), "loc": rng.normal(size=(2, 500, 2))}
    samples["scale"] = rng.gamma(5.0, 1.0, (2, 500, 2))
    samples["scale"][diverging, 1] = 0.01
    said = divergences(bm.trace(half_normal, np.arange(6.0)), samples, diverging)
    assert len(said) == (count > 0)
    if count:
        assert said[0].startswith(f"{count} of 1000 transitions diverged")
        assert ("'scale' of cluster 1 is near zero (median 0.01" in said[0]) == (count == 20)
        assert ("its prior is HalfNormal" in said[0]) == (count == 20)


def test_a_chain_that_stays_at_one_point_is_told():
    lp = np.random.default_rng(0).normal(size=(3, 200))
    assert not stays(lp)
    assert not stays(lp[:, :1])
    lp[1, 20 : 20 + LONG] = 0.5  # one more draw than refusals
    assert not stays(lp)
    lp[1, 20 + LONG] = 0.5
    assert stays(lp)[0].startswith(
        f"chain 1 stayed at one point for {LONG} transitions in a row (1 of 3"
    )
    lp[2] = 0.0
    assert stays(lp)[0].startswith(
        "chain 2 stayed at one point for 199 transitions in a row (2 of 3"
    )


# ------------------------------------------------------------------------------ one compilation


@pytest.mark.parametrize("way", list(WAYS))
def test_other_data_of_the_same_shape_compile_nothing(way):
    other = np.where(ROW.args[0] > 3, ROW.args[0] + 1, ROW.args[0])
    drawn.__wrapped__(way)  # earlier tests' code may have been given back
    repeated = bm.EM(ROW.program, restarts=2, progress_bar=False)
    repeated.run(jax.random.key(4), ROW.args[0])
    before = len(compilations)
    fit = repeated.run(jax.random.key(5), other)
    assert len(compilations) == before
    again = bm.NUTS(ROW.program, **WAYS[way], **SETTINGS).run(jax.random.key(6), other, start=fit)
    assert len(compilations) == before
    assert again.samples["rate"].mean() > drawn(way).samples["rate"].mean()


def test_an_unknown_metric_or_kernel_is_named():
    with pytest.raises(ValueError, match='kernel must be "auto" or "nuts", not \'hmc\''):
        bm.NUTS(ROW.program, kernel="hmc")
    with pytest.raises(ValueError, match='metric must be "curvature" or "adapted", not \'diag\''):
        bm.NUTS(ROW.program, metric="diag")
