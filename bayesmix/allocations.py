"""Which cluster each observation is in, draw by draw: sampled from a tree, or read from anywhere.

Lives here: one allocation per posterior draw from exact responsibilities (`allocations`), and the
door through which labels from bayesmix, PyMC, Stan or R come in (`read_labels`). Does not live
here: anything computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesmix.arguments import seed_of
from bayesmix.relabel.blocks import of_tree
from bayesmix.relabel.tree import dataset, shape_of

if TYPE_CHECKING:
    import xarray

BLOCK = 2**22
SAMPLE = ("chain", "draw")


class Labels(NamedTuple):
    """Partitions as plain numbers.

    values : (S, N) int; within each draw clusters are numbered 0, 1, ... by their first member, so
        equal partitions are equal rows. chains : how many chains the S draws are, one after the
        other. rows : the observations' dim and labels.
    """

    values: np.ndarray
    chains: int
    rows: Rows


class Rows(NamedTuple):
    """Name of the observations' dim, and their labels (None: 0, 1, ...)."""

    dim: str
    labels: np.ndarray | None

    def coords(self, *dims: str) -> dict[str, Any]:
        """Coordinates of an array whose dims all run over the observations."""
        return {} if self.labels is None else dict.fromkeys(dims, self.labels)


def allocations(key: Any, tree: xarray.DataTree, *, mixture: Any = None) -> xarray.DataArray:
    """One draw of the assignment z per posterior draw, DataArray (chain, draw, obs_id) of int.

    z_n is drawn from the responsibilities of its draw, so that (z, params) is a draw from the joint
    posterior. The names of the clusters are those of the draw; relabel the tree first where
    they matter (partitions do not depend on them).
    key : JAX random key. mixture : needed only where the responsibilities were too large to store.
    Raises ValueError when the tree has no responsibilities, or some are not finite.
    """
    from xarray import DataArray

    tree, mixture = draws_of(tree, mixture)
    check_tree(tree, "allocations")
    rng = np.random.default_rng(seed_of(key))
    z = np.concatenate([_sample(rng, block) for block in resp_blocks(tree, mixture)])
    posterior, shape = dataset(tree, "posterior"), shape_of(tree)
    names, sizes, coords = _row_dims(tree, z.shape[1])
    coords |= {dim: posterior.coords[dim] for dim in SAMPLE if dim in posterior.coords}
    return DataArray(z.reshape(*shape, *sizes), dims=(*SAMPLE, *names), coords=coords, name="z")


def _sample(rng: np.random.Generator, resp: np.ndarray) -> np.ndarray:
    """Inverse of the cumulative responsibilities at uniform numbers, (S, N, K) -> (S, N)."""
    below = np.cumsum(resp, axis=-1)
    height = rng.random((*below.shape[:-1], 1)) * below[..., -1:]
    return (below <= height).sum(axis=-1, dtype=np.int32)


def draws_of(draws: Any, mixture: Any = None) -> tuple[Any, Any]:
    """Labels or a tree as they are; a result (EM, NUTS, Laplace, ...) gives its tree, made anew at
    each call, and its mixture where the tree holds no responsibilities.
    """
    if not hasattr(draws, "to_datatree"):
        return draws, mixture
    tree = draws.to_datatree()
    stored = "responsibilities" in tree.children
    return tree, mixture if stored else getattr(draws, "mixture", mixture)


def resp_blocks(tree: xarray.DataTree, mixture: Any = None) -> Iterator[np.ndarray]:
    """Responsibilities of the flattened draws in blocks (block, N, K) of bounded memory."""
    for _, block in of_tree(tree, mixture).blocks():
        yield block


def read_labels(draws: Any, key: Any = None, *, mixture: Any = None) -> Labels:
    """Labels from a result, a tree, a DataArray (chain, draw, obs) or an array (draw, obs).

    Labels may start at any number, have gaps, or be text. A tree gives its group `allocations`
    where it has one, else one sampled allocation per draw (needs the key).
    Raises ValueError in one sentence for what cannot be labels.
    """
    from xarray import DataArray, Dataset, DataTree

    draws, mixture = draws_of(draws, mixture)
    if isinstance(draws, DataTree):
        return _from_tree(draws, key, mixture)
    if isinstance(draws, DataArray):
        return _from_dataarray(draws)
    if isinstance(draws, Dataset | dict | str) or draws is None:
        raise ValueError(
            f"draws is {type(draws).__name__}: pass the labels themselves, an array (draw, obs) or "
            "a DataArray (chain, draw, obs), for example idata.posterior['z']"
        )
    try:
        array = np.asarray(draws)
    except ValueError as error:
        raise ValueError(
            "draws has rows of different lengths: labels must be an array (draw, obs)"
        ) from error
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"draws has shape {array.shape}: labels must be an array (draw, obs), one row per "
            "posterior draw, or (chain, draw, obs)"
        )
    chains = len(array) if array.ndim == 3 else 1
    return Labels(_canonical(array.reshape(-1, array.shape[-1])), chains, Rows("obs_id", None))


def _from_tree(tree: Any, key: Any, mixture: Any) -> Labels:
    if "allocations" in tree.children:
        found = list(dataset(tree, "allocations").data_vars.values())
        if len(found) != 1:
            raise ValueError(
                f"the tree's group 'allocations' has {len(found)} variables: keep one, the labels"
            )
        return _from_dataarray(found[0])
    if key is None:
        raise ValueError(
            "the tree has no group 'allocations', and drawing them needs a random key: pass "
            "bm.allocations(key, tree) instead of the tree"
        )
    check_tree(tree, "this function")
    refuse_a_point(tree)
    return _from_dataarray(allocations(key, tree, mixture=mixture))


def _from_dataarray(array: xarray.DataArray) -> Labels:
    if "draw" not in array.dims:
        raise ValueError(
            f"draws has dims {tuple(map(str, array.dims))}: labels need the dims (chain, draw, obs)"
        )
    rows = [dim for dim in array.dims if dim not in SAMPLE]
    if not rows:
        raise ValueError(
            f"draws has dims {tuple(map(str, array.dims))} and none for the observations: labels "
            "need the dims (chain, draw, obs)"
        )
    array = array.transpose(*(dim for dim in SAMPLE if dim in array.dims), *rows)
    chains = array.sizes.get("chain", 1)
    if array.size == 0:
        raise ValueError(f"draws has sizes {dict(array.sizes)}: there are no labels in it")
    values = array.to_numpy().reshape(chains * array.sizes["draw"], -1)
    if len(rows) > 1:
        return Labels(_canonical(values), chains, Rows("obs_id", None))
    known = array.coords[rows[0]].to_numpy() if rows[0] in array.coords else None
    return Labels(_canonical(values), chains, Rows(str(rows[0]), known))


def _canonical(labels: np.ndarray) -> np.ndarray:
    """Clusters of each row numbered by their first member, (S, N) int32."""
    from pandas import factorize

    _check_whole(labels)
    codes = factorize(labels.ravel())[0].reshape(labels.shape)
    if codes.min() < 0:
        s, n = np.argwhere(codes < 0)[0]
        raise ValueError(f"draws has a missing label at draw {s}, observation {n}: drop that draw")
    many = int(codes.max()) + 1
    size = max(1, BLOCK // many)
    return np.concatenate(
        [_by_first_member(codes[s : s + size], many) for s in range(0, len(codes), size)]
    )


def _check_whole(labels: np.ndarray) -> None:
    if labels.dtype.kind in "mMcV":
        raise ValueError(f"draws has dtype {labels.dtype}: labels are whole numbers or text")
    if labels.dtype.kind == "f":
        odd = np.isinf(labels) | (np.isfinite(labels) & (labels != np.round(labels)))
        if odd.any():
            s, n = np.argwhere(odd)[0]
            raise ValueError(
                f"draws has {labels[s, n]:.6g} at draw {s}, observation {n}: labels are whole "
                "numbers or text (for responsibilities pass a tree with that group)"
            )


def _by_first_member(codes: np.ndarray, many: int) -> np.ndarray:
    S, N = codes.shape
    first = np.full((S, many), N, np.int32)
    # of several values for one place NumPy keeps the last, here the first member
    first[np.arange(S)[:, None], codes[:, ::-1]] = np.arange(N - 1, -1, -1, dtype=np.int32)
    order = np.argsort(first, axis=1, kind="stable")
    number = np.empty((S, many), np.int32)
    np.put_along_axis(number, order, np.arange(many, dtype=np.int32)[None], axis=1)
    return np.take_along_axis(number, codes, axis=1)


def read_partition(partition: Any, N: int, what: str = "partition") -> np.ndarray:
    """One partition of N observations, (N,) int, numbered by first members."""
    labels = np.asarray(getattr(partition, "labels", partition))
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"{what} has a missing or infinite label: give one to every observation")
    if labels.shape != (N,):
        raise ValueError(
            f"{what} has shape {labels.shape} but the draws are of {N} observations: give one "
            "label per observation"
        )
    return _canonical(labels[None])[0]


# What the tree says of itself.


def check_tree(tree: Any, name: str) -> None:
    """ValueError unless it is a tree with draws; name : of the function that asks."""
    from xarray import DataTree

    if not isinstance(tree, DataTree):
        raise ValueError(
            f"{name} needs a DataTree, not {type(tree).__name__}: pass result.to_datatree()"
        )
    if "posterior" not in tree.children:
        raise ValueError("the tree has no group 'posterior': pass result.to_datatree()")


def refuse_a_point(tree: Any) -> None:
    """ValueError where a tree has one draw, as EM's."""
    if math.prod(shape_of(tree)) == 1:
        raise ValueError(
            "the tree holds one point, not draws (EM?), so it has no posterior of partitions: pass "
            "the tree of NUTS, or em.laplace(key, draws)"
        )


def rows_of(tree: xarray.DataTree, N: int) -> Rows:
    """The observations of a tree as one dim."""
    names, _, coords = _row_dims(tree, N)
    if len(names) > 1:
        return Rows("obs_id", None)
    return Rows(names[0], coords[names[0]].to_numpy() if names[0] in coords else None)


def _row_dims(
    tree: xarray.DataTree, N: int
) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, Any]]:
    """Names, sizes and coordinates of the observations' dims."""
    for group, behind in (("responsibilities", 1), ("log_likelihood", 0)):
        for array in dataset(tree, group).data_vars.values():
            dims = array.dims[2 : array.ndim - behind]
            sizes = tuple(array.sizes[dim] for dim in dims)
            if math.prod(sizes) == N:
                known = {str(dim): array.coords[dim] for dim in dims if dim in array.coords}
                return tuple(map(str, dims)), sizes, known
    return ("obs_id",), (N,), {}
