"""What relabelling reads from a DataTree: groups, cluster axes, classes, pivots, numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray


def check(tree: Any) -> None:
    """Raises ValueError unless the tree holds draws of a mixture with its classes of clusters."""
    from xarray import DataTree

    if not isinstance(tree, DataTree):
        raise ValueError(
            f"this needs a DataTree, not {type(tree).__name__}: pass result.to_datatree(), or "
            "draws from elsewhere through bm.adopt(...)"
        )
    if "posterior" not in tree.children:
        raise ValueError(
            "the tree has no group 'posterior': pass result.to_datatree(), or draws from elsewhere "
            "through bm.adopt(...)"
        )
    if "exchangeable" not in tree.attrs:
        raise ValueError(
            "the tree has no attribute 'exchangeable', which says what clusters may change places: "
            "pass draws from elsewhere through bm.adopt(...)"
        )


def dataset(tree: xarray.DataTree, group: str) -> xarray.Dataset:
    """One group; an empty one where the tree does not have it."""
    from xarray import Dataset

    found = tree.children.get(group)
    return Dataset() if found is None else found.to_dataset(inherit=False)


def node(data: xarray.Dataset) -> xarray.DataTree:
    """A group made of its data."""
    from xarray import DataTree

    return DataTree(data)


def classes_of(tree: xarray.DataTree, K: int) -> list[tuple[int, ...]]:
    """Clusters that may change places with each other, a partition of range(K)."""
    classes = [tuple(map(int, c)) for c in json.loads(tree.attrs["exchangeable"])]
    if sorted(k for c in classes for k in c) != list(range(K)):
        raise ValueError(
            f"the attribute 'exchangeable' ({tree.attrs['exchangeable']}) must name each of the "
            f"{K} clusters once"
        )
    return classes


def cluster_dim(tree: xarray.DataTree) -> str:
    """Name of the dim along which clusters lie."""
    return str(tree.attrs.get("cluster_dim", "cluster"))


def cluster_axes(tree: xarray.DataTree) -> dict[str, int]:
    """Axis of the clusters in each posterior variable that has one, chain and draw counted."""
    known = json.loads(tree.attrs.get("cluster_axes", "{}"))
    axes = {}
    for name, variable in dataset(tree, "posterior").data_vars.items():
        if known.get(name) is not None:
            axes[str(name)] = 2 + int(known[name])
        elif name not in known and cluster_dim(tree) in variable.dims:
            axes[str(name)] = variable.dims.index(cluster_dim(tree))
    return axes


def observation_weights(tree: xarray.DataTree) -> np.ndarray | None:
    """Weights of the observations, (N,); None where all are 1."""
    constant = dataset(tree, "constant_data")
    if "weights" not in constant:
        return None
    return constant["weights"].to_numpy().reshape(-1).astype(np.float64)


def log_joint(tree: xarray.DataTree) -> np.ndarray | None:
    """(S,) over the flattened draws, -inf where not finite; None where the tree has none."""
    invariant = dataset(tree, "invariant")
    if "log_joint" not in invariant:
        return None
    values = invariant["log_joint"].to_numpy().reshape(-1)
    return np.where(np.isfinite(values), values, -np.inf)


def has_numbers(tree: xarray.DataTree, N: int) -> bool:
    """Whether `observations` can give complete numbers."""
    group = dataset(tree, "observed_data")
    name = tree.attrs.get("site", next(iter(group.data_vars), None))
    if name not in group or group[name].dtype.kind not in "biuf" or group[name].size % N:
        return False
    return bool(np.isfinite(group[name].to_numpy()).all())


def observations(tree: xarray.DataTree, N: int) -> np.ndarray:
    """The observed values as numbers, (N, D)."""
    group = dataset(tree, "observed_data")
    name = tree.attrs.get("site", next(iter(group.data_vars), None))
    if name not in group:
        raise ValueError(
            "method \"data-based\" needs the data: the tree has no group 'observed_data'"
        )
    values = group[name].to_numpy()
    if values.size % N or values.dtype.kind not in "biuf":
        raise ValueError(
            f"the observed values of {name!r} have shape {values.shape} and dtype {values.dtype}: "
            f'method "data-based" needs numbers, {N} rows'
        )
    x = values.reshape(N, -1).astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(
            f'method "data-based" needs complete data, and {name!r} has missing values: use '
            'another method, for example "stephens"'
        )
    return x


def first_numbers(tree: xarray.DataTree, K: int) -> np.ndarray | None:
    """One number per draw and cluster, (S, K), from the first site that has clusters."""
    for name, axis in cluster_axes(tree).items():
        return _by_cluster(tree, "posterior", name, axis, K)[:, :, 0]
    return None


def parameters(tree: xarray.DataTree, K: int) -> np.ndarray:
    """Every parameter of every cluster, (S, K, P)."""
    axes = _some_axes(tree)
    return np.concatenate(
        [_by_cluster(tree, "posterior", name, axis, K) for name, axis in axes.items()], axis=-1
    )


def pivot_parameters(tree: xarray.DataTree, K: int) -> np.ndarray | None:
    """The pivot's parameters in the order of `parameters`, (K, P); None where not stored."""
    axes, group = _some_axes(tree), dataset(tree, "pivot")
    if not all(name in group for name in axes):
        return None
    rows = [np.moveaxis(group[name].to_numpy(), axis - 2, 0) for name, axis in axes.items()]
    return np.concatenate([values.reshape(K, -1) for values in rows], axis=-1)


def numbers_by(tree: xarray.DataTree, by: Any, K: int) -> np.ndarray:
    """The numbers that `by` names, (S, K): a site, or (site, label, ...) where it has more dims."""
    axes = _some_axes(tree)
    site, *labels = (by,) if isinstance(by, str) else tuple(by or ("",))
    if site not in axes:
        choices = ", ".join(map(repr, axes))
        raise ValueError(f"by={by!r} names no site with clusters: use one of {choices}")
    variable = dataset(tree, "posterior")[site]
    others = [d for axis, d in enumerate(variable.dims) if axis not in (0, 1, axes[site])]
    if len(labels) != len(others):
        raise ValueError(
            f"site {site!r} has the dims {others} beside the clusters: say which number orders the "
            f"clusters, by=({site!r}, {', '.join(f'<{d}>' for d in others)})"
        )
    try:
        one = variable.sel(dict(zip(others, labels, strict=True)))
    except KeyError as missing:
        raise ValueError(f"by={by!r}: {missing.args[0]} is no label of {others}") from None
    return one.to_numpy().reshape(-1, K).astype(np.float64)


def _some_axes(tree: xarray.DataTree) -> dict[str, int]:
    axes = cluster_axes(tree)
    if not axes:
        raise ValueError(
            "no site of the posterior has clusters: use a method that looks at the observations, "
            'for example "ecr"'
        )
    return axes


def _by_cluster(tree: xarray.DataTree, group: str, name: str, axis: int, K: int) -> np.ndarray:
    """One site as (S, K, P)."""
    values = np.moveaxis(dataset(tree, group)[name].to_numpy(), axis, 2)
    return values.reshape(values.shape[0] * values.shape[1], K, -1).astype(np.float64)


def permuted(data: xarray.Dataset, axes: dict[str, int], perm: np.ndarray) -> xarray.Dataset:
    """`data` with new cluster k = old cluster perm[chain, draw, k] along each axis."""
    new = data.copy()
    for name, axis in axes.items():
        values = data[name].to_numpy()
        shape = [1] * values.ndim
        shape[0], shape[1], shape[axis] = perm.shape
        new[name] = data[name].copy(data=np.take_along_axis(values, perm.reshape(shape), axis=axis))
    return new


def renamed(labels: xarray.DataArray, perm: np.ndarray) -> xarray.DataArray:
    """Allocations (chain, draw, ...) under the new names: old cluster j is new argsort(perm)[j]."""
    values = labels.to_numpy()
    flat = values.reshape(*values.shape[:2], -1)
    new = np.take_along_axis(np.argsort(perm, axis=-1), flat, axis=-1)
    return labels.copy(data=new.reshape(values.shape))


def shape_of(tree: xarray.DataTree) -> tuple[int, int]:
    """Chains and draws."""
    sizes: Any = dataset(tree, "posterior").sizes
    if "chain" in sizes and "draw" in sizes:
        return int(sizes["chain"]), int(sizes["draw"])
    sizes = dataset(tree, "responsibilities").sizes or dataset(tree, "allocations").sizes
    return int(sizes["chain"]), int(sizes["draw"])
