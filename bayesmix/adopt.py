"""Draws of another program (PyMC, Stan, R, plain arrays) as a tree that bayesmix can go on with.

Lives here: names, shapes and labels of what comes from elsewhere. Does not live here: what is done
with it (relabelling, diagnostics, partitions), which is the same for all trees.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray

SAMPLE = ("chain", "draw")
ROWS_SUM = 1e-3  # float32 rows of many clusters sum to 1 within this


def adopt(
    draws: Any = None,
    *,
    allocations: Any = None,
    responsibilities: Any = None,
    log_joint: Any = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    cluster_dim: str = "cluster",
    exchangeable: Sequence[Sequence[int]] | None = None,
) -> xarray.DataTree:
    """DataTree of a mixture's draws from elsewhere, for `bm.relabel`, `bm.diagnose` and the rest.

    draws : a DataTree with a group `posterior` (what PyMC and ArviZ give; its other groups are
        kept), or {name: array (chain, draw, *shape)}, or nothing where only observations matter.
    allocations : labels (chain, draw, *rows); the name of a posterior variable or an array; also
        (draw, rows) of one chain. Whole numbers from 0, or from 1 where K occurs and 0 does not;
        text is matched with the coordinate of the cluster dim, else sorted.
    responsibilities : probabilities (chain, draw, *rows, K), likewise.
    log_joint : (chain, draw), likewise; default `lp` of the group `sample_stats`. With it the
        pivot of relabelling is the best draw.
    dims : names of the dims behind chain and draw of arrays, {"mu": ["cluster"]}.
    cluster_dim : the dim along which clusters lie; variables without it are shared.
    exchangeable : classes of clusters that may change places without changing the log joint.
        Default: all of them, which is right only where the priors do not tell clusters apart.

    Raises ValueError where shapes do not fit, values are missing or labels are ambiguous.
    """
    from xarray import DataTree

    tree = _tree_of(draws, dims)
    posterior = tree.children["posterior"].to_dataset(inherit=False)
    resp = _found(responsibilities, posterior, "responsibilities")
    labels = _found(allocations, posterior, "allocations")
    named = [name for name in (responsibilities, allocations, log_joint) if isinstance(name, str)]
    posterior = posterior.drop_vars([name for name in named if name in posterior])
    shape = _shape(posterior, resp, labels)
    K = _clusters(posterior, cluster_dim, resp, labels)
    groups = {"posterior": posterior}
    if resp is not None:
        groups["responsibilities"] = _resp_group(resp, shape, K, cluster_dim)
    if labels is not None:
        names, alone = posterior.coords.get(cluster_dim), _alone(posterior, cluster_dim, resp)
        groups["allocations"] = _labels_group(labels, shape, K, names, alone)
    _same_rows(groups)
    groups["invariant"] = _invariant(groups, _log_joint(tree, log_joint), shape, K)
    for name, group in groups.items():
        tree[name] = DataTree(group)
    tree.attrs.update(_attrs(tree, K, cluster_dim, exchangeable))
    return tree


def _tree_of(draws: Any, dims: Mapping[str, Sequence[str]] | None) -> xarray.DataTree:
    from arviz_base import dict_to_dataset
    from xarray import Dataset, DataTree

    if isinstance(draws, DataTree):
        if "posterior" not in draws.children:
            raise ValueError("the tree has no group 'posterior': pass the draws of a sampler")
        return draws.copy()
    if isinstance(draws, Mapping):
        arrays = {name: np.asarray(value) for name, value in draws.items()}
        for name, value in arrays.items():
            if value.ndim < 2 + len((dims or {}).get(name, ())):
                raise ValueError(
                    f"{name!r} has shape {value.shape}: draws are (chain, draw, ...), with a "
                    "leading chain axis also where there is one chain"
                )
        named: dict[Any, Any] = {name: list(some) for name, some in (dims or {}).items()}
        data = dict_to_dataset(arrays, dims=named, check_conventions=False)
        return DataTree.from_dict({"posterior": data})
    if draws is None:
        return DataTree.from_dict({"posterior": Dataset()})
    raise ValueError(
        f"adopt needs a DataTree or a dict of arrays (chain, draw, ...), not {type(draws).__name__}"
    )


def _found(given: Any, posterior: xarray.Dataset, what: str) -> Any:
    """An array with or without named dims, from an argument that may be a variable's name."""
    if given is None or hasattr(given, "dims"):
        return given
    if not isinstance(given, str):
        return np.asarray(given)
    if given not in posterior:
        raise ValueError(
            f"{what}={given!r} is no variable of the posterior: it has "
            f"{', '.join(map(repr, posterior.data_vars))}"
        )
    return posterior[given]


def _shape(posterior: xarray.Dataset, resp: Any, labels: Any) -> tuple[int, int]:
    if all(dim in posterior.sizes for dim in SAMPLE):
        return int(posterior.sizes["chain"]), int(posterior.sizes["draw"])
    for value, least in ((resp, 4), (labels, 3)):
        if value is not None:
            return tuple(value.shape[:2]) if value.ndim >= least else (1, value.shape[0])
    raise ValueError(
        "nothing to adopt: give draws with dims chain and draw, allocations or responsibilities"
    )


def _clusters(posterior: xarray.Dataset, dim: str, resp: Any, labels: Any) -> int:
    """The number of clusters, on which all that is given must agree."""
    known = {f"dim {dim!r}": posterior.sizes.get(dim)}
    known["responsibilities"] = None if resp is None else resp.shape[-1]
    sizes = {where: int(K) for where, K in known.items() if K is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            "different numbers of clusters: "
            + ", ".join(f"{where} has {K}" for where, K in sizes.items())
        )
    if sizes:
        return next(iter(sizes.values()))
    if labels is None:
        raise ValueError(
            f"no variable has the dim {dim!r}: name the dim of the clusters (cluster_dim=...), or "
            "give allocations or responsibilities"
        )
    return len(np.unique(np.asarray(labels)))


def _alone(posterior: xarray.Dataset, dim: str, resp: Any) -> bool:
    return resp is None and dim not in posterior.sizes


def _same_rows(groups: Mapping[str, xarray.Dataset]) -> None:
    if "responsibilities" in groups and "allocations" in groups:
        rows, labelled = groups["responsibilities"]["resp"].shape[2:-1], groups["allocations"]["z"]
        if rows != labelled.shape[2:]:
            raise ValueError(
                f"responsibilities are of {rows} observations and allocations of "
                f"{labelled.shape[2:]}: both must be of the same"
            )


def _behind(value: Any, shape: tuple[int, int], tail: int, what: str) -> tuple[np.ndarray, Any]:
    """(chain, draw, *rows, ...) values and the names of the rows' dims."""
    array = np.asarray(value)
    rows = list(getattr(value, "dims", ()))[2 : array.ndim - tail]
    if array.shape[:2] != shape and array.shape[0] == math.prod(shape):
        array, rows = array.reshape(*shape, *array.shape[1:]), []
    if array.shape[:2] != shape or array.ndim < 3 + tail:
        raise ValueError(
            f"{what} have shape {np.shape(value)}, but the draws are {shape[0]} chains x "
            f"{shape[1]}: give (chain, draw, rows{', K' if tail else ''})"
        )
    many = array.ndim - 2 - tail
    return array, rows or (["obs_id"] if many == 1 else [f"obs_dim_{i}" for i in range(many)])


def _resp_group(resp: Any, shape: tuple[int, int], K: int, cluster: str) -> xarray.Dataset:
    from xarray import Dataset

    values, rows = _behind(resp, shape, 1, "responsibilities")
    values = values.astype(np.float64)
    off = np.abs(values.sum(-1) - 1)
    if not np.isfinite(values).all() or values.min() < 0 or off.max() > ROWS_SUM:
        raise ValueError(
            "responsibilities must be probabilities that sum to 1 over the last axis, the clusters'"
            f": found values from {values.min():.3g} to {values.max():.3g} and sums up to "
            f"{off.max():.3g} away from 1"
        )
    values /= values.sum(-1, keepdims=True)
    return Dataset({"resp": ((*SAMPLE, *rows, cluster), values)}, coords={cluster: np.arange(K)})


def _labels_group(
    labels: Any, shape: tuple[int, int], K: int, names: Any, alone: bool
) -> xarray.Dataset:
    """alone : there are no parameters or responsibilities whose clusters the labels must name."""
    from xarray import Dataset

    values, rows = _behind(labels, shape, 0, "allocations")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("allocations have missing values: every observation needs a label")
    if alone:
        codes = np.unique(values, return_inverse=True)[1].reshape(values.shape)
    elif values.dtype.kind in "OUS":
        codes = _matched(values.astype(str), names)
    else:
        codes = _numbered(values, K)
    return Dataset({"z": ((*SAMPLE, *rows), codes)})


def _matched(labels: np.ndarray, names: Any) -> np.ndarray:
    """Text as positions in the coordinate of the clusters."""
    known = np.array([], str) if names is None else np.asarray(names).astype(str)
    unknown = np.setdiff1d(labels, known)
    if len(unknown):
        raise ValueError(
            f"the label {str(unknown[0])!r} is not in the coordinate of the clusters "
            f"({', '.join(known) or 'there is none'}), so its parameters are unknown: give "
            "numbers, or name the clusters"
        )
    order = np.argsort(known, kind="stable")
    return np.asarray(order[np.searchsorted(known[order], labels)])


def _numbered(labels: np.ndarray, K: int) -> np.ndarray:
    """Whole numbers from 0 or from 1 as 0..K-1."""
    codes = labels.astype(np.int64)
    low, high = int(codes.min()), int(codes.max())
    first = 1 if low >= 1 and high == K else 0
    if not np.array_equal(codes, labels) or low < first or high - first >= K or low > first == 0:
        raise ValueError(
            f"the labels go from {labels.min()} to {labels.max()} and there are {K} clusters: "
            f"number them 0 to {K - 1} (1 to {K} is understood where {K} occurs and 0 does not)"
        )
    return codes - first


def _log_joint(tree: xarray.DataTree, given: Any) -> Any:
    if given is not None:
        posterior = tree.children["posterior"].to_dataset(inherit=False)
        return np.asarray(_found(given, posterior, "log_joint"))
    stats = tree.children.get("sample_stats")
    return None if stats is None or "lp" not in stats else stats["lp"].to_numpy()


def _invariant(
    groups: Mapping[str, xarray.Dataset],
    log_joint: Any,
    shape: tuple[int, int],
    K: int,
) -> xarray.Dataset:
    """Quantities that no renaming changes: log joint, entropy (nats), sizes in falling order."""
    from xarray import Dataset

    out: dict[str, Any] = {}
    if log_joint is not None:
        if log_joint.size != math.prod(shape):
            raise ValueError(f"log_joint has shape {log_joint.shape}, but the draws are {shape}")
        out["log_joint"] = (SAMPLE, log_joint.reshape(shape).astype(np.float64))
    if "responsibilities" in groups:
        resp = groups["responsibilities"]["resp"].to_numpy().reshape(*shape, -1, K)
        sizes = resp.mean(2)
        entropy = -np.sum(resp * np.log(np.where(resp > 0, resp, 1.0)), axis=-1).mean(-1)
        out["entropy"] = (SAMPLE, entropy)
    elif "allocations" in groups:
        z = groups["allocations"]["z"].to_numpy().reshape(*shape, -1)
        sizes = np.stack([(z == k).mean(-1) for k in range(K)], axis=-1)
    else:
        return Dataset(out)
    out["sorted_weights"] = ((*SAMPLE, "rank"), -np.sort(-sizes, axis=-1))
    return Dataset(out, coords={"rank": np.arange(K)})


def _attrs(
    tree: xarray.DataTree,
    K: int,
    cluster: str,
    exchangeable: Sequence[Sequence[int]] | None,
) -> dict[str, Any]:
    classes = [range(K)] if exchangeable is None else exchangeable
    observed = tree.children.get("observed_data")
    sites = [] if observed is None else list(observed.data_vars)
    attrs = {
        "n_clusters": K,
        "cluster_dim": cluster,
        "exchangeable": json.dumps([[int(k) for k in members] for members in classes]),
        "inference_method": tree.attrs.get("inference_method", "elsewhere"),
    }
    return attrs | ({"site": str(sites[0])} if len(sites) == 1 else {})
