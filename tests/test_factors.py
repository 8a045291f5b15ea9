"""Mixtures of factor analysers: against SciPy, against scikit-learn, and at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density
from scipy import stats
from scipy.special import logsumexp

import bayesmix as bm
from bayesmix.factors import Lower, LowerNormal

RNG = np.random.default_rng(4)
N, D, K, Q = 60, 5, 2, 2
NOISE_SD = np.array([1.0, 2.0, 1.0, 0.7, 1.0])
TABLE = RNG.normal(size=(N, Q)) @ RNG.normal(size=(Q, D)) + RNG.normal(size=(N, D)) * NOISE_SD
TABLE[:25] += 4.0
# Six columns that two factors explain well, none of them wholly.
LOADED = np.array([[2, 0], [1, 1], [-1, 2], [2, 1], [0, 2], [1, -1]])
ONE = RNG.normal(size=(200, 2)) @ LOADED.T + RNG.normal(size=(200, 6))


def lower(rng, *shape):
    return np.tril(rng.normal(size=shape))


@pytest.mark.usefixtures("x64")
def test_matrices_below_the_diagonal_are_a_support():
    support = Lower(RNG.gamma(2.0, size=(D, Q)))
    to_support, x = biject_to(support), jnp.asarray(RNG.normal(size=(3, D * Q - 1)))
    y = to_support(x)
    assert y.shape == (3, *to_support.forward_shape(x.shape[1:])) == (3, D, Q)
    assert to_support.inverse_shape(y.shape) == x.shape
    assert support(y).all()
    assert not support(y.at[:, 0, 1].set(0.1)).any()
    np.testing.assert_allclose(to_support.inv(y), x)
    stretch = np.linalg.slogdet(
        jax.jacobian(lambda z: to_support(z)[np.tril_indices(D, 0, Q)])(x[0])
    )
    np.testing.assert_allclose(to_support.log_abs_det_jacobian(x, y), stretch[1])


@pytest.mark.usefixtures("x64")
def test_loadings_are_normal_below_the_diagonal():
    prior = LowerNormal(jnp.full((D, Q), 0.7))
    value = lower(RNG, 3, D, Q)
    entries = value[:, *np.tril_indices(D, 0, Q)]
    np.testing.assert_allclose(prior.log_prob(value), stats.norm(0, 0.7).logpdf(entries).sum(-1))
    draws = np.asarray(prior.sample(jax.random.key(0), (3000,)))
    assert prior.support(draws).all()
    sd = draws[:, *np.tril_indices(D, 0, Q)].std(0)
    assert np.abs(sd - 0.7).max() < 4 * 0.7 / np.sqrt(2 * len(draws))


@pytest.mark.usefixtures("x64")
def test_the_program_is_what_its_page_says():
    params = {
        "weights": RNG.dirichlet([5.0] * K),
        "loc": RNG.normal(size=(K, D)),
        "loadings": lower(RNG, K, D, Q),
        "noise": RNG.gamma(3.0, size=(K, D)),
    }
    covs = [L @ L.T + np.diag(n) for L, n in zip(params["loadings"], params["noise"], strict=True)]
    terms = [
        stats.multivariate_normal(m, c).logpdf(TABLE)
        for m, c in zip(params["loc"], covs, strict=True)
    ]
    total = logsumexp(np.log(params["weights"])[:, None] + terms, axis=0).sum()
    v, share, S = TABLE.var(0, ddof=1), K ** (-2 / D), np.cov(TABLE.T)
    total += stats.dirichlet([2.0] * K).logpdf(params["weights"])
    total += stats.invgamma(1.5, scale=share * v / 2).logpdf(params["noise"]).sum()
    sd = np.sqrt(share * v / Q)[:, None] * np.ones(Q)
    prior = stats.norm(0, sd).logpdf(params["loadings"])
    total += (prior * np.tril(np.ones((D, Q)))).sum()
    around = 9 * (0.9 * S + 0.1 * np.diag(v))
    total += stats.multivariate_normal(TABLE.mean(0), around).logpdf(params["loc"]).sum()
    program = bm.models.gaussian(K, covariance="factor", factors=Q)
    assert float(log_density(program, (TABLE,), {}, params)[0]) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize(
    "units", [np.ones(6), np.array([1e-2, 1.0, 1e3, 10.0, 1e-1, 1.0])], ids=["even", "far"]
)
def test_one_cluster_is_scikit_learns_factor_analysis(units):
    from sklearn.decomposition import FactorAnalysis

    program = bm.models.gaussian(1, covariance="factor", factors=2, prior="flat")
    em = bm.EM(program, restarts=1, progress_bar=False).run(jax.random.key(0), units * ONE)
    assert em.converged
    assert "ascent" not in em.plan
    fa = FactorAnalysis(2, tol=1e-9, max_iter=100_000, svd_method="lapack").fit(ONE)
    expected = 200 * (fa.score(ONE) - np.log(units).sum())
    assert em.log_likelihood == pytest.approx(expected, abs=1e-6)
    assert em.n_parameters == 6 + 6 + 6 * 2 - 1
    np.testing.assert_allclose(em.params["noise"][0] / units**2, fa.noise_variance_, rtol=1e-3)


def test_a_mixture_of_factor_analysers_lies_between_its_neighbours():
    """More freedom than "diag", less than "full"; the prior's mode is reached by ascent."""
    fits = {}
    for covariance, factors in (("diag", None), ("factor", 1), ("factor", 2), ("full", None)):
        program = bm.models.gaussian(K, covariance=covariance, factors=factors, prior="flat")
        run = bm.EM(program, restarts=4, progress_bar=False).run(jax.random.key(0), TABLE)
        fits[covariance, factors] = run.log_likelihood
        assert run.converged
    assert list(fits.values()) == sorted(fits.values())
    program = bm.models.gaussian(K, covariance="factor", factors=1)
    em = bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), TABLE)
    assert em.converged
    assert np.abs(em.params["loadings"]).max() > 0.5  # not left at 0, where no slope leads away
    with jax.enable_x64(True):
        slope = jax.device_get(jax.grad(lambda p: bm.log_joint(em.mixture, p))(em.params))
    assert np.abs(slope["noise"] * em.params["noise"]).max() < 1e-3
    assert np.abs(np.tril(slope["loadings"])).max() < 1e-3


@pytest.mark.parametrize("factors", [None, 0, -1, 1.5, "2", True])
def test_factors_must_be_a_positive_integer(factors):
    with pytest.raises(ValueError, match="covariance 'factor' needs factors, a positive integer"):
        bm.models.gaussian(2, covariance="factor", factors=factors)


def test_factors_are_for_factor_analysers_of_more_columns():
    with pytest.raises(ValueError, match="factors=2 is for covariance='factor', not 'VVV'"):
        bm.models.gaussian(2, covariance="VVV", factors=2)
    with pytest.raises(ValueError, match="prior 'mclust' is not offered with covariance 'factor'"):
        bm.models.gaussian(2, covariance="factor", factors=1, prior="mclust")
    for x, columns in ((TABLE[:, :2], 2), (TABLE[:, 0], 1)):
        with pytest.raises(ValueError, match=f"got factors=2 for {columns}"):
            bm.trace(bm.models.gaussian(2, covariance="factor", factors=2), x)
