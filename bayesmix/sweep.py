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

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.families import Family, linear
from bayesmix.merge import Merged

CACHED = 2**17  # bytes of scores and features of one chunk: what the second-level cache holds
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
    the chunks and its weight, where repeated rows were merged, else None.
    """

    z: Any
    weights: Any
    shift: Any
    scale: Any
    base: Any
    shared: Any = None
    place: Any = None
    counts: Any = None


def rows_of(x: np.ndarray, weights: np.ndarray | None, family: Family, K: int, dtype: str) -> Rows:
    """Lay observed values (N, D) out for the sweep; padding rows have weight 0."""
    N = len(x)
    w = np.ones(N) if weights is None else np.asarray(weights, np.float64)
    counted = w > 0
    some = slice(None) if counted.all() or not counted.any() else counted
    shift, scale = _centre(x[some], w[some], family)
    size = min(chunk_rows(family, x.shape[1], K, dtype), -(-N // LANES) * LANES)
    chunks = max(1, -(-N // size))
    z = np.zeros((chunks, x.shape[1], size), dtype)
    for number in range(chunks):
        rows = slice(number * size, min(N, (number + 1) * size))
        block = np.where(counted[rows, None], (x[rows] - shift) / scale, 0.0)
        z[number, :, : len(block)] = block.T
    padded = np.zeros(chunks * size, dtype)
    padded[:N] = w
    base = -float(w.sum() * np.log(scale).sum())
    return Rows(z, padded.reshape(chunks, size), shift, scale, base)


def merged_rows(merged: Merged, family: Family, K: int, dtype: str) -> Rows:
    """The same for distinct rows, padded so that data sets with other counts share code."""
    M, D = merged.x.shape
    size = max(64, 1 << (M - 1).bit_length())
    x, weights = np.zeros((size, D)), np.zeros(size)
    x[:M], weights[:M] = merged.x, merged.weights
    rows = rows_of(x, weights, family, K, dtype)
    return rows._replace(place=merged.place, counts=merged.counts)


def chunk_rows(family: Family, D: int, K: int, dtype: str) -> int:
    """Rows whose scores and features fill ``CACHED`` bytes, a power of 2 within limits."""
    F = jax.eval_shape(family.features, jax.ShapeDtypeStruct((D, 1), np.float32)).shape[0]
    fitting = CACHED // ((K + F) * np.dtype(dtype).itemsize)
    return int(np.clip(1 << max(fitting.bit_length() - 1, 0), SHORTEST, LONGEST))


def _centre(x: np.ndarray, w: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of each column; 0 and 1 without location."""
    D = x.shape[1]
    if not family.location_scale:
        return np.zeros(D), np.ones(D)
    total = w.sum()
    if total == 0:
        x, w, total = np.zeros((1, D)), np.ones(1), 1.0
    shift = sum(part_w @ part for part, part_w in _parts(x, w)) / total
    spread = np.sqrt(sum(part_w @ (part - shift) ** 2 for part, part_w in _parts(x, w)) / total)
    spread = np.where(spread > 0, spread, 1.0)
    if family.isotropic:
        return shift, np.full(D, np.sqrt(np.mean(spread**2)))
    moved = np.broadcast_to(family.location_scale, D)  # a product says it column by column
    return np.where(moved, shift, 0.0), np.where(moved, spread, 1.0)


def _parts(x: np.ndarray, w: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and weights piece by piece, in one layout, so that sums round alike for all layouts."""
    for start in range(0, len(x), 65536):
        some = slice(start, start + 65536)
        yield np.ascontiguousarray(x[some], np.float64), w[some]


def total_base(family: Family, rows: Rows) -> jax.Array:
    """sum_n w_n log h(x_n), with the Jacobian of the standardisation, in nats."""
    z, w = jnp.asarray(rows.z, float), jnp.asarray(rows.weights, float)
    return rows.base + jnp.sum(w * jax.vmap(family.base)(z))


def total_squares(family: Family, rows: Rows) -> jax.Array:
    """Weighted sum over all rows of the features beyond the linear ones, (F - D,)."""

    def chunk(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        z, w = (part.astype(total.dtype) for part in block)
        return total + family.features(z)[1 + z.shape[0] :] @ w, None

    z, w = jnp.asarray(rows.z), jnp.asarray(rows.weights)
    F = jax.eval_shape(family.features, z[0]).shape[0]
    return jax.lax.scan(chunk, jnp.zeros(F - 1 - z.shape[1]), (z, w))[0]


def scan_rows(family: Family, eta: Any, offset: Any, rows: Rows) -> tuple[jax.Array, Statistics]:
    """Log likelihood (without the base) and expected statistics in one pass over the rows."""
    if rows.shared is None:
        return _scan(family.features, eta, offset, rows)
    D = rows.z.shape[1]
    value, own = _scan(linear, eta[:, :D], offset, rows)
    share = own.mass / jnp.where(own.mass.sum() > 0, own.mass.sum(), 1.0)
    features = jnp.concatenate([own.features, share[:, None] * rows.shared], axis=1)
    return value + eta[0, D:] @ rows.shared, Statistics(own.mass, features)


def _scan(features: Any, eta: Any, offset: Any, rows: Rows) -> tuple[jax.Array, Statistics]:
    """One pass over the rows with the features (1, T(x))."""
    z, w = jnp.asarray(rows.z), jnp.asarray(rows.weights)
    full = jnp.concatenate([offset[:, None], eta], axis=1)
    coefficients = full.astype(z.dtype)

    def chunk(carry: Any, block: Any) -> tuple[Any, None]:
        z, w = block
        T = features(z)
        value, resp = _softmax(coefficients @ T, w)
        total = carry[1] + (resp @ T.T).astype(full.dtype)
        return (carry[0] + value.astype(full.dtype), total), None

    start = (jnp.zeros((), full.dtype), jnp.zeros_like(full))
    one = z.shape[0] == 1
    value, total = chunk(start, (z[0], w[0]))[0] if one else jax.lax.scan(chunk, start, (z, w))[0]
    return value, Statistics(total[:, 0], total[:, 1:])


def _softmax(score: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of logsumexp over clusters, and the weighted responsibilities (K, n)."""
    top = score.max(0)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    unnormalised = jnp.exp(score - top)
    total = (
        jnp.ones_like(score[:, 0]) @ unnormalised
    )  # a product runs on vector units; sum does not
    value = jnp.where(w > 0, w * (top + jnp.log(total)), 0.0).sum()
    return value, unnormalised * jnp.where(total > 0, w / total, 0.0)


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
    D = rows.z.shape[1]
    features, used = (family.features, eta) if rows.shared is None else (linear, eta[:, :D])
    z = jnp.asarray(rows.z)
    coefficients = jnp.concatenate([offset[:, None], used], axis=1).astype(z.dtype)
    resp = jax.lax.map(lambda some: jax.nn.softmax(coefficients @ features(some), axis=0).T, z)
    return resp.reshape(-1, offset.shape[0])


def statistics_of(family: Family, resp: Any, rows: Rows) -> Statistics:
    """Statistics under given responsibilities (N, K), for a start at the M-step."""
    chunks, _, size = rows.z.shape
    slots = jnp.zeros((chunks * size, resp.shape[1]), resp.dtype)
    if rows.place is None:
        slots = slots.at[: resp.shape[0]].set(resp) * jnp.asarray(rows.weights).reshape(-1, 1)
    else:
        slots = slots.at[rows.place].add(resp * rows.counts[:, None])

    def chunk(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        z, r = block
        return total + r.T @ family.features(z).T.astype(r.dtype), None

    z = jnp.asarray(rows.z)
    F = jax.eval_shape(family.features, z[0]).shape[0]
    start = jnp.zeros((resp.shape[1], F), resp.dtype)
    total = jax.lax.scan(chunk, start, (z, slots.reshape(chunks, size, -1)))[0]
    return Statistics(total[:, 0], total[:, 1:])


def whitening(rows: Rows) -> np.ndarray:
    """Upper triangular R (D, D) with R'R the weighted covariance of z, by QR of its chunks.

    Squares are never taken, so that variances of 1e-20 of the largest are still seen.
    """
    w = np.asarray(rows.weights, np.float64)
    total = w.sum()
    mean = sum(z @ part for z, part in zip(np.asarray(rows.z), w, strict=True)) / total
    upper = np.zeros((0, len(mean)))
    for start in range(0, len(w), 64):
        z = np.moveaxis(np.asarray(rows.z[start : start + 64], np.float64), 1, 2)
        deviations = (z - mean) * np.sqrt(w[start : start + 64, :, None] / total)
        stacked = np.concatenate([upper, deviations.reshape(-1, len(mean))])
        upper = np.asarray(np.linalg.qr(stacked, mode="r"))
    return upper
