"""Observed values laid out for the sweep: in chunks, merged, or shared out among devices."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bayesmix.families import Family
from bayesmix.families.partial import patterned
from bayesmix.merge import Merged
from bayesmix.sweep.patterns import by_pattern
from bayesmix.sweep.rows import LANES, Rows, chunk_rows
from bayesmix.sweep.standard import centre, jacobian

ALIGNMENT = 64  # bytes, of arrays that XLA takes over without a copy


def rows_of(
    x: np.ndarray,
    weights: np.ndarray | None,
    family: Family,
    K: int,
    dtype: str,
    devices: int = 1,
) -> Rows:
    """Lay observed values (N, D) out for the sweep; padding rows have weight 0.

    NaN cells stay NaN, which the family knows how to read. Each of ``devices`` gets a chunk.
    """
    N = len(x)
    w = np.ones(N) if weights is None else np.asarray(weights, np.float64)
    counted = w > 0
    some = slice(None) if counted.all() or not counted.any() else counted
    shift, scale = centre(x[some], w[some], family)
    if patterned(family):
        return by_pattern(x, w, shift, scale, family, K, dtype)
    share = -(-N // (devices * LANES)) * LANES
    chunks = max(1, -(-N // min(chunk_rows(family, x.shape[1], K, dtype), share)))
    size = -(-N // (chunks * LANES)) * LANES  # all of one size, so that few rows are padding
    z = _aligned((chunks, x.shape[1], size), dtype)
    for number in range(chunks):
        rows = slice(number * size, min(N, (number + 1) * size))
        block = z[number, :, : rows.stop - rows.start]
        np.subtract(x[rows].T, shift[:, None], out=block, casting="same_kind")
        block /= scale[:, None]
        block[:, ~counted[rows]] = 0.0
    padded = _aligned((chunks, size), dtype)
    padded.reshape(-1)[:N] = w
    laid_out = Rows(z, padded, shift, scale, jacobian(x, w, scale))
    return laid_out._replace(plain=() if weights is None else None)


def _aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Zeros where XLA can read them as they lie, so that rows are not held twice."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def merged_rows(merged: Merged, family: Family, K: int, dtype: str) -> Rows:
    """``rows_of`` distinct rows, padded so that data sets with other counts share code."""
    M, D = merged.x.shape
    size = max(64, 1 << (M - 1).bit_length())
    x, weights = np.zeros((size, D)), np.zeros(size)
    x[:M], weights[:M] = merged.x, merged.weights
    rows = rows_of(x, weights, family, K, dtype)
    place = merged.place if rows.place is None else rows.place[merged.place]
    return rows._replace(place=place, counts=merged.counts)


def sharded(rows: Rows, mesh: Any) -> Rows:
    """The rows shared out among the devices of a mesh: chunks (devices, C, D, n).

    A pass is then the sum of one pass on each device; only statistics travel.
    """
    shares = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))

    def share(array: np.ndarray) -> jax.Array:
        padding = np.zeros((-len(array) % mesh.size, *array.shape[1:]), array.dtype)
        parts = np.concatenate([array, padding]).reshape(mesh.size, -1, *array.shape[1:])
        return jax.make_array_from_callback(parts.shape, shares, lambda index: parts[index])

    return rows._replace(z=share(rows.z), weights=share(rows.weights))
