"""Draws from elsewhere: what PyMC, Stan and R hand over becomes a tree that can be relabelled."""

import numpy as np
import pytest
import xarray
from arviz_base import from_dict

import bayesmix as bm

CHAINS, DRAWS, N, K = 2, 30, 20, 3
TRUE = np.repeat(np.arange(K), [8, 7, 5])


@pytest.fixture(scope="module")
def elsewhere():
    """Draws of three clusters apart, under random names, and their truth (cluster means)."""
    rng = np.random.default_rng(0)
    perm = np.argsort(rng.random((CHAINS, DRAWS, K)), axis=-1)
    mu = np.arange(K) * 5.0 + 0.1 * rng.normal(size=(CHAINS, DRAWS, K))
    names = np.argsort(perm, axis=-1)  # old cluster j is called names[j]
    return {
        "mu": np.take_along_axis(mu, perm, axis=-1),
        "sigma": rng.uniform(1, 2, size=(CHAINS, DRAWS)),
        "z": names[..., TRUE],
        "p": 0.9 * np.eye(K)[names[..., TRUE]] + 0.1 / K,
        "lp": rng.normal(size=(CHAINS, DRAWS)),
        "truth": mu,
    }


def assert_resolved(tree, elsewhere):
    """Relabelled means are the truth's under one permutation of all draws."""
    new = bm.relabel(tree)
    mu = new["posterior"]["mu"].to_numpy()
    one = np.argsort(mu[0, 0])
    np.testing.assert_array_equal(mu[..., one], elsewhere["truth"])
    return new


def test_a_tree_with_sampled_allocations_as_pymc_gives_it(elsewhere):
    posterior = {name: elsewhere[name] for name in ("mu", "sigma", "z")}
    tree = from_dict(
        {"posterior": posterior, "sample_stats": {"lp": elsewhere["lp"]}},
        dims={"mu": ["cluster"], "z": ["obs"]},
    )
    adopted = bm.adopt(tree, allocations="z")
    assert adopted["allocations"]["z"].dims == ("chain", "draw", "obs")
    assert "z" not in adopted["posterior"]
    assert "z" in tree["posterior"]
    new = assert_resolved(adopted, elsewhere)
    assert new.attrs["relabel_pivot"] == "draw"  # sample_stats has lp
    z = new["allocations"]["z"].to_numpy()
    assert (z == z[0, 0]).all()
    np.testing.assert_array_equal(new["posterior"]["sigma"], elsewhere["sigma"])


def test_plain_arrays_with_labels_from_one_as_r_gives_them(elsewhere):
    adopted = bm.adopt(
        {"mu": elsewhere["mu"]}, dims={"mu": ["cluster"]}, allocations=elsewhere["z"] + 1
    )
    new = assert_resolved(adopted, elsewhere)
    assert new.attrs["relabel_pivot"] == "central draw"
    assert set(adopted["invariant"].data_vars) == {"sorted_weights"}


def test_probabilities_under_another_name_of_the_cluster_dim(elsewhere):
    adopted = bm.adopt(
        {"mu": elsewhere["mu"]},
        dims={"mu": ["component"]},
        cluster_dim="component",
        responsibilities=elsewhere["p"].astype(np.float32),
        log_joint=elsewhere["lp"],
    )
    new = assert_resolved(adopted, elsewhere)
    assert new["responsibilities"]["resp"].dims == ("chain", "draw", "obs_id", "component")
    np.testing.assert_allclose(adopted["invariant"]["log_joint"], elsewhere["lp"])
    p = 0.9 + 0.1 / K, 0.1 / K
    entropy = -p[0] * np.log(p[0]) - 2 * p[1] * np.log(p[1])
    np.testing.assert_allclose(adopted["invariant"]["entropy"], entropy, rtol=1e-6)


def test_text_labels_are_matched_with_the_names_of_the_clusters(elsewhere):
    names = np.array(["low", "high", "middle"])
    tree = from_dict(
        {"posterior": {"mu": elsewhere["mu"]}}, dims={"mu": ["cluster"]}, coords={"cluster": names}
    )
    adopted = bm.adopt(tree, allocations=names[elsewhere["z"]])
    np.testing.assert_array_equal(adopted["allocations"]["z"], elsewhere["z"])
    with pytest.raises(ValueError, match="label 'high' is not in the coordinate"):
        bm.adopt(
            {"mu": elsewhere["mu"]},
            dims={"mu": ["cluster"]},
            allocations=names[elsewhere["z"]],
        )


def test_labels_alone_may_be_anything():
    labels = np.array([["b", "b", "a"], ["a", "a", "b"], ["b", "b", "a"]])
    new = bm.relabel(bm.adopt(allocations=labels))
    z = new["allocations"]["z"].to_numpy()
    assert z.shape == (1, 3, 3)
    assert (z == z[0, 0]).all()


def test_only_the_classes_given_change_places(elsewhere):
    tree = bm.adopt(
        {"mu": elsewhere["mu"]},
        dims={"mu": ["cluster"]},
        allocations=elsewhere["z"],
        exchangeable=[[0, 2], [1]],
    )
    perm = bm.relabel(tree)["relabelling"]["permutation"].to_numpy()
    assert (perm[..., 1] == 1).all()


def test_parameters_alone_can_be_ordered(elsewhere):
    tree = bm.adopt({"mu": elsewhere["mu"]}, dims={"mu": ["cluster"]}, log_joint=elsewhere["lp"])
    for how in ({"method": "order", "by": "mu"}, {"method": "pra"}):
        mu = bm.relabel(tree, **how)["posterior"]["mu"].to_numpy()
        np.testing.assert_array_equal(np.sort(mu, -1), mu[..., np.argsort(mu[0, 0])])
    with pytest.raises(ValueError, match="no group 'responsibilities'"):
        bm.relabel(tree)


def test_an_adopted_tree_survives_a_file(elsewhere, tmp_path):
    adopted = bm.adopt(
        {"mu": elsewhere["mu"]}, dims={"mu": ["cluster"]}, allocations=elsewhere["z"]
    )
    bm.relabel(adopted).to_netcdf(tmp_path / "r.nc", engine="h5netcdf")
    with xarray.open_datatree(tmp_path / "r.nc", engine="h5netcdf") as opened:
        assert bm.relabel(opened).attrs["relabel_changed"] == 0


NAN = np.full((CHAINS, DRAWS, N), np.nan)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"draws": [1, 2]}, "a DataTree or a dict of arrays"),
        ({}, "nothing to adopt"),
        ({"draws": {"mu": np.zeros((CHAINS, DRAWS, K))}}, "no variable has the dim 'cluster'"),
        ({"draws": {"mu": np.zeros(DRAWS)}}, r"'mu' has shape \(30,\)"),
        ({"allocations": "z"}, "allocations='z' is no variable of the posterior"),
        ({"allocations": NAN}, "missing values"),
        ({"responsibilities": np.zeros((CHAINS, DRAWS, N, K))}, "sum to 1"),
        ({"responsibilities": np.full((CHAINS, DRAWS, N, K), np.nan)}, "probabilities"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(given, words):
    with pytest.raises(ValueError, match=words):
        bm.adopt(**given)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"allocations": np.ones((CHAINS, DRAWS, N), int)}, "labels go from 1 to 1"),
        ({"allocations": np.full((CHAINS, DRAWS, N), 0.5)}, "number them 0 to 2"),
        ({"allocations": np.zeros((3, DRAWS, N), int)}, "the draws are 2 chains x 30"),
        ({"responsibilities": np.full((CHAINS, DRAWS, N, 4), 0.25)}, "different numbers"),
        ({"log_joint": np.zeros(7), "allocations": np.zeros((CHAINS, DRAWS, N), int)}, "log_joint"),
        (
            {
                "allocations": np.zeros((CHAINS, DRAWS, N), int),
                "responsibilities": np.full((CHAINS, DRAWS, N + 1, K), 1 / K),
            },
            "must be of the same",
        ),
    ],
)
def test_what_does_not_fit_the_parameters_is_refused(given, words, elsewhere):
    with pytest.raises(ValueError, match=words):
        bm.adopt({"mu": elsewhere["mu"]}, dims={"mu": ["cluster"]}, **given)
