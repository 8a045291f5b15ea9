"""How rounding enters a log joint and its gradient: sizes to multiply a rounding unit with.

A score is computed as exactly the score of parameters, data and natural parameters that are off by
some rounding units each, so its error is bounded by those units times

    size_nk = |score_nk| + sum of |input x derivative of score_nk by it|

(the componentwise condition number; Higham 2002, Accuracy and Stability of Numerical Algorithms,
sections 1.6 and 3.1). Responsibilities r = softmax(score) pass errors of scores on to the gradient,
sum_nk r_nk d score_nk, where they count with r_nk (size_nk + sum_j r_nj size_nj). The sums are over
absolute values, so that nothing is assumed of how errors cancel. Everything here is to first order,
and meant to be computed in float64.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bayesmix.coordinates import constrain, constrain_with_jacobian
from bayesmix.density import Data, Density, row_piece
from bayesmix.families import Linear, kernel, linear
from bayesmix.program import Mixture, Params
from bayesmix.sweep import Rows


class Sizes(NamedTuple):
    """What a rounding unit is multiplied with: in nats; ``gradient`` by coordinate, (n,).

    ``jacobian`` and ``jacobian_gradient``: of the log Jacobian of the constraining maps alone.
    """

    value: Any
    gradient: Any
    jacobian: Any
    jacobian_gradient: Any


def sizes(mixture: Mixture, density: Density, data: Data, z: jax.Array) -> Sizes:
    """The sizes at unconstrained ``z`` (n,), for the passes over rows that ``density`` makes."""
    value, gradient = _of_rows(mixture, density, data, z)
    for own_value, own_gradient in (
        _of_terms(lambda p: _stacked(density.terms(p, data)), density, data, z),
        *([] if density.family is None else [_of_sweep(density, data, z)]),
    ):
        value, gradient = value + own_value, gradient + own_gradient
    return Sizes(value, gradient, *_of_jacobian(density, data, z))


def _sensitivity(function: Any, at: jax.Array) -> Any:
    """|function| + sum_j |at_j x derivative by at_j|, elementwise; ``at`` is flat."""

    def add(total: jax.Array, direction: jax.Array) -> tuple[jax.Array, None]:
        return total + jnp.abs(jax.jvp(function, (at,), (direction * at,))[1]), None

    return jax.lax.scan(add, jnp.abs(function(at)), jnp.eye(at.size, dtype=at.dtype))[0]


def _weighed(slopes: Any, weight: Any, z: jax.Array) -> jax.Array:
    """sum of weight x |d slopes / d z_j| for every coordinate, (n,)."""

    def one(direction: jax.Array) -> jax.Array:
        slope = jnp.abs(jax.jvp(slopes, (z,), (direction,))[1])
        return jnp.sum(jnp.where(weight > 0, weight * slope, 0.0))

    return jax.lax.map(one, jnp.eye(z.size, dtype=z.dtype))


def _passed_on(resp: jax.Array, size: jax.Array) -> jax.Array:
    """Responsibilities (..., K) times what errors of the scores make of one unit of gradient."""
    return resp * (1 + size + jnp.sum(resp * size, -1, keepdims=True))


def _stacked(terms: dict[str, jax.Array]) -> jax.Array:
    return jnp.stack([jnp.zeros(()), *terms.values()])


def _of_terms(function: Any, density: Density, data: Data, z: jax.Array) -> Any:
    """Of log densities of sites, each a number."""
    flat, unravel = ravel_pytree(constrain(density, z, data))
    size = _sensitivity(lambda p: function(unravel(p)), flat)
    slopes = _weighed(lambda z: function(constrain(density, z, data)), 1 + size, z)
    return size.sum(), slopes


def _of_jacobian(density: Density, data: Data, z: jax.Array) -> Any:
    def jacobian(z: jax.Array) -> jax.Array:
        return constrain_with_jacobian(density, z, data)[1]

    size = _sensitivity(jacobian, z)
    return size, (1 + size) * jnp.abs(jax.grad(jacobian)(z))


def _of_rows(mixture: Mixture, density: Density, data: Data, z: jax.Array) -> Any:
    """Of the components by row, for parameters and data that are rounded."""
    piece, known = row_piece(mixture)

    def components(params: Params, known: list[Any]) -> jax.Array:
        return piece(piece.nodes, params, known)[0]

    def of_known(number: int) -> jax.Array:
        def function(value: Any) -> jax.Array:
            return components(params, [*known[:number], value, *known[number + 1 :]])

        return jnp.abs(jax.jvp(function, (known[number],), (known[number],))[1])

    params = constrain(density, z, data)
    flat, unravel = ravel_pytree(params)
    size = _sensitivity(lambda p: components(unravel(p), known), flat)
    for number, value in enumerate(known):
        if jnp.issubdtype(jnp.result_type(value), jnp.floating):
            size = size + of_known(number)
    resp = jax.nn.softmax(components(params, known), -1)
    scale = piece(piece.nodes, params, known)[1]
    weight = jnp.broadcast_to(1.0 if scale is None else scale, resp.shape[:-1])
    size = jnp.where(resp > 0, size, 0.0)
    passed = weight[..., None] * _passed_on(resp, size)
    slopes = _weighed(lambda z: components(constrain(density, z, data), known), passed, z)
    return jnp.sum(weight[..., None] * resp * size), slopes


def _of_sweep(density: Density, data: Data, z: jax.Array) -> Any:
    """Of the pass over the rows: its products of natural parameters and features."""

    def full(z: jax.Array) -> jax.Array:
        eta, offset = density.natural(constrain(density, z, data), data)
        return jnp.concatenate([offset[..., None], eta], -1)

    rows, coefficients = data.rows, full(z)
    value, weight = _over_rows(density, rows, coefficients)
    if rows.shared is not None:
        D = rows.z.shape[-2]
        value += jnp.sum(jnp.abs(coefficients[0, 1 + D :] * rows.shared))
        weight = weight.at[:, 1 + D :].set(jnp.abs(rows.shared))
    return value, _weighed(full, weight, z)


def _over_rows(density: Density, rows: Rows, full: jax.Array) -> tuple[Any, jax.Array]:
    """The sizes of all rows' scores in nats, and by coefficient, as ``full``, those of the slopes
    by it with the errors that the responsibilities pass on.
    """
    family, D = density.family, rows.z.shape[-2]
    assert family is not None
    by = kernel(family) if rows.shared is None else Linear(linear)
    width = full.shape[-1] if rows.shared is None else 1 + D

    def chunk(total: Any, block: Any) -> tuple[Any, None]:
        z, w, group = block
        own = full[..., :width] if rows.group is None else full[group]
        score, slopes, size = _of_scores(lambda own, z: by.scores(own, z)[0], own, z)
        resp = jax.nn.softmax(score, 0)
        size = jnp.where(resp > 0, size, 0.0)
        passed = w * _passed_on(resp.T, size.T).T
        weight = jnp.einsum("kn,fkn->kf", passed, jnp.where(passed > 0, slopes, 0.0))
        place = (..., slice(width)) if rows.group is None else group
        return (total[0] + jnp.sum(w * resp * size), total[1].at[place].add(weight)), None

    group = jnp.zeros(math.prod(rows.z.shape[:-2]), int) if rows.group is None else rows.group
    start = (jnp.zeros(()), jnp.zeros_like(full))
    z, w = jnp.asarray(rows.z), jnp.asarray(rows.weights)
    blocks = (z.reshape(-1, *z.shape[-2:]), w.reshape(-1, w.shape[-1]), group)
    return jax.lax.scan(chunk, start, blocks)[0]


def _of_scores(scores: Any, full: jax.Array, z: jax.Array) -> tuple[jax.Array, ...]:
    """Scores (K, n) of rows z (D, n), their |slopes| by each coefficient of ``full`` (F, K, n), and
    their sizes.
    """

    def by_coefficient(direction: jax.Array) -> jax.Array:
        tangent = jnp.broadcast_to(direction, full.shape)
        return jnp.abs(jax.jvp(lambda own: scores(own, z), (full,), (tangent,))[1])

    def by_column(direction: jax.Array) -> jax.Array:
        tangent = direction[:, None] * jnp.nan_to_num(z)
        return jnp.abs(jax.jvp(lambda z: scores(full, z), (z,), (tangent,))[1])

    score = scores(full, z)
    slopes = jax.vmap(by_coefficient)(jnp.eye(full.shape[1], dtype=full.dtype))
    size = jnp.abs(score) + jnp.einsum("kf,fkn->kn", jnp.abs(full), slopes)
    return score, slopes, size + jax.vmap(by_column)(jnp.eye(len(z), dtype=z.dtype)).sum(0)
