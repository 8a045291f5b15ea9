"""The bootstrap: every replicate is a maximum on its own row weights, in the names of the MAP."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import Z
from programs import BY_ID, WEIGHTS, Y
from scipy import stats

import bayesmix as bm
from bayesmix.arguments import seed_of
from bayesmix.bootstrap.lanes import TOL, row_factors
from bayesmix.curvature import bend_at, free_vector
from bayesmix.density import row_weights

DRAWS = 12


@cache
def fit(row_id, K=None):
    row = BY_ID[row_id]
    settings = {} if K is None else {"K": K}
    em = bm.EM(row.program, restarts=4, progress_bar=False)
    return em.run(jax.random.key(0), *row.args, **settings)


@cache
def replicates(row_id, weights="dirichlet", draws=DRAWS, K=None):
    return fit(row_id, K).bootstrap(jax.random.key(1), draws, weights=weights)


def factors_of(row_id, weights="dirichlet", draws=DRAWS, K=None):
    """The factors of the row weights of each replicate, (draw, N), drawn again."""
    mixture = fit(row_id, K).mixture
    with jax.enable_x64(True):
        base = row_weights(mixture)
    seeds = seed_of(jax.random.key(1)).spawn(draws)
    return np.stack([row_factors(seed, base, weights).reshape(-1)[: mixture.N] for seed in seeds])


@pytest.mark.parametrize("row_id", ["normal_tied_variance", "normal_scaled_rows", "regression"])
def test_every_replicate_is_a_maximum_on_its_row_weights(row_id, x64):
    """NumPyro's own log density with weighted rows is flat there: Newton promises what EM's stop
    allows, times the few by which Aitken's estimate may be short.
    """
    row, found, mixture = BY_ID[row_id], replicates(row_id), fit(row_id).mixture
    scale = WEIGHTS if row_id == "normal_scaled_rows" else np.ones(mixture.N)
    maps = oracles.supports(row)

    def height(z, factors):
        params = oracles.from_free(maps, z)
        terms = oracles.numpyro_component_log_probs(row, params)
        rows = jax.nn.logsumexp(terms, -1)
        return oracles.other_terms(row, params) + jnp.sum(scale * factors * rows)

    slope = jax.jit(jax.grad(height))
    bend = bend_at(mixture, free_vector(mixture, fit(row_id).params), jacobian=False)
    covariance = np.linalg.inv(-bend.hessian)
    for draw, factors in enumerate(factors_of(row_id)):
        params = {name: value[draw] for name, value in found.params.items()}
        gradient = slope(oracles.to_free(row, params), factors)
        flat = np.concatenate([np.ravel(gradient[name]) for name in sorted(gradient)])
        assert flat @ covariance @ flat / 2 < 100 * TOL


@pytest.mark.parametrize("weights", ["dirichlet", "multinomial"])
def test_one_cluster_has_the_weighted_moments(weights):
    found = replicates("normal_flat", weights, K=1)
    w = factors_of("normal_flat", weights, K=1)
    loc = w @ Y / Y.size
    scale = np.sqrt(np.sum(w * (Y - loc[:, None]) ** 2, axis=1) / Y.size)
    np.testing.assert_allclose(found.params["loc"][:, 0], loc, atol=1e-3 * Y.std())
    np.testing.assert_allclose(found.params["scale"][:, 0], scale, rtol=1e-3)


def test_row_weights_are_those_that_were_asked_for():
    """Sums stay; multinomial factors are counts; a row of weight m varies as m rows do."""
    base = np.array([1.0, 3.0, 0.0, 2.0])
    seeds = np.random.SeedSequence(0).spawn(4000)
    smooth, counts = (
        np.stack([row_factors(seed, base, kind) for seed in seeds])
        for kind in ("dirichlet", "multinomial")
    )
    for factors in (smooth, counts):
        np.testing.assert_allclose(factors @ base, 6.0)
        assert (factors[:, 2] == 0).all()
        error = factors.std(0) / np.sqrt(len(seeds))
        assert (np.abs(factors.mean(0) - (base > 0)) <= Z * error).all()
    np.testing.assert_allclose(counts * base, np.rint(counts * base), atol=1e-12)
    assert stats.kstest(smooth[:, 1] * 3 / 6, stats.beta(3, 3).cdf).pvalue > 1e-3


def test_the_same_key_gives_the_same_replicates_whatever_their_number():
    first, more = replicates("normal_nig"), replicates("normal_nig", draws=DRAWS + 1)
    for name, value in first.params.items():
        np.testing.assert_allclose(more.params[name][:DRAWS], value, atol=1e-6)


def test_clusters_carry_the_names_of_the_map():
    em, found = fit("normal_nig"), replicates("normal_nig")
    order = np.argsort(em.params["loc"])
    np.testing.assert_array_equal(
        np.argsort(found.params["loc"], axis=1), np.tile(order, (DRAWS, 1))
    )


def test_the_tree_is_like_that_of_nuts():
    found = replicates("normal_nig")
    tree, point = found.to_datatree(), fit("normal_nig").to_datatree()
    assert set(point.children) <= set(tree.children)
    assert tree["posterior"].sizes == {"chain": 1, "draw": DRAWS, "cluster": 2}
    assert tree.attrs["inference_method"] == "bootstrap"
    assert tree.attrs["draws_are"] == "independent"
    assert bm.relabel(tree).attrs["relabel_changed"] == 0
    table = found.summary()
    np.testing.assert_allclose(table.loc[["loc[0]", "loc[1]"], "mean"], found.params["loc"].mean(0))
    assert found.sample_stats["converged"].all()
    assert "replicates" in repr(found)


def test_replicates_that_collapse_are_left_out_and_counted():
    """Five rows for two clusters with flat scales: many resamples hold a cluster of one value."""
    x = np.array([-1.0, -0.9, -0.8, 1.0, 1.2])
    start = {"weights": np.array([0.6, 0.4]), "loc": np.array([-0.9, 1.1]), "scale": np.ones(2) / 9}
    em = bm.EM(BY_ID["normal_flat"].program, progress_bar=False)
    fitted = em.run(jax.random.key(0), x, init_params=start)
    found = fitted.bootstrap(jax.random.key(0), 40, weights="multinomial")
    left_out = 40 - len(found.params["loc"])
    assert left_out > 0
    assert f"{left_out} of 40 replicates" in found.notes[0]
    assert all(np.isfinite(value).all() for value in found.params.values())


@pytest.mark.parametrize(
    "draws, weights, word",
    [(0, "dirichlet", "draws"), (2.5, "dirichlet", "draws"), (5, "uniform", "weights")],
)
def test_settings_that_make_no_sense_are_refused(draws, weights, word):
    with pytest.raises(ValueError, match=word):
        fit("normal_nig").bootstrap(jax.random.key(0), draws, weights=weights)
