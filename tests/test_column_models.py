"""bm.models for positive numbers, shares, angles and counts: against SciPy, moved, and collapsing.

SciPy's side writes the log joint out a second time, from the models' pages alone.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy import optimize, stats
from scipy.special import digamma, logsumexp

import bayesmix as bm
from bayesmix import models
from bayesmix.families.negative_binomial import NegativeBinomial

K = 2
RNG = np.random.default_rng(3)
POSITIVE = np.concatenate([RNG.gamma(3.0, 0.4, (25, 2)), RNG.gamma(12.0, 0.5, (20, 2))])
SHARES = np.concatenate([RNG.beta(2.0, 6.0, (25, 2)), RNG.beta(14.0, 5.0, (20, 2))])
ANGLES = np.concatenate([RNG.vonmises(3.0, 6.0, (25, 2)), RNG.vonmises(0.2, 3.0, (20, 2))])
COUNTS = np.concatenate([RNG.poisson(2.0, (25, 2)), RNG.negative_binomial(6, 0.3, (20, 2))])
ROWS = np.concatenate([RNG.dirichlet([1, 4, 5], 25), RNG.dirichlet([20, 9, 2], 20)])
KINDS = np.concatenate(
    [RNG.multinomial(6, [0.6, 0.3, 0.1], 25), RNG.multinomial(11, [0.1, 0.3, 0.6], 20)]
)


# ------------------------------------------------------------- log priors and densities, from SciPy


def _share(x):
    return K ** (-2 / (x.shape[1] if x.ndim == 2 else 1))


def _of_logs(site, x, value):
    """log m, s of a location; of a concentration its Gamma prior with s² the spread."""
    y = np.log(x)
    if site == "concentration":
        return _narrow(x, y.var(0, ddof=1), value)
    return stats.lognorm.logpdf(value, 3 * y.std(0, ddof=1), scale=np.exp(y.mean(0)))


def _narrow(x, spread, value):
    return stats.gamma.logpdf(value, 1.5, scale=2 / (_share(x) * spread))


def _log_normal(x, loc, var):
    y = np.log(x)
    prior = stats.norm.logpdf(loc, y.mean(0), 3 * y.std(0, ddof=1))
    prior = prior + stats.invgamma.logpdf(var, 1.5, scale=_share(x) * y.var(0, ddof=1) / 2)
    return prior, lambda k: stats.lognorm.logpdf(x, np.sqrt(var[k]), scale=np.exp(loc[k]))


def _gamma(x, mean, concentration):
    prior = _of_logs("mean", x, mean) + _of_logs("concentration", x, concentration)
    scale = mean / concentration
    return prior, lambda k: stats.gamma.logpdf(x, concentration[k], scale=scale[k])


def _inverse_gamma(x, harmonic_mean, concentration):
    prior = _of_logs("mean", x, harmonic_mean) + _of_logs("concentration", x, concentration)
    scale = harmonic_mean * concentration
    return prior, lambda k: stats.invgamma.logpdf(x, concentration[k], scale=scale[k])


def _weibull(x, scale, concentration):
    s = np.sqrt(_share(x)) * np.log(x).std(0, ddof=1)
    prior = _of_logs("scale", x, scale) + stats.gamma.logpdf(concentration, 2, scale=1 / s)
    return prior, lambda k: stats.weibull_min.logpdf(x, concentration[k], scale=scale[k])


def _exponential(x, rate):
    prior = stats.gamma.logpdf(rate, 2, scale=1 / (2 * x.mean(0)))
    return prior, lambda k: stats.expon.logpdf(x, scale=1 / rate[k])


def _beta(x, mean, concentration):
    m = x.mean(0)
    prior = stats.beta.logpdf(mean, 1 + m, 2 - m)
    prior = prior + _narrow(x, x.var(0, ddof=1) / (m * (1 - m)), concentration)
    a, b = mean * concentration, (1 - mean) * concentration
    return prior, lambda k: stats.beta.logpdf(x, a[k], b[k])


def _von_mises(x, loc, concentration):
    R = np.abs(np.exp(1j * x).mean(0))
    prior = _narrow(x, 2 * (1 - R), concentration) - np.log(2 * np.pi)
    return prior, lambda k: stats.vonmises.logpdf(x, concentration[k], loc=loc[k])


def _geometric(x, probs):
    m = (len(x) + 0.5) / (len(x) + x.sum(0) + 1)
    prior = stats.beta.logpdf(probs, 1 + m, 2 - m)
    return prior, lambda k: stats.geom.logpmf(x + 1, probs[k])


def _negative_binomial(x, mean, concentration):
    s = ((x**2.0).sum(0) + 1) / (x.sum(0) + 1)
    prior = stats.gamma.logpdf(mean, 2, scale=s / 2)
    prior = prior + _narrow(x, (x.var(0) + 1) / (x.mean(0) + 1) ** 2, concentration)
    probs = concentration / (concentration + mean)
    return prior, lambda k: stats.nbinom.logpmf(x, concentration[k], probs[k])


def _dirichlet(x, mean, concentration):
    m = x.mean(0)
    rate = K ** (-2 / (x.shape[1] - 1)) * x.var(0, ddof=1).sum() / (m * (1 - m)).sum() / 2
    prior = np.array([stats.dirichlet.logpdf(row, 1 + m) for row in mean])
    prior = prior + stats.gamma.logpdf(concentration, 1.5, scale=1 / rate)
    return prior, lambda k: stats.dirichlet.logpdf(x.T, concentration[k] * mean[k])


def _multinomial(x, probs):
    m = (x.sum(0) + 1 / x.shape[1]) / (x.sum() + 1)
    prior = np.array([stats.dirichlet.logpdf(row, 1 + m) for row in probs])
    return prior, lambda k: stats.multinomial.logpmf(x, x.sum(1), probs[k])


def _positive(rng, shape):
    return rng.gamma(4.0, 0.5, shape)


def _real(rng, shape):
    return rng.normal(0.5, 0.7, shape)


def _unit(rng, shape):
    return rng.beta(3.0, 3.0, shape)


def _simplex(rng, shape):
    return rng.dirichlet(np.full(shape[-1], 3.0), shape[:-1])


# name -> (data, SciPy's prior and density, how to draw each of its arguments, the sites)
TASKS = {
    "log_normal": (POSITIVE, _log_normal, {"loc": _real, "var": _positive}),
    "gamma": (POSITIVE, _gamma, {"mean": _positive, "concentration": _positive}),
    "inverse_gamma": (
        POSITIVE, _inverse_gamma, {"harmonic_mean": _positive, "concentration": _positive}),
    "weibull": (POSITIVE, _weibull, {"scale": _positive, "concentration": _positive}),
    "exponential": (POSITIVE, _exponential, {"rate": _positive}),
    "beta": (SHARES, _beta, {"mean": _unit, "concentration": _positive}),
    "von_mises": (ANGLES, _von_mises, {"loc": _unit, "concentration": _positive}),
    "geometric": (COUNTS, _geometric, {"probs": _unit}),
    "negative_binomial": (
        COUNTS, _negative_binomial, {"mean": _positive, "concentration": _positive}),
    "dirichlet": (ROWS, _dirichlet, {"mean": _simplex, "concentration": _positive}),
    "multinomial": (KINDS, _multinomial, {"probs": _simplex}),
}  # fmt: skip
ROW_WISE = ("dirichlet", "multinomial")
CASES = [(name, wide) for name in TASKS for wide in (True, False) if wide or name not in ROW_WISE]
every_form = pytest.mark.parametrize("name, wide", CASES)


def data_of(name, wide):
    x = TASKS[name][0]
    return x if wide else x[:, 0]


def params_of(name, x, rng):
    shapes = dict.fromkeys(TASKS[name][2], (K, *x.shape[1:]))
    if name == "dirichlet":
        shapes["concentration"] = (K,)
    drawn = {site: draw(rng, shapes[site]) for site, draw in TASKS[name][2].items()}
    if name == "von_mises":
        drawn["loc"] = cut_of(x) + 2 * np.pi * drawn["loc"]
    return {"weights": rng.dirichlet([5.0] * K), **drawn}


def cut_of(x):
    """Where the interval of the directions begins, column by column."""
    seeded = numpyro.handlers.seed(models.von_mises(K), jax.random.key(0))
    prior = jax.jit(lambda: numpyro.handlers.trace(seeded).get_trace(x)["loc"]["fn"].support)()
    return np.asarray(getattr(prior, "base_constraint", prior).lower_bound)


def scipy_joint(name, x, params):
    weights = params["weights"]
    prior, density = TASKS[name][1](x, *(params[site] for site in TASKS[name][2]))
    terms = [density(k).reshape(len(x), -1).sum(1) for k in range(K)]
    total = np.sum(prior) + stats.dirichlet.logpdf(weights, [2.0] * K)
    return total + logsumexp(np.log(weights)[:, None] + terms, axis=0).sum()


@cache
def compiled(name):
    program = getattr(models, name)(K)
    if name == "multinomial":  # it reads the data's values
        return lambda x, params: log_density(program, (x,), {}, params)[0]
    return jax.jit(lambda x, params: log_density(program, (x,), {}, params)[0])


def joint(name, x, params):
    return float(compiled(name)(x, params))


@cache
def fitted(name, wide=False):
    program = getattr(models, name)(K)
    return bm.EM(program, restarts=6, progress_bar=False).run(
        jax.random.key(0), data_of(name, wide or name in ROW_WISE)
    )


# ------------------------------------------------------------------------------------------- tests


@pytest.mark.usefixtures("x64")
@every_form
def test_a_model_is_what_its_page_says(name, wide):
    x, rng = data_of(name, wide), np.random.default_rng(1)
    for _ in range(2):
        params = params_of(name, x, rng)
        theirs = scipy_joint(name, x, params)
        assert abs(joint(name, x, params) - theirs) < 1e-10 * abs(theirs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["log_normal", "gamma", "inverse_gamma", "weibull"])
def test_a_change_of_units_changes_nothing_else(name):
    """x -> a x moves locations by a; the log joint by the volume of data and locations alone."""
    x, a = POSITIVE, np.array([1e3, 0.02])
    params = params_of(name, x, np.random.default_rng(2))
    location = next(iter(TASKS[name][2]))
    there = dict(params)
    there[location] = params[location] + np.log(a) if name == "log_normal" else params[location] * a
    stretch = len(x) + (0 if name == "log_normal" else K)
    before, after = joint(name, x, params), joint(name, a * x, there)
    assert abs(after + stretch * np.log(a).sum() - before) < 1e-10 * abs(before)


@pytest.mark.usefixtures("x64")
def test_angles_have_no_zero():
    """Turning all angles and directions changes nothing, and the cut turns along."""
    quarter = (ANGLES + np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
    params = params_of("von_mises", ANGLES, np.random.default_rng(2))
    cut = cut_of(quarter)
    np.testing.assert_allclose(np.cos(cut - cut_of(ANGLES) - np.pi / 2), 1.0, atol=1e-9)
    turned = params | {"loc": cut + (params["loc"] + np.pi / 2 - cut) % (2 * np.pi)}
    before, after = joint("von_mises", ANGLES, params), joint("von_mises", quarter, turned)
    assert abs(after - before) < 1e-10 * abs(before)


def test_the_circle_is_cut_where_no_cluster_is():
    """Clusters at 3.0 and 0.2: a cut at pi, NumPyro's own, would go through the first."""
    em = fitted("von_mises")
    np.testing.assert_allclose(np.sort(np.cos(em.params["loc"])), np.cos([3.0, 0.2]), atol=0.15)
    assert np.cos(cut_of(ANGLES[:, 0]) - ANGLES[:, 0]).max() < np.cos(0.3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [n for n in TASKS if "concentration" in TASKS[n][2]])
def test_no_cluster_wins_by_collapsing(name):
    """A component ever narrower on one row: the log joint falls in the end, as it must."""
    x = data_of(name, True)
    params = params_of(name, x, np.random.default_rng(4))
    location = next(iter(TASKS[name][2]))
    own = np.array(params[location])
    own[0] = x[3] + (0.5 if name == "negative_binomial" else 0.0)
    if name == "von_mises":
        own[0] = cut_of(x) + (x[3] - cut_of(x)) % (2 * np.pi)
    path = []
    for power in (6, 8, 10):
        narrow = np.array(params["concentration"])
        narrow[0] = 10.0**power
        path.append(joint(name, x, params | {location: own, "concentration": narrow}))
    assert np.all(np.isfinite(path))
    assert path[0] > path[1] > path[2]


def directions(x, prior):
    weights = numpyro.sample("weights", dist.Dirichlet(np.full(K, 2.0)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Uniform(-np.pi, np.pi))
        kappa = numpyro.sample("kappa", prior)
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.VonMises(loc, kappa))
    with numpyro.plate("obs_id", len(x)):
        numpyro.sample("x", mixture, obs=x)


@pytest.mark.parametrize(
    "prior, told",
    [
        (lambda: dist.ImproperUniform(dist.constraints.positive, (), ()), "no upper limit"),
        (lambda: dist.HalfCauchy(5.0), "falls only like a power"),
        (lambda: dist.Gamma(2.0, 0.5), "keep the log joint bounded"),
        (lambda: dist.LogNormal(0.0, 1.0), "keep the log joint bounded"),
    ],
)
def test_a_concentration_without_end_is_told(prior, told):
    def program(x):
        directions(x, prior())

    text = str(bm.trace(program, ANGLES[:, 0]))
    assert told in " ".join(text.split())


@pytest.mark.parametrize("name", TASKS)
def test_ready_made_priors_raise_no_alarm(name):
    assert "keep the log joint bounded" in str(fitted(name).mixture)


def test_a_long_range_of_counts_goes_row_by_row():
    """Counts in a table merge; beyond 1023 each row is looked at."""
    x = np.random.default_rng(0).negative_binomial(3, 0.2, 5000)
    assert "5000 -> " in str(bm.trace(models.negative_binomial(K), x))
    assert "general sweep" in str(bm.trace(models.negative_binomial(K), 100 * x[:50]))


@pytest.mark.parametrize("name", TASKS)
def test_em_finds_scipys_maximum(name):
    """BFGS on SciPy's log joint, started a little off EM's answer, comes back to it."""
    em, x = fitted(name), data_of(name, name in ROW_WISE)
    assert em.converged
    assert em.log_joint == pytest.approx(scipy_joint(name, x, em.params), abs=1e-4)
    sites = [site for site in TASKS[name][2] if TASKS[name][2][site] is not _simplex]
    held = {site: em.params[site] for site in em.params}

    def params_at(u):
        moved = dict(held)
        for number, site in enumerate(sites):
            value = held[site]
            step = u[number * K : (number + 1) * K].reshape(value.shape)
            if TASKS[name][2][site] is _positive:
                moved[site] = value * np.exp(step)
            elif site == "loc":
                moved[site] = value + step
            else:
                odds = np.log(value / (1 - value)) + step
                moved[site] = 1 / (1 + np.exp(-odds))
        w = np.log(held["weights"]) + np.array([u[-1], 0.0])
        return moved | {"weights": np.exp(w - logsumexp(w))}

    best = optimize.minimize(
        lambda u: -scipy_joint(name, x, params_at(u)), np.full(K * len(sites) + 1, 0.1)
    )
    assert -best.fun == pytest.approx(em.log_joint, abs=1e-4)
    assert np.abs(best.x).max() < 1e-2


@pytest.mark.parametrize("name", TASKS)
def test_clusters_are_found_and_new_data_drawn(name):
    """The two halves of the data are told apart; draws are legal data."""
    em = fitted(name, True)
    truth = np.arange(45) >= 25
    right = (em.responsibilities.argmax(1) == truth).mean()
    assert max(right, 1 - right) > (0.7 if name in ("geometric", "negative_binomial") else 0.9)
    drawn = em.sample(jax.random.key(1), 5)
    assert drawn.shape == (5, *data_of(name, True).shape[1:])
    assert np.all(np.isfinite(em.log_density(drawn.astype(float))))


def test_float32_runs_too():
    for name in ("gamma", "von_mises", "negative_binomial"):
        em = bm.EM(getattr(models, name)(K), restarts=2, dtype="float32", progress_bar=False).run(
            jax.random.key(0), data_of(name, False)
        )
        assert em.log_joint == pytest.approx(fitted(name).log_joint, rel=1e-4)


# ---------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("name", TASKS)
def test_a_factory_gives_one_program(name):
    factory = getattr(models, name)
    assert factory(3) is factory(3.0) is not factory(2)
    assert factory(3).__name__.startswith(name)
    assert "Dirichlet" in factory(3).__doc__
    with pytest.raises(ValueError, match="K must be a positive integer, got 0"):
        factory(0)


def put(name, value, row=4, column=1):
    x = data_of(name, True).astype(float)
    x[row, column] = value
    return x


BAD = {
    "log_normal": (put("log_normal", -2.0), "row 4, column 1 is -2", "greater than 0"),
    "gamma": (put("gamma", 0.0), "row 4, column 1 is 0", "greater than 0"),
    "inverse_gamma": (put("inverse_gamma", -1.0), "row 4, column 1 is -1", "greater than 0"),
    "weibull": (put("weibull", -1.0), "row 4, column 1 is -1", "greater than 0"),
    "exponential": (put("exponential", -1.0), "row 4, column 1 is -1", "greater than 0"),
    "beta": (put("beta", 1.0), "row 4, column 1 is 1", "strictly between 0 and 1"),
    "von_mises": (put("von_mises", 4.0), "row 4, column 1 is 4", "wrap them"),
    "geometric": (put("geometric", -3.0), "row 4, column 1 is -3", "Geometric"),
    "negative_binomial": (
        put("negative_binomial", 2.5),
        "row 4, column 1 is 2.5",
        "whole numbers from 0",
    ),
    "dirichlet": (put("dirichlet", 0.0), "row 4", "sum to 1", "all must be positive"),
    "multinomial": (put("multinomial", 1.5), "row 4, column 1 is 1.5", "whole numbers"),
    "multinomial nan": (put("multinomial", np.nan), "row 4, column 1 is nan", "remove the row"),
    "categorical": (np.array([0, 1, 2, 1, np.inf]), "row 4 is inf", "remove the row"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused_in_one_sentence(name):
    x, *words = BAD[name]
    with pytest.raises(ValueError, match="site 'x'") as error:
        bm.trace(getattr(models, name.split()[0])(K), x)
    for word in words:
        assert word.lower() in str(error.value).lower(), str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["gamma", "log_normal", "beta", "von_mises", "dirichlet"])
def test_constant_columns_are_named(name):
    x = np.tile([0.2, 0.3, 0.5], (20, 1)) if name == "dirichlet" else np.full(20, 0.3)
    with pytest.raises(ValueError, match="column 0 is constant"):
        em_of(name, x)


def em_of(name, x):
    return bm.EM(getattr(models, name)(K), restarts=4, progress_bar=False).run(jax.random.key(0), x)


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_logarithms_are_centred_before_they_are_squared(factor):
    """Far from 1 their squares would cancel; fits are the same in any unit."""
    here, there = em_of("log_normal", POSITIVE), em_of("log_normal", POSITIVE * factor)
    assert there.converged
    volume = POSITIVE.size * np.log(factor)
    assert there.log_joint + volume == pytest.approx(here.log_joint, abs=1e-8)
    np.testing.assert_allclose(there.responsibilities, here.responsibilities, atol=1e-5)


def test_log_normal_rows_may_be_blocks():
    program = models.log_normal(K)
    params = params_of("log_normal", POSITIVE, np.random.default_rng(0))
    blocks = bm.Blocks([POSITIVE[:20], POSITIVE[20:]])
    with jax.enable_x64(True):
        values = [float(bm.log_joint(bm.trace(program, x), params)) for x in (POSITIVE, blocks)]
    assert values[1] == pytest.approx(values[0], rel=1e-12)


def test_counts_that_miss_their_total_are_refused():
    from programs import BY_ID

    row = BY_ID["vector_multinomial"]
    x, totals = row.args
    with pytest.raises(
        ValueError, match="row 2 has counts that sum to 5, but its total_count is 6"
    ):
        bm.trace(row.program, x, np.where(np.arange(len(x)) == 2, totals + 1, totals))


@pytest.mark.parametrize("name", ROW_WISE)
def test_rows_need_columns(name):
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        bm.trace(getattr(models, name)(K), np.array([0.2, 0.8, 0.5]))


@pytest.mark.parametrize("r", [0.4, 6.0, 1e3, 1e6])
def test_negative_binomials_keep_their_slope_in_the_concentration(r):
    """In float32, also near the Poisson, against digamma in float64; values against SciPy."""
    family, mean, x = NegativeBinomial(32), np.float32(3.0), np.arange(32)
    fail, r32 = r / (r + 3.0), np.float32(r)
    # d/dr log f(x | r, mean): differences of sums of 1/(r + i), and of logs, both O(1/r).
    slope = digamma(r + x) - digamma(r) + np.log(fail) + 1 - (r + x) / (r + 3.0)
    if r > 1e2:  # digamma's difference cancels in float64, too
        slope = np.array([np.sum(1 / (r + np.arange(n))) for n in x]) - np.log1p(3.0 / r)
        slope += (3.0 - x) / (r + 3.0)
    eps = np.finfo(np.float32).eps

    def table(r):
        leaves = {"total_count": jnp.reshape(r, 1), "logits": jnp.reshape(jnp.log(mean / r), 1)}
        return family.natural(leaves)[0][0]

    expected = stats.nbinom.logpmf(x, r, fail)
    added = np.cumsum(np.abs(np.diff(expected, prepend=0.0)))  # the terms that are summed
    # a rise is a sum of logs, of at most log(r + x), each off by a rounding unit of its size
    terms = x * (np.log(2 + r + x) + 2)
    assert np.all(np.abs(table(r32) - expected) <= 4 * eps * (1 + added + terms))
    # each of x + 1 terms of the slope, of at most (1 + x) / r, is off by some rounding units
    found = jax.jacfwd(table)(r32)
    assert np.all(np.abs(found - slope) <= 8 * eps * (1 + x) * (4 + x) / r)
