"""The general sweep: the components' own densities, some thousand rows at a time.

For components without statistics of their own the E-step gives the M-step the params that the
responsibilities follow from, instead of the responsibilities: a pass makes them anew, chunk by
chunk, and no N x K array is held. Sums over rows carry their gradient: it is taken with them, in
the same pass, since differentiating the loop over chunks would keep every chunk's intermediate
values.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.portion import Portion
from bayesmix.program import Params

CACHED = 2**17  # bytes of the components of one chunk
SHORTEST, LONGEST = 512, 8192


class Chunks(NamedTuple):
    """What the rows alone decide, ``values`` (C, n, ...) each, and weights (C, n, ...).

    Rows beyond the last are copies of it with weight 0.
    """

    values: list[Any]
    weights: Any


class Implied(NamedTuple):
    """Responsibilities by the params ``at`` that they follow from; mass (K,), rows in each."""

    at: Params
    mass: jax.Array


class Given(NamedTuple):
    """Weighted responsibilities (C, n, ..., K) as they are, and the mass (K,)."""

    resp: jax.Array
    mass: jax.Array


def portion_rows(N: int, K: int, cells: int) -> int:
    """Rows of a chunk; ``cells`` of each row and cluster.

    A power of 2, or less where chunks of that length would end in many rows that are none.
    """
    fitting = CACHED // (8 * K * cells)
    longest = int(np.clip(1 << max(fitting.bit_length() - 1, 0), SHORTEST, LONGEST))
    even, coarse = -(-N // -(-N // longest)), max(longest // 16, 8)
    return -(-even // coarse) * coarse


def in_chunks(array: jax.Array, axis: int, size: int) -> jax.Array:
    """The rows of an array, along ``axis``, as (C, size, ...), filled up with the last one."""
    rows = jnp.moveaxis(array, axis, 0)
    missing = -len(rows) % size
    if missing:
        rows = jnp.concatenate([rows, jnp.broadcast_to(rows[-1:], (missing, *rows.shape[1:]))])
    return rows.reshape(-1, size, *rows.shape[1:])


def padded_weights(weights: jax.Array, size: int) -> jax.Array:
    """Row weights (N, ...) as (C, size, ...), 0 beyond the last row."""
    missing = -len(weights) % size
    padding = jnp.zeros((missing, *weights.shape[1:]), weights.dtype)
    return jnp.concatenate([weights, padding]).reshape(-1, size, *weights.shape[1:])


def taken(chunks: Chunks, index: np.ndarray, weights: np.ndarray, size: int) -> Chunks:
    """Some of the rows, of other weights."""

    def some(value: Any) -> jax.Array:
        rows = jnp.asarray(value).reshape(-1, *value.shape[2:])
        return in_chunks(rows[index], 0, size)

    raised = padded_weights(jnp.asarray(weights, chunks.weights.dtype), size)
    return Chunks([some(value) for value in chunks.values], raised)


# ------------------------------------------------------------------------------------- the pass


def e_step(
    portion: Portion, params: Params, shared: list[Any], chunks: Chunks
) -> tuple[jax.Array, Implied]:
    """The log likelihood, and the responsibilities as what they follow from."""

    def part(values: Any, weights: Any) -> Any:
        components = safe(portion(params, shared, values))
        value = weighted(jax.nn.logsumexp(components, -1), weights).sum()
        resp = jax.nn.softmax(components, -1) * weights[..., None]
        return value, resp.reshape(-1, resp.shape[-1]).sum(0)

    value, mass = summed(part, *chunks)
    return value, Implied(params, mass)


def log_likelihood(
    portion: Portion, params: Params, shared: list[Any], chunks: Chunks
) -> jax.Array:
    """The log likelihood, in nats; differentiable once, in the params."""
    return _total(partial(_log_likelihood, portion), params, shared, tuple(chunks))


def expected(
    portion: Portion, params: Params, statistics: Any, shared: list[Any], chunks: Chunks
) -> jax.Array:
    """Expected log density of data and assignments; differentiable once, in the params."""
    if isinstance(statistics, Given):
        part = partial(_fit_to_given, portion)
        return _total(part, params, shared, (*chunks, statistics.resp))
    part = partial(_fit_to_implied, portion)
    return _total(part, params, (shared, statistics.at), tuple(chunks))


def expected_at(
    portion: Portion, params: Params, at: Params, shared: list[Any], chunks: Chunks
) -> jax.Array:
    """The same where responsibilities follow from ``at``; differentiable any number of times.

    In both arguments: going back, each chunk is made anew.
    """

    @jax.checkpoint
    def part(params: Params, at: Params, values: Any, weights: Any) -> jax.Array:
        return _fit_to_implied(portion, params, (shared, at), values, weights)

    return summed(partial(part, params, at), *chunks)


def pointwise(
    portion: Portion, params: Params, shared: list[Any], chunks: Chunks
) -> tuple[jax.Array, jax.Array]:
    """Weighted log density (C n, ...) and responsibilities (C n, ..., K); padding follows."""

    def part(block: Any) -> Any:
        components = safe(portion(params, shared, block[0]))
        value = weighted(jax.nn.logsumexp(components, -1), block[1])
        return value, jax.nn.softmax(components, -1)

    found = jax.lax.map(part, tuple(chunks))
    return jax.tree.map(lambda value: value.reshape(-1, *value.shape[2:]), found)


def _log_likelihood(
    portion: Portion, params: Params, shared: Any, values: Any, weights: Any
) -> jax.Array:
    components = safe(portion(params, shared, values))
    return weighted(jax.nn.logsumexp(components, -1), weights).sum()


def _fit_to_given(
    portion: Portion, params: Params, shared: Any, values: Any, weights: Any, resp: Any
) -> jax.Array:
    return dot(resp, portion(params, shared, values))


def _fit_to_implied(
    portion: Portion, params: Params, given: Any, values: Any, weights: Any
) -> jax.Array:
    shared, at = given
    resp = jax.nn.softmax(safe(portion(at, shared, values)), -1)
    return dot(resp * weights[..., None], portion(params, shared, values))


def summed(part: Callable[..., Any], *blocks: Any) -> Any:
    """The sum of part(*block) over blocks."""
    first = jax.eval_shape(part, *jax.tree.map(lambda value: value[0], blocks))
    start = jax.tree.map(lambda value: jnp.zeros(value.shape, value.dtype), first)

    def add(total: Any, block: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, part(*block)), None

    return jax.lax.scan(add, start, blocks)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(part: Callable[..., jax.Array], params: Params, given: Any, blocks: Any) -> jax.Array:
    """The sum of part(params, given, *block) over blocks."""
    return summed(partial(part, params, given), *blocks)


def _forward(part: Any, params: Params, given: Any, blocks: Any) -> tuple[jax.Array, Params]:
    return summed(partial(jax.value_and_grad(part), params, given), *blocks)


def _backward(part: Any, gradient: Params, g: jax.Array) -> tuple[Params, None, None]:
    return jax.tree.map(lambda value: g * value, gradient), None, None


_total.defvjp(_forward, _backward)


# ------------------------------------------------------------------------------- rows and weights


def safe(components: jax.Array) -> jax.Array:
    """Keep rows that no component can reach away from inf - inf."""
    return jnp.where(jnp.isneginf(components), jnp.finfo(components.dtype).min, components)


def weighted(value: jax.Array, scale: Any) -> jax.Array:
    """``value`` times the rows' weights, or as it is; weight 0 switches off infinite values."""
    return value if scale is None else jnp.where(scale > 0, scale * value, 0.0)


def dot(weight: jax.Array, value: jax.Array) -> jax.Array:
    """sum(weight * value), where weight 0 switches off infinite values."""
    return jnp.sum(weight * jnp.where(weight > 0, value, 0.0))
