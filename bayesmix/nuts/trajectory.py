"""What the trajectories of both kernels share: points, momenta and the leapfrog step.

Coordinates are whitened, so the mass matrix is the identity and velocities are momenta.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TOO_FAR = 1000.0  # nats of energy that a divergent step has lost, as in Stan and NumPyro


class Point(NamedTuple):
    """``u`` (n,) with potential (nats), its gradient (n,), and the energy it was reached with."""

    u: Any
    potential: Any
    gradient: Any
    energy: Any


class End(NamedTuple):
    """Where a trajectory stands: position, momentum and gradient, each (n,)."""

    u: Any
    momentum: Any
    gradient: Any


class Leap(NamedTuple):
    """One step: where it led, the point there, the energy lost, and whether that is too much."""

    end: End
    point: Point
    change: Any
    diverging: Any


def leapfrog(potential: Any, end: End, step: Any, energy: Any) -> Leap:
    """One leapfrog step of a trajectory that began with ``energy``."""
    half = end.momentum - 0.5 * step * end.gradient
    u = end.u + step * half
    value, gradient = jax.value_and_grad(potential)(u)
    momentum = half - 0.5 * step * gradient
    now = value + kinetic(momentum)
    change = jnp.where(jnp.isnan(now), jnp.inf, now - energy)
    return Leap(
        End(u, momentum, gradient), Point(u, value, gradient, now), change, change > TOO_FAR
    )


def kinetic(momentum: Any) -> Any:
    """Kinetic energy, in nats."""
    return 0.5 * momentum @ momentum


def acceptance(change: Any) -> Any:
    """Metropolis' probability of accepting a loss of energy."""
    return jnp.exp(-jnp.maximum(change, 0.0))


def where(condition: Any, these: Any, those: Any) -> Any:
    """``jnp.where`` of every part of two alike structures."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), these, those)
