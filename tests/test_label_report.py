"""The report on names: margins against brute force, verdicts where the truth is known."""

import itertools

import numpy as np
import pytest
import xarray
from test_relabel import switched_tree

import bayesmix as bm
from bayesmix.relabel import report as module
from bayesmix.relabel.report import TIE, listed, misclassified


def tree_of(resp, **attrs):
    """A tree of responsibilities (chain, draw, N, K) alone."""
    tree = bm.adopt(responsibilities=resp)
    tree.attrs.update(attrs)
    return tree


def shuffled(resp, seed):
    perm = np.argsort(np.random.default_rng(seed).random((*resp.shape[:2], resp.shape[-1])), -1)
    return np.take_along_axis(resp, perm[:, :, None, :], axis=-1)


@pytest.fixture(scope="module")
def twins():
    """Cluster 0 is clear; 1 and 2 share their observations by a coin that every draw tosses."""
    rng = np.random.default_rng(1)
    resp = np.zeros((2, 80, 60, 3))
    resp[:, :, :30, 0] = 1
    half = rng.beta(0.5, 0.5, size=(2, 80, 30))
    resp[:, :, 30:, 1], resp[:, :, 30:, 2] = half, 1 - half
    return tree_of(shuffled(resp, 2))


def test_clear_clusters_are_trusted():
    _, switched = switched_tree(N=200)
    report = bm.label_report(switched)
    assert report.trusted
    assert "can be trusted" in report.verdict
    assert (report.methods["same_draws"] > 0.95).all()
    assert {"pra", "data-based"} <= set(report.methods.index)
    np.testing.assert_array_equal(np.diag(report.agreement), 1)
    assert report.to_frame() is report.clusters
    assert str(report).startswith(report.verdict)


@pytest.mark.parametrize(
    ("share", "least", "near"),
    [
        (1.0, "all draws", "100.0% of the draws are"),
        (0.99996, "at least 99.9% of the draws", "100.0% of the draws are"),
        (0.0, "at least 0.0% of the draws", "no draw is"),
        (0.0004, "at least 0.0% of the draws", "under 0.1% of the draws are"),
    ],
)
def test_shares_are_rounded_to_the_safe_side(share, least, near):
    assert module._at_least(share) == least
    assert module._are(share) == near


def test_twins_are_not_trusted_and_the_clear_cluster_is(twins):
    report = bm.label_report(twins)
    assert not report.trusted
    sizes = report.clusters["share"].to_numpy()
    clear = int(np.abs(sizes - 0.5).argmin())
    others = sorted({0, 1, 2} - {clear})
    assert list(report.clusters.index[report.clusters["trusted"]]) == [clear]
    assert f"Do not summarise clusters {listed(others)} by name" in report.verdict
    assert f"{clear} can be" in report.verdict
    merge = report.pairs[report.pairs["merge"]]
    assert merge[["cluster", "other"]].to_numpy().tolist() == [others]
    assert "candidates for merging" in report.verdict


def test_where_nothing_is_clear_all_names_are_doubtful():
    rng = np.random.default_rng(3)
    resp = rng.dirichlet(np.ones(3), size=(2, 100, 15))
    report = bm.label_report(tree_of(resp))
    assert not report.clusters["trusted"].any()
    assert "cannot be trusted" in report.verdict
    assert report.near_ties > 0.05


def test_margins_are_nats_to_the_second_best_of_all_permutations():
    _, switched = switched_tree(N=12)
    weights = np.random.default_rng(0).integers(1, 4, size=12)
    switched["constant_data"] = xarray.DataTree(xarray.Dataset({"weights": ("obs_id", weights)}))
    named = bm.relabel(switched)
    resp = named["responsibilities"]["resp"].to_numpy().reshape(120, 12, 3)
    log_q = np.log(np.maximum(resp.mean(0), 1e-6))
    values = np.stack(
        [
            np.einsum("n,snk,nk->s", weights, resp[:, :, list(p)], log_q)
            for p in itertools.permutations(range(3))
        ]
    )
    margin = np.maximum(values[0] - values[1:].max(0), 0)
    for report in (bm.label_report(named), bm.label_report(switched)):
        np.testing.assert_allclose(report.margin, margin, atol=1e-10)
        assert report.near_ties == (margin < TIE).mean()


def test_the_report_does_not_depend_on_the_names_the_draws_came_with():
    plain, switched = switched_tree(N=30)
    one, two = bm.label_report(plain), bm.label_report(switched)
    assert one.verdict == two.verdict
    np.testing.assert_allclose(one.clusters.astype(float), two.clusters.astype(float), atol=1e-12)


def test_misclassification_counts_what_is_assigned_elsewhere():
    rng = np.random.default_rng(5)
    mean, weights = rng.dirichlet(np.ones(3), size=40), rng.uniform(0, 2, size=40)
    found = misclassified(mean, weights)
    for j, k in itertools.permutations(range(3), 2):
        there = [n for n in range(40) if mean[n].argmax() == k]
        expected = sum(weights[n] * mean[n, j] for n in there) / (weights @ mean[:, j])
        assert found[j, k] == pytest.approx(expected, rel=1e-12)
    assert (np.diag(found) == 0).all()


def test_names_by_order_are_judged_as_they_are():
    """Means that cross: sorting them names many draws against their allocations."""
    _, switched = switched_tree(N=200)
    draws = switched["posterior"].to_dataset()
    noise = 3 * np.random.default_rng(2).normal(size=draws["loc"].shape)
    switched["posterior"] = xarray.DataTree(draws.assign(loc=draws["loc"] + noise))
    report = bm.label_report(bm.relabel(switched, "order", by=("loc", "a")))
    assert next(iter(report.methods.index)) == "order"
    assert not report.trusted
    assert report.near_ties > 0.05
    assert bm.label_report(switched, by=("loc", "a")).trusted


def test_without_freedom_there_is_nothing_to_judge():
    _, switched = switched_tree()
    switched.attrs["exchangeable"] = "[[0], [1], [2]]"
    report = bm.label_report(switched)
    assert report.trusted
    assert str(report) == report.verdict
    assert "No permutation" in report.verdict


def test_it_needs_draws():
    point = bm.adopt(responsibilities=np.full((1, 1, 5, 2), 0.5))
    with pytest.raises(ValueError, match="the tree holds one point"):
        bm.label_report(point)
    with pytest.raises(ValueError, match="needs a DataTree, not ndarray"):
        bm.label_report(np.zeros((3, 4)))
