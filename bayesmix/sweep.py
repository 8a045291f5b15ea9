"""The pass over the data, shared by EM and NUTS.

For an exponential family one pass gives the log likelihood, sum_n w_n logsumexp_k score_nk with
score = <T(x_n), eta_k> + offset_k, and its gradient, the expected statistics (Fisher's identity):

    mass_k = sum_n w_n r_nk            features_k = sum_n w_n r_nk T(x_n)

Rows are taken in chunks laid out (columns, rows); memory is the data plus O(chunk x (K + F)), and
no N x K array is made. ``log_likelihood`` carries its gradient in closed form, so differentiating
it costs no second pass.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.families import Family

CHUNK = 1024


class Statistics(NamedTuple):
    """Expected sufficient statistics in the sweep's coordinates: mass (K,), features (K, F)."""

    mass: jax.Array
    features: jax.Array


class Rows(NamedTuple):
    """The data of a sweep: z = (x - shift) / scale in chunks (C, D, n), row weights (C, n).

    ``base`` is the part of the log likelihood that no parameter enters: sum_n w_n (log h(x_n)
    - sum of log scale).
    """

    z: Any
    weights: Any
    shift: Any
    scale: Any
    base: Any


def rows_of(value: np.ndarray, weights: np.ndarray | None, event_dim: int, family: Family) -> Rows:
    """Lay observed values out for the sweep; padding rows have weight 0."""
    lead = value.shape[: value.ndim - event_dim]
    N = int(np.prod(lead))
    x = np.asarray(value, np.float64).reshape(N, -1)
    w = np.ones(N) if weights is None else np.asarray(weights, np.float64).reshape(N)
    counted = w > 0
    shift, scale = _centre(x if counted.all() or not counted.any() else x[counted], family)
    chunks = max(1, -(-N // CHUNK))
    size = -(-N // chunks)
    z = np.zeros((chunks, x.shape[1], size))
    for number in range(chunks):
        some = slice(number * size, min(N, (number + 1) * size))
        block = np.where(counted[some, None], (x[some] - shift) / scale, 0.0)
        z[number, :, : len(block)] = block.T
    padded = np.zeros(chunks * size)
    padded[:N] = w
    base = -float(w.sum() * np.log(scale).sum())
    return Rows(z, padded.reshape(chunks, size), shift, scale, base)


def _centre(x: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column; 0 and 1 for families without location."""
    D = x.shape[1]
    if not family.location_scale:
        return np.zeros(D), np.ones(D)
    shift = x.mean(0)
    spread = x.std(0)
    return shift, np.where(spread > 0, spread, 1.0)


def total_base(family: Family, rows: Rows) -> jax.Array:
    """sum_n w_n log h(x_n), with the Jacobian of the standardisation, in nats."""
    return rows.base + jnp.sum(rows.weights * jax.vmap(family.base)(jnp.asarray(rows.z)))


def scan_rows(family: Family, eta: Any, offset: Any, rows: Rows) -> tuple[jax.Array, Statistics]:
    """Log likelihood (without the base) and expected statistics in one pass over the rows."""

    def chunk(carry: Any, block: Any) -> tuple[Any, None]:
        z, w = block
        features = family.features(z)
        score = eta @ features + offset[:, None]
        value, resp = _softmax(score, w)
        mass, total = carry[1]
        return (carry[0] + value, Statistics(mass + resp.sum(1), total + resp @ features.T)), None

    z, w = jnp.asarray(rows.z), jnp.asarray(rows.weights)
    zero = Statistics(jnp.zeros_like(offset), jnp.zeros_like(eta))
    start = (jnp.zeros((), eta.dtype), zero)
    if z.shape[0] == 1:
        return chunk(start, (z[0], w[0]))[0]
    return jax.lax.scan(chunk, start, (z, w))[0]


def _softmax(score: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of logsumexp over clusters, and the weighted responsibilities (K, n)."""
    top = score.max(0)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    unnormalised = jnp.exp(score - top)
    total = unnormalised.sum(0)
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


def statistics_of(family: Family, resp: Any, rows: Rows) -> Statistics:
    """Statistics under given responsibilities (N, K), for a start at the M-step."""
    chunks, _, size = rows.z.shape
    padded = jnp.zeros((chunks * size, resp.shape[1]), resp.dtype).at[: resp.shape[0]].set(resp)
    blocks = padded.reshape(chunks, size, -1)

    def chunk(carry: Statistics, block: Any) -> tuple[Statistics, None]:
        z, w, r = block
        weighted = r.T * w
        features = family.features(z)
        return Statistics(
            carry.mass + weighted.sum(1), carry.features + weighted @ features.T
        ), None

    K, F = resp.shape[1], jax.eval_shape(family.features, rows.z[0]).shape[0]
    zero = Statistics(jnp.zeros(K, resp.dtype), jnp.zeros((K, F), resp.dtype))
    return jax.lax.scan(chunk, zero, (jnp.asarray(rows.z), jnp.asarray(rows.weights), blocks))[0]
