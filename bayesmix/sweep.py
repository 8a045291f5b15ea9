"""The pass over the data, shared by EM and NUTS.

For an exponential family one pass gives the log likelihood, sum_n w_n logsumexp_k score_nk with
score = <T(x_n), eta_k> + offset_k, and its gradient, the expected statistics (Fisher's identity):

    mass_k = sum_n w_n r_nk            features_k = sum_n w_n r_nk T(x_n)

Rows are taken in chunks laid out (columns, rows) that stay in the cache; memory is the data plus
O(chunk x (K + F)), and no N x K array is made. The offset enters the product, and the mass comes
out of it, by a feature that is 1. Where all clusters share one scale, the squares of the data carry
no information about the clusters: their sum is taken once and the pass does without them.

The precision of the pass is that of ``Rows.z``; sums over chunks are taken in that of the params.
``log_likelihood`` carries its gradient in closed form, so differentiating it costs no second pass.
"""

import math
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bayesmix.arguments import on_host
from bayesmix.blocks import Blocks
from bayesmix.device import on_cpu, platform
from bayesmix.families import Family, Linear, kernel, linear
from bayesmix.families.partial import patterned, patterned_columns
from bayesmix.merge import Merged

# Bytes of scores and features of one chunk: what the second-level cache holds. An accelerator has
# thousands of cores to keep busy, and memory that is fast throughout.
CACHED, BUSY = 2**18, 2**29
SHORTEST, LONGEST = 256, 4096
CHUNK_COST = 64  # what one more chunk costs, in rows
FOLDS = {"float64": 4, "float32": 3}  # products of 16 numbers up to 1e19, of 8 up to 5e4
ALIGNMENT = 64  # bytes, of arrays that XLA takes over without a copy
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
    shift, scale = _centre(x[some], w[some], family)
    if patterned(family):
        return _by_pattern(x, w, shift, scale, family, K, dtype)
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
    laid_out = Rows(z, padded, shift, scale, _jacobian(x, w, scale))
    return laid_out._replace(plain=() if weights is None else None)


def _aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Zeros where XLA can read them as they lie, so that rows are not held twice."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def at_hand(rows: Any) -> Any:
    """Rows as JAX arrays; on a CPU those that are aligned stay where they are.

    Arrays of JAX are not touched: other processes may hold a part of them.
    """
    leaves, tree = jax.tree.flatten(rows)
    fresh = iter(jax.device_put([np.asarray(a) for a in leaves if not isinstance(a, jax.Array)]))
    return jax.tree.unflatten(
        tree, [a if isinstance(a, jax.Array) else next(fresh) for a in leaves]
    )


def _jacobian(x: np.ndarray, w: np.ndarray, scale: np.ndarray) -> float:
    """The log determinant of the standardisation, over the cells that were observed."""
    if not np.isnan(x).any():
        return -float(w.sum() * np.log(scale).sum())
    return -float(w @ (~np.isnan(x) @ np.log(scale)))


def _by_pattern(
    x: np.ndarray,
    w: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
    family: Family,
    K: int,
    dtype: str,
) -> Rows:
    """Rows sorted by their pattern of missing cells, every chunk of one pattern.

    Missing cells of multivariate normals are 0, those of other columns stay NaN.
    """
    matrix = patterned_columns(family, x.shape[1])
    seen = ~np.isnan(x) | ~matrix
    patterns, member = np.unique(seen, axis=0, return_inverse=True)
    member = member.reshape(-1)
    sizes = np.bincount(member, minlength=len(patterns))
    size = _fitting(sizes, chunk_rows(family, x.shape[1], K, dtype))
    chunks = -(-sizes // size)
    begin = np.concatenate([[0], np.cumsum(chunks * size)])[:-1]
    order = np.argsort(member, kind="stable")
    rank = np.empty(len(x), np.int64)
    rank[order] = np.arange(len(x)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = begin[member] + rank
    z = np.zeros((int(chunks.sum()) * size, x.shape[1]), dtype)
    standard = np.where((w > 0)[:, None], (x - shift) / scale, 0.0)
    z[place] = np.where(matrix & np.isnan(standard), 0.0, standard)
    weights = np.zeros(len(z), dtype)
    weights[place] = w
    return Rows(
        np.ascontiguousarray(z.reshape(-1, size, x.shape[1]).transpose(0, 2, 1)),
        weights.reshape(-1, size),
        shift,
        scale,
        _jacobian(x, w, scale),
        place=place.astype(np.int32),
        counts=w,
        patterns=patterns,
        group=np.repeat(np.arange(len(patterns), dtype=np.int32), chunks),
    )


def _fitting(sizes: np.ndarray, most: int) -> int:
    """Rows of a chunk, so that padding and the number of chunks together cost least."""
    options = [LANES << i for i in range(int(np.log2(max(most // LANES, 1))) + 1)]
    return min(options, key=lambda size: int((-(-sizes // size) * (size + CHUNK_COST)).sum()))


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


def merged_rows(merged: Merged, family: Family, K: int, dtype: str) -> Rows:
    """The same for distinct rows, padded so that data sets with other counts share code."""
    M, D = merged.x.shape
    size = max(64, 1 << (M - 1).bit_length())
    x, weights = np.zeros((size, D)), np.zeros(size)
    x[:M], weights[:M] = merged.x, merged.weights
    rows = rows_of(x, weights, family, K, dtype)
    place = merged.place if rows.place is None else rows.place[merged.place]
    return rows._replace(place=place, counts=merged.counts)


@jax.tree_util.register_static
class Streamed:
    """Stands in ``Rows.z`` for rows that are read from Blocks at every pass; size as a chunk."""

    def __init__(self, blocks: Blocks, shift: Any, scale: Any, size: int, dtype: str) -> None:
        self.blocks, self.shift, self.scale = blocks, shift, scale
        self.size, self.dtype = size, np.dtype(dtype)
        self.largest = np.inf  # |z|
        self.shape = (-(-len(blocks) // size), int(np.prod(blocks.shape[1:])), size)


@on_cpu()
def streamed_rows(blocks: Blocks, family: Family, K: int, dtype: str, tied: bool) -> Rows:
    """The rows of Blocks; what needs all of them is gathered in one pass, or two if ``tied``.

    Blocks are added up on the host, where they are read: on an accelerator, the compiled code that
    asks for a block would hold up the code that adds it up.
    """
    shift, variance, low, high = moments(blocks)
    if family.location_scale:
        spread = _spread(np.sqrt(variance), family)
    else:
        shift, spread = np.zeros_like(shift), np.ones_like(shift)
    stream = Streamed(blocks, shift, spread, chunk_rows(family, len(shift), K, dtype), dtype)
    stream.largest = float(np.max(np.maximum(abs(low - shift), abs(high - shift)) / spread))
    rows = Rows(stream, np.ones(()), shift, spread, 0.0)
    base, squares = -len(blocks) * float(np.log(spread).sum()), np.zeros(())
    for block in blocks:
        chunks = _laid_out(rows.z, block)
        base += float(_block_base(family, chunks, shift, spread))
        squares = squares + np.asarray(_block_squares(family, chunks)) if tied else squares
    return rows._replace(base=base, shared=jnp.asarray(squares) if tied else None)


def moments(blocks: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance, minimum and maximum of each column, in one pass.

    Source: Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance, The
    American Statistician 37, eq. 2.1.
    """
    count, mean, square, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    for block in blocks:
        x = np.asarray(block, np.float64).reshape(len(block), -1)
        middle = x.mean(0)
        total = count + len(x)
        step = middle - mean
        square = square + ((x - middle) ** 2).sum(0) + step**2 * (count * len(x) / total)
        mean = mean + step * (len(x) / total)
        low, high = np.minimum(low, x.min(0)), np.maximum(high, x.max(0))
        count = total
    return np.asarray(mean), np.asarray(square / count), np.asarray(low), np.asarray(high)


def largest(z: Any) -> Any:
    """The largest |z|."""
    return z.largest if isinstance(z, Streamed) else jnp.nanmax(jnp.abs(z))


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


def _centre(x: np.ndarray, w: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of each column; 0 and 1 without location.

    Medians for a robust family: with outliers the mean may be far from every cluster.
    """
    D = x.shape[1]
    if not family.location_scale:
        return np.zeros(D), np.ones(D)
    if w.sum() == 0:
        x, w = np.zeros((1, D)), np.ones(1)
    if np.isnan(x).any():
        return _centre_of_observed(x, w, family)
    if family.robust and len(x):
        centre = np.median(x, 0)
        deviation = np.median(np.abs(x - centre), 0)
        if (deviation > 0).all():
            return centre, deviation
    total = w.sum()
    shift = sum(part_w @ part for part, part_w in _parts(x, w)) / total
    spread = np.sqrt(sum(part_w @ (part - shift) ** 2 for part, part_w in _parts(x, w)) / total)
    return _moved(shift, spread, family)


def _centre_of_observed(
    x: np.ndarray, w: np.ndarray, family: Family
) -> tuple[np.ndarray, np.ndarray]:
    """The same from the cells that are not NaN."""
    seen = ~np.isnan(x)
    total = np.maximum(w @ seen, np.finfo(float).tiny)
    shift = (w @ np.where(seen, x, 0.0)) / total
    spread = np.sqrt((w @ np.where(seen, x - shift, 0.0) ** 2) / total)
    return _moved(shift, spread, family)


def _moved(shift: np.ndarray, spread: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of the columns that may be moved."""
    D = len(shift)
    moved = np.broadcast_to(family.location_scale, D)  # a product says it column by column
    return np.where(moved, shift, 0.0), np.where(moved, _spread(spread, family), 1.0)


def _spread(spread: np.ndarray, family: Family) -> np.ndarray:
    """Standard deviations to divide by: 1 for constant columns, one for all if isotropic."""
    spread = np.where(spread > 0, spread, 1.0)
    return np.full_like(spread, np.sqrt(np.mean(spread**2))) if family.isotropic else spread


def _parts(x: np.ndarray, w: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and weights piece by piece, in one layout, so that sums round alike for all layouts."""
    for start in range(0, len(x), 65536):
        some = slice(start, start + 65536)
        yield np.ascontiguousarray(x[some], np.float64), w[some]


def total_base(family: Family, rows: Rows) -> jax.Array:
    """sum_n w_n log h(x_n), with the Jacobian of the standardisation, in nats."""

    def part(z: jax.Array, w: jax.Array) -> jax.Array:
        x = rows.shift[:, None] + rows.scale[:, None] * z
        return jnp.sum(w * jax.vmap(family.base)(x))

    z, w = jnp.asarray(rows.z, float), jnp.asarray(rows.weights, float)
    return rows.base + _over_devices(part, z, w)


def total_squares(family: Family, rows: Rows) -> jax.Array:
    """Weighted sum over all rows of the features beyond the linear ones, (F - D,)."""

    def chunk(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        z, w = (part.astype(total.dtype) for part in block)
        return total + family.features(z)[1 + z.shape[0] :] @ w, None

    def part(z: jax.Array, w: jax.Array) -> jax.Array:
        F = jax.eval_shape(family.features, z[0]).shape[0]
        return jax.lax.scan(chunk, jnp.zeros(F - 1 - z.shape[1]), (z, w))[0]

    return _over_devices(part, jnp.asarray(rows.z), jnp.asarray(rows.weights))


def scan_rows(family: Family, eta: Any, offset: Any, rows: Rows) -> tuple[jax.Array, Statistics]:
    """Log likelihood (without the base) and expected statistics in one pass over the rows."""
    if rows.group is not None:
        return _scan_patterns(family.features, eta, offset, rows)
    if rows.shared is None:
        return _scan(kernel(family), eta, offset, rows)
    D = rows.z.shape[-2]
    value, own = _scan(Linear(linear), eta[:, :D], offset, rows)
    share = own.mass / jnp.where(own.mass.sum() > 0, own.mass.sum(), 1.0)
    features = jnp.concatenate([own.features, share[:, None] * rows.shared], axis=1)
    return value + eta[0, D:] @ rows.shared, Statistics(own.mass, features)


def _scan(by: Any, eta: Any, offset: Any, rows: Rows) -> tuple[jax.Array, Statistics]:
    """One pass over the rows, scored ``by`` a kernel."""
    full = jnp.concatenate([offset[:, None], eta], axis=1)
    if isinstance(rows.z, Streamed):
        value, total = _streamed(by, full, rows)
        return value, Statistics(total[:, 0], total[:, 1:])
    z, w = jnp.asarray(rows.z), jnp.asarray(rows.weights)
    # Eigen is a third faster at a product whose result has its long side first.
    turned = full.shape[1] >= 2 * full.shape[0]
    plain = rows.plain is not None

    def own_part(z: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        if isinstance(by, Linear) and full.shape[1] < full.shape[0]:
            # Fewer features than clusters: these are divided, instead of the responsibilities.
            T = by.features(z)
            value, resp, factor = _unnormalised(full.astype(z.dtype) @ T, w, plain)
            return value, resp @ (T * factor).T
        score, collect = by.scores(full, z)
        value, resp, factor = _unnormalised(score, w, plain)
        return value, collect(resp * factor)

    def chunk(carry: Any, block: Any) -> tuple[Any, None]:
        value, own = own_part(*block)
        own = own.astype(full.dtype)
        return (carry[0] + value.astype(full.dtype), carry[1] + (own.T if turned else own)), None

    def part(z: jax.Array, w: jax.Array) -> Any:
        start = (jnp.zeros((), full.dtype), jnp.zeros_like(full.T if turned else full))
        if z.shape[0] == 1:
            return chunk(start, (z[0], w[0]))[0]
        return jax.lax.scan(chunk, start, (z, w))[0]

    value, total = _over_devices(part, z, w)
    total = total.T if turned else total
    return value, Statistics(total[:, 0], total[:, 1:])


def _scan_patterns(features: Any, eta: Any, offset: Any, rows: Rows) -> tuple[Any, Statistics]:
    """``_scan`` with the coefficients (P, K, 1 + F) of each chunk's pattern."""
    full = jnp.concatenate([offset[..., None], eta], axis=-1)
    coefficients = full.astype(rows.z.dtype)

    def chunk(carry: Any, block: Any) -> tuple[Any, None]:
        z, w, group = block
        T = features(z)
        value, resp = _softmax(coefficients[group] @ T, w)
        total = carry[1].at[group].add((resp @ T.T).astype(full.dtype))
        return (carry[0] + value.astype(full.dtype), total), None

    start = (jnp.zeros((), full.dtype), jnp.zeros_like(full))
    blocks = jnp.asarray(rows.z), jnp.asarray(rows.weights), jnp.asarray(rows.group)
    (value, total), _ = jax.lax.scan(chunk, start, blocks)
    return value, Statistics(total[..., 0], total[..., 1:])


def _over_devices(part: Any, *chunks: jax.Array) -> Any:
    """``part`` of chunks (C, ...); of (devices, C, ...), every device its own, the sum of all."""
    if chunks[-1].ndim == 2 or chunks[0].ndim == 3:
        return part(*chunks)
    return jax.tree.map(lambda each: each.sum(0), jax.vmap(part)(*chunks))


def _streamed(by: Any, full: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """The same pass over blocks that are read as it goes, by a call from compiled code.

    Numbers cross as their bits: JAX makes the call in a thread of its own, without float64.
    """
    stream = rows.z
    dtype, (K, F) = np.dtype(full.dtype), full.shape
    bits = jax.eval_shape(_bits, jax.ShapeDtypeStruct((1 + K * F,), dtype))

    def read(given: Any) -> np.ndarray:
        coefficients = np.asarray(given).view(dtype).reshape(K, F)
        sums = np.zeros(1 + K * F, dtype)
        with on_cpu(), jax.enable_x64(dtype == np.float64):
            for block in stream.blocks:
                laid_out = _laid_out(stream, block)
                sums += np.asarray(_block(by, coefficients, laid_out))
        return sums.view(np.uint32).reshape(bits.shape)

    found = jax.pure_callback(read, bits, _bits(full), vmap_method="sequential")
    sums = jax.lax.bitcast_convert_type(found, dtype)
    return sums[0], sums[1:].reshape(K, F)


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


@partial(jax.jit, static_argnums=0)
def _block(by: Any, full: jax.Array, chunks: tuple[jax.Array, jax.Array]) -> Any:
    """Value and statistics of one block in one vector."""
    value, (mass, total) = _scan(by, full[:, 1:], full[:, 0], _unscaled(*chunks))
    return jnp.concatenate([value[None], jnp.concatenate([mass[:, None], total], axis=1).ravel()])


def _unscaled(z: jax.Array, weights: jax.Array) -> Rows:
    return Rows(z, weights, None, None, 0.0, plain=())


def _laid_out(stream: Streamed, block: np.ndarray) -> Any:
    """A block as chunks z (C, D, n) with row weights (C, n)."""
    x = block.reshape(len(block), -1)
    return _chunks(stream.size, stream.dtype.name, x, stream.shift, stream.scale)


@partial(jax.jit, static_argnums=(0, 1))
def _chunks(size: int, dtype: str, x: jax.Array, shift: Any, scale: Any) -> Any:
    N, D = x.shape
    C = -(-N // size)
    z = jnp.pad((x - shift) / scale, ((0, C * size - N), (0, 0))).astype(dtype)
    weights = (jnp.arange(C * size) < N).astype(dtype)
    return z.reshape(C, size, D).transpose(0, 2, 1), weights.reshape(C, size)


@partial(jax.jit, static_argnums=0)
def _block_base(family: Family, chunks: Any, shift: Any, scale: Any) -> jax.Array:
    return total_base(family, _unscaled(*chunks)._replace(shift=shift, scale=scale))


@partial(jax.jit, static_argnums=0)
def _block_squares(family: Family, chunks: Any) -> jax.Array:
    return total_squares(family, _unscaled(*chunks))


def _softmax(score: jax.Array, w: jax.Array, plain: bool = False) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of logsumexp over clusters, and the weighted responsibilities (K, n)."""
    value, resp, factor = _unnormalised(score, w, plain)
    return value, resp * factor


def _unnormalised(
    score: jax.Array, w: jax.Array, plain: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``_softmax``, its responsibilities as (K, n) times a factor for each row, (n,).

    ``plain`` : the weights are 1, or 0.
    """
    limits = jnp.finfo(score.dtype)
    top = jnp.clip(score.max(0), limits.min, limits.max)
    unnormalised = jnp.exp(score - top)
    total = (
        jnp.ones_like(score[:, 0]) @ unnormalised
    )  # a product runs on vector units; sum does not
    if plain:
        value = w @ top + _sum_of_logs(jnp.where(w > 0, total, 1.0))
    else:
        value = jnp.where(w > 0, w * (top + jnp.log(total)), 0.0).sum()
    return value, unnormalised, jnp.where(total > 0, w / total, 0.0)


def _sum_of_logs(totals: jax.Array) -> jax.Array:
    """Sum of the logarithms of numbers from 1 to K, (n,), by that of products of a few of them."""
    for _ in range(FOLDS[totals.dtype.name]):
        totals = totals[: len(totals) // 2] * totals[len(totals) // 2 :]
    return jnp.log(totals).sum()


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_likelihood(family: Family, eta: Any, offset: Any, rows: Rows) -> jax.Array:
    """sum_n w_n logsumexp_k (<T(x_n), eta_k> + offset_k), without the base, in nats.

    eta (K, F) and offset = log w - A (K,). Differentiable once, in eta and offset.
    """
    return scan_rows(family, eta, offset, rows)[0]


def _forward(family: Family, eta: Any, offset: Any, rows: Rows) -> tuple[Any, Any]:
    return scan_rows(family, eta, offset, rows)


def _backward(family: Family, statistics: Statistics, g: Any) -> tuple[Any, Any, None]:
    return g * statistics.features, g * statistics.mass, None


log_likelihood.defvjp(_forward, _backward)


def responsibilities_of(family: Family, eta: Any, offset: Any, rows: Rows) -> jax.Array:
    """Responsibilities (n, K) of the rows, in their order; padding rows follow at the end."""
    D = rows.z.shape[-2]
    if rows.group is not None:
        return jax.nn.softmax(scores_by_pattern(family, eta, offset, rows), -1)
    by, used = (kernel(family), eta) if rows.shared is None else (Linear(linear), eta[:, :D])
    full = jnp.concatenate([offset[:, None], used], axis=1)
    resp = jax.lax.map(
        lambda some: jax.nn.softmax(by.scores(full, some)[0], axis=0).T, jnp.asarray(rows.z)
    )
    return resp.reshape(-1, offset.shape[0])


def scores_by_pattern(family: Family, eta: Any, offset: Any, rows: Rows) -> jax.Array:
    """<T(x_n), eta_k> + offset_k of every row, in the order of the data, (N, K)."""
    full = jnp.concatenate([offset[..., None], eta], axis=-1).astype(rows.z.dtype)
    blocks = jnp.asarray(rows.z), jnp.asarray(rows.group)
    scores = jax.lax.map(lambda block: (full[block[1]] @ family.features(block[0])).T, blocks)
    return scores.reshape(-1, offset.shape[-1])[rows.place]


def statistics_of(family: Family, resp: Any, rows: Rows) -> Statistics:
    """Statistics under given responsibilities (N, K), for a start at the M-step."""
    *chunks, _, size = rows.z.shape
    slots = jnp.zeros((math.prod(chunks) * size, resp.shape[1]), resp.dtype)
    if rows.place is None:
        slots = slots.at[: resp.shape[0]].set(resp) * jnp.asarray(rows.weights).reshape(-1, 1)
    else:
        slots = slots.at[rows.place].add(resp * rows.counts[:, None])

    if rows.group is not None:
        return _statistics_by_pattern(family, slots.reshape(*chunks, size, -1), rows)

    def chunk(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        z, r = block
        return total + kernel(family).complete(r.T, z), None

    def part(z: jax.Array, slots: jax.Array) -> jax.Array:
        F = count_statistics(family, z.shape[1])
        return jax.lax.scan(chunk, jnp.zeros((resp.shape[1], F), resp.dtype), (z, slots))[0]

    total = _over_devices(part, jnp.asarray(rows.z), slots.reshape(*chunks, size, -1))
    return Statistics(total[:, 0], total[:, 1:])


def _statistics_by_pattern(family: Family, slots: jax.Array, rows: Rows) -> Statistics:
    """``statistics_of``, by pattern, from weighted responsibilities by chunk (C, n, K)."""

    def chunk(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        z, r, group = block
        return total.at[group].add(r.T @ family.features(z).T.astype(r.dtype)), None

    F = jax.eval_shape(family.features, rows.z[0]).shape[0]
    start = jnp.zeros((len(rows.patterns), slots.shape[-1], F), slots.dtype)
    blocks = jnp.asarray(rows.z), slots, jnp.asarray(rows.group)
    total = jax.lax.scan(chunk, start, blocks)[0]
    return Statistics(total[..., 0], total[..., 1:])


def whitening(rows: Rows) -> np.ndarray:
    """Upper triangular R (D, D) with R'R the weighted covariance of z, by QR of its chunks.

    Squares are never taken, so that variances of 1e-20 of the largest are still seen.
    """
    total = sum(w.sum() for _, w in _standardised(rows))
    mean = sum(w @ z for z, w in _standardised(rows)) / total
    upper = np.zeros((0, len(mean)))
    for z, w in _standardised(rows):
        stacked = np.concatenate([upper, (z - mean) * np.sqrt(w / total)[:, None]])
        upper = np.asarray(np.linalg.qr(stacked, mode="r"))
    return upper


def _standardised(rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Standardised rows (n, D) and their weights (n,), some thousands at a time."""
    if isinstance(rows.z, Streamed):
        for block in rows.z.blocks:
            x = np.asarray(block, np.float64).reshape(len(block), -1)
            yield (x - rows.z.shift) / rows.z.scale, np.ones(len(x))
        return
    chunks, weights = np.nan_to_num(on_host(rows.z)), on_host(rows.weights)
    for number in range(0, len(chunks), 64):
        z = np.asarray(chunks[number : number + 64], np.float64)
        w = np.asarray(weights[number : number + 64], np.float64)
        yield np.moveaxis(z, -2, -1).reshape(-1, z.shape[-2]), w.reshape(-1)
