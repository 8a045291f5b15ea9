"""Diagnoses where the truth is built in: modes, empty and twin clusters, priors, names."""

import fits
import jax
import numpy as np
import pandas as pd
import pytest
import xarray
from arviz_stats.base import array_stats
from scipy.stats import ks_2samp

import bayesmix as bm
from bayesmix.diagnose import numbers, words
from bayesmix.nuts.divergences import LONG
from bayesmix.posterior import nuts_tree

CHAINS, DRAWS, N, K = 4, 200, 40, 3
ONE = np.repeat(np.arange(K), [20, 12, 8])
OTHER = np.tile(np.arange(K), 14)[:N]


def resp_around(labels, rng, clear=0.9):
    """Responsibilities (DRAWS, N, K) around labels (N,), a little different in every draw."""
    alpha = 30 * (clear * np.eye(K)[labels] + (1 - clear) / K)
    return np.stack([rng.dirichlet(a, size=DRAWS) for a in alpha], axis=1)


def tree_of(chains, seed=0, joint=None, names=True, exchangeable=None):
    """A tree of the given chains [(DRAWS, N, K)], each draw under random names."""
    rng = np.random.default_rng(seed)
    resp = np.stack(chains)
    mu = np.arange(K) * 4.0 + rng.normal(size=(*resp.shape[:2], K))
    joint = rng.normal(size=resp.shape[:2]) if joint is None else joint
    if names:
        perm = np.argsort(rng.random((*resp.shape[:2], K)), -1)
        resp = np.take_along_axis(resp, perm[:, :, None, :], -1)
        mu = np.take_along_axis(mu, perm, -1)
    return bm.adopt(
        {"mu": mu, "tau": rng.normal(size=resp.shape[:2])},
        dims={"mu": ["cluster"]},
        responsibilities=resp,
        log_joint=joint,
        exchangeable=exchangeable,
    )


@pytest.fixture(scope="module")
def good():
    rng = np.random.default_rng(1)
    return tree_of([resp_around(ONE, rng) for _ in range(CHAINS)])


def test_chains_that_agree_are_trusted(good):
    found = bm.diagnose(good)
    assert found.trusted
    assert "The chains agree (R-hat at most" in found.verdict
    assert (found.chains["mode"] == 0).all()
    assert str(found).startswith(found.verdict)
    assert not any("mode" in finding for finding in found.findings)


def test_numbers_are_arviz_s_and_their_kind_is_told(good):
    table = bm.diagnose(good).to_frame()
    joint = good["invariant"]["log_joint"].to_numpy()
    row = table.loc["log_joint"]
    assert row["r_hat"] == pytest.approx(float(array_stats.rhat(joint)), rel=1e-12)
    assert row["ess_bulk"] == pytest.approx(float(array_stats.ess(joint)), rel=1e-12)
    mu = bm.relabel(good)["posterior"]["mu"].to_numpy()
    for k in range(K):
        row = table.loc[f"mu[{k}]"]
        assert row["kind"] == "relabelled"
        assert row["r_hat"] == pytest.approx(float(array_stats.rhat(mu[..., k])), rel=1e-12)
    assert table.loc["tau", "kind"] == "shared"
    rest = table.drop(index=["tau", *(f"mu[{k}]" for k in range(K))])
    assert set(rest["kind"]) == {"label-invariant"}
    assert {"log_joint", "entropy", "sorted_weights[0]"} <= set(rest.index)


def test_similarities_are_those_of_the_probes(good):
    table = bm.diagnose(good).to_frame()
    resp = good["responsibilities"]["resp"].to_numpy()
    rows = [name for name in table.index if name.startswith("similarity")]
    assert len(rows) >= 5
    for name in rows:
        m, n = map(int, name.removeprefix("similarity(").removesuffix(")").split(", "))
        together = (resp[:, :, m] * resp[:, :, n]).sum(-1)
        assert table.loc[name, "mean"] == pytest.approx(together.mean(), rel=1e-12)


def test_one_chain_has_nothing_to_agree_with():
    rng = np.random.default_rng(1)
    found = bm.diagnose(tree_of([resp_around(ONE, rng)]))
    assert "One chain only" in found.verdict
    assert not found.trusted


def test_names_do_not_matter_to_what_has_none():
    rng = np.random.default_rng(1)
    chains = [resp_around(ONE, rng) for _ in range(CHAINS)]
    one, two = (bm.diagnose(tree_of(chains, names=names)) for names in (False, True))
    rows = [name for name in one.quantities.index if not name.startswith(("mu", "tau"))]
    # R-hat and ESS are of ranks, which sums rounded in another order may exchange
    first, second = (f.quantities.loc[rows, ["mean", "sd"]] for f in (one, two))
    np.testing.assert_allclose(first, second, rtol=1e-9)
    np.testing.assert_allclose(one.chains, two.chains)
    np.testing.assert_allclose(np.sort(one.clusters["share"]), np.sort(two.clusters["share"]))


def test_chains_in_different_modes_are_named():
    rng = np.random.default_rng(2)
    chains = [resp_around(labels, rng) for labels in (ONE, OTHER, ONE, ONE)]
    joint = rng.normal(size=(CHAINS, DRAWS)) - [[0], [7], [0], [0]]
    found = bm.diagnose(tree_of(chains, joint=joint))
    assert found.chains["mode"].tolist() == [0, 1, 0, 0]
    assert not found.trusted
    assert "do not agree" in found.verdict
    (sentence,) = (s for s in found.findings if "different modes" in s)
    assert "chains 0, 2 and 3 at a mean log joint of" in sentence
    assert "chain 1 at a mean log joint of -7" in sentence


def test_modes_that_only_allocations_tell_apart_are_found():
    """The same sizes, entropies and log joint: only who is with whom differs."""
    rng = np.random.default_rng(3)
    turned = rng.permutation(ONE)
    values = [resp_around(ONE, rng) for _ in range(CHAINS)]
    back = np.argsort(np.argsort(turned, kind="stable"))
    order = np.argsort(ONE, kind="stable")
    for chain in (2, 3):
        values[chain] = values[chain][:, order][:, back]
    found = bm.diagnose(tree_of(values))
    assert found.chains["mode"].tolist() == [0, 0, 1, 1]
    plain = found.quantities.loc[["log_joint", "entropy", "sorted_weights[0]"], "r_hat"]
    assert (plain < words.RHAT_BAD).all()


def test_renamed_chains_are_in_one_mode():
    """Every chain under its own names, constant within the chain: R-hat of `mu` would be huge."""
    rng = np.random.default_rng(4)
    turns = [[0, 1, 2], [2, 0, 1], [1, 0, 2], [0, 2, 1]]
    chains = [resp_around(ONE, rng)[..., turn] for turn in turns]
    found = bm.diagnose(tree_of(chains, names=False))
    assert (found.chains["mode"] == 0).all()


def test_empty_clusters_are_counted():
    rng = np.random.default_rng(5)
    resp = [resp_around(np.minimum(ONE, 1), rng, clear=0.999) for _ in range(CHAINS)]
    for chain in resp:
        chain[..., 2] *= 1e-4
        chain /= chain.sum(-1, keepdims=True)
    found = bm.diagnose(tree_of(resp))
    empty = found.clusters["empty"].to_numpy()
    np.testing.assert_array_equal(np.sort(empty), [0, 0, 1])
    (sentence,) = (s for s in found.findings if "Empty clusters" in s)
    assert f"{empty.argmax()} (100% of the draws)" in sentence


def test_duplicate_clusters_are_found():
    """Two components with the same density share their observations in a fixed ratio."""
    rng = np.random.default_rng(6)
    resp = []
    for _ in range(CHAINS):
        two = resp_around(np.minimum(ONE, 1), rng, clear=0.97)
        ratio = rng.uniform(0.3, 0.7, size=(DRAWS, 1))
        whole = two[..., 1] + two[..., 2]
        resp.append(np.stack([two[..., 0], ratio * whole, (1 - ratio) * whole], axis=-1))
    found = bm.diagnose(tree_of(resp))
    twins = found.clusters[found.clusters["duplicate"] > 0.99]
    assert len(twins) == 2
    assert set(twins["duplicate_of"]) == set(twins.index)
    assert any("Duplicate clusters" in s and "100% of the draws" in s for s in found.findings)
    clear = bm.diagnose(tree_of([resp_around(ONE, rng) for _ in range(CHAINS)]))
    assert (clear.clusters["duplicate"] == 0).all()
    assert (clear.clusters["duplicate_of"] == -1).all()


def test_without_freedom_parameters_are_as_declared(good):
    rng = np.random.default_rng(7)
    chains = [resp_around(ONE, rng) for _ in range(CHAINS)]
    found = bm.diagnose(tree_of(chains, names=False, exchangeable=[[0], [1], [2]]))
    assert found.quantities.loc["mu[0]", "kind"] == "as declared"
    assert "as declared" in found.verdict


# With EM.


@pytest.fixture(scope="module")
def tree():
    _, nuts, _ = fits.pair("faithful")
    return nuts_tree(nuts, prior_key=jax.random.key(0))


SETTLED = {"rhat_invariant": 1.001, "rhat_parameters": 1.001, "ess_invariant": 4000.0,
           "divergences": 0, "higher": -1.0, "kind": "relabelled", "stays": []}  # fmt: skip


def test_a_chain_that_stood_still_is_not_trusted(tree):
    held = tree.copy()
    joint = held["invariant"]["log_joint"].to_numpy().copy()
    joint[1, 10 : 12 + LONG] = 0.0
    stats = held["sample_stats"].to_dataset().assign(lp=(("chain", "draw"), joint))
    held["sample_stats"] = xarray.DataTree(stats)
    found = bm.diagnose(held)
    assert not found.trusted
    assert f"Chain 1 stayed at one point for {LONG + 1} transitions" in found.findings[0]
    assert words.trusted(SETTLED)
    assert "can be read" in words.gist(SETTLED)
    stuck = SETTLED | {"stays": ["chain 1 stayed"]}
    assert not words.trusted(stuck)
    assert "stood still for long" in words.gist(stuck)


@pytest.mark.parametrize(("rhat", "said"), [(1.0, "mode of all chains"), (1.5, "spread around")])
def test_where_em_s_map_lies_in_words(rhat, said):
    chains = pd.DataFrame({"in_em_mode": [True, True], "em_distance": [0.1, 0.2]})
    (sentence,) = words._em_sentences({"higher": -1.25, "rhat_invariant": rhat}, chains)
    assert said in sentence
    assert "1.25 nats above the best draw" in sentence


def test_where_em_s_map_lies(tree):
    found = bm.diagnose(tree)
    assert found.chains["in_em_mode"].all()
    point = float(tree["pivot"].attrs["log_joint"])
    best = float(tree["invariant"]["log_joint"].max())
    assert any(f"{point - best:.2f} nats above the best draw" in s for s in found.findings)
    assert any(words.START_SENTENCE in s for s in found.findings)
    assert {name for name in found.quantities.index if name.startswith("log_density(x[")}


def test_an_em_mode_apart_from_the_chains_is_told(tree):
    far = tree.copy()
    point = far["pivot"].to_dataset()
    resp = np.eye(2)[np.arange(272) % 2]
    far["pivot"] = xarray.DataTree(point.assign(resp=(point["resp"].dims, resp)))
    far["pivot"].attrs["log_joint"] = float(tree["invariant"]["log_joint"].max()) - 3.0
    found = bm.diagnose(far)
    assert not found.chains["in_em_mode"].any()
    assert any("Chains 0, 1 and 2 sit in another mode than EM's MAP" in s for s in found.findings)
    assert any("3.00 nats above EM's MAP: EM listed a higher mode" in s for s in found.findings)
    assert not found.trusted


def test_clusters_that_keep_their_prior_are_told(tree):
    named = bm.relabel(tree)
    clean = bm.diagnose(named)
    assert not any("Hardly learnt" in s for s in clean.findings)
    draws = named["posterior"].to_dataset()
    loc = draws["loc"].to_numpy().copy()
    loc[:, :, 1] = tree["prior"]["loc"].to_numpy()[:, :, 0]
    named["posterior"] = xarray.DataTree(draws.assign(loc=(draws["loc"].dims, loc)))
    found = bm.diagnose(named)
    assert any("close to the prior: loc of cluster 1." in s for s in found.findings)
    assert found.clusters.loc[0, "from_prior(loc)"] > 0.3


def test_priors_that_are_not_there_are_asked_for(good):
    assert any("prior_key" in s for s in bm.diagnose(good).findings)


def test_kolmogorov_distance_is_scipy_s():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(0.5, 2, size=70)
    assert numbers.kolmogorov(a, b) == pytest.approx(ks_2samp(a, b).statistic, abs=1e-12)


# Words and refusals.

FACTS = {
    "kind": "relabelled",
    "chains": 4,
    "draws": 1000,
    "rhat_invariant": 1.001,
    "rhat_parameters": 1.002,
    "ess_invariant": 2000.0,
    "divergences": 0,
    "stays": [],
    "higher": -3.0,
}


@pytest.mark.parametrize(
    ("change", "sentence", "trusted"),
    [
        ({}, "The chains agree", True),
        ({"rhat_invariant": 1.3}, "do not use these draws", False),
        ({"rhat_invariant": 1.02}, "run them longer", False),
        ({"rhat_invariant": np.nan}, "One chain only", False),
        ({"ess_invariant": 90.0}, "draw more", False),
        ({"rhat_parameters": 1.4}, "trust label-invariant quantities only", False),
        ({"divergences": 3}, "The chains agree", False),
        ({"higher": 2.0}, "The chains agree", False),
    ],
)
def test_gist(change, sentence, trusted):
    facts = FACTS | change
    assert sentence in words.gist(facts)
    assert words.trusted(facts) is trusted


def test_em_s_point_is_refused():
    em, _, _ = fits.pair("faithful")
    with pytest.raises(ValueError, match="tree of an EM result, one point: R-hat"):
        bm.diagnose(em.to_datatree())


def test_independent_draws_are_refused(good):
    tree = good.copy()
    tree.attrs |= {"draws_are": "independent", "inference_method": "laplace"}
    with pytest.raises(ValueError, match=r"independent draws \(laplace\), no chains"):
        bm.diagnose(tree)


def test_constants_have_no_r_hat(good):
    tree = good.copy()
    tree["posterior"] = xarray.DataTree(
        good["posterior"].to_dataset().assign(tau=1.0 + 0 * good["posterior"]["tau"])
    )
    found = bm.diagnose(tree)
    assert np.isnan(found.quantities.loc["tau", "r_hat"])
    assert found.trusted


def test_few_draws_are_refused(good):
    few = xarray.DataTree.from_dict(
        {name: group.to_dataset().isel(draw=slice(0, 3)) for name, group in good.children.items()}
    )
    few.attrs = dict(good.attrs)
    with pytest.raises(ValueError, match="4 chains x 3 draws are too few"):
        bm.diagnose(few)


def test_labels_are_right_where_sites_order_their_dims_differently():
    """ArviZ 1.3 itself names g[a, 1] what is g[b, 0]."""
    from arviz_base import from_dict

    noise = np.random.default_rng(0).normal(0.0, 1e-3, (2, 50, 2, 3))
    values = noise + np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    tree = from_dict(
        {"posterior": {"c": values[:, :, 0, :, None], "g": values}},
        dims={"c": ["cluster", "covariate"], "g": ["gating", "cluster"]},
        coords={"gating": ["a", "b"]},
    )
    means = numbers.summary(tree)["mean"]
    assert means["g[2, b]"] == pytest.approx(12.0, abs=0.01)
    assert means["g[0, b]"] == pytest.approx(10.0, abs=0.01)
