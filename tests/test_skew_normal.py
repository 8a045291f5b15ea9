"""The skew-normal distribution against SciPy's, and its ready-made mixture."""

import jax
import numpy as np
import pytest
from numpyro.infer.util import log_density
from oracles import x64
from scipy import special, stats

import bayesmix as bm

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
