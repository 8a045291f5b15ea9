"""The tables of a diagnosis: quantities, chains, clusters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.nuts.divergences import stays
from bayesmix.relabel.blocks import Responsibilities, of_tree
from bayesmix.relabel.methods import SMALLEST
from bayesmix.relabel.tree import classes_of, cluster_axes, dataset, shape_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray

PROBES = 6
SETTLED = 1e-3  # a similarity that moves by less is known
COLUMNS = ["mean", "sd", "r_hat", "ess_bulk", "ess_tail", "mcse_mean"]
APART = 1.0  # chains' means differ by more than one standard deviation within chains
EQUAL = 0.95  # cosine of two clusters' responsibilities


def summary(tree: Any, **how: Any) -> pd.DataFrame:
    """ArviZ's summary of a tree's sites: a DataFrame of unrounded numbers.

    A constant, such as the zeros of a Cholesky factor, has neither R-hat nor ESS: NaN. All sites
    have their dims in one order: ArviZ (1.3) gives elements wrong labels where two sites differ.
    """
    import arviz_stats
    from xarray import DataTree

    sites = dataset(tree, "posterior")
    ordered = DataTree.from_dict({"posterior": sites.transpose(*sites.sizes)})
    with np.errstate(invalid="ignore"):
        return arviz_stats.summary(ordered, round_to="none", **how)


# What is gathered from the responsibilities, in two passes.


@dataclass(frozen=True, eq=False)
class Visit:
    """Of the relabelled responsibilities.

    mass : (S, K) observations per cluster. equal : (S, K, K) whether two clusters that hold an
    observation are proportional. means : (chain, N, K). radius : (S,) share of observations that
    the draw puts elsewhere than its chain's mean. probes : observation numbers; at : (S, P, K).
    """

    draws: Responsibilities
    mass: np.ndarray
    equal: np.ndarray
    means: np.ndarray
    radius: np.ndarray
    probes: np.ndarray
    at: np.ndarray


def visit(tree: xarray.DataTree, mixture: Any) -> Visit:
    """Gather what the tables need."""
    draws = of_tree(tree, mixture)
    chain = np.repeat(np.arange(shape_of(tree)[0]), shape_of(tree)[1])
    mass, equal, means = _first_pass(draws, chain)
    probes = _probes(means.mean(0))
    radius, at = [], []
    for start, block in draws.blocks():
        centres = means[chain[start : start + len(block)]]
        radius.append(elsewhere(block, centres, draws.shares))
        at.append(block[:, probes])
    return Visit(draws, mass, equal, means, np.concatenate(radius), probes, np.concatenate(at))


def _first_pass(
    draws: Responsibilities, chain: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mass, equal = [], []
    means = np.zeros((chain.max() + 1, *draws.shape[1:]))
    for start, block in draws.blocks():
        mass.append(draws.weights @ block)
        gram = np.matmul(np.swapaxes(block, 1, 2), draws.weights[:, None] * block)
        equal.append(_proportional(gram, mass[-1]))
        for number in np.unique(chain[start : start + len(block)]):
            means[number] += block[chain[start : start + len(block)] == number].sum(0)
    return np.concatenate(mass), np.concatenate(equal), means * len(means) / draws.shape[0]


def _proportional(gram: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Whether the responsibilities of two clusters are proportional: their cosine is near 1.

    Two equal components have r_nj / r_nk = w_j / w_k for every observation.
    """
    size = np.sqrt(np.einsum("skk->sk", gram))
    product = np.maximum(size[:, :, None] * size[:, None, :], np.finfo(float).tiny)
    held = mass >= 1
    near = (gram / product > EQUAL) & held[:, :, None] & held[:, None, :]
    return near & ~np.eye(mass.shape[1], dtype=bool)


def _probes(mean: np.ndarray) -> np.ndarray:
    """The least clear observation, and those at 1/32, 1/16 ... 1/2 of the way to the clearest."""
    order = np.argsort(mean.max(-1), kind="stable")
    ranks = [0, *(len(order) >> step for step in range(1, PROBES))]
    return np.unique(order[ranks])


def elsewhere(resp: np.ndarray, other: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Share of observations that two sets of responsibilities (..., N, K) put elsewhere."""
    return np.abs(resp - other).sum(-1) @ shares / 2


# Quantities.


def quantities_of(tree: xarray.DataTree, found: Visit) -> pd.DataFrame:
    """One row per quantity, label-invariant ones first."""
    import pandas as pd
    from xarray import DataTree

    parts = [_rows(invariants(tree, found), "label-invariant")]
    posterior, axes = dataset(tree, "posterior"), cluster_axes(tree)
    free = any(len(c) > 1 for c in classes_of(tree, found.mass.shape[1]))
    kinds = dict.fromkeys(axes, "relabelled" if free else "as declared")
    if posterior.data_vars:
        rows = summary(DataTree.from_dict({"posterior": posterior}))[COLUMNS]
        kind = [kinds.get(str(label).split("[")[0], "shared") for label in rows.index]
        parts.append(rows.assign(kind=kind))
    table = pd.concat(parts).rename_axis("quantity")
    return table[["kind", *COLUMNS]]


def _rows(values: dict[str, np.ndarray], kind: str) -> pd.DataFrame:
    from xarray import Dataset, DataTree

    data = Dataset({name: (("chain", "draw"), x) for name, x in values.items()})
    return summary(DataTree.from_dict({"posterior": data}))[COLUMNS].assign(kind=kind)


def invariants(tree: xarray.DataTree, found: Visit) -> dict[str, np.ndarray]:
    """Every label-invariant quantity, (chain, draw)."""
    shape = shape_of(tree)
    out = {}
    for name, variable in dataset(tree, "invariant").data_vars.items():
        values = variable.to_numpy().reshape(*shape, -1)
        several = values.shape[-1] > 1
        for i in range(values.shape[-1]):
            out[f"{name}[{i}]" if several else str(name)] = values[..., i]
    pointwise = dataset(tree, "log_likelihood")
    for name, variable in pointwise.data_vars.items():
        values = variable.to_numpy().reshape(*shape, -1)
        if values.shape[-1] == found.draws.shape[1]:
            out |= {f"log_density({name}[{n}])": values[..., n] for n in found.probes}
    for i, n in enumerate(found.probes):
        for j, m in enumerate(found.probes[:i]):
            together = np.sum(found.at[:, i] * found.at[:, j], axis=-1)
            if together.std() > SETTLED:
                out[f"similarity({m}, {n})"] = together.reshape(shape)
    return {name: values for name, values in out.items() if np.ptp(values) > 0}


# Chains.


def chains_of(tree: xarray.DataTree, found: Visit) -> pd.DataFrame:
    """One row per chain: its mode, its heights, and where EM's MAP lies."""
    import pandas as pd

    chains, draws = shape_of(tree)
    values = invariants(tree, found)
    radius = found.radius.reshape(chains, draws)
    joint = values.get("log_joint", np.full((chains, draws), np.nan))
    table = {
        "mode": _modes(values, found, radius.mean(1)),
        "log_joint": joint.mean(1),
        "best": joint.max(1),
    }
    point = dataset(tree, "pivot")
    if point.attrs.get("kind") == "em" and "resp" in point:
        resp = point["resp"].to_numpy().reshape(found.draws.shape[1:])
        distance = elsewhere(found.means, resp, found.draws.shares)
        table |= {"em_distance": distance, "in_em_mode": distance <= radius.max(1)}
    return pd.DataFrame(table, index=pd.RangeIndex(chains, name="chain"))


def _modes(values: dict[str, np.ndarray], found: Visit, radius: np.ndarray) -> np.ndarray:
    """Number of the mode of each chain, (chain,): chains that agree directly or through others.

    Two chains agree where no invariant's means differ by more than a standard deviation within
    chains, and their mean allocations differ by no more than single draws do from their mean.
    """
    from scipy.sparse.csgraph import connected_components

    moved = [elsewhere(found.means, mean, found.draws.shares) for mean in found.means]
    typical = (radius[:, None] + radius) / 2 + SMALLEST
    agree = (np.array(moved) <= typical) & (largest_gap(values, len(radius)) <= APART)
    label = connected_components(agree, directed=False)[1]
    return np.asarray(np.unique(label, return_inverse=True)[1])


def largest_gap(values: dict[str, np.ndarray], chains: int) -> np.ndarray:
    """By how many standard deviations within chains the means of two chains differ at most.

    Over all invariants, (chain, chain); on ranks, so that a heavy tail does not hide a difference.
    """
    from scipy.stats import rankdata

    gap = np.zeros((chains, chains))
    for x in values.values():
        ranks = rankdata(x).reshape(x.shape)
        mean, var = ranks.mean(1), ranks.var(1)
        within = np.sqrt((var[:, None] + var) / 2)
        apart = np.abs(mean[:, None] - mean)
        gap = np.maximum(gap, np.where(apart > 0, apart / np.maximum(within, SMALLEST), 0.0))
    return gap


# Clusters.


def clusters_of(tree: xarray.DataTree, found: Visit) -> pd.DataFrame:
    """One row per cluster: size, emptiness, duplicates, distance from the prior."""
    import pandas as pd

    K = found.mass.shape[1]
    twins = found.equal.mean(0)
    table = {
        "share": found.mass.mean(0) / found.draws.weights.sum(),
        "empty": (found.mass < 1).mean(0),
        "duplicate_of": np.where(twins.max(1) > 0, twins.argmax(1), -1),
        "duplicate": twins.max(1),
        **dict(_prior_distances(tree, K)),
    }
    return pd.DataFrame(table, index=pd.RangeIndex(K, name="cluster"))


def _prior_distances(tree: xarray.DataTree, K: int) -> Iterator[tuple[str, np.ndarray]]:
    """(site, largest Kolmogorov-Smirnov distance over its elements of posterior and prior (K,))."""
    prior, posterior = dataset(tree, "prior"), dataset(tree, "posterior")
    home = {k: list(members) for members in classes_of(tree, K) for k in members}
    for name, axis in cluster_axes(tree).items():
        if name in prior:
            before = _elements(prior[name].to_numpy(), axis)
            after = _elements(posterior[name].to_numpy(), axis)
            yield (
                f"from_prior({name})",
                np.array(
                    [
                        max(
                            kolmogorov(before[:, home[k], p].ravel(), after[:, k, p])
                            for p in range(after.shape[2])
                        )
                        for k in range(K)
                    ]
                ),
            )


def _elements(values: np.ndarray, axis: int) -> np.ndarray:
    moved = np.moveaxis(values, axis, 2)
    return moved.reshape(moved.shape[0] * moved.shape[1], moved.shape[2], -1)


def kolmogorov(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two empirical distribution functions."""
    both = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


# What the sentences use.


def facts_of(
    tree: xarray.DataTree, quantities: pd.DataFrame, chains: pd.DataFrame
) -> dict[str, Any]:
    """Every number that a sentence uses, besides the tables."""
    invariant = quantities[quantities["kind"] == "label-invariant"]
    named = quantities[quantities["kind"] != "label-invariant"]
    stats, point = dataset(tree, "sample_stats"), dataset(tree, "pivot")
    from_em = point.attrs.get("kind") == "em"
    known = "relabelled" in set(named["kind"])
    return {
        "kind": "relabelled" if known else "as declared",
        "chains": len(chains),
        "draws": shape_of(tree)[1],
        "rhat_invariant": float(invariant["r_hat"].max()) if len(chains) > 1 else np.nan,
        "ess_invariant": float(invariant["ess_bulk"].min()),
        "rhat_parameters": float(named["r_hat"].max()) if len(named) else 1.0,
        "divergences": int(stats["diverging"].sum()) if "diverging" in stats else 0,
        "stays": stays(stats["lp"].to_numpy()) if "lp" in stats else [],
        "from_em": from_em,
        "higher": float(chains["best"].max() - point.attrs["log_joint"]) if from_em else -np.inf,
        "method": str(tree.attrs.get("relabelled", "")),
        "policy": tree.attrs.get("start_policy"),
        "prior": "prior" in tree.children,
    }
