"""Similarity, entropy and sampled allocations: exact enumeration, and trees that real fits give."""

import itertools
from functools import cache
from importlib import import_module

import fits
import jax
import numpy as np
import pytest
import xarray
from oracles import Z

import bayesmix as bm
from bayesmix.allocations import read_labels
from bayesmix.partition import _pair_losses
from bayesmix.partition.losses import distances, loss_of

KEY = jax.random.key(3)


def tree_of(resp, **groups):
    """A tree of responsibilities (chain, draw, N, K)."""
    dims = ("chain", "draw", "person", "cluster")
    names = [f"p{n}" for n in range(resp.shape[2])]
    found = xarray.Dataset({"resp": (dims, resp)}, coords={"person": names})
    tree = xarray.DataTree.from_dict(
        {
            "posterior": xarray.Dataset({"x": (dims[:2], np.zeros(resp.shape[:2]))}),
            "responsibilities": found,
            **groups,
        }
    )
    tree.attrs["n_clusters"] = resp.shape[-1]
    return tree


def random_resp(seed=0, chains=2, draws=6, N=5, K=3):
    return np.random.default_rng(seed).dirichlet(np.full(K, 0.7), size=(chains, draws, N))


@cache
def enumerated(seed=0):
    """Every assignment of 5 observations to 3 clusters with its mean probability over the draws."""
    resp = random_resp(seed).reshape(-1, 5, 3)
    every = np.array(list(itertools.product(range(3), repeat=5)))
    share = np.prod(resp[:, np.arange(5), every], axis=-1).mean(axis=0)
    return every, share


def test_similarity_is_that_of_all_assignments():
    every, share = enumerated()
    wanted = np.einsum("s,sij->ij", share, every[:, :, None] == every[:, None])
    found = bm.similarity(tree_of(random_resp()))
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert found.dims == ("person", "person_2")
    assert found.coords["person_2"].to_numpy().tolist() == [f"p{n}" for n in range(5)]
    np.testing.assert_array_equal(np.diag(found), 1.0)


@pytest.mark.parametrize(("name", "a"), [("binder", None), ("gbinder", 0.7), ("gbinder", 1.4)])
def test_expected_binder_loss_sums_the_assignments_out(name, a):
    """The optimum, its expected loss and its error are those of all assignments, without any z."""
    tree, resp = tree_of(random_resp()), random_resp().reshape(-1, 5, 3)
    every, share = enumerated()
    labels = read_labels(every).values
    loss = loss_of(name, a)
    found = bm.partition(KEY, tree, name, a=a)
    all_of_5 = read_labels(list(itertools.product(range(5), repeat=5))).values
    partitions = np.unique(all_of_5, axis=0)
    assert len(partitions) == 52
    everything = {tuple(z): share @ distances(loss, z, labels) for z in partitions}
    assert found.expected_loss == pytest.approx(min(everything.values()), abs=1e-12)
    assert everything[tuple(found.labels)] == pytest.approx(found.expected_loss, abs=1e-12)
    by_draw = _pair_losses(loss, found.labels, resp)
    for s in (0, 7):
        each = np.prod(resp[s, np.arange(5), every], axis=-1)
        wanted = each @ distances(loss, found.labels, labels)
        assert by_draw[s] == pytest.approx(wanted, abs=1e-12)
    assert bm.partition(jax.random.key(9), tree, name, a=a).mcse == found.mcse


def test_names_of_clusters_do_not_matter():
    resp = random_resp(K=4, N=12)
    rng = np.random.default_rng(0)
    perm = np.argsort(rng.random((*resp.shape[:2], 1, 4)), axis=-1)
    tree, other = tree_of(resp), tree_of(np.take_along_axis(resp, perm, axis=-1))
    np.testing.assert_allclose(bm.similarity(tree), bm.similarity(other), atol=1e-14)
    np.testing.assert_allclose(bm.entropy(tree), bm.entropy(other), atol=1e-14)
    one, two = bm.partition(KEY, tree, "binder"), bm.partition(KEY, other, "binder")
    assert one.labels.tolist() == two.labels.tolist()
    found, again = bm.stability(tree, one), bm.stability(other, one)
    np.testing.assert_allclose(found["membership"], again["membership"], atol=1e-13)


def test_entropy_is_the_mean_over_draws():
    resp = np.zeros((1, 2, 3, 4))
    resp[0, :, 0, 1] = 1
    resp[0, :, 1] = 0.25
    resp[0, 0, 2, :2], resp[0, 1, 2, 3] = 0.5, 1
    found = bm.entropy(tree_of(resp))
    np.testing.assert_allclose(found, [0, np.log(4), np.log(2) / 2], atol=1e-15)
    assert found.dims == ("person",)


def test_allocations_have_the_responsibilities_as_probabilities():
    resp = np.broadcast_to(random_resp(draws=1, chains=1), (2, 4000, 5, 3)).copy()
    resp[..., 4, :] = [0.0, 1.0, 0.0]
    z = bm.allocations(KEY, tree_of(resp))
    assert z.dims == ("chain", "draw", "person")
    assert z.shape == (2, 4000, 5)
    p, share = resp[0, 0], (z.to_numpy().reshape(-1, 5)[:, :, None] == np.arange(3)).mean(axis=0)
    assert (np.abs(share - p) <= Z * np.sqrt(p * (1 - p) / 8000)).all()
    assert z.identical(bm.allocations(KEY, tree_of(resp)))
    assert not z.equals(bm.allocations(jax.random.key(4), tree_of(resp)))


def test_losses_that_need_labels_take_the_allocations_of_the_key():
    tree = tree_of(random_resp(draws=60, N=8))
    z = bm.allocations(KEY, tree)
    found, wanted = bm.partition(KEY, tree), bm.partition(KEY, z)
    assert found.labels.tolist() == wanted.labels.tolist()
    assert found.expected_loss == wanted.expected_loss
    assert found.to_dataarray().coords["person"].to_numpy().tolist()[:2] == ["p0", "p1"]
    ball, again = bm.credible_ball(tree, found), bm.credible_ball(z, found)
    assert repr(ball) == repr(again)
    tree["allocations"] = xarray.DataTree(z.to_dataset())
    assert repr(bm.credible_ball(tree, found.labels)) == repr(again)


def test_number_of_occupied_clusters_is_that_of_all_assignments():
    """All K^N assignments of each draw, weighed by their probability."""
    resp = random_resp(draws=3, chains=2, N=4)
    resp[0, 0, :, 1] = 0.0
    resp[0, 0] /= resp[0, 0].sum(-1, keepdims=True)  # a cluster without any probability
    resp[1, 2] = np.eye(3)[[2, 2, 0, 2]]
    wanted = np.zeros(3)
    for each in resp.reshape(-1, 4, 3):
        for z in itertools.product(range(3), repeat=4):
            wanted[len(set(z)) - 1] += each[np.arange(4), z].prod() / 6
    found = bm.n_occupied(tree_of(resp))
    assert found["n_clusters"].to_numpy().tolist() == [1, 2, 3]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_stability_sums_the_assignments_out():
    """With two clusters far from one half the match of every draw is plain."""
    rng = np.random.default_rng(2)
    high = rng.uniform(0.8, 1.0, size=(2, 5, 7))
    centre = np.array([0, 0, 1, 0, 1, 1, 1])
    first = np.where(centre == 0, high, 1 - high)
    resp = np.stack([first, 1 - first], axis=-1)
    resp[:, ::2] = resp[:, ::2, :, ::-1]
    found = bm.stability(tree_of(resp), centre)
    np.testing.assert_allclose(found["stability"], high.mean(axis=(0, 1)), atol=1e-13)
    np.testing.assert_array_equal(found["runner_up"], 1 - centre)
    assert found["membership"].dims == ("person", "cluster")


def test_a_real_tree_and_its_mixture_say_the_same(monkeypatch):
    em, nuts, _ = fits.pair("waiting")
    tree = nuts.to_datatree()
    whole = bm.similarity(tree)
    bare = tree.copy()
    del bare["responsibilities"]
    with pytest.raises(ValueError, match=r"pass mixture=result\.mixture"):
        bm.similarity(bare)
    monkeypatch.setattr(import_module("bayesmix.relabel.blocks"), "BLOCK_BYTES", 8 * 272 * 2 * 100)
    np.testing.assert_allclose(bm.similarity(bare, mixture=em.mixture), whole, atol=1e-10)
    np.testing.assert_allclose(bm.entropy(bare, mixture=em.mixture), bm.entropy(tree), atol=1e-10)
    z = bm.allocations(KEY, bare, mixture=em.mixture)
    assert z.identical(bm.allocations(KEY, tree))
    assert z.identical(bm.allocations(KEY, nuts))
    assert bm.n_occupied(nuts).identical(bm.n_occupied(tree))
    assert repr(bm.combine(nuts)) == repr(bm.combine(tree))
    np.testing.assert_allclose(bm.similarity(nuts), whole, atol=1e-12)
    found = bm.partition(KEY, nuts)
    assert found.labels.tolist() == bm.partition(KEY, tree).labels.tolist()
    assert found.n_clusters == 2
    assert found.rows.dim == whole.dims[0]
    two = bm.stability(tree, found)
    assert float(two["stability"].min()) >= 0.4
    R = em.responsibilities
    np.testing.assert_allclose(
        bm.similarity(em.to_datatree()).to_numpy()[0, 1:], (R @ R.T)[0, 1:], atol=1e-12
    )


def test_refusals_say_what_to_do_instead():
    em, _, _ = fits.pair("waiting")
    tree = tree_of(random_resp())
    with pytest.raises(ValueError, match="one point, not draws"):
        bm.partition(KEY, em.to_datatree())
    with pytest.raises(ValueError, match="one point, not draws"):
        bm.n_occupied(em)
    with pytest.raises(ValueError, match=r"entropy needs a DataTree, not ndarray"):
        bm.entropy(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"count the labels of bm\.allocations"):
        bm.n_occupied(tree_of(np.full((1, 2, 5, 11), 1 / 11)))
    with pytest.raises(ValueError, match=r"pass bm.allocations\(key, tree\)"):
        bm.credible_ball(tree, np.zeros(5, int))
    with pytest.raises(ValueError, match="random key"):
        bm.allocations(0, tree)
    bad = random_resp()
    bad[1, 2, 0, 0] = np.nan
    for function in (bm.similarity, bm.entropy, lambda t: bm.allocations(KEY, t)):
        with pytest.raises(ValueError, match="draw 8 of the flattened chains are not finite"):
            function(tree_of(bad))
    for wrong in (0.5 * random_resp(), random_resp() - 0.1):
        with pytest.raises(ValueError, match=r"draw 0 .*observation 0, sum to .*which sum to 1"):
            bm.similarity(tree_of(wrong))
    rounded = random_resp()
    rounded[..., 0] -= 1e-9  # tiny negative values and sums a little off are rounding
    assert np.isfinite(bm.similarity(tree_of(rounded)).to_numpy()).all()
