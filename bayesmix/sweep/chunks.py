"""The pass over rows that lie in memory, chunk by chunk; where they are shared out, by device.

The offset enters the product, and the mass comes out of it, by a feature that is 1.
"""

from typing import Any

import jax
import jax.numpy as jnp

from bayesmix.families import Family, Linear
from bayesmix.sweep.rows import Rows

FOLDS = {"float64": 4, "float32": 3}  # products of 16 numbers up to 1e19, of 8 up to 5e4


def scan_chunks(by: Any, full: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """Log likelihood (without the base) and statistics (K, 1 + F) of rows scored ``by`` a kernel.

    full : offset and eta, (K, 1 + F).
    """
    z, w = jnp.asarray(rows.z), jnp.asarray(rows.weights)
    # Eigen is a third faster at a product whose result has its long side first.
    turned = full.shape[1] >= 2 * full.shape[0]

    def chunk(carry: Any, block: Any) -> tuple[Any, None]:
        value, own = _of_chunk(by, full, *block, plain=rows.plain is not None)
        own = own.astype(full.dtype)
        return (carry[0] + value.astype(full.dtype), carry[1] + (own.T if turned else own)), None

    def part(z: jax.Array, w: jax.Array) -> Any:
        start = (jnp.zeros((), full.dtype), jnp.zeros_like(full.T if turned else full))
        if z.shape[0] == 1:
            return chunk(start, (z[0], w[0]))[0]
        return jax.lax.scan(chunk, start, (z, w))[0]

    value, total = over_devices(part, z, w)
    return value, total.T if turned else total


def _of_chunk(
    by: Any, full: jax.Array, z: jax.Array, w: jax.Array, *, plain: bool
) -> tuple[jax.Array, jax.Array]:
    if isinstance(by, Linear) and full.shape[1] < full.shape[0]:
        # Fewer features than clusters: these are divided, instead of the responsibilities.
        T = by.features(z)
        value, resp, factor = unnormalised(full.astype(z.dtype) @ T, w, plain=plain)
        return value, resp @ (T * factor).T
    score, collect = by.scores(full, z)
    value, resp, factor = unnormalised(score, w, plain=plain)
    return value, collect(resp * factor)


def over_devices(part: Any, *chunks: jax.Array) -> Any:
    """``part`` of chunks (C, ...); of (devices, C, ...), every device its own, the sum of all."""
    if chunks[-1].ndim == 2 or chunks[0].ndim == 3:
        return part(*chunks)
    return jax.tree.map(lambda each: each.sum(0), jax.vmap(part)(*chunks))


def unnormalised(
    score: jax.Array, w: jax.Array, *, plain: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weighted sum of logsumexp over clusters, and the weighted responsibilities as (K, n) times a
    factor for each row, (n,).

    score : (K, n). plain : the weights ``w`` (n,) are 1, or 0.
    """
    limits = jnp.finfo(score.dtype)
    top = jnp.clip(score.max(0), limits.min, limits.max)
    resp = jnp.exp(score - top)
    total = jnp.ones_like(score[:, 0]) @ resp  # on vector units; a sum would not be
    if plain:
        value = w @ top + _sum_of_logs(jnp.where(w > 0, total, 1.0))
    else:
        value = jnp.where(w > 0, w * (top + jnp.log(total)), 0.0).sum()
    return value, resp, jnp.where(total > 0, w / total, 0.0)


def _sum_of_logs(totals: jax.Array) -> jax.Array:
    """Sum of the logarithms of numbers from 1 to K, (n,), by that of products of a few of them."""
    for _ in range(FOLDS[totals.dtype.name]):
        totals = totals[: len(totals) // 2] * totals[len(totals) // 2 :]
    return jnp.log(totals).sum()


def total_base(family: Family, rows: Rows) -> jax.Array:
    """sum_n w_n log h(x_n), with the Jacobian of the standardisation, in nats."""

    def part(z: jax.Array, w: jax.Array) -> jax.Array:
        x = rows.shift[:, None] + rows.scale[:, None] * z
        return jnp.sum(w * jax.vmap(family.base)(x))

    z, w = jnp.asarray(rows.z, float), jnp.asarray(rows.weights, float)
    return rows.base + over_devices(part, z, w)


def total_squares(family: Family, rows: Rows) -> jax.Array:
    """Weighted sum over all rows of the features beyond the linear ones, (F - D,)."""

    def chunk(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        z, w = (part.astype(total.dtype) for part in block)
        return total + family.features(z)[1 + z.shape[0] :] @ w, None

    def part(z: jax.Array, w: jax.Array) -> jax.Array:
        F = jax.eval_shape(family.features, z[0]).shape[0]
        return jax.lax.scan(chunk, jnp.zeros(F - 1 - z.shape[1]), (z, w))[0]

    return over_devices(part, jnp.asarray(rows.z), jnp.asarray(rows.weights))
