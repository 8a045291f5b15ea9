"""Undo label switching: give the clusters of every draw the names of one pivot.

Idea: equivalence classes representatives (ECR; Papastamoulis and Iliopoulos 2010). A draw is
renamed by the permutation under which its allocation of the observations agrees best with the
pivot's. They compare one sampled allocation with one pivot allocation; here the assignments are
summed out, so the *expected* number of agreeing observations is known exactly and takes its place.

Lives here: the alignment on plain arrays (`ecr`), and its application to a DataTree (`relabel`).
Does not live here: whether relabelling can be trusted (R-hat, ESS), and fitting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import xarray

BLOCK_BYTES = 64 * 2**20
METHODS = ("ecr",)


class Alignment(NamedTuple):
    """What `ecr` found, one entry per draw.

    perm : (S, K) int; new cluster k is old cluster perm[k].
    agreement : (S,) expected share of the observations (by weight) that draw and pivot put into
        the same cluster, after relabelling; 0 to 1.
    margin : (S,) what the second-best permutation would lose of that share; inf where the
        allowed permutations are the identity alone. A draw of margin near 0 could as well carry
        other names.
    """

    perm: np.ndarray
    agreement: np.ndarray
    margin: np.ndarray


def relabel(tree: xarray.DataTree, method: str = "ecr", *, mixture: Any = None) -> xarray.DataTree:
    """Tree whose clusters carry the pivot's names in every draw; the given tree is left alone.

    The pivot is the group `pivot` (EM's MAP when the chains started there), else the draw of
    highest log joint. Every site with a cluster axis in `posterior`, and `responsibilities`, is
    permuted draw by draw, within the classes of clusters that may change places without changing
    the log joint (attribute `exchangeable`). Nothing is averaged or dropped, so each draw still
    has its log joint. The new group `relabelling` holds `permutation` (new cluster k is old
    cluster permutation[k], so it can be undone), `agreement` and `margin` per draw (see
    `Alignment`); the attributes `relabelled`, `relabel_pivot`, `relabel_changed` (share of draws
    whose names changed), `relabel_agreement` and `relabel_margin` (means) sum it up.

    A tree of one point (EM) comes back with the identity, so that one path serves both engines.
    Relabelling twice changes nothing; `permutation` then still refers to the first tree.
    mixture : needed only where the responsibilities were too large to store.

    Raises ValueError when `method` is unknown or the tree lacks what is needed.
    Source: Papastamoulis and Iliopoulos (2010), J. Comput. Graph. Stat. 19(2), 313-331. Departure:
    expected agreements under the exact responsibilities instead of one sampled allocation; with
    one-hot responsibilities it is their algorithm. As sum_k r_nk^2 does not depend on the names,
    it is also the least-squares fit of the responsibilities to the pivot's; unlike a
    Kullback-Leibler cost (Stephens 2000) one observation of probability 0 cannot decide a draw.
    """
    _check(tree, method)
    posterior = _dataset(tree, "posterior")
    axes = _cluster_axes(tree, posterior)
    pivot, kind = _pivot(tree, mixture)
    K = pivot.shape[-1]
    found = _align(tree, pivot, _classes(tree, K), _first_numbers(posterior, axes, K), mixture)
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    perm = found.perm.reshape(*shape, K)

    new = tree.copy()
    new["posterior"] = _as_node(_permute_sites(posterior, axes, perm))
    if "responsibilities" in tree.children:
        resp = _dataset(tree, "responsibilities")
        last = {str(name): resp[name].ndim - 1 for name in resp.data_vars}
        new["responsibilities"] = _as_node(_permute_sites(resp, last, perm))
    new["relabelling"] = _as_node(_record(tree, posterior, found, perm))
    new.attrs.update(_summary(found, perm, method, kind))
    return new


# The numeric core: plain arrays.


def ecr(
    resp: np.ndarray,
    pivot: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    classes: Sequence[Sequence[int]] | None = None,
    order: np.ndarray | None = None,
) -> Alignment:
    """Permutation of each draw's clusters that agrees best with the pivot.

    resp : (S, N, K) responsibilities per draw; pivot : (N, K). weights : (N,), default 1.
    classes : clusters that may change places with each other, a partition of range(K); default
        one class. order : (S, K) numbers that travel with the clusters; exact ties are decided
        by them, so that the result does not depend on the names the draw came with.
    Cost: one (K, N) x (N, K) product and one Hungarian assignment per draw.
    """
    pivot = np.asarray(pivot, np.float64)
    weights = np.ones(len(pivot)) if weights is None else np.asarray(weights, np.float64)
    shares = _agreements(np.asarray(resp), pivot, weights)
    return _solve(shares, classes or (tuple(range(pivot.shape[-1])),), order)


def _agreements(resp: np.ndarray, pivot: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the observations in the draw's cluster j and the pivot's k: (S, K old, K new)."""
    total = weights.sum()
    weighted = pivot * (weights / (total if total > 0 else 1.0))[:, None]
    return np.matmul(np.swapaxes(resp, -1, -2), weighted)


def _solve(
    shares: np.ndarray, classes: Sequence[Sequence[int]], order: np.ndarray | None
) -> Alignment:
    """Best allowed permutation for (S, K old, K new) agreement shares."""
    S, K, _ = shares.shape
    perm = np.tile(np.arange(K), (S, 1))
    for members in (np.asarray(c) for c in classes if len(c) > 1):
        perm[:, members] = _assign(shares, members, order)
    aligned = np.take_along_axis(shares, perm[:, :, None], axis=1)
    agreement = np.einsum("skk->s", aligned)
    return Alignment(perm, agreement, _margin(aligned, classes))


def _assign(shares: np.ndarray, members: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Old cluster for each new one, (S, C), within one class."""
    from scipy.optimize import linear_sum_assignment

    old = np.tile(members, (len(shares), 1))
    if order is not None:
        ranks = np.argsort(order[:, members], axis=1, kind="stable")
        old = members[ranks]
    block = np.take_along_axis(shares[:, :, members], old[:, :, None], axis=1)
    picked = np.stack([linear_sum_assignment(b.T, maximize=True)[1] for b in block])
    return np.take_along_axis(old, picked, axis=1)


def _margin(aligned: np.ndarray, classes: Sequence[Sequence[int]]) -> np.ndarray:
    """Agreement that the second-best permutation loses, (S,).

    Another permutation moves the clusters of some cycles. The optimal one leaves no cycle of
    negative cost, so the cheapest single cycle is the second best: shortest paths from each
    cluster back to itself (Floyd and Warshall), K^3 per draw instead of K! permutations.
    """
    S, K, _ = aligned.shape
    cost = np.full((S, K, K), np.inf)
    for members in (np.asarray(c) for c in classes if len(c) > 1):
        cell = (slice(None), members[:, None], members[None, :])
        cost[cell] = aligned[:, members, members][:, :, None] - aligned[cell]
    cost[:, np.arange(K), np.arange(K)] = np.inf
    for k in range(K):
        cost = np.minimum(cost, cost[:, :, k, None] + cost[:, None, k, :])
    return np.maximum(np.einsum("skk->sk", cost).min(axis=1, initial=np.inf), 0.0)


# What the tree holds.


def _check(tree: Any, method: str) -> None:
    from xarray import DataTree

    if not isinstance(tree, DataTree):
        raise ValueError(
            f"relabel needs a DataTree, not {type(tree).__name__}: pass result.to_datatree()"
        )
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(map(repr, METHODS))}")
    if "posterior" not in tree.children:
        raise ValueError("the tree has no group 'posterior': pass result.to_datatree()")
    if "exchangeable" not in tree.attrs:
        raise ValueError(
            "the tree has no attribute 'exchangeable': set it to the classes of clusters that may "
            "change places, as JSON, for example tree.attrs['exchangeable'] = '[[0, 1, 2]]'"
        )


def _classes(tree: xarray.DataTree, K: int) -> list[tuple[int, ...]]:
    classes = [tuple(map(int, c)) for c in json.loads(tree.attrs["exchangeable"])]
    if sorted(k for c in classes for k in c) != list(range(K)):
        raise ValueError(
            f"the attribute 'exchangeable' ({tree.attrs['exchangeable']}) must name each of the "
            f"{K} clusters once"
        )
    return classes


def _cluster_axes(tree: xarray.DataTree, posterior: xarray.Dataset) -> dict[str, int]:
    """Axis of the clusters in each posterior variable that has one, behind chain and draw."""
    known = json.loads(tree.attrs.get("cluster_axes", "{}"))
    axes = {}
    for name, variable in posterior.data_vars.items():
        if known.get(name) is not None:
            axes[str(name)] = 2 + int(known[name])
        elif name not in known and _cluster_dim(tree) in variable.dims:
            axes[str(name)] = variable.dims.index(_cluster_dim(tree))
    return axes


def _cluster_dim(tree: xarray.DataTree) -> str:
    return str(tree.attrs.get("cluster_dim", "cluster"))


def _dataset(tree: xarray.DataTree, group: str) -> xarray.Dataset:
    """One group; an empty one where the tree does not have it."""
    from xarray import Dataset

    found = tree.children.get(group)
    return Dataset() if found is None else found.to_dataset(inherit=False)


def _pivot(tree: xarray.DataTree, mixture: Any) -> tuple[np.ndarray, str]:
    """The pivot's responsibilities, (N, K), and where they come from."""
    point, invariant = _dataset(tree, "pivot"), _dataset(tree, "invariant")
    if "resp" in point:
        resp = point["resp"].to_numpy()
        return resp.reshape(-1, resp.shape[-1]), str(point.attrs.get("kind", "pivot group"))
    if "log_joint" not in invariant:
        raise ValueError(
            "the tree has neither a group 'pivot' with 'resp' nor 'log_joint' in a group "
            "'invariant': pass result.to_datatree()"
        )
    log_joint = invariant["log_joint"].to_numpy()
    best = int(np.argmax(np.where(np.isfinite(log_joint), log_joint, -np.inf)))
    for start, block in _blocks(tree, mixture):
        if start <= best < start + len(block):
            return block[best - start], "draw"
    raise ValueError("'log_joint' and the responsibilities are not of the same draws")


def _align(
    tree: xarray.DataTree,
    pivot: np.ndarray,
    classes: Sequence[Sequence[int]],
    order: np.ndarray | None,
    mixture: Any,
) -> Alignment:
    weights = _weights(tree, len(pivot))
    shares = np.concatenate(
        [
            _agreements(_same_rows(block, pivot), pivot, weights)
            for _, block in _blocks(tree, mixture)
        ]
    )
    bad = ~np.isfinite(shares).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f"the responsibilities of {int(bad.sum())} of {len(bad)} draws are not finite "
            f"(first: draw {int(bad.argmax())} of the flattened chains): drop these draws"
        )
    return _solve(shares, classes, order)


def _same_rows(resp: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    if resp.shape[1:] != pivot.shape:
        raise ValueError(
            f"the pivot has responsibilities of shape {pivot.shape} and the draws of shape "
            f"{resp.shape[1:]}: both must be of the same observations and clusters"
        )
    return resp


def _weights(tree: xarray.DataTree, N: int) -> np.ndarray:
    constant = _dataset(tree, "constant_data")
    if "weights" in constant:
        return constant["weights"].to_numpy().reshape(-1).astype(np.float64)
    return np.ones(N)


def _blocks(tree: xarray.DataTree, mixture: Any) -> Iterator[tuple[int, np.ndarray]]:
    """First draw and responsibilities (block, N, K) of each block of the flattened draws."""
    stored = _dataset(tree, "responsibilities")
    if "resp" in stored:
        resp = stored["resp"].to_numpy()
        resp = resp.reshape(-1, math.prod(resp.shape[2:-1]), resp.shape[-1])
        size = max(1, BLOCK_BYTES // max(1, resp[0].nbytes))
        for start in range(0, len(resp), size):
            yield start, resp[start : start + size]
    elif mixture is not None:
        yield from _computed_blocks(tree, mixture)
    else:
        raise ValueError(
            "the tree has no group 'responsibilities' (it is left out above 256 MB): pass "
            "mixture=result.mixture, or thin the draws before to_datatree()"
        )


def _computed_blocks(tree: xarray.DataTree, mixture: Any) -> Iterator[tuple[int, np.ndarray]]:
    from bayesmix.draws import evaluate_draws

    names = json.loads(tree.attrs.get("site_names", "{}"))
    posterior = _dataset(tree, "posterior")
    draws = {
        site: (v := posterior[names.get(site, site)].to_numpy()).reshape(1, -1, *v.shape[2:])
        for site in mixture.sites
    }
    S = posterior.sizes["chain"] * posterior.sizes["draw"]
    size = max(1, BLOCK_BYTES // (8 * mixture.N * mixture.K))
    for start in range(0, S, size):
        part = {site: v[:, start : start + size] for site, v in draws.items()}
        resp = evaluate_draws(mixture, part)["responsibilities"]
        yield start, np.asarray(resp).reshape(-1, mixture.N, mixture.K)


def _first_numbers(posterior: xarray.Dataset, axes: dict[str, int], K: int) -> np.ndarray | None:
    """One number per cluster and draw, (S, K), from the first site that has clusters."""
    for name, axis in axes.items():
        values = np.moveaxis(posterior[name].to_numpy(), axis, -1)
        return values.reshape(posterior.sizes["chain"] * posterior.sizes["draw"], -1, K)[:, 0]
    return None


# What the new tree gets.


def _permute_sites(
    dataset: xarray.Dataset, axes: dict[str, int], perm: np.ndarray
) -> xarray.Dataset:
    new = dataset.copy()
    for name, axis in axes.items():
        values = dataset[name].to_numpy()
        shape = [1] * values.ndim
        shape[0], shape[1], shape[axis] = perm.shape
        moved = np.take_along_axis(values, perm.reshape(shape), axis=axis)
        new[name] = dataset[name].copy(data=moved)
    return new


def _record(
    tree: xarray.DataTree, posterior: xarray.Dataset, found: Alignment, perm: np.ndarray
) -> xarray.Dataset:
    from xarray import Dataset

    before = _dataset(tree, "relabelling")
    if "permutation" in before:
        perm = np.take_along_axis(before["permutation"].to_numpy(), perm, axis=-1)
    sample, cluster = ("chain", "draw"), _cluster_dim(tree)
    return Dataset(
        {
            "permutation": ((*sample, cluster), perm),
            "agreement": (sample, found.agreement.reshape(perm.shape[:2])),
            "margin": (sample, found.margin.reshape(perm.shape[:2])),
        },
        coords={
            **{dim: posterior.coords[dim] for dim in sample if dim in posterior.coords},
            cluster: np.arange(perm.shape[-1]),
        },
    )


def _summary(found: Alignment, perm: np.ndarray, method: str, kind: str) -> dict[str, Any]:
    changed = (perm != np.arange(perm.shape[-1])).any(axis=-1)
    return {
        "relabelled": method,
        "relabel_pivot": kind,
        "relabel_changed": float(changed.mean()),
        "relabel_agreement": float(found.agreement.mean()),
        "relabel_margin": float(found.margin.mean()),
    }


def _as_node(dataset: xarray.Dataset) -> xarray.DataTree:
    from xarray import DataTree

    return DataTree(dataset)
