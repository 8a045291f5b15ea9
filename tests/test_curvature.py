"""Hessian, Laplace evidence of one mode and standard errors, against derivatives and textbooks."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from programs import BY_ID, COUNTS, X, Y

import bayesmix as bm
from bayesmix import curvature
from bayesmix.coordinates import constrain, free_log_density
from bayesmix.curvature import bend_at, free_vector, standard_errors
from bayesmix.density import data_of, density_of
from bayesmix.expansion import expanded, quiet
from bayesmix.laplace import geometry_at, log_evidence

# The steps bend the log density by 1e-8 nats: that is the relative error of a second derivative
# by truncation, and rounding adds about as much.
DIFFERENCES = 1e-6


@cache
def fit(row_id, K=None):
    row = BY_ID[row_id]
    settings = {} if K is None else {"K": K}
    em = bm.EM(row.program, restarts=4, progress_bar=False, tol=1e-12)
    return em.run(jax.random.key(0), *row.args, **settings)


def in_units(hessian):
    units = 1 / np.sqrt(np.abs(np.diag(hessian)))
    return hessian * np.outer(units, units), units


@pytest.mark.parametrize("row_id", ["normal_nig", "regression"])
def test_hessian_is_the_derivative_of_the_gradient(row_id, x64):
    mixture = fit(row_id).mixture
    density, data = density_of(mixture), data_of(mixture)
    z = free_vector(mixture, fit(row_id).params)
    found = bend_at(mixture, z)
    exact = jax.jit(jax.jacfwd(jax.grad(lambda z: free_log_density(density, z, data))))(z)
    expected, units = in_units(np.asarray(exact))
    np.testing.assert_allclose(
        found.hessian * np.outer(units, units), expected, atol=DIFFERENCES, rtol=0
    )


@pytest.mark.parametrize(
    "row_id", ["mvn_lkj", "mvn_tied", "normal_scaled_rows", "poisson_gamma", "explicit_labelled"]
)
def test_one_pass_tells_how_the_rows_bend(row_id, x64, monkeypatch):
    """Louis' identity against differences over the rows: what large data are spared."""
    mixture = bm.trace(BY_ID[row_id].program, *BY_ID[row_id].args)
    centre = free_vector(mixture, density_of(mixture).centre(data_of(mixture)))
    z = centre + 0.1 * np.random.default_rng(0).standard_normal(centre.size)
    by_rows = bend_at(mixture, z)
    monkeypatch.setattr(curvature, "LONG", 0)
    by_one = bend_at(mixture, z, by_rows.steps)
    assert by_one.value == pytest.approx(by_rows.value, rel=1e-12)
    expected, units = in_units(by_rows.hessian)
    np.testing.assert_allclose(by_one.gradient * units, by_rows.gradient * units, atol=1e-10)
    found = by_one.hessian * np.outer(units, units)
    np.testing.assert_allclose(found, expected, atol=DIFFERENCES, rtol=0)
    assert not np.array_equal(by_one.hessian, by_rows.hessian)


def test_some_chunks_of_rows_stand_for_all(x64):
    """Four chunks of nearly the same rows: one of them, raised to the weight of all, is enough."""
    x = np.random.default_rng(0).normal(size=4096)
    mixture = bm.trace(BY_ID["normal_flat"].program, np.ravel(x + 1e-9 * np.arange(4)[:, None]))
    density, data = density_of(mixture), data_of(mixture)
    assert data.rows.weights.shape == (4, 4096)
    whole, some = (
        expanded(density, fit("normal_flat").params, data, rows, quiet) for rows in (None, 4096)
    )
    np.testing.assert_allclose(some.hidden, whole.hidden, atol=1e-7 * whole.hidden.max())
    np.testing.assert_array_equal(some.slope, whole.slope)


@pytest.mark.parametrize("row_id", ["normal_nig", "mvn_lkj", "poisson_gamma", "bernoulli_product"])
def test_a_mode_holds_no_more_than_its_likelihood(row_id, x64):
    """What modes are passed over by, before their shape is known."""
    em = fit(row_id)
    for mode in em.modes:
        geometry = geometry_at(em.mixture, mode.params)
        assert geometry is None or geometry.log_evidence <= mode.log_likelihood


@pytest.mark.parametrize("row_id", ["normal_flat", "poisson_gamma"])
def test_standard_errors_by_oakes_identity(row_id, x64):
    """Oakes (1999), JRSS B 61: -information = d2Q/dt dt' + d2Q/dt dt0' at t0 = t, in free
    coordinates; Q is differentiated automatically, twice, at two arguments.
    """
    em = fit(row_id)
    mixture = em.mixture
    density, data = density_of(mixture), data_of(mixture)

    def Q(z, z0):
        params, at = (constrain(density, value, data) for value in (z, z0))
        return bm.expected_log_joint(mixture, params, at)

    z = jnp.asarray(free_vector(mixture, em.params))
    both = jax.jacfwd(jax.grad(Q), argnums=(0, 1))
    second = sum(map(np.asarray, jax.jit(both)(z, z)))
    covariance = np.linalg.inv(-second)
    slopes = jax.jit(jax.jacfwd(lambda z: constrain(density, z, data)))(z)
    for name, value in standard_errors(mixture, em.params).items():
        slope = np.asarray(slopes[name])
        variance = np.einsum("...i,ij,...j->...", slope, covariance, slope)
        np.testing.assert_allclose(value, np.sqrt(variance), rtol=10 * DIFFERENCES)


def test_standard_errors_of_one_cluster_are_the_textbooks():
    """Maximum likelihood: s / sqrt(N) and s / sqrt(2 N); sqrt((S_ii S_jj + S_ij^2) / N) for the
    elements of a covariance matrix. A Poisson rate with a Gamma prior: rate / sqrt(a - 1 + sum).
    """
    close = {"rtol": DIFFERENCES}
    normal = fit("normal_flat", K=1).standard_errors()
    np.testing.assert_allclose(normal["loc"], [Y.std() / np.sqrt(Y.size)], **close)
    np.testing.assert_allclose(normal["scale"], [Y.std() / np.sqrt(2 * Y.size)], **close)
    np.testing.assert_allclose(normal["weights"], [0.0], atol=1e-12)
    mvn = fit("mvn_flat", K=1).standard_errors()
    S = np.cov(X.T, ddof=0)
    np.testing.assert_allclose(mvn["loc"][0], np.sqrt(np.diag(S) / len(X)), **close)
    expected = np.sqrt((np.outer(np.diag(S), np.diag(S)) + S**2) / len(X))
    np.testing.assert_allclose(mvn["cov"][0], expected, **close)
    poisson = fit("poisson_gamma", K=1)
    expected = poisson.params["rate"] / np.sqrt(2.0 - 1 + COUNTS.sum())
    np.testing.assert_allclose(poisson.standard_errors()["rate"], expected, **close)


def apart(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("cluster", 3):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1e6))
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Normal(loc, 1.0))
    with numpyro.plate("obs_id", x.size):
        numpyro.sample("x", mixture, obs=x)


def test_weights_of_clusters_that_do_not_overlap_are_multinomial():
    x = np.repeat([-100.0, 0.0, 100.0], [5, 10, 25])
    start = {"weights": np.ones(3) / 3, "loc": np.array([-100.0, 0.0, 100.0])}
    em = bm.EM(apart, progress_bar=False).run(jax.random.key(0), x, init_params=start)
    share = np.array([5, 10, 25]) / 40
    errors = em.standard_errors()
    np.testing.assert_allclose(errors["weights"], np.sqrt(share * (1 - share) / 40), rtol=1e-6)
    np.testing.assert_allclose(errors["loc"], 1 / np.sqrt([5, 10, 25]), rtol=1e-6)


@pytest.mark.parametrize("shift, scale", [(1e7, 1.0), (0.0, 1e-6), (-3e6, 1e6)])
def test_evidence_and_errors_follow_the_units_of_the_data(shift, scale):
    """Priors of `bm.models` are scaled by the data: only the Jacobian, N D log scale, moves."""
    program = bm.models.gaussian(2)
    plain, moved = (
        bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), x)
        for x in (X, shift + scale * X)
    )
    before = log_evidence(plain.mixture, plain.params)
    after = log_evidence(moved.mixture, moved.params)
    change = X.size * np.log(scale)
    assert after.log_evidence == pytest.approx(before.log_evidence - change, abs=1e-4)
    assert after.condition == pytest.approx(before.condition, rel=1e-3)
    expected, found = plain.standard_errors(), moved.standard_errors()
    np.testing.assert_allclose(found["loc"], scale * expected["loc"], rtol=1e-4)
    np.testing.assert_allclose(found["cov"], scale**2 * expected["cov"], rtol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-200])
def test_a_mode_without_a_maximum_says_why(scale):
    """Two clusters of one observation each: flat scales have no maximum there."""
    mixture = fit("normal_flat").mixture
    params = {"weights": np.array([0.5, 0.5]), "loc": Y[:2], "scale": np.full(2, scale)}
    found = log_evidence(mixture, params)
    assert np.isneginf(found.log_evidence)
    assert np.isposinf(found.condition)
    assert found.reason


def test_errors_on_the_boundary_are_refused():
    params = fit("normal_flat").params | {"weights": np.array([0.0, 1.0])}
    with pytest.raises(ValueError, match="'weights' lies on the boundary"):
        standard_errors(fit("normal_flat").mixture, params)


def test_errors_off_the_maximum_are_refused():
    em = fit("normal_nig")
    with pytest.raises(ValueError, match="not a maximum"):
        standard_errors(em.mixture, em.params | {"loc": em.params["loc"] + 0.2})


def test_errors_of_what_the_data_leave_open_are_refused():
    """One cluster twice: how its rows are shared between the copies has no information."""
    twice = fit("normal_flat", K=1).params
    params = {name: np.repeat(value, 2) for name, value in twice.items()}
    with pytest.raises(ValueError, match="not positive definite"):
        standard_errors(fit("normal_flat").mixture, params | {"weights": np.array([0.5, 0.5])})
