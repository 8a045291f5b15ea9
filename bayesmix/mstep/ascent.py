"""The general M-step: a safeguarded quasi-Newton ascent of Q.

Works on any sites with any priors, in unconstrained coordinates but on the constrained density (no
Jacobian), so that its stationary points are those of the closed forms. Q depends on the data
through the statistics only, so a step costs nothing in N. The inverse Hessian is carried from one
EM step to the next: Q changes little between them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayesmix.coordinates import constrain, free
from bayesmix.density import Data, Density
from bayesmix.program import Params

ARMIJO = 1e-4


class Climb(NamedTuple):
    """An accepted point ``z`` (n,) and where to try next, ``z + step * direction``."""

    z: jax.Array
    value: jax.Array
    gradient: jax.Array
    inverse: jax.Array
    direction: jax.Array
    step: jax.Array
    tries: Any
    done: Any


def ascend(
    density: Density,
    sites: tuple[str, ...],
    params: Params,
    inverse: jax.Array,
    statistics: Any,
    data: Data,
    evaluations: Any,
) -> tuple[Params, jax.Array]:
    """Raise Q over ``sites``; returns all params, and the inverse Hessian for the next call.

    Never lowers Q; takes at most ``evaluations`` values of Q. ``inverse`` of zeros means unknown.
    """
    z = free(density, params, data, sites)

    def objective(z: jax.Array) -> jax.Array:
        return density.expected(params | constrain(density, z, data, sites), statistics, data)

    last = climb(jax.value_and_grad(objective), z, inverse, evaluations)
    moved = {
        name: jnp.where(jnp.all(last.z == z), params[name], value)
        for name, value in constrain(density, last.z, data, sites).items()
    }
    return params | moved, last.inverse


def climb(
    value_and_grad: Callable[[jax.Array], Any], z: jax.Array, inverse: jax.Array, evaluations: Any
) -> Climb:
    """BFGS with backtracking, written as one loop with a single evaluation in its body."""
    zero = jnp.zeros_like(z)
    low, one = jnp.array(-jnp.inf, z.dtype), jnp.ones((), z.dtype)
    first = Climb(z, low, zero, inverse, zero, one, 0, False)

    def trial(count_and_state: tuple[Any, Climb]) -> tuple[Any, Climb]:
        count, state = count_and_state
        point = state.z + state.step * state.direction
        value, gradient = value_and_grad(point)
        slope = state.gradient @ state.direction
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        rises = value >= state.value + ARMIJO * state.step * slope
        accepted = finite & ((count == 0) | (rises & (value > state.value)))
        fresh = _accept(state, point, value, gradient, count == 0)
        back = state._replace(
            step=state.step * 0.3, tries=state.tries + 1, done=(state.tries >= 30) | (count == 0)
        )
        return count + 1, jax.tree.map(lambda a, b: jnp.where(accepted, a, b), fresh, back)

    def go_on(count_and_state: tuple[Any, Climb]) -> jax.Array:
        count, state = count_and_state
        return (count < evaluations) & ~state.done

    return jax.lax.while_loop(go_on, trial, (0, first))[1]


def _accept(state: Climb, point: Any, value: Any, gradient: Any, first: Any) -> Climb:
    """Move to the trial point, update the inverse Hessian and choose the next direction."""
    s, y = point - state.z, state.gradient - gradient
    inverse = jnp.where(first, state.inverse, _bfgs(state.inverse, s, y))
    known = jnp.trace(inverse) > 0
    direction = jnp.where(known, inverse @ gradient, gradient)
    uphill = direction @ gradient > 0
    direction = jnp.where(uphill, direction, gradient)
    norm = jnp.linalg.norm(gradient)
    step = jnp.where(known & uphill, 1.0, 1 / jnp.maximum(norm, 1.0))
    gain = direction @ gradient / 2
    floor = 4 * jnp.finfo(value.dtype).eps * (1 + jnp.abs(value))
    done = (norm == 0) | (known & uphill & (gain < 1e-3 * floor))
    return Climb(point, value, gradient, inverse, direction, step, 0, done)


def _bfgs(inverse: jax.Array, s: jax.Array, y: jax.Array) -> jax.Array:
    """The BFGS update of the inverse of the negative Hessian; unchanged without curvature.

    The first update starts from the scaled identity of Shanno and Phua (Nocedal & Wright,
    Numerical Optimization, eq. 6.20).
    """
    sy = s @ y
    usable = sy > 1e-10 * jnp.linalg.norm(s) * jnp.linalg.norm(y)
    safe = jnp.where(usable, sy, 1.0)
    scaled = jnp.eye(s.size, dtype=s.dtype) * (safe / jnp.where(usable, y @ y, 1.0))
    base = jnp.where(jnp.trace(inverse) > 0, inverse, scaled)
    turned = base @ y
    # (I - s y'/sy) base (I - y s'/sy) + s s'/sy, multiplied out: no product of two matrices.
    mixed = jnp.outer(turned, s) / safe
    updated = base - mixed - mixed.T + jnp.outer(s, s) * ((1 + y @ turned / safe) / safe)
    return jnp.where(usable, updated, inverse)
