"""One pass over the rows, whatever their layout: log likelihood and expected statistics.

``log_likelihood`` carries its gradient in closed form, so differentiating it costs no second pass.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bayesmix.families import Family, Linear, kernel, linear
from bayesmix.sweep.chunks import over_devices, scan_chunks
from bayesmix.sweep.patterns import scan_patterns, scores_by_pattern, statistics_by_pattern
from bayesmix.sweep.rows import Rows, Statistics, count_statistics
from bayesmix.sweep.stream import Streamed, scan_blocks


def scan_rows(family: Family, eta: Any, offset: Any, rows: Rows) -> tuple[jax.Array, Statistics]:
    """Log likelihood (without the base) and expected statistics in one pass over the rows."""
    if rows.group is not None:
        return scan_patterns(family.features, eta, offset, rows)
    if rows.shared is None:
        return _scan(kernel(family), eta, offset, rows)
    D = rows.z.shape[-2]
    value, own = _scan(Linear(linear), eta[:, :D], offset, rows)
    share = own.mass / jnp.where(own.mass.sum() > 0, own.mass.sum(), 1.0)
    features = jnp.concatenate([own.features, share[:, None] * rows.shared], axis=1)
    return value + eta[0, D:] @ rows.shared, Statistics(own.mass, features)


def _scan(by: Any, eta: Any, offset: Any, rows: Rows) -> tuple[jax.Array, Statistics]:
    """The same for rows scored ``by`` a kernel."""
    full = jnp.concatenate([offset[:, None], eta], axis=1)
    scan = scan_blocks if isinstance(rows.z, Streamed) else scan_chunks
    value, total = scan(by, full, rows)
    return value, Statistics(total[:, 0], total[:, 1:])


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
    if rows.group is not None:
        return jax.nn.softmax(scores_by_pattern(family, eta, offset, rows), -1)
    D = rows.z.shape[-2]
    by, used = (kernel(family), eta) if rows.shared is None else (Linear(linear), eta[:, :D])
    full = jnp.concatenate([offset[:, None], used], axis=1)
    resp = jax.lax.map(
        lambda some: jax.nn.softmax(by.scores(full, some)[0], axis=0).T, jnp.asarray(rows.z)
    )
    return resp.reshape(-1, offset.shape[0])


def statistics_of(family: Family, resp: Any, rows: Rows) -> Statistics:
    """Statistics under given responsibilities (N, K), for a start at the M-step."""
    *chunks, _, size = rows.z.shape
    slots = jnp.zeros((math.prod(chunks) * size, resp.shape[1]), resp.dtype)
    if rows.place is None:
        slots = slots.at[: resp.shape[0]].set(resp) * jnp.asarray(rows.weights).reshape(-1, 1)
    else:
        slots = slots.at[rows.place].add(resp * rows.counts[:, None])
    slots = slots.reshape(*chunks, size, -1)
    if rows.group is not None:
        return statistics_by_pattern(family, slots, rows)

    def chunk(total: jax.Array, block: Any) -> tuple[jax.Array, None]:
        z, r = block
        return total + kernel(family).complete(r.T, z), None

    def part(z: jax.Array, slots: jax.Array) -> jax.Array:
        F = count_statistics(family, z.shape[1])
        return jax.lax.scan(chunk, jnp.zeros((resp.shape[1], F), resp.dtype), (z, slots))[0]

    total = over_devices(part, jnp.asarray(rows.z), slots)
    return Statistics(total[:, 0], total[:, 1:])
