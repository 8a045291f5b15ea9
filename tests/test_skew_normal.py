"""The skew-normal distribution against SciPy's, and its ready-made mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from oracles import Z, x64
from scipy import special, stats

import bayesmix as bm
from bayesmix.families.skew_normal import _below

LOC, SCALE, ALPHA = (
    np.array([0.5, -1.0, 2.0]),
    np.array([1.5, 0.3, 1.0]),
    np.array([4.0, -7.0, 0.0]),
)


def test_density_is_scipys():
    x = np.linspace(-8.0, 8.0, 41)[:, None]
    with x64():
        ours = np.asarray(bm.SkewNormal(LOC, SCALE, ALPHA).log_prob(x))
    theirs = stats.skewnorm(ALPHA, LOC, SCALE)
    inside = theirs.pdf(x) > 1e-200  # SciPy's logpdf is the log of that
    assert inside.mean() > 0.7
    np.testing.assert_allclose(ours[inside], theirs.logpdf(x)[inside], rtol=1e-9, atol=1e-9)
    assert np.isfinite(ours).all()


def test_moments_and_draws():
    """Kolmogorov and Smirnov at one in a thousand for each of the three."""
    with x64():
        found = bm.SkewNormal(LOC, SCALE, ALPHA)
        draws = np.asarray(found.sample(jax.random.key(0), (4000,)))
        mean, variance = np.asarray(found.mean), np.asarray(found.variance)
    theirs = stats.skewnorm(ALPHA, LOC, SCALE)
    np.testing.assert_allclose(mean, theirs.mean(), rtol=1e-12)
    np.testing.assert_allclose(variance, theirs.var(), rtol=1e-12)
    for column, parameters in zip(draws.T, zip(ALPHA, LOC, SCALE, strict=True), strict=True):
        assert stats.kstest(column, stats.skewnorm(*parameters).cdf).pvalue > 1e-3


def test_the_cut_normal_far_out():
    """log Phi(a) and a + phi(a) / Phi(a), by SciPy's scaled error function where that is exact."""
    a = np.concatenate([-np.logspace(-3, 3, 200), np.linspace(-6.0, 6.0, 200)])
    with x64():
        log_cdf, excess = (np.asarray(each) for each in _below(jnp.asarray(a)))
    np.testing.assert_allclose(log_cdf, special.log_ndtr(a), rtol=1e-13, atol=1e-15)
    hazard = np.sqrt(2 / np.pi) / special.erfcx(-a / np.sqrt(2))
    near, far = a > -10, a < -100
    # a and its hazard, each right to rounding, cancel by a factor of a^2 in the sum.
    np.testing.assert_allclose(excess[near], (a + hazard)[near], rtol=1e-11)
    x = -a[far]
    np.testing.assert_allclose(excess[far], 1 / x - 2 / x**3 + 10 / x**5 - 74 / x**7, rtol=1e-12)


def test_a_fit_of_many_rows_finds_both_slants():
    """Within Z standard errors, from the curvature at the mode."""
    rng = np.random.default_rng(0)
    first = rng.random(3000) < 0.4
    draws = [
        stats.skewnorm.rvs(a, m, s, size=3000, random_state=rng)
        for a, m, s in ((6.0, 0.0, 1.0), (-4.0, 5.0, 2.0))
    ]
    em = bm.EM(bm.models.skew_normal(2), restarts=4, progress_bar=False).run(
        jax.random.key(0), np.where(first, *draws)
    )
    assert "SkewNormal), no N x K" in " ".join(str(em.mixture).split())
    order = np.argsort(em.params["loc"])
    errors = em.standard_errors()
    for site, truth in {"loc": [0, 5], "squared_scale": [1, 4], "alpha": [6, -4]}.items():
        away = np.abs(em.params[site] - np.array(truth)[np.argsort(order)])
        assert np.all(away < Z * errors[site]), site


@pytest.mark.parametrize("columns", [(), (2,)], ids=["N", "N_x_2"])
def test_skew_normal_is_what_its_page_says(columns):
    rng = np.random.default_rng(1)
    x, D = rng.normal(size=(30, *columns)), max(1, len(columns) and columns[0])
    params = {"weights": np.array([0.4, 0.6]), "loc": rng.normal(size=(2, *columns))}
    params["squared_scale"] = rng.gamma(3.0, 0.5, (2, *columns))
    params["alpha"] = rng.normal(size=(2, *columns))
    sd, v = x.std(0, ddof=1), x.var(0, ddof=1)
    theirs = stats.dirichlet([2.0, 2.0]).logpdf(params["weights"])
    theirs += stats.norm.logpdf(params["loc"], x.mean(0), 3 * sd).sum()
    theirs += stats.invgamma.logpdf(params["squared_scale"], 1.5, scale=v / 2 * 2 ** (-2 / D)).sum()
    theirs += stats.norm.logpdf(params["alpha"], 0, 3).sum()
    terms = [
        stats.skewnorm.logpdf(x, a, m, np.sqrt(s)).reshape(30, -1).sum(1)
        for a, m, s in zip(params["alpha"], params["loc"], params["squared_scale"], strict=True)
    ]
    theirs += special.logsumexp(np.log(params["weights"])[:, None] + terms, axis=0).sum()
    with x64():
        ours = float(log_density(bm.models.skew_normal(2), (x,), {}, params)[0])
    assert abs(ours - theirs) < 1e-10 * abs(theirs)


def test_slow_steps_in_single_precision_are_not_taken_for_the_end():
    """Near alpha = 0 EM gains less per step than float32 shows of the log joint, for long.

    Going on from there in float64 gains no more than what the result says may remain: rounding of
    the log joint, 64 units.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)) + np.where(rng.random(300) < 0.4, 0, 3)[:, None]
    settings = {"restarts": 2, "progress_bar": False}
    single = bm.EM(bm.models.skew_normal(3), dtype="float32", **settings).run(jax.random.key(0), x)
    assert single.converged
    double = bm.EM(bm.models.skew_normal(3), max_steps=3000, **settings).run(
        jax.random.key(0), x, init_params=single.params
    )
    allowed = 64 * float(np.finfo(np.float32).eps) * (1 + abs(double.log_joint))
    assert double.converged
    assert double.log_joint - single.log_joint <= allowed
