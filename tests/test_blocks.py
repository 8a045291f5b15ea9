"""Data that are never held whole: summaries by passes, and the same fit as from memory."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from oracles import ROUNDING, x64

import bayesmix as bm
from bayesmix import blocks, density
from bayesmix.graph import Graph
from bayesmix.rowwise import summarise

RNG = np.random.default_rng(3)
CLOUD = np.concatenate([RNG.normal(size=(6000, 2)), RNG.normal(size=(5000, 2)) * [1, 0.5] + 3])
CLOUD = RNG.permutation(CLOUD)
SETTINGS = {"restarts": 3, "progress_bar": False}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Three blocks of 4096 rows where there would be one."""
    monkeypatch.setattr(blocks, "CELLS", 1)


class Restartable:
    """Pieces of uneven sizes, started again by every pass."""

    def __init__(self, x, *cuts):
        self.pieces, self.passes = np.split(x, cuts), 0

    def __iter__(self):
        self.passes += 1
        return iter(self.pieces)


def from_disk(x, folder):
    np.save(folder / "rows.npy", x)
    return np.load(folder / "rows.npy", mmap_mode="r")


# --------------------------------------------------------------------------------------- the rows


@pytest.mark.parametrize("cuts", [(), (10,), (4096, 8192), (1, 2, 9000, 9000)])
def test_rows_come_in_order_and_in_even_blocks(cuts):
    source = bm.Blocks(Restartable(CLOUD, *cuts))
    sizes = [len(block) for block in source]
    assert source.shape == CLOUD.shape
    assert sizes == [4096, 4096, 11000 - 8192]
    np.testing.assert_array_equal(np.concatenate(list(source)), CLOUD)
    some = RNG.choice(len(CLOUD), 50, replace=False)
    np.testing.assert_array_equal(source[some], CLOUD[some])


def test_a_single_block_is_an_array():
    """Rows that fit into one block are fitted as any others."""
    mixture = bm.trace(bm.models.gaussian(2), bm.Blocks([CLOUD[:1000], CLOUD[1000:2000]]))
    np.testing.assert_array_equal(mixture.value, CLOUD[:2000])


def test_what_blocks_refuses():
    with pytest.raises(ValueError, match="generator"):
        bm.Blocks(piece for piece in [CLOUD])
    with pytest.raises(ValueError, match="generator"):
        bm.Blocks(3.0)
    with pytest.raises(ValueError, match="empty"):
        _ = bm.Blocks([]).shape
    with pytest.raises(ValueError, match="columns"):
        _ = bm.Blocks([CLOUD, CLOUD[:, :1]]).shape
    with pytest.raises(ValueError, match="not a number"):
        _ = bm.Blocks([np.array(["a"])]).dtype
    program = bm.models.gaussian(2)
    for value, word in ((np.nan, "missing"), (np.inf, "infinite")):
        bad = CLOUD.copy()
        bad[7000, 1] = value
        with pytest.raises(ValueError, match=f"row 7000, column 1 is {word}"):
            bm.trace(program, bm.Blocks(bad))
    with pytest.raises(ValueError, match="row 9000 is -1"):
        bm.trace(bm.models.poisson(2), bm.Blocks(np.where(np.arange(9500) == 9000, -1, 2)))


# ---------------------------------------------------------------------------------- the summaries

SUMMARIES = {
    "covariance": lambda x: jnp.cov(x.T),
    "covariance by rows": lambda x: jnp.cov(x, rowvar=False),
    "correlation": lambda x: jnp.corrcoef(x.T),
    "sd": lambda x: x.std(0),
    "variance": lambda x: jnp.var(x, axis=0, ddof=1),
    "one mean": jnp.mean,
    "column": lambda x: x[:, 1].mean(),
    "range": lambda x: x.max(0) - x.min(0),
    "product": lambda x: x.T @ x / len(x),
    "chosen": lambda x: jnp.where(x > 0, x, 1.0).sum(0),
    "all positive": lambda x: jnp.all(x > -100) & jnp.any(x > 2),
    "reshaped": lambda x: (x.reshape(-1, 1, 2) * jnp.ones((len(x), 1, 1))).sum((0, 1)),
    "third moment": lambda x: (((x - x.mean(0)) / x.std(0)) ** 3).mean(0),
}


def summarised(function, x):
    graph = Graph()
    node = graph.data(x.shape)
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, jnp.float64))
    outputs = graph.read(closed, [node])
    given = {each.number: each.value for each in graph.captured}
    return summarise(outputs, node.number, given, bm.Blocks(x))[0]


@pytest.mark.parametrize("name", SUMMARIES)
def test_summaries_by_passes_are_those_of_the_whole(name):
    with x64():
        ours, theirs = summarised(SUMMARIES[name], CLOUD), SUMMARIES[name](jnp.asarray(CLOUD))
    np.testing.assert_allclose(ours, theirs, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda x: jnp.median(x, 0), "sort"),
        (lambda x: x[:10].mean(0), "slice"),
        (lambda x: (x @ x.T).sum(), "product"),
        (lambda x: x * 2.0, "all rows at once"),
        (lambda x: jnp.cumsum(x, 0).max(0), "cumsum"),
        (lambda x: (x[:, 0] + jnp.arange(len(x))).sum(), "'add'"),
    ],
    ids=["median", "first rows", "gram", "whole", "cumsum", "numbered rows"],
)
def test_what_needs_all_rows_is_refused_in_words(function, word):
    with x64(), pytest.raises(ValueError, match=word):
        summarised(function, CLOUD)


# ----------------------------------------------------------------------------------------- the fit


@pytest.mark.parametrize(
    ("covariance", "dtype"), [("full", "float64"), ("tied", "float64"), ("spherical", "float32")]
)
def test_density_and_statistics_are_those_of_the_whole(covariance, dtype, tmp_path):
    """Value, statistics, gradient and priors, from a memory map."""
    program = bm.models.gaussian(2, covariance=covariance)
    rounding = ROUNDING if dtype == "float64" else 1e-5
    with x64():
        held = bm.trace(program, CLOUD)
        mixture = bm.trace(program, bm.Blocks(from_disk(CLOUD, tmp_path)))
        of, whole = density.density_of(held), density.data_of(held, dtype)
        data = density.data_of(mixture, dtype)
        params = of.centre(whole) | {"loc": jnp.array([[0.0, 0.5], [2.5, 3.0]])}
        ours, theirs = (jax.jit(of.e_step)(params, each) for each in (data, whole))
        slopes = [jax.grad(of.log_joint)(params, each) for each in (data, whole)]
        priors = [of.log_prior(params, each) for each in (data, whole)]
    scale = abs(float(theirs[0]))
    assert abs(float(ours[0] - theirs[0])) <= rounding * scale
    np.testing.assert_allclose(ours[1].mass, theirs[1].mass, atol=rounding * len(CLOUD))
    np.testing.assert_allclose(ours[1].features, theirs[1].features, atol=rounding * len(CLOUD))
    np.testing.assert_allclose(*priors, rtol=ROUNDING)
    for site, slope in slopes[1].items():
        np.testing.assert_allclose(slopes[0][site], slope, atol=rounding * scale)


def test_the_fit_is_the_fit_of_the_whole():
    program, source = bm.models.gaussian(2), Restartable(CLOUD, 100, 7000)
    ours = bm.EM(program, **SETTINGS).run(jax.random.key(0), bm.Blocks(source))
    theirs = bm.EM(program, **SETTINGS).run(jax.random.key(0), CLOUD)
    assert ours.converged
    assert ours.log_joint == pytest.approx(theirs.log_joint, rel=ROUNDING)
    assert ours.bic == pytest.approx(theirs.bic, rel=ROUNDING)
    assert "blocks of 4096" in str(ours.mixture)
    order = np.argsort(ours.params["loc"][:, 0]), np.argsort(theirs.params["loc"][:, 0])
    for site, value in theirs.params.items():
        np.testing.assert_allclose(ours.params[site][order[0]], value[order[1]], atol=1e-5)
    np.testing.assert_allclose(
        ours.predict_proba(CLOUD[:7])[:, order[0]],
        theirs.predict_proba(CLOUD[:7])[:, order[1]],
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="every row"):
        _ = ours.responsibilities
    with pytest.raises(ValueError, match="every row"):
        _ = ours.icl


def test_counts_from_a_given_start():
    y = RNG.poisson(np.where(RNG.random(9000) < 0.3, 2.0, 9.0))
    start = {"weights": np.array([0.5, 0.5]), "rate": np.array([1.0, 10.0])}
    ours, theirs = (
        bm.EM(bm.models.poisson(2), **SETTINGS).run(jax.random.key(0), data, init_params=start)
        for data in (bm.Blocks([y[:5], y[5:]]), y)
    )
    assert ours.log_joint == pytest.approx(theirs.log_joint, rel=ROUNDING)
    np.testing.assert_allclose(ours.params["rate"], theirs.params["rate"], rtol=1e-6)


def by_row(t, y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    with numpyro.plate("obs_id", len(y)):
        components = dist.Normal(slope * t[:, None], 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=y)


def shifted(x):
    bm.models.gaussian(2)(x - x.mean(0))


def counting(x):
    bm.models.gaussian(int(x.max()))(x)


def test_programs_that_blocks_cannot_serve_are_refused_in_words():
    y = CLOUD[:, 0]
    run = bm.EM(by_row, **SETTINGS).run
    with pytest.raises(ValueError, match="no sweep of their own"):
        run(jax.random.key(0), np.zeros(len(y)), bm.Blocks(y))
    with pytest.raises(ValueError, match="must be the Blocks themselves"):
        bm.trace(shifted, bm.Blocks(CLOUD))
    with pytest.raises(ValueError, match="never held"):
        bm.trace(counting, bm.Blocks(CLOUD))
