"""Rows with missing cells: chunks of one pattern each, with coefficients of their own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.families import Family
from bayesmix.families.partial import patterned_columns
from bayesmix.sweep.chunks import unnormalised
from bayesmix.sweep.rows import LANES, Rows, Statistics, chunk_rows
from bayesmix.sweep.standard import jacobian

CHUNK_COST = 64  # what one more chunk costs, in rows


def by_pattern(
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
        jacobian(x, w, scale),
        place=place.astype(np.int32),
        counts=w,
        patterns=patterns,
        group=np.repeat(np.arange(len(patterns), dtype=np.int32), chunks),
    )


def _fitting(sizes: np.ndarray, most: int) -> int:
    """Rows of a chunk, so that padding and the number of chunks together cost least."""
    options = [LANES << i for i in range(int(np.log2(max(most // LANES, 1))) + 1)]
    return min(options, key=lambda size: int((-(-sizes // size) * (size + CHUNK_COST)).sum()))


def scan_patterns(features: Any, eta: Any, offset: Any, rows: Rows) -> tuple[Any, Statistics]:
    """Log likelihood and statistics; eta (P, K, F) and offset (P, K) of each chunk's pattern."""
    full = jnp.concatenate([offset[..., None], eta], axis=-1)
    coefficients = full.astype(rows.z.dtype)

    def chunk(carry: Any, block: Any) -> tuple[Any, None]:
        z, w, group = block
        T = features(z)
        value, resp, factor = unnormalised(coefficients[group] @ T, w, plain=False)
        total = carry[1].at[group].add(((resp * factor) @ T.T).astype(full.dtype))
        return (carry[0] + value.astype(full.dtype), total), None

    start = (jnp.zeros((), full.dtype), jnp.zeros_like(full))
    blocks = jnp.asarray(rows.z), jnp.asarray(rows.weights), jnp.asarray(rows.group)
    (value, total), _ = jax.lax.scan(chunk, start, blocks)
    return value, Statistics(total[..., 0], total[..., 1:])


def scores_by_pattern(family: Family, eta: Any, offset: Any, rows: Rows) -> jax.Array:
    """<T(x_n), eta_k> + offset_k of every row, in the order of the data, (N, K)."""
    full = jnp.concatenate([offset[..., None], eta], axis=-1).astype(rows.z.dtype)
    blocks = jnp.asarray(rows.z), jnp.asarray(rows.group)
    scores = jax.lax.map(lambda block: (full[block[1]] @ family.features(block[0])).T, blocks)
    return scores.reshape(-1, offset.shape[-1])[rows.place]


def densities_by_pattern(
    family: Family, eta: Any, offset: Any, rows: Rows
) -> tuple[jax.Array, jax.Array]:
    """Log density, in data units, (N,) and responsibilities (N, K), in the order of the data."""
    score = scores_by_pattern(family, eta, offset, rows)
    total = jax.nn.logsumexp(score, -1)
    seen = ~jnp.isnan(rows.z) & rows.patterns[rows.group][..., None]
    volume = jnp.einsum("d,cdn->cn", jnp.log(rows.scale), seen.astype(rows.z.dtype))
    x = rows.shift[:, None] + rows.scale[:, None] * rows.z
    base = (jax.vmap(family.base)(x) - volume).reshape(-1)[rows.place]
    return base + total, jnp.exp(score - total[:, None])


def statistics_by_pattern(family: Family, slots: jax.Array, rows: Rows) -> Statistics:
    """``statistics_of``, by pattern, from weighted responsibilities by chunk (C, n, K)."""

    def chunk(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        z, r, group = block
        return total.at[group].add(r.T @ family.features(z).T.astype(r.dtype)), None

    F = jax.eval_shape(family.features, rows.z[0]).shape[0]
    start = jnp.zeros((len(rows.patterns), slots.shape[-1], F), slots.dtype)
    blocks = jnp.asarray(rows.z), slots, jnp.asarray(rows.group)
    total = jax.lax.scan(chunk, start, blocks)[0]
    return Statistics(total[..., 0], total[..., 1:])
