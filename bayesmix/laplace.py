"""Curvature at a mode, in unconstrained coordinates.

The density that a sampler sees is the log joint over unconstrained coordinates z, with the
Jacobian; its mode is not EM's (the mode over the constrained sites): a few Newton steps lead from
the one to the other. ``Geometry`` is that mode with the Gaussian that fits it best.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.coordinates import free_log_density, from_free, to_free
from bayesmix.density import Data, Density, data_of, density_of
from bayesmix.program import Mixture, Params

NEWTON_STEPS = 50


@dataclass(frozen=True)
class Geometry:
    """The unconstrained mode: ``z`` (n,), ``factor`` (n, n) with covariance factor factor'.

    ``log_density`` there in nats, Jacobian included; ``log_evidence`` is Laplace's approximation of
    the mass of this one mode (no factor for relabelled copies).
    """

    z: np.ndarray
    factor: np.ndarray
    log_density: float
    log_evidence: float


@partial(jax.jit, static_argnums=0)
def _value(density: Density, z: jax.Array, data: Data) -> jax.Array:
    return free_log_density(density, z, data)


@partial(jax.jit, static_argnums=0)
def _expansion(density: Density, z: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
    """Gradient and Hessian; forward over reverse, one column per coordinate."""
    gradient = jax.grad(lambda point: free_log_density(density, point, data))
    return gradient(z), jax.lax.map(
        lambda tangent: jax.jvp(gradient, (z,), (tangent,))[1], jnp.eye(z.size, dtype=z.dtype)
    )


def geometry_at(mixture: Mixture, params: Params) -> Geometry | None:
    """The unconstrained mode near ``params``; None where Newton finds no proper maximum there.

    Needs x64. Damped Newton: directions of wrong curvature are turned uphill, steps halved until
    the log density rises.
    """
    density, data = density_of(mixture), data_of(mixture)
    z = np.asarray(to_free(density, {n: jnp.asarray(v, float) for n, v in params.items()}, data))
    if not np.isfinite(z).all():
        return None
    value = float(_value(density, z, data))
    for _ in range(NEWTON_STEPS):
        gradient, hessian = map(np.asarray, _expansion(density, z, data))
        if not (np.isfinite(gradient).all() and np.isfinite(hessian).all()):
            return None
        curvature, axes = np.linalg.eigh(-(hessian + hessian.T) / 2)
        slope = axes.T @ gradient
        decrement = float(slope @ (slope / np.abs(np.where(curvature == 0, 1, curvature)))) / 2
        if decrement < 1e-10 * (1 + abs(value)) and (curvature > 0).all():
            return _gaussian(z, value, curvature, axes)
        step = axes @ (slope / np.maximum(np.abs(curvature), 1e-8))
        z, value, moved = _rise(density, data, z, value, step)
        if not moved:
            return _gaussian(z, value, curvature, axes) if (curvature > 0).all() else None
    return None


def _rise(
    density: Density, data: Data, z: np.ndarray, value: float, step: np.ndarray
) -> tuple[np.ndarray, float, bool]:
    """The first point of z + step, z + step / 2, ... where the log density is higher."""
    for halvings in range(30):
        point = z + step / 2**halvings
        there = float(_value(density, point, data))
        if there > value:
            return point, there, True
    return z, value, False


def _gaussian(z: np.ndarray, value: float, curvature: np.ndarray, axes: np.ndarray) -> Geometry:
    log_evidence = value + 0.5 * (z.size * np.log(2 * np.pi) - np.log(curvature).sum())
    return Geometry(z, axes / np.sqrt(curvature), value, float(log_evidence))


def unconstrained_mode(mixture: Mixture, params: Params) -> dict[str, np.ndarray] | None:
    """Where the mode over unconstrained coordinates lies, as constrained params, or None."""
    with jax.enable_x64(True):
        geometry = geometry_at(mixture, params)
        if geometry is None:
            return None
        found = from_free(density_of(mixture), geometry.z, data_of(mixture))
        return {name: np.asarray(found[name]) for name in mixture.sites}
