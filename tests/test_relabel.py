"""Relabelling against R's label.switching, brute force over K!, and its own invariances."""

import itertools
import json

import fits
import numpy as np
import pytest
import xarray

from bayesmix.relabel import assignment, blocks, methods, relabel
from bayesmix.relabel.assignment import assign
from bayesmix.relabel.blocks import of_array, of_labels
from bayesmix.relabel.task import METHODS

BY = {"order": ("loc", "a")}


def permutations_of(classes):
    """All permutations that move clusters only within their class."""
    K = sum(map(len, classes))
    home = {k: c for c in classes for k in c}
    return [p for p in itertools.permutations(range(K)) if all(p[k] in home[k] for k in range(K))]


def by_brute_force(cost, permutations):
    """Best permutation, its cost and the lead over the runner-up, by trying them all."""
    K = cost.shape[1]
    values = np.stack([cost[:, list(p), range(K)].sum(-1) for p in permutations], axis=1)
    ranked = np.sort(values, axis=1)
    second = ranked[:, 1] if len(permutations) > 1 else np.inf
    return np.array(permutations)[values.argmin(axis=1)], ranked[:, 0], second - ranked[:, 0]


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
    x = 4 * truth.argmax(-1) + rng.normal(size=N)
    point = {
        "loc": (("cluster", "column"), np.repeat(np.arange(K)[:, None] * 3.0, 2, axis=1)),
        "weights": ("cluster", truth.mean(0)),
        "corr": (("column", "cluster"), np.zeros((2, K))),
    }
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
                    {"resp": ((*rows, "cluster"), truth.reshape(*rows.values(), K)), **point},
                    attrs={"kind": "em"},
                ),
                "observed_data": xarray.Dataset({"x": (tuple(rows), x.reshape(*rows.values()))}),
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


@pytest.fixture
def facts(reference):
    facts = reference("label_switching.json")
    labels = np.array(facts["z"]) - 1
    return {
        "z": of_labels(labels, 2),
        "p": of_array(np.array(facts["p"])),
        "start": np.eye(2)[labels].mean(0),  # R starts from the names the draws came with
        "pivot": np.eye(2)[labels[facts["pivot_draw"] - 1]],
        "x": np.array(facts["x"])[:, None],
        "parameters": np.array(facts["parameters"]),
        "permutations": {k: np.array(v) - 1 for k, v in facts["permutations"].items()},
        "means": facts["relabelled_means"],
    }


TWO = ((0, 1),)


def from_mean(draws, loss_of, mean):
    return methods.alternate(lambda m: methods.align(draws, loss_of(m), TWO), mean)


def data_based(draws, x, perm):
    found = methods.moments(draws, x)

    def step(perm):
        names = assign(methods.data_distance(found, *methods.centres(found, perm)), TWO)
        return names, names.perm

    return methods.alternate(step, perm)


R_METHODS = {
    "ECR": lambda f: methods.align(f["z"], methods.disagreement(f["pivot"]), TWO)[0],
    "ECR-ITERATIVE-1": lambda f: from_mean(f["z"], methods.outvoted, f["start"]),
    "STEPHENS": lambda f: from_mean(f["p"], methods.surprise, f["p"].of(np.arange(150)).mean(0)),
    "DATA-BASED": lambda f: data_based(f["z"], f["x"], np.tile([0, 1], (150, 1))),
    "AIC": lambda f: assign(methods.rank_cost(f["parameters"][:, :, 0], TWO), TWO),
}


@pytest.mark.parametrize("name", R_METHODS)
def test_permutations_are_those_of_label_switching(name, facts):
    """All 150 draws, up to one exchange of the two names for all draws together."""
    perm = R_METHODS[name](facts).perm
    if not np.array_equal(perm, facts["permutations"][name]):
        perm = perm[:, ::-1]
    np.testing.assert_array_equal(perm, facts["permutations"][name])
    means = np.take_along_axis(facts["parameters"], perm[:, :, None], axis=1).mean(axis=0)
    np.testing.assert_allclose(means, facts["means"][name], atol=1e-6)  # 7 digits in the draws


CLASSES = [
    *[(tuple(range(K)),) for K in range(1, 6)],
    ((0, 1), (2, 3)),
    ((0,), (1, 3), (2,)),
    ((0,), (1,), (2,), (3,)),
    ((2, 0, 3), (1,)),
]


@pytest.mark.parametrize("classes", CLASSES, ids=str)
def test_assignment_cost_and_margins_equal_brute_force(classes):
    K = sum(map(len, classes))
    cost = np.random.default_rng(K).normal(size=(150, K, K))
    best, least, margin = by_brute_force(cost, permutations_of(classes))
    found = assign(cost, classes)
    np.testing.assert_array_equal(found.perm, best)
    np.testing.assert_allclose(found.cost, least, atol=1e-13)
    np.testing.assert_allclose(found.margin, margin, atol=1e-13)
    home = {k: c for c in classes for k in c}
    for j, k in itertools.combinations(range(K), 2):
        swapped = found.perm.copy()
        swapped[:, [j, k]] = swapped[:, [k, j]]
        extra = np.take_along_axis(cost, swapped[:, :, None], 1).trace(axis1=1, axis2=2) - least
        expected = extra if k in home[j] else np.inf
        np.testing.assert_allclose(found.swap[:, j, k], expected, atol=1e-13)


def test_tables_say_what_their_formulas_say():
    """Each cost, written out observation by observation."""
    rng = np.random.default_rng(2)
    resp, pivot = random_resp(rng, 3, S=5, N=7)
    weights = rng.uniform(0, 3, size=7)
    share = weights / weights.sum()
    draws = of_array(resp, weights)
    vote = pivot.argmax(-1)
    for loss, one in (
        (methods.disagreement(pivot), lambda n, k: 1 - pivot[n, k]),
        (methods.outvoted(pivot), lambda n, k: float(vote[n] != k)),
        (methods.surprise(pivot), lambda n, k: -np.log(max(pivot[n, k], 1e-6))),
    ):
        cost = np.array(
            [
                [
                    [sum(share[n] * r[n, j] * one(n, k) for n in range(7)) for k in range(3)]
                    for j in range(3)
                ]
                for r in resp
            ]
        )
        best, least, margin = by_brute_force(cost, list(itertools.permutations(range(3))))
        found, mean = methods.align(draws, loss, ((0, 1, 2),))
        np.testing.assert_array_equal(found.perm, best)
        np.testing.assert_allclose(found.cost, least, rtol=1e-12)
        np.testing.assert_allclose(found.margin, margin, atol=1e-12)
        named = np.take_along_axis(resp, best[:, None, :], axis=2)
        np.testing.assert_allclose(mean, named.mean(0), rtol=1e-12)


def test_data_distances_equal_sums_over_observations():
    """Offset data: the moments are of standardised data, and the distances have no unit."""
    rng = np.random.default_rng(4)
    x = 1e6 + rng.normal(size=(30, 2)) * [1.0, 50.0]
    z = rng.integers(0, 3, size=(8, 30))
    perm = np.stack([rng.permutation(3) for _ in range(8)])
    centre, spread = np.empty((3, 2)), np.empty((3, 2))
    for k in range(3):
        rows = [x[labels == p[k]] for labels, p in zip(z, perm, strict=True)]
        centre[k] = np.mean([r.mean(0) for r in rows], axis=0)
        spread[k] = np.mean([r.std(0, ddof=1) for r in rows], axis=0)
    loss = (((x[:, None] - centre) / spread) ** 2).sum(-1)
    expected = np.stack([np.eye(3)[labels].T @ loss / 30 for labels in z])
    found = methods.moments(of_labels(z, 3), x)
    cost = methods.data_distance(found, *methods.centres(found, perm))
    np.testing.assert_allclose(cost, expected, rtol=1e-8)


def test_a_cluster_that_no_draw_fills_stands_at_the_middle_of_the_data():
    z = np.zeros((4, 10), int)
    found = methods.moments(of_labels(z, 2), np.arange(10.0)[:, None])
    centre, spread = methods.centres(found, np.tile([0, 1], (4, 1)))
    np.testing.assert_allclose(centre, 0, atol=1e-12)
    assert spread[1, 0] == 1


def test_pivotal_distances_and_their_units():
    rng = np.random.default_rng(6)
    values, pivot = rng.normal(size=(20, 3, 4)), rng.normal(size=(3, 4))
    cost = methods.parameter_distance(values, pivot, np.ones(4))
    best, _, _ = by_brute_force(cost, list(itertools.permutations(range(3))))
    products = np.stack(
        [
            np.einsum("skp,kp->s", values[:, list(p)], pivot)
            for p in itertools.permutations(range(3))
        ]
    )
    inner = np.array(list(itertools.permutations(range(3))))[products.argmax(0)]
    np.testing.assert_array_equal(best, inner)
    scale = np.array([1.0, 10.0, 0.1, 3.0])
    perm = assign(cost, ((0, 1, 2),)).perm
    np.testing.assert_allclose(
        methods.parameter_distance(values, pivot, methods.spread_within(values, perm)),
        methods.parameter_distance(
            values * scale, pivot * scale, methods.spread_within(values * scale, perm)
        ),
        rtol=1e-9,
    )


def test_order_sorts_within_classes():
    numbers = np.random.default_rng(8).normal(size=(40, 5))
    classes = ((3, 0, 1), (2, 4))
    found = assign(methods.rank_cost(numbers, classes), classes)
    named = np.take_along_axis(numbers, found.perm, axis=1)
    assert (np.diff(named[:, [0, 1, 3]], axis=1) > 0).all()
    assert (named[:, 4] > named[:, 2]).all()
    gaps = np.c_[np.diff(named[:, [0, 1, 3]], axis=1), named[:, 4] - named[:, 2]]
    np.testing.assert_allclose(found.margin, gaps.min(axis=1), atol=1e-12)


@pytest.mark.parametrize("loss_of", [methods.surprise, methods.outvoted])
def test_alternating_ends_where_names_and_table_agree(loss_of):
    """At the end every draw's names are the best of all K! under the table that they make."""
    resp, pivot = random_resp(np.random.default_rng(11), 3, S=60, N=40)
    resp = 0.5 * resp + 0.5 * pivot
    perms = [np.random.default_rng(s).permutation(3) for s in range(60)]
    resp = np.stack([r[:, p] for r, p in zip(resp, perms, strict=True)])
    draws, classes = of_array(resp), ((0, 1, 2),)
    found = methods.alternate(lambda m: methods.align(draws, loss_of(m), classes), resp.mean(0))
    mean = np.take_along_axis(resp, found.perm[:, None, :], axis=2).mean(0)
    cost = np.einsum("snj,nk->sjk", resp, loss_of(mean)) / 40
    best, least, _ = by_brute_force(cost, list(itertools.permutations(range(3))))
    np.testing.assert_array_equal(found.perm, best)
    np.testing.assert_allclose(found.cost, least, rtol=1e-12)


def test_a_weight_counts_as_repeated_rows():
    rng = np.random.default_rng(3)
    resp, pivot = random_resp(rng, 3)
    counts = rng.integers(0, 4, size=len(pivot))
    loss = methods.disagreement(pivot)
    repeated, _ = methods.align(
        of_array(np.repeat(resp, counts, axis=1)), np.repeat(loss, counts, axis=0), ((0, 1, 2),)
    )
    weighted, _ = methods.align(of_array(resp, counts), loss, ((0, 1, 2),))
    np.testing.assert_array_equal(weighted.perm, repeated.perm)
    np.testing.assert_allclose(weighted.margin, repeated.margin, atol=1e-13)


def test_exact_ties_do_not_depend_on_the_names():
    """Clusters without any observation are told apart by the numbers that travel with them."""
    rng = np.random.default_rng(5)
    resp = np.zeros((50, 12, 4))
    resp[:, :, :2] = np.eye(2)[rng.integers(0, 2, size=(50, 12))]
    order = rng.normal(size=(50, 4))
    perms = np.stack([rng.permutation(4) for _ in range(50)])
    loss, classes = methods.disagreement(resp[0]), ((0, 1, 2, 3),)
    here, _ = methods.align(of_array(resp), loss, classes, order)
    there, _ = methods.align(
        of_array(np.take_along_axis(resp, perms[:, None, :], axis=2)),
        loss,
        classes,
        np.take_along_axis(order, perms, axis=1),
    )
    np.testing.assert_array_equal(np.take_along_axis(perms, there.perm, axis=1), here.perm)
    assert (here.margin == 0).all()


def test_anchoring_renames_all_draws_alike():
    rng = np.random.default_rng(9)
    cost = rng.normal(size=(30, 4, 4))
    classes = ((0, 1, 2, 3),)
    found = assign(cost, classes)
    turned = found._replace(perm=found.perm[:, [2, 0, 3, 1]], swap=np.zeros((30, 4, 4)))
    np.testing.assert_array_equal(assignment.anchored(turned, found.perm, classes).perm, found.perm)


# The tree.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("K", [2, 3, 5])
@pytest.mark.parametrize("rows", [{"obs_id": 40}, {"group": 8, "item": 5}])
def test_the_result_does_not_depend_on_the_names_the_draws_came_with(K, rows, method):
    plain, switched = switched_tree(K=K, rows=rows)
    how = {"method": method, "by": BY.get(method)}
    assert_same_draws(relabel(plain, **how), relabel(switched, **how))


@pytest.mark.parametrize("method", METHODS)
def test_the_names_do_not_depend_on_the_order_of_the_observations(method):
    _, switched = switched_tree()
    mixed = np.random.default_rng(1).permutation(40)
    turned = xarray.DataTree.from_dict(
        {
            name: group.to_dataset().isel(obs_id=mixed, missing_dims="ignore")
            for name, group in switched.children.items()
        }
    )
    turned.attrs = dict(switched.attrs)
    how = {"method": method, "by": BY.get(method)}
    np.testing.assert_array_equal(
        relabel(switched, **how)["relabelling"]["permutation"],
        relabel(turned, **how)["relabelling"]["permutation"],
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", ["[[0], [1], [2]]", "[[0, 2], [1]]"])
def test_clusters_that_the_prior_tells_apart_keep_their_names(classes, method):
    """A noise component (cluster 1) is never renamed; without any class of two nothing is."""
    _, switched = switched_tree()
    switched.attrs["exchangeable"] = classes
    new = relabel(switched, method, by=BY.get(method))
    perm = new["relabelling"]["permutation"].to_numpy()
    assert (perm[..., 1] == 1).all()
    if classes == "[[0], [1], [2]]":
        assert_same_draws(new, switched)
        assert new.attrs["relabel_changed"] == 0
    else:
        assert 0.2 < new.attrs["relabel_changed"] < 0.8


def test_all_methods_agree_where_the_clusters_are_apart():
    _, switched = switched_tree(N=200)
    names = relabel(switched)["relabelling"]["permutation"]
    for method in METHODS:
        new = relabel(switched, method, by=BY.get(method))
        same = (new["relabelling"]["permutation"] == names).all("cluster")
        assert same.mean() > 0.95, method


def test_sampled_allocations_are_counted_and_renamed():
    """With allocations only, ECR counts them; with both, version 1 of iterative ECR does."""
    _, switched = switched_tree()
    resp = switched["responsibilities"]["resp"]
    z = xarray.Dataset({"z": (resp.dims[:-1], resp.to_numpy().argmax(-1))})
    switched["allocations"] = xarray.DataTree(z)
    switched.attrs["n_clusters"] = 3
    both = relabel(switched, "ecr-iterative-1")
    del switched["responsibilities"]
    alone = relabel(switched, "ecr-iterative-1")
    np.testing.assert_array_equal(both["allocations"]["z"], alone["allocations"]["z"])
    perm = alone["relabelling"]["permutation"].to_numpy()
    new = alone["allocations"]["z"].to_numpy()
    back = np.take_along_axis(perm, new.reshape(2, 60, -1), axis=-1)
    np.testing.assert_array_equal(back, z["z"])


def test_without_a_pivot_group_the_draw_of_highest_log_joint_keeps_its_names():
    _, switched = switched_tree()
    del switched["pivot"]
    new = relabel(switched)
    best = np.unravel_index(switched["invariant"]["log_joint"].to_numpy().argmax(), (2, 60))
    perm = new["relabelling"]["permutation"].to_numpy()
    np.testing.assert_array_equal(perm[best], [0, 1, 2])
    assert new.attrs["relabel_pivot"] == "draw"


def test_without_a_log_joint_a_central_draw_gives_the_names():
    """The draw farthest inside the cloud: its similarity matrix is nearest to the others'."""
    plain, switched = switched_tree()
    for tree in (plain, switched):
        del tree["pivot"], tree["invariant"]
    new = relabel(switched)
    assert new.attrs["relabel_pivot"] == "central draw"
    assert_same_draws_up_to_names(relabel(plain), new)
    resp = plain["responsibilities"]["resp"].to_numpy().reshape(120, 40, 3)
    some = np.unique(np.linspace(0, 119, 64).astype(int))
    similarity = np.einsum("snk,smk->snm", resp[some], resp[some])
    loss = ((similarity[:, None] - similarity[None]) ** 2).sum((1, 2, 3))
    perm = new["relabelling"]["permutation"].to_numpy().reshape(120, 3)
    np.testing.assert_array_equal(perm[some[loss.argmin()]], [0, 1, 2])


def assert_same_draws_up_to_names(one, two):
    loc, other = (tree["posterior"]["loc"].to_numpy() for tree in (one, two))
    perms = [np.array(p) for p in itertools.permutations(range(3))]
    assert any(np.array_equal(loc[:, :, p], other) for p in perms)


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
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 7 * 40 * 3 * 8)
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
    with pytest.raises(ValueError, match="unknown method 'sort': use one of 'ecr', 'ecr-it"):
        relabel(tree, method="sort")
    with pytest.raises(ValueError, match="no group 'posterior'"):
        relabel(without(tree, "posterior"))
    with pytest.raises(ValueError, match=r"no group 'responsibilities'.*mixture=result.mixture"):
        relabel(without(tree, "responsibilities"))
    with pytest.raises(ValueError, match="by='loc' is for method \"order\" only"):
        relabel(tree, by="loc")
    with pytest.raises(ValueError, match=r"by=None names no site.*'loc', 'weights', 'corr'"):
        relabel(tree, "order")
    with pytest.raises(ValueError, match=r"dims .*'column'.* beside the clusters"):
        relabel(tree, "order", by="loc")
    with pytest.raises(ValueError, match=r"is no label of \['column'\]"):
        relabel(tree, "order", by=("loc", "c"))
    with pytest.raises(ValueError, match="no group 'observed_data'"):
        relabel(without(tree, "observed_data"), "data-based")
    gaps = tree.copy()
    gaps["observed_data"] = xarray.DataTree(
        gaps["observed_data"].to_dataset().where(gaps["observed_data"]["x"] > 0)
    )
    with pytest.raises(ValueError, match="complete data"):
        relabel(gaps, "data-based")


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
    with pytest.raises(ValueError, match=r"draw 63 of the flattened chains are not finite"):
        relabel(tree)


@pytest.mark.parametrize("method", METHODS)
def test_responsibilities_that_were_not_stored_are_computed(method):
    """The same names from a tree without them and its mixture, in blocks of a few draws."""
    em, nuts, _ = fits.pair("articles")
    tree = nuts.to_datatree()
    how = {"method": method, "by": BY_RATE.get(method)}
    stored = relabel(tree, **how)
    computed = relabel(without(tree, "responsibilities"), mixture=em.mixture, **how)
    for name in ("permutation", "margin"):
        np.testing.assert_allclose(
            computed["relabelling"][name], stored["relabelling"][name], rtol=1e-6, atol=1e-9
        )
    assert 0.3 < stored.attrs["relabel_changed"] < 0.7


BY_RATE = {"order": "rate"}
