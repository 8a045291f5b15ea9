"""Several representative partitions, and components joined into clusters: brute force."""

import itertools

import fits
import jax
import numpy as np
import pytest
from scipy.stats import entropy
from test_partition import all_partitions, noisy, shuffled_names

import bayesmix as bm
from bayesmix.partition import represent
from bayesmix.partition.losses import distances, loss_of

KEY = jax.random.key(1)
VI = loss_of("vi", None)


def two_centres(seed=0, N=6, S=60):
    rng = np.random.default_rng(seed)
    one, two = np.repeat([0, 1], N // 2), np.tile([0, 1], N // 2)
    keep = rng.random((S, N)) < 0.9
    return np.where(keep, np.where(np.arange(S)[:, None] < 0.7 * S, one, two), 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 2])
def test_representatives_minimise_the_wasserstein_distance(n, seed):
    draws = noisy(seed, S=40, N=5) if seed else two_centres()[:, :5]
    far = np.array([distances(VI, c, _read(draws)) for c in all_partitions(5)])
    best = min(
        np.min(far[list(some)], axis=0).mean() for some in itertools.combinations(range(52), n)
    )
    found = bm.representatives(KEY, draws, n, runs=8)
    assert found.distance == pytest.approx(best, abs=1e-11)
    assert found.alone == pytest.approx(far.mean(axis=1).min(), abs=1e-11)


def test_centres_of_many_draws_are_optima_over_all_of_them(monkeypatch):
    """Random starts see some of the draws only; the single best is that of `partition`."""
    monkeypatch.setattr(represent, "COARSE", 10)
    draws = noisy(5, S=300, N=7, L=4, keep=0.6)
    found = bm.representatives(KEY, draws, 2, runs=8)
    assert found.alone == pytest.approx(bm.partition(KEY, draws).expected_loss, abs=1e-11)


def _read(draws):
    from bayesmix.allocations import read_labels

    return read_labels(draws).values


def test_representatives_say_which_draws_they_stand_for():
    draws = two_centres(N=24, S=100)
    found = bm.representatives(KEY, draws, 2)
    assert bm.adjusted_rand(found.labels[0], np.repeat([0, 1], 12)) == 1.0
    assert bm.adjusted_rand(found.labels[1], np.tile([0, 1], 12)) == 1.0
    np.testing.assert_array_equal(found.group, np.repeat([0, 1], [70, 30]))
    np.testing.assert_allclose(found.weights, [0.7, 0.3], atol=1e-12)
    far = np.array([distances(VI, c, _read(draws)) for c in found.labels])
    np.testing.assert_allclose(found.within, [far[0, :70].mean(), far[1, 70:].mean()], atol=1e-12)
    assert found.distance == pytest.approx(far.min(axis=0).mean(), abs=1e-12)
    assert found.to_dataarray().dims == ("representative", "obs_id")
    assert "70.0%" in repr(found)
    again = bm.representatives(KEY, shuffled_names(draws), 2)
    np.testing.assert_array_equal(again.labels, found.labels)
    assert again.distance == found.distance


def test_no_representative_stands_for_nothing():
    """Of draws without any centre two partitions can come out the same; one must move away."""
    for seed in range(3):
        draws = np.random.default_rng(seed).integers(0, 3, (50, 12))
        found = bm.representatives(KEY, draws, 2, runs=2)
        assert (found.weights > 0).all()
        assert np.isfinite(found.within).all()
        assert found.distance <= found.alone + 1e-12


def test_representatives_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="n=3, but the draws hold only 2 distinct"):
        bm.representatives(KEY, [[0, 0, 1], [1, 1, 0], [0, 1, 1]], 3)
    with pytest.raises(ValueError, match="n must be a positive whole number, not 0"):
        bm.representatives(KEY, [[0, 0, 1]], 0)


# Components joined into clusters.


def joined_by_brute_force(resp):
    """Sets of components after each step, and the entropies, from the definition."""
    groups = [frozenset([k]) for k in range(resp.shape[1])]

    def total(groups):
        soft = np.stack([resp[:, sorted(g)].sum(axis=1) for g in groups], axis=1)
        return entropy(soft, axis=1).sum()

    yield set(groups), total(groups)
    while len(groups) > 1:
        ways = [
            [g for g in groups if g not in (a, b)] + [a | b]
            for a, b in itertools.combinations(groups, 2)
        ]
        groups = min(ways, key=total)
        yield set(groups), total(groups)


@pytest.mark.parametrize("K", [1, 2, 3, 6])
def test_each_step_joins_the_pair_that_lowers_the_entropy_most(K):
    resp = np.random.default_rng(K).dirichlet(np.full(K, 0.3), size=40)
    found = bm.combine(resp)
    for step, (groups, wanted) in enumerate(joined_by_brute_force(resp)):
        n = K - step
        assert set(map(frozenset, found.components(n))) == groups
        assert found.entropy[step] == pytest.approx(wanted, abs=1e-10)
        np.testing.assert_allclose(found.responsibilities(n).sum(axis=1), 1.0, atol=1e-12)
        assert set(found.labels(n)) <= set(range(n))
    assert found.joined.shape == (K - 1, 2)


def test_the_elbow_is_where_joining_starts_to_cost_nothing():
    """Components 0-2 and 3-5 are indistinguishable; the two groups are not confused."""
    rng = np.random.default_rng(0)
    half = rng.dirichlet(np.ones(3), size=60)
    resp = np.zeros((60, 6))
    resp[:30, :3], resp[30:, 3:] = half[:30], half[30:]
    resp = 0.999 * resp + 0.001 / 6
    found = bm.combine(resp)
    assert found.suggested == 2
    assert set(map(frozenset, found.components(2))) == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}
    assert "2 clusters" in repr(found)
    assert "<- elbow" in repr(found)


def test_em_and_draws_can_be_combined():
    em, nuts, _ = fits.pair("flowers")
    of_em, of_draws = bm.combine(em), bm.combine(nuts.to_datatree())
    np.testing.assert_array_equal(of_em.resp, em.responsibilities)
    assert of_draws.resp.shape == of_em.resp.shape
    np.testing.assert_allclose(of_draws.resp.sum(axis=1), 1.0, atol=1e-9)
    assert bm.adjusted_rand(of_em.labels(2), of_draws.labels(2)) > 0.95


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match=r"source has shape \(3,\)"):
        bm.combine(np.ones(3))
    with pytest.raises(ValueError, match=r"source has shape \(0, 3\)"):
        bm.combine(np.ones((0, 3)))
    for source in ("em", [[1.0], [0.5, 0.5]]):
        with pytest.raises(ValueError, match="source holds no plain table of numbers"):
            bm.combine(source)
    with pytest.raises(ValueError, match=r"row 1 of the responsibilities sums to 0\.5"):
        bm.combine([[1.0, 0.0], [0.25, 0.25]])
    with pytest.raises(ValueError, match="n=4 must be a whole number from 1 to 2"):
        bm.combine([[1.0, 0.0], [0.5, 0.5]]).labels(4)
