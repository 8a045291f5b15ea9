"""The kernels: a trajectory against a plain one, one posterior from all, one compilation."""

from functools import cache

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from oracles import Z
from programs import BY_ID

import bayesmix as bm
from bayesmix.nuts import noise, sampler, session, tree
from bayesmix.nuts.divergences import divergences
from bayesmix.nuts.starts import Frame
from bayesmix.nuts.trajectory import Point

ROW = BY_ID["poisson_gamma"]
SETTINGS = {"chains": 2, "draws": 400, "progress_bar": False}
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compilations.append(event) if "backend_compile" in event else None
)

# ------------------------------------------------------------------------------- the trajectory

PRECISION = np.diag([1.0, 0.3, 4.0])


def naive_steps(u, momentum, step, uniforms):
    """Steps of a transition of NUTS, all states kept and all subtrees looked at."""

    def leap(u, p, step):
        p = p - 0.5 * step * (PRECISION @ u)
        u = u + step * p
        return u, p - 0.5 * step * (PRECISION @ u)

    def turned(momenta):
        way = np.sum(momenta, 0) - (momenta[0] + momenta[-1]) / 2
        return momenta[0] @ way <= 0 or momenta[-1] @ way <= 0

    states, steps = [(u, momentum)], 0
    for depth in range(noise.DEPTH):
        forward = uniforms[depth, 0] < 0.5
        end, branch = states[-1 if forward else 0], []
        for _ in range(2**depth):
            branch.append(leap(*(branch[-1] if branch else end), step if forward else -step))
            steps += 1
            momenta = [p for _, p in branch]
            sizes = [2**j for j in range(1, depth + 1) if len(branch) % 2**j == 0]
            if any(turned(momenta[-size:]) for size in sizes):
                return steps
        states = states + branch if forward else branch[::-1] + states
        if turned([p for _, p in states]):
            return steps
    return steps


def test_trajectories_end_where_a_plain_reading_of_nuts_ends_them(x64):
    def potential(u):
        return 0.5 * u @ PRECISION @ u

    @jax.jit
    def transition(u, momentum, step, uniforms):
        point = Point(u, potential(u), jax.grad(potential)(u), 0.0)
        path = tree.begin(point, momentum, step, uniforms)
        return jax.lax.while_loop(
            lambda path: ~path.done, lambda path: tree.grow(potential, path), path
        )

    rng = np.random.default_rng(0)
    lengths = set()
    for step in (0.02, 0.1, 0.3, 0.9) * 5:
        start = rng.normal(size=3), rng.normal(size=3)
        uniforms = rng.random((noise.DEPTH, 3))
        path = transition(*start, step, uniforms)
        assert int(path.steps) == naive_steps(*start, step, uniforms)
        assert not path.diverging
        lengths.add(int(path.steps))
    assert max(lengths) > 60 and min(lengths) < 4  # noqa: PT018


# ------------------------------------------------------------------------- one posterior from all


@cache
def em():
    return bm.EM(ROW.program, restarts=2, progress_bar=False).run(jax.random.key(0), *ROW.args)


@cache
def drawn(kernel):
    return bm.NUTS(ROW.program, kernel=kernel, **SETTINGS).run(
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


@pytest.mark.parametrize("kernel", ["hmc", "numpyro"])
def test_all_kernels_sample_the_same_posterior(kernel):
    (ours, error), (theirs, other) = moments(drawn(kernel)), moments(drawn("nuts"))
    assert np.all(np.abs(ours - theirs) <= Z * np.hypot(error, other))
    assert not drawn(kernel).notes
    assert not drawn("nuts").notes


def test_trajectories_of_hmc_are_short_and_of_random_length():
    stats = drawn("hmc").sample_stats
    assert len(np.unique(stats["n_steps"])) > 1
    assert stats["n_steps"].max() < 20
    assert stats["acceptance_rate"].mean() > 0.6


@pytest.mark.parametrize("together", [True, False])
def test_chains_in_turn_draw_what_they_draw_side_by_side(monkeypatch, together):
    monkeypatch.setattr(session, "side_by_side", lambda *_: together)
    ours = bm.NUTS(ROW.program, **SETTINGS | {"draws": 20}).run(
        jax.random.key(1), *ROW.args, start=em()
    )
    np.testing.assert_allclose(
        ours.samples["rate"], drawn("nuts").samples["rate"][:, :20], rtol=1e-6
    )


def test_a_wrong_metric_gives_way_to_ordinary_adaptation(monkeypatch):
    def stretched(*given):
        starts = right(*given)
        wrong = Frame(starts.frame.centre, starts.frame.factor * np.array([1e3, 1.0, 1.0]))
        return starts._replace(frame=wrong, points=starts.points / np.array([1e3, 1.0, 1.0]))

    right = sampler.starts_of
    monkeypatch.setattr(sampler, "starts_of", stretched)
    ours = bm.NUTS(ROW.program, **SETTINGS).run(jax.random.key(1), *ROW.args, start=em())
    assert "no guide to the posterior" in str(ours)
    assert ours.settings["warmup"] == session.SHORT_WARMUP + session.PLAIN_WARMUP
    (found, error), (theirs, other) = moments(ours), moments(drawn("nuts"))
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


# ------------------------------------------------------------------------------ one compilation


@pytest.mark.parametrize("kernel", ["nuts", "hmc", "numpyro"])
def test_other_data_of_the_same_shape_compile_nothing(kernel):
    other = np.where(ROW.args[0] > 3, ROW.args[0] + 1, ROW.args[0])
    drawn(kernel)
    repeated = bm.EM(ROW.program, restarts=2, progress_bar=False)
    repeated.run(jax.random.key(4), ROW.args[0])
    before = len(compilations)
    fit = repeated.run(jax.random.key(5), other)
    assert len(compilations) == before
    again = bm.NUTS(ROW.program, kernel=kernel, **SETTINGS).run(jax.random.key(6), other, start=fit)
    assert len(compilations) == before
    assert again.samples["rate"].mean() > drawn(kernel).samples["rate"].mean()


def test_an_unknown_kernel_is_named():
    with pytest.raises(
        ValueError, match='kernel must be "nuts", "hmc" or "numpyro", not \'gibbs\''
    ):
        bm.NUTS(ROW.program, kernel="gibbs")
