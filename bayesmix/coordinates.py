"""Unconstrained coordinates: one flat vector for the values of all, or some, latent sites.

The maps are NumPyro's bijections onto each site's support, so every vector is a legal point.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bayesmix.density import Data, Density
from bayesmix.effort import compiled
from bayesmix.program import Params


def unraveller(density: Density, data: Data, sites: Sequence[str] | None = None) -> Any:
    """From a flat vector to {site: unconstrained value}."""
    transforms = density.transforms(data)
    like = {
        name: jnp.zeros(transforms[name].inverse_shape(density.sites[name]))
        for name in (density.sites if sites is None else sites)
    }
    return ravel_pytree(like)[1]


def free_size(density: Density, data: Data, sites: Sequence[str] | None = None) -> int:
    """Number of unconstrained coordinates of the sites, by default of all."""
    transforms = density.transforms(data)
    shapes = [
        transforms[name].inverse_shape(density.sites[name])
        for name in (density.sites if sites is None else sites)
    ]
    return sum(int(jnp.zeros(shape).size) for shape in shapes)


def free(
    density: Density, params: Params, data: Data, sites: Sequence[str] | None = None
) -> jax.Array:
    """Unconstrained coordinates of the sites, in one vector (n,)."""
    transforms = density.transforms(data)
    names = density.sites if sites is None else sites
    return ravel_pytree({name: transforms[name].inv(params[name]) for name in names})[0]


def constrain(
    density: Density, z: jax.Array, data: Data, sites: Sequence[str] | None = None
) -> Params:
    """{site: constrained value} of unconstrained coordinates ``z``, (n,)."""
    transforms = density.transforms(data)
    return {n: transforms[n](value) for n, value in unraveller(density, data, sites)(z).items()}


def constrain_with_jacobian(density: Density, z: jax.Array, data: Data) -> tuple[Params, jax.Array]:
    """Constrained values at unconstrained coordinates ``z``, and the log Jacobian of the maps."""
    transforms = density.transforms(data)
    params, jacobian = {}, jnp.zeros((), z.dtype)
    for name, value in unraveller(density, data)(z).items():
        params[name] = transforms[name](value)
        jacobian += jnp.sum(transforms[name].log_abs_det_jacobian(value, params[name]))
    return params, jacobian


def free_log_density(density: Density, z: jax.Array, data: Data) -> jax.Array:
    """Log joint plus the log Jacobian of the constraining maps, at unconstrained ``z``, in nats."""
    params, jacobian = constrain_with_jacobian(density, z, data)
    return density.log_joint(params, data) + jacobian


def to_free(density: Density, params: Params, data: Data) -> jax.Array:
    """``free`` of all sites, compiled.

    Rows do not enter, so that data of any number of them share what is compiled, and quickly.
    """
    return _to_free(density, params, data._replace(rows=None))


def from_free(density: Density, z: Any, data: Data) -> Params:
    """``constrain`` of all sites, compiled like ``to_free``."""
    return _from_free(density, z, data._replace(rows=None))


_to_free = compiled(lambda *_: 0)(free)
_from_free = compiled(lambda *_: 0)(constrain)
