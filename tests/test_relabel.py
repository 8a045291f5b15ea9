"""Relabelling against R's label.switching, brute force over K!, and its own invariances."""

import itertools
import json
from importlib import import_module

import numpy as np
import pytest
import xarray

from bayesmix.relabel import ecr, relabel

room = import_module("bayesmix.relabel")  # bayesmix.relabel is the function of that name


def by_brute_force(resp, pivot, weights, permutations):
    """Best permutation, its agreement and the lead over the runner-up, by trying them all."""
    share = weights / weights.sum()
    values = np.stack(
        [np.einsum("snk,nk,n->s", resp[:, :, list(p)], pivot, share) for p in permutations], axis=1
    )
    ranked = np.sort(values, axis=1)
    best = np.array(permutations)[values.argmax(axis=1)]
    second = ranked[:, -2] if len(permutations) > 1 else -np.inf
    return best, ranked[:, -1], ranked[:, -1] - second


def random_resp(rng, K, S=150, N=25):
    return rng.dirichlet(np.full(K, 0.4), size=(S, N)), rng.dirichlet(np.full(K, 0.4), size=N)


def switched_tree(K=3, N=40, chains=2, draws=60, seed=0, rows=None):
    """Draws around one truth, each under random names: loc (K, 2), cov-like, tied scale, weights.

    Returns the tree without random names and the tree with them.
    """
    rng = np.random.default_rng(seed)
    shape = (chains, draws)
    truth = rng.dirichlet(np.full(K, 0.3), size=N)
    logits = np.log(truth + 1e-3) + 0.3 * rng.normal(size=(*shape, N, K))
    resp = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    loc = np.arange(K)[:, None] * 3.0 + rng.normal(size=(*shape, K, 2))
    weights = resp.mean(axis=2)
    corr = rng.normal(size=(*shape, 2, K))  # cluster axis last
    scale = rng.uniform(1, 2, size=shape)
    log_joint = rng.normal(size=shape)
    rows = rows or {"obs_id": N}
    perms = np.stack([rng.permutation(K) for _ in range(chains * draws)]).reshape(*shape, K)

    def build(perm):
        def moved(values, axis):
            index = perm.reshape(*shape, *[K if a == axis else 1 for a in range(2, values.ndim)])
            return np.take_along_axis(values, index, axis=axis)

        sample = ("chain", "draw")
        new_resp = moved(resp, 3).reshape(*shape, *rows.values(), K)
        posterior = {
            "loc": ((*sample, "cluster", "column"), moved(loc, 2)),
            "weights": ((*sample, "cluster"), moved(weights, 2)),
            "corr": ((*sample, "column", "cluster"), moved(corr, 3)),
            "scale": (sample, scale),
        }
        tree = xarray.DataTree.from_dict(
            {
                "posterior": xarray.Dataset(
                    posterior, coords={"chain": [0, 1], "column": list("ab")}
                ),
                "invariant": xarray.Dataset({"log_joint": (sample, log_joint)}),
                "responsibilities": xarray.Dataset(
                    {"resp": ((*sample, *rows, "cluster"), new_resp)}
                ),
                "pivot": xarray.Dataset(
                    {"resp": ((*rows, "cluster"), truth.reshape(*rows.values(), K))},
                    attrs={"kind": "em"},
                ),
            }
        )
        tree.attrs["exchangeable"] = json.dumps([list(range(K))])
        tree.attrs["cluster_axes"] = json.dumps({"loc": 0, "weights": 0, "corr": 1, "scale": None})
        return tree

    identity = np.broadcast_to(np.arange(K), (*shape, K))
    return build(identity), build(perms)


def assert_same_draws(one, two):
    xarray.testing.assert_identical(one["posterior"].to_dataset(), two["posterior"].to_dataset())
    xarray.testing.assert_identical(
        one["responsibilities"].to_dataset(), two["responsibilities"].to_dataset()
    )


# The core.


def test_one_hot_responsibilities_give_the_ecr_of_label_switching(reference):
    facts = reference("label_switching_ecr.json")
    resp = np.eye(2)[np.array(facts["z"]) - 1]
    found = ecr(resp, resp[facts["pivot_draw"] - 1])
    np.testing.assert_array_equal(found.perm + 1, facts["ecr"])
    parameters = np.array(facts["parameters"])
    means = np.take_along_axis(parameters, found.perm[:, :, None], axis=1).mean(axis=0)
    np.testing.assert_allclose(means, facts["ecr_means"], atol=1e-6)  # 7 digits in the draws


@pytest.mark.parametrize("K", [1, 2, 3, 4, 5])
def test_assignment_agreement_and_margin_equal_brute_force(K):
    rng = np.random.default_rng(K)
    resp, pivot = random_resp(rng, K)
    weights = rng.uniform(0, 3, size=len(pivot))
    best, agreement, margin = by_brute_force(
        resp, pivot, weights, list(itertools.permutations(range(K)))
    )
    found = ecr(resp, pivot, weights=weights)
    np.testing.assert_array_equal(found.perm, best)
    np.testing.assert_allclose(found.agreement, agreement, atol=1e-13)
    np.testing.assert_allclose(found.margin, margin, atol=1e-13)


@pytest.mark.parametrize(
    "classes", [((0, 1), (2, 3)), ((0,), (1, 3), (2,)), ((0,), (1,), (2,), (3,)), ((2, 0, 3), (1,))]
)
def test_only_members_of_a_class_change_places(classes):
    allowed = [
        p
        for p in itertools.permutations(range(4))
        if all(any(k in c and p[k] in c for c in classes) for k in range(4))
    ]
    resp, pivot = random_resp(np.random.default_rng(7), 4)
    best, agreement, margin = by_brute_force(resp, pivot, np.ones(len(pivot)), allowed)
    found = ecr(resp, pivot, classes=classes)
    np.testing.assert_array_equal(found.perm, best)
    np.testing.assert_allclose(found.agreement, agreement, atol=1e-13)
    np.testing.assert_allclose(found.margin, margin, atol=1e-13)


def test_a_weight_counts_as_repeated_rows():
    rng = np.random.default_rng(3)
    resp, pivot = random_resp(rng, 3)
    counts = rng.integers(0, 4, size=len(pivot))
    repeated = ecr(np.repeat(resp, counts, axis=1), np.repeat(pivot, counts, axis=0))
    weighted = ecr(resp, pivot, weights=counts)
    np.testing.assert_array_equal(weighted.perm, repeated.perm)
    np.testing.assert_allclose(weighted.margin, repeated.margin, atol=1e-13)


def test_exact_ties_do_not_depend_on_the_names():
    """Clusters without any observation are told apart by the numbers that travel with them."""
    rng = np.random.default_rng(5)
    resp = np.zeros((50, 12, 4))
    resp[:, :, :2] = np.eye(2)[rng.integers(0, 2, size=(50, 12))]
    order = rng.normal(size=(50, 4))
    perms = np.stack([rng.permutation(4) for _ in range(50)])
    here = ecr(resp, resp[0], order=order)
    there = ecr(
        np.take_along_axis(resp, perms[:, None, :], axis=2),
        resp[0],
        order=np.take_along_axis(order, perms, axis=1),
    )
    np.testing.assert_array_equal(np.take_along_axis(perms, there.perm, axis=1), here.perm)
    assert (here.margin == 0).all()


# The tree.


@pytest.mark.parametrize("K", [2, 3, 5])
@pytest.mark.parametrize("rows", [{"obs_id": 40}, {"group": 8, "item": 5}])
def test_the_result_does_not_depend_on_the_names_the_draws_came_with(K, rows):
    plain, switched = switched_tree(K=K, rows=rows)
    assert_same_draws(relabel(plain), relabel(switched))


def test_without_a_pivot_group_the_draw_of_highest_log_joint_keeps_its_names():
    _, switched = switched_tree()
    del switched["pivot"]
    new = relabel(switched)
    best = np.unravel_index(switched["invariant"]["log_joint"].to_numpy().argmax(), (2, 60))
    perm = new["relabelling"]["permutation"].to_numpy()
    np.testing.assert_array_equal(perm[best], [0, 1, 2])
    assert new.attrs["relabel_pivot"] == "draw"


def test_permutation_undoes_the_relabelling_and_the_input_is_left_alone():
    _, switched = switched_tree()
    before = switched.copy(deep=True)
    new = relabel(switched)
    xarray.testing.assert_identical(switched, before)
    perm = new["relabelling"]["permutation"].to_numpy()
    back = np.take_along_axis(
        new["posterior"]["loc"].to_numpy(), np.argsort(perm, axis=-1)[..., None], axis=2
    )
    np.testing.assert_array_equal(back, switched["posterior"]["loc"].to_numpy())
    np.testing.assert_array_equal(
        new["posterior"]["scale"].to_numpy(), switched["posterior"]["scale"].to_numpy()
    )
    assert new["posterior"].coords["column"].to_numpy().tolist() == ["a", "b"]


def test_attributes_sum_up_what_was_done():
    plain, switched = switched_tree()
    new = relabel(switched)
    changed = (new["relabelling"]["permutation"].to_numpy() != np.arange(3)).any(-1).mean()
    assert new.attrs["relabelled"] == "ecr"
    assert new.attrs["relabel_pivot"] == "em"
    assert new.attrs["relabel_changed"] == changed > 0.5
    assert new.attrs["relabel_margin"] == pytest.approx(
        float(new["relabelling"]["margin"].mean()), abs=1e-12
    )
    assert relabel(plain).attrs["relabel_changed"] < 0.05


def test_relabelling_twice_changes_nothing():
    _, switched = switched_tree()
    once = relabel(switched)
    twice = relabel(once)
    assert_same_draws(once, twice)
    np.testing.assert_array_equal(
        once["relabelling"]["permutation"], twice["relabelling"]["permutation"]
    )
    assert twice.attrs["relabel_changed"] == 0


def test_clusters_that_the_prior_tells_apart_keep_their_names():
    _, switched = switched_tree()
    switched.attrs["exchangeable"] = "[[0], [1], [2]]"
    new = relabel(switched)
    assert_same_draws(new, switched)
    assert new.attrs["relabel_changed"] == 0


def test_weights_of_the_observations_count():
    """With all weight on the rows of one half, only that half decides."""
    _, switched = switched_tree()
    half = np.r_[np.ones(20), np.zeros(20)]
    weighted = switched.copy()
    weighted["constant_data"] = xarray.DataTree(xarray.Dataset({"weights": ("obs_id", half)}))
    cut = xarray.DataTree.from_dict(
        {
            name: group.to_dataset().isel(obs_id=slice(0, 20), missing_dims="ignore")
            for name, group in switched.children.items()
        }
    )
    cut.attrs = dict(switched.attrs)
    np.testing.assert_array_equal(
        relabel(weighted)["relabelling"]["permutation"], relabel(cut)["relabelling"]["permutation"]
    )


def test_blocks_do_not_matter(monkeypatch):
    _, switched = switched_tree()
    whole = relabel(switched)
    monkeypatch.setattr(room, "BLOCK_BYTES", 7 * 40 * 3 * 8)
    xarray.testing.assert_identical(
        relabel(switched)["relabelling"].to_dataset(), whole["relabelling"].to_dataset()
    )


def test_a_relabelled_tree_survives_a_file(tmp_path):
    _, switched = switched_tree()
    new = relabel(switched)
    new.to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    with xarray.open_datatree(tmp_path / "fit.nc", engine="h5netcdf") as opened:
        again = relabel(opened)
        assert again.attrs["relabel_changed"] == 0
        assert opened.attrs["relabelled"] == "ecr"


def without(tree, group):
    tree = tree.copy()
    del tree[group]
    return tree


def test_refusals_say_what_to_do_instead():
    tree, _ = switched_tree()
    with pytest.raises(ValueError, match=r"not dict: pass result.to_datatree\(\)"):
        relabel({})
    with pytest.raises(ValueError, match="unknown method 'sort': use one of 'ecr'"):
        relabel(tree, method="sort")
    with pytest.raises(ValueError, match="no group 'posterior'"):
        relabel(without(tree, "posterior"))
    with pytest.raises(ValueError, match=r"no group 'responsibilities'.*mixture=result.mixture"):
        relabel(without(tree, "responsibilities"))
    with pytest.raises(ValueError, match="neither a group 'pivot'"):
        relabel(without(without(tree, "pivot"), "invariant"))


@pytest.mark.parametrize("classes", [None, "[[0, 1]]", "[[0, 1], [1, 2]]"])
def test_classes_that_do_not_cover_the_clusters_are_refused(classes):
    tree, _ = switched_tree()
    del tree.attrs["exchangeable"]
    if classes is not None:
        tree.attrs["exchangeable"] = classes
    with pytest.raises(ValueError, match="'exchangeable'"):
        relabel(tree)


def test_a_pivot_of_other_rows_is_refused():
    tree, _ = switched_tree()
    tree["pivot"] = xarray.DataTree(tree["pivot"].to_dataset().isel(obs_id=slice(0, 30)))
    with pytest.raises(ValueError, match=r"pivot has responsibilities of shape \(30, 3\)"):
        relabel(tree)


def test_draws_without_finite_responsibilities_are_counted():
    tree, _ = switched_tree()
    resp = tree["responsibilities"]["resp"].to_numpy().copy()
    resp[1, 3] = np.nan
    tree["responsibilities"] = xarray.DataTree(
        xarray.Dataset({"resp": (tree["responsibilities"]["resp"].dims, resp)})
    )
    with pytest.raises(ValueError, match=r"of 1 of 120 draws are not finite \(first: draw 63"):
        relabel(tree)
