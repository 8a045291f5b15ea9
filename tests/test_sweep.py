"""The pass over the data: merged rows, structures with fewer features, precision, chunks."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pytest
from oracles import ROUNDING, x64
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

import bayesmix as bm
from bayesmix import density, families, merge, sweep
from bayesmix.device import arithmetic

RNG = np.random.default_rng(11)
COUNTS = RNG.poisson(np.where(RNG.random(6000) < 0.4, 2.0, 9.0))
PAIRS = np.round(RNG.normal(size=(8000, 2)) + 3 * RNG.integers(0, 2, 8000)[:, None]) / 2
CLOUD = np.concatenate([RNG.normal(size=(700, 3)), RNG.normal(size=(500, 3)) * [1, 2, 0.5] + 3])


def apart(mixture):
    """The same mixture, its rows kept apart."""
    mixture.cache["merged"] = None
    return mixture


def value_slope_resp(mixture, params):
    slope = jax.value_and_grad(lambda p: bm.log_joint(mixture, p))
    value, grad = oracles.compiled(slope)(params)
    return float(value), grad, np.asarray(bm.responsibilities(mixture, params))


TASKS = {
    "counts": (
        bm.models.poisson(2),
        COUNTS,
        {"weights": [0.3, 0.7], "rate": [2.5, 8.0]},
    ),
    "rounded": (
        bm.models.gaussian(2),
        PAIRS,
        {
            "weights": [0.4, 0.6],
            "loc": [[0.0, 0.1], [1.4, 1.6]],
            "cov": [[[0.3, 0.05], [0.05, 0.2]], [[0.4, -0.1], [-0.1, 0.3]]],
        },
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_merged_rows_are_the_same_rows(name):
    """Value, gradient, responsibilities and the statistics of a start, with and without merging."""
    program, x, params = TASKS[name]
    with x64():
        params = jax.tree.map(jnp.asarray, params, is_leaf=lambda leaf: isinstance(leaf, list))
        mixture, plain = bm.trace(program, x), apart(bm.trace(program, x))
        M = len(density.merged_of(mixture).x)
        assert f"{len(x)} -> {M} distinct" in str(mixture)
        assert len(np.unique(x, axis=0)) == M < len(x) / 2
        value, grad, resp = value_slope_resp(mixture, params)
        other, other_grad, other_resp = value_slope_resp(plain, params)
        start = jax.random.dirichlet(jax.random.key(0), jnp.ones(2), (len(x),))
        of = density.density_of(mixture)
        sums = [
            sweep.statistics_of(of.family, start, density.data_of(m).rows) for m in (mixture, plain)
        ]
    assert abs(value - other) <= ROUNDING * abs(other)
    assert resp.shape == (len(x), 2)
    np.testing.assert_allclose(resp, other_resp, atol=ROUNDING)
    for site, slope in other_grad.items():
        np.testing.assert_allclose(grad[site], slope, atol=ROUNDING * abs(other))
    for ours, theirs in zip(sums[0], sums[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=ROUNDING * len(x))


def test_merging_adds_weights_and_drops_weightless_rows():
    x = np.repeat(np.arange(5.0), 4000)[:, None]
    weights = np.tile([0.0, 1.0, 2.5, 0.5], 5000)
    merged = merge.merge(x, weights)
    np.testing.assert_array_equal(merged.x[:, 0], np.arange(5.0))
    np.testing.assert_array_equal(merged.weights, np.full(5, 4000.0))
    np.testing.assert_array_equal(merged.counts, weights)
    counted = weights > 0
    np.testing.assert_array_equal(merged.x[merged.place][counted], x[counted])


@pytest.mark.parametrize("N", [3000, 5000, 40_000])
def test_continuous_and_few_rows_are_not_merged(N):
    """Nothing is gained below 4096 rows, nor where at least half of the rows differ."""
    assert merge.merge(RNG.normal(size=(N, 2)), None) is None
    assert merge.merge(np.zeros((4096, 1)), None) is None


def test_many_columns_are_told_apart():
    """Codes of many wide columns do not overflow into each other."""
    x = RNG.integers(0, 60, size=(2000, 14)).astype(float)
    merged = merge.merge(np.tile(x, (3, 1)), None)
    np.testing.assert_array_equal(merged.x[merged.place], np.tile(x, (3, 1)))
    assert len(merged.x) == len(np.unique(x, axis=0))


def test_rows_with_their_own_parameters_are_never_merged():
    """A regression has repeated responses, but no two rows alike."""

    def program(t, y):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("cluster", 2):
            slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
        with numpyro.plate("obs_id", len(y)):
            components = dist.Poisson(jnp.exp(slope * t[:, None]))
            numpyro.sample(
                "y", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=y
            )

    t = np.linspace(0, 1, len(COUNTS))
    assert density.merged_of(bm.trace(program, t, COUNTS)) is None


# ----------------------------------------------------------------- structures with fewer features


SPREADS = {
    "full": ("cov", np.array([np.diag([1.0, 2.0, 0.7]) + 0.2, np.eye(3) + 0.3])),
    "tied": ("cov", np.diag([1.0, 2.0, 0.7]) + 0.2),
    "diag": ("var", np.array([[1.0, 2.0, 0.7], [0.5, 1.5, 2.5]])),
    "spherical": ("var", np.array([0.8, 1.9])),
}


def structure(covariance, weight=1.0):
    """A traced mixture of two Gaussians in three columns, its params, and SciPy's terms (N, K)."""
    site, spread = SPREADS[covariance]
    params = {
        "weights": np.array([0.4, 0.6]),
        "loc": np.array([[0.0, 0.2, -0.1], [2.5, 3.0, 3.2]]),
        site: spread,
    }
    matrices = {
        "full": lambda: spread,
        "tied": lambda: np.stack([spread, spread]),
        "diag": lambda: np.stack([np.diag(row) for row in spread]),
        "spherical": lambda: spread[:, None, None] * np.eye(3),
    }[covariance]()
    program = bm.models.gaussian(2, covariance=covariance, prior="flat")
    mixture = bm.trace(numpyro.handlers.scale(program, scale=weight), CLOUD)
    terms = [
        np.log(params["weights"][k])
        + multivariate_normal(params["loc"][k], matrices[k]).logpdf(CLOUD)
        for k in range(2)
    ]
    return mixture, params, np.stack(terms, 1)


def q_of(of, data, statistics):
    """Gradient of Q: what EM makes of the statistics, in every site."""
    return jax.grad(lambda p: of.expected(p, statistics, data))


@pytest.mark.parametrize("weight", [1.0, 2.5])
@pytest.mark.parametrize("covariance", SPREADS)
def test_structures_against_scipy(covariance, weight):
    """Cheaper features where the structure allows: log likelihood, and Fisher's identity."""
    mixture, params, terms = structure(covariance, weight)
    theirs = weight * logsumexp(terms, 1)
    with x64():
        of, data = density.density_of(mixture), density.data_of(mixture)
        assert of.tied == (covariance == "tied")
        assert of.family.isotropic == (covariance == "spherical")
        value, statistics = of.e_step(params, data)
        params = jax.tree.map(jnp.asarray, params)
        slope = q_of(of, data, statistics)(params)
        truth = jax.grad(lambda p: density.log_density(mixture, p).sum())(params)
    assert abs(float(value) - theirs.sum()) <= ROUNDING * np.abs(theirs).sum()
    np.testing.assert_allclose(
        statistics.mass, weight * softmax(terms, 1).sum(0), atol=ROUNDING * len(CLOUD)
    )
    for site, expected in truth.items():
        np.testing.assert_allclose(slope[site], expected, atol=ROUNDING * np.abs(theirs).sum())


# ------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("covariance", SPREADS)
def test_single_precision_rows_with_double_precision_sums(covariance):
    """float32 rows and scores, float64 statistics: every row is right to float32 rounding."""
    mixture, params, terms = structure(covariance)
    eps = float(np.finfo(np.float32).eps)
    with arithmetic("float32", wide=True):
        of, data = density.density_of(mixture), density.data_of(mixture, "float32")
        full = density.data_of(mixture)
        exact = of.e_step(params, full)
        value, statistics = of.e_step(params, data)
    assert data.rows.z.dtype == np.float32
    assert value.dtype == statistics.features.dtype == np.float64
    assert 2 * data.rows.z.dtype.itemsize == full.rows.z.dtype.itemsize
    # A score is a sum of products, each as large as the largest; responsibilities feel twice that.
    row = 10 * eps * (1 + np.abs(terms).max())
    assert abs(float(value - exact[0])) <= len(CLOUD) * row
    assert np.abs(statistics.mass - exact[1].mass).max() <= 2 * len(CLOUD) * row
    assert np.abs(statistics.features - exact[1].features).max() <= 20 * len(CLOUD) * row


def test_a_fit_in_single_precision_is_the_fit():
    settings = {"restarts": 2, "progress_bar": False}
    program = bm.models.gaussian(2, covariance="tied")
    double, single = (
        bm.EM(program, dtype=dtype, **settings).run(jax.random.key(0), CLOUD)
        for dtype in ("float64", "float32")
    )
    assert single.converged
    assert single.log_joint == pytest.approx(double.log_joint, rel=1e-6)
    for site, value in double.params.items():
        assert single.params[site].dtype == np.float64
        np.testing.assert_allclose(single.params[site], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("narrow", "told"), [(1.0, False), (1e-3, True)])
def test_single_precision_says_what_it_hides(narrow, told):
    """The reason for stopping bounds the error of the log joint; a note where it is much."""
    rng = np.random.default_rng(2)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    rows = (rng.normal(size=(400, 2)) + np.repeat([[0.0, 0.0], [3.0, 0.0]], 200, 0)) * [1, narrow]
    program = bm.models.gaussian(2, prior="flat")
    em = bm.EM(program, restarts=1, dtype="float32", progress_bar=False)
    result = em.run(jax.random.key(0), rows @ turn.T)
    assert any("float64" in note for note in result.notes) == told
    hidden = float(re.search(r"below (\S+) nats", result.stop)[1])
    assert abs(result.log_joint - bm.log_joint(result.mixture, result.params)) <= 1.1 * hidden


@pytest.mark.parametrize("weighted", [False, True])
def test_whitening_is_the_root_of_the_covariance(weighted):
    """Also in a direction 1e-9 as wide as the widest, where squares would cancel."""
    x = RNG.normal(size=(5000, 2))
    x = np.column_stack([x, x[:, 0] + 1e-9 * RNG.normal(size=5000)])
    w = RNG.choice([0.0, 1.0, 3.0], 5000) if weighted else np.ones(5000)
    family = families.find(dist.MultivariateNormal, {}, x)
    rows = sweep.rows_of(x, w, family, 2, "float64")
    upper = sweep.whitening(rows)
    z = (x - rows.shift) / rows.scale
    np.testing.assert_allclose(upper.T @ upper, np.cov(z.T, aweights=w, ddof=0), atol=1e-12)
    smallest = np.linalg.svd(upper, compute_uv=False)[-1]
    assert 1e-10 < smallest < 1e-8


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_products_of_sums_keep_every_row(dtype):
    """Weights of 1, or 0 for padding, against the sum of logarithms row by row.

    Scores hundreds of nats apart, and many equal clusters (the largest sum, K). To first order a
    sum over K clusters is off by K roundings at most, a product of 16 (8) by as many, a logarithm
    by its size, which is at most log K.
    """
    rng = np.random.default_rng(3)
    for score in (60 * rng.normal(size=(7, 1024)), np.zeros((3000, 1024))):
        score, weights = score.astype(dtype), (rng.random(1024) < 0.9).astype(dtype)
        with x64():
            given = jnp.asarray(score), jnp.asarray(weights)
            value, *resp = sweep.chunks.unnormalised(*given, plain=True)
            same = sweep.chunks.unnormalised(*given, plain=False)[1:]
        exact = weights @ logsumexp(score.astype(float), axis=0)
        K, N = score.shape
        roundings = N * (K + 16 + np.log(K)) + 32 * (weights @ np.abs(score).max(0))
        assert abs(float(value) - exact) <= roundings * np.finfo(dtype).eps
        for ours, expected in zip(resp, same, strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_only_rows_without_weights_are_plain():
    family = density.density_of(bm.trace(bm.models.gaussian(2), CLOUD)).family
    given = [None, np.ones(len(CLOUD)), RNG.random(len(CLOUD))]
    plain = [sweep.rows_of(CLOUD, w, family, 2, "float64").plain for w in given]
    assert plain == [(), None, None]


@pytest.mark.parametrize(("K", "even"), [(5, True), (5, False), (1, True)])
def test_statistics_are_those_of_the_responsibilities(K, even):
    """With fewer features (3) than clusters and with more: where the pass divides differs."""
    x = CLOUD[:, 0]
    args = (x,) if even else (x, np.arange(len(x)) % 3.0)
    with x64():
        mixture = bm.trace(bm.models.gaussian(K) if even else weighted(K), *args)
        own, data = density.density_of(mixture), density.data_of(mixture)
        params = {
            "weights": jnp.full(K, 1 / K),
            "loc": jnp.linspace(-1.0, 3.0, K),
            "var": jnp.linspace(0.5, 2.0, K),
        }
        found = jax.jit(own.e_step)(params, data)[1]
        expected = own.statistics_of(bm.responsibilities(mixture, params), data)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING * len(x))


def weighted(K):
    """Univariate normals whose rows have weights."""

    def program(x, w):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
        with numpyro.plate("cluster", K):
            loc = numpyro.sample("loc", dist.Normal(0.0, 3.0))
            var = numpyro.sample("var", dist.InverseGamma(2.0, 1.0))
        with numpyro.plate("obs_id", len(x)), numpyro.handlers.scale(scale=w):
            mixed = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(loc, var**0.5))
            numpyro.sample("x", mixed, obs=x)

    return program
