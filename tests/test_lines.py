"""Linear predictors: what is recognised, and the N-free sweep of Normal lines that it allows."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import constraints
from oracles import ROUNDING, x64

import bayesmix as bm
from bayesmix.density import data_of, density_of, row_piece
from bayesmix.density.layout import line_of
from bayesmix.linear import side_by_side
from bayesmix.mstep import plan_for
from bayesmix.mstep.lines import least_squares

K, N, P = 2, 30, 3
_rng = np.random.default_rng(11)
X = np.column_stack([np.ones(N), _rng.normal(3.0, 2.0, (N, P - 1))])
TRUTH = np.array([[1.0, 0.8, -0.5], [-2.0, -0.4, 0.6]])
Y = np.einsum("np,np->n", X, TRUTH[_rng.integers(0, K, N)]) + _rng.normal(0.0, 0.5, N)
HALF = np.where(np.arange(N) % 2, 1.0, 0.5)


def _sites(shape=(P,)):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.Normal(0.0, 3.0).expand(shape).to_event(1))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 1.0))
    return weights, beta, var


def _observe(weights, loc, scale, y, counts=1.0):
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Normal(loc, scale))
    with handlers.scale(scale=counts), numpyro.plate("obs_id", len(y)):
        numpyro.sample("y", mixture, obs=y)


def product(X, y):
    weights, beta, var = _sites()
    _observe(weights, X @ beta.T, jnp.sqrt(var), y)


def column_by_column(X, y):
    weights, beta, var = _sites()
    loc = beta[:, 0] + X[:, 1:2] * beta[:, 1] + beta[:, 2] * X[:, 2][:, None]
    _observe(weights, loc, jnp.sqrt(var), y)


def summed(X, y):
    weights, beta, var = _sites()
    _observe(weights, (X[:, None, :] * beta).sum(-1), jnp.sqrt(var), y)


def einsum(X, y):
    weights, beta, var = _sites()
    _observe(weights, jnp.einsum("np,kp->nk", X, beta), jnp.sqrt(var), y)


def offset(X, y):
    weights, beta, var = _sites()
    _observe(weights, HALF[:, None] + X @ beta.T / 2.0, jnp.sqrt(var), y)


def explicit(X, y):
    weights, beta, var = _sites()
    with numpyro.plate("obs_id", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal((X * beta[z]).sum(-1), jnp.sqrt(var[z])), obs=y)


def with_a_shared_slope(X, y):
    weights, beta, var = _sites((P - 1,))
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    _observe(weights, X[:, :2] @ beta.T + slope * X[:, 2:], jnp.sqrt(var), y)


def about_a_mean(X, y):
    """Cluster means of a common mean, which is a site, too: affine in both."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([P]).to_event(1))
    weights, beta, var = _sites()
    _observe(weights, X @ (mean + beta).T, jnp.sqrt(var), y)


def hierarchical(X, y):
    """The coefficients' prior mean is a site: it moves with them; its scale is climbed."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([P]).to_event(1))
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 0.5))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.Normal(mean, tau).to_event(1))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 1.0))
    _observe(weights, X @ beta.T, jnp.sqrt(var), y)


def one_variance(X, y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
    var = numpyro.sample("var", dist.InverseGamma(3.0, 1.0))
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.Normal(0.0, 3.0).expand([P]).to_event(1))
    _observe(weights, X @ beta.T, jnp.sqrt(var), y)


def weighted(X, y, counts=HALF):
    weights, beta, var = _sites()
    _observe(weights, X @ beta.T, jnp.sqrt(var), y, counts)


RECOGNISED = [product, column_by_column, summed, einsum, offset, explicit, with_a_shared_slope,
              about_a_mean, hierarchical, one_variance, weighted]  # fmt: skip


def _params(mixture, seed):
    rng = np.random.default_rng(seed)
    draw = {"weights": rng.dirichlet(np.ones(K)), "tau": rng.gamma(3.0, 0.3)}
    spread = mixture.sites["var"].shape
    draw["var"] = rng.gamma(3.0, 0.5, spread)
    return {
        name: np.asarray(draw[name]) if name in draw else rng.normal(size=site.shape)
        for name, site in mixture.sites.items()
    }


@pytest.mark.parametrize("program", RECOGNISED)
def test_recognised_lines_are_the_programs_own(program):
    """The predictor that was read, against the program's location at given params."""
    mixture = bm.trace(program, X, Y)
    with x64():
        assert line_of(mixture) is not None
        predictor, density, data = line_of(mixture)[0], density_of(mixture), data_of(mixture)
        params = _params(mixture, 0)
        design, shift = predictor.design(mixture.reading.data)
        values = density.piece(predictor.coefficients, params, data.known)
        eta = design @ np.asarray(side_by_side(values, predictor.axes, K)).T + shift[:, None]
        held = handlers.substitute(handlers.seed(bm.marginalize(program), 0), data=params)
        site = handlers.trace(held).get_trace(X, Y)["y"]["fn"]
        loc = site.components.loc.T if program is explicit else site.component_distribution.loc
    np.testing.assert_allclose(eta, loc, rtol=0, atol=ROUNDING * (1 + abs(eta).max()))


@pytest.mark.parametrize("program", [explicit, with_a_shared_slope, about_a_mean, weighted])
def test_least_squares_is_the_argmax(program):
    """It leaves no slope of Q in any coefficient; Q and likelihood are those of the rows."""
    mixture = bm.trace(program, X, Y)
    block = next(each for each in plan_for(mixture).blocks if "beta" in each.sites)
    assert block.kind == "closed"
    assert set(block.sites) == {n for n, site in mixture.sites.items() if site.feeds == ("loc",)}
    with x64():
        density, data = density_of(mixture), data_of(mixture)
        piece, known = row_piece(mixture)

        def by_row(params, resp):
            """Q and log likelihood from the program's own densities of the rows."""
            components, scale = piece(piece.nodes, params, known)
            weights = 1.0 if scale is None else scale
            total = jnp.sum(weights * jax.nn.logsumexp(components, -1))
            return density.log_prior(params, data) + (resp * components).sum(), total

        @jax.jit
        def everything(params, at):
            statistics = density.e_step(at, data)[1]
            after = least_squares(density, block.sites, params, statistics, data)
            moved = {name: after[name] for name in block.sites}
            slope = jax.grad(lambda m: density.expected(after | m, statistics, data))(moved)
            components, scale = piece(piece.nodes, at, known)
            resp = jax.nn.softmax(components, -1)
            resp = resp if scale is None else resp * scale[:, None]
            ours = density.expected(params, statistics, data), density.log_likelihood(params, data)
            return slope, ours, by_row(params, resp)

        slope, ours, rows = everything(_params(mixture, 0), _params(mixture, 1))
    np.testing.assert_allclose(ours, rows, rtol=ROUNDING)
    for name, value in slope.items():
        assert abs(np.asarray(value)).max() <= ROUNDING * (1 + abs(float(rows[0]))), name


# ------------------------------------------------------------------------------ what is not claimed


def _bent(X, y):
    weights, beta, var = _sites()
    _observe(weights, jnp.exp(X @ beta.T / 10.0), jnp.sqrt(var), y)


def _columns_of_their_own(X, y):
    """Cluster k has covariate k: X is not the same for all clusters."""
    weights, beta, var = _sites()
    _observe(weights, X[:, :K] * beta[:, 0], jnp.sqrt(var), y)


def _shifted_by_cluster(X, y):
    weights, beta, var = _sites()
    _observe(weights, X @ beta.T + jnp.array([0.0, 1.0]), jnp.sqrt(var), y)


def _spread_by_row(X, y):
    weights, beta, var = _sites()
    _observe(weights, X @ beta.T, jnp.sqrt(var) * HALF[:, None], y)


def _heavy_tails(X, y):
    weights, beta, var = _sites()
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.StudentT(4.0, X @ beta.T, jnp.sqrt(var))
    )
    with numpyro.plate("obs_id", len(y)):
        numpyro.sample("y", mixture, obs=y)


def _masked(X, y):
    weights, beta, var = _sites()
    with numpyro.plate("obs_id", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        with handlers.mask(mask=y > 0):
            numpyro.sample("y", dist.Normal((X * beta[z]).sum(-1), jnp.sqrt(var[z])), obs=y)


OTHER = [_bent, _columns_of_their_own, _shifted_by_cluster, _spread_by_row, _heavy_tails, _masked]


@pytest.mark.parametrize("program", OTHER)
def test_other_predictors_take_the_general_sweep(program):
    assert density_of(bm.trace(program, X, Y)).family is None


def test_a_curved_prior_is_climbed():
    def program(X, y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, 2.0)))
        with numpyro.plate("cluster", K):
            beta = numpyro.sample("beta", dist.StudentT(3.0, 0.0, 2.0).expand([P]).to_event(1))
            var = numpyro.sample("var", dist.InverseGamma(3.0, 1.0))
        _observe(weights, X @ beta.T, jnp.sqrt(var), y)

    mixture = bm.trace(program, X, Y)
    kinds = {site: block.kind for block in plan_for(mixture).blocks for site in block.sites}
    assert kinds == {"weights": "closed", "beta": "ascent", "var": "closed"}
    assert density_of(mixture).family is not None


# ------------------------------------------------------------------------------------- arithmetic


def flat(X, y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (P,)))
        var = numpyro.sample("var", dist.ImproperUniform(constraints.positive, (), ()))
    _observe(weights, X @ beta.T, jnp.sqrt(var), y)


def _fit(program, *args):
    return bm.EM(program, restarts=4, progress_bar=False).run(jax.random.key(0), *args)


def test_columns_far_from_zero_lose_no_digits():
    """A year and its square, whose raw normal equations have a condition number above 1e20."""
    year = 2000.0 + np.arange(N) % 17
    t = (year - 2008.0) / 5.0
    near = np.column_stack([np.ones(N), t, t**2])
    y = np.einsum("np,np->n", near, TRUTH[np.arange(N) % 2]) + 0.3 * (Y - Y.mean()) / Y.std()
    here = _fit(flat, near, y)
    there = _fit(flat, np.column_stack([np.ones(N), year, year**2]), 1e7 + y)
    assert there.converged
    assert there.log_likelihood == pytest.approx(here.log_likelihood, abs=1e-5)


def test_rows_of_weight_two_are_rows_that_stand_twice():
    twice = np.arange(N) % 3 == 0
    once = _fit(weighted, X, Y, 1.0 + twice)
    repeated = _fit(product, np.concatenate([X, X[twice]]), np.concatenate([Y, Y[twice]]))
    assert once.log_joint == pytest.approx(repeated.log_joint, abs=1e-8)


def test_collinear_columns_are_no_obstacle_to_a_proper_prior():
    again = np.column_stack([X[:, :2], 2.0 * X[:, 1]])
    em = _fit(product, again, Y)
    assert em.converged
    # the prior alone tells the two slopes apart: it wants them as 1 to 2
    slopes = em.params["beta"][:, 1:]
    np.testing.assert_allclose(slopes[:, 1], 2.0 * slopes[:, 0], rtol=1e-6)


def test_many_rows_are_searched_on_a_sample():
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(6000), rng.normal(size=(6000, P - 1))])
    y = np.einsum("np,np->n", x, TRUTH[rng.integers(0, K, 6000)]) + rng.normal(0.0, 0.3, 6000)
    em = _fit(product, x, y)
    order = np.argsort(em.params["beta"][:, 0])
    np.testing.assert_allclose(em.params["beta"][order], TRUTH[::-1], atol=0.05)
