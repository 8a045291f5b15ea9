"""What a pass works on: rows in chunks that stay in the cache, and how long a chunk is."""

from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from bayesmix.device import platform
from bayesmix.families import Family, kernel

# Bytes of scores and features of one chunk: what the second-level cache holds. An accelerator has
# thousands of cores to keep busy, and memory that is fast throughout.
CACHED, BUSY = 2**18, 2**29
SHORTEST, LONGEST = 256, 4096
LANES = 16  # rows of a chunk come in multiples, for the vector units


class Statistics(NamedTuple):
    """Expected sufficient statistics in the sweep's coordinates: mass (K,), features (K, F)."""

    mass: jax.Array
    features: jax.Array


class Rows(NamedTuple):
    """The data of a sweep: z = (x - shift) / scale in chunks (C, D, n), row weights (C, n).

    ``base`` is the part of the log likelihood that no parameter enters: sum_n w_n (log h(x_n)
    - sum of log scale). ``shared``: weighted sum of the features whose natural parameters are the
    same for every cluster, or None. ``place``, ``counts``: for each row of the data, its slot in
    the chunks and its weight, where repeated rows were merged or rows were put in another order,
    else None. ``patterns`` (P, D): which columns were observed, and ``group`` (C,) the pattern of
    each chunk, where cells of multivariate normal rows are missing; eta and offset then have a
    leading axis of P, and so have the statistics. ``plain``: () where every weight is 1 (0 for
    padding) whatever the values, which shortens the pass; else None.
    """

    z: Any
    weights: Any
    shift: Any
    scale: Any
    base: Any
    shared: Any = None
    place: Any = None
    counts: Any = None
    patterns: Any = None
    group: Any = None
    plain: tuple[()] | None = None


def at_hand(rows: Any) -> Any:
    """Rows as JAX arrays; on a CPU those that are aligned stay where they are.

    Arrays of JAX are not touched: other processes may hold a part of them.
    """
    leaves, tree = jax.tree.flatten(rows)
    fresh = iter(jax.device_put([np.asarray(a) for a in leaves if not isinstance(a, jax.Array)]))
    return jax.tree.unflatten(
        tree, [a if isinstance(a, jax.Array) else next(fresh) for a in leaves]
    )


def chunk_rows(family: Family, D: int, K: int, dtype: str) -> int:
    """Rows whose scores and features fill the cache, a power of 2 within limits; or many."""
    row = (K + count_statistics(family, D)) * np.dtype(dtype).itemsize
    if platform() != "cpu":
        return int(max(1 << ((BUSY // row).bit_length() - 1), SHORTEST))
    return int(np.clip(1 << max((CACHED // row).bit_length() - 1, 0), SHORTEST, LONGEST))


@cache
def count_statistics(family: Family, D: int) -> int:
    """Statistics of one cluster, its mass among them."""
    resp, z = jax.ShapeDtypeStruct((1, 1), np.float32), jax.ShapeDtypeStruct((D, 1), np.float32)
    return jax.eval_shape(kernel(family).complete, resp, z).shape[1]
