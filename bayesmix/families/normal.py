"""Normal components, alone or in products: T(x) = (x, x^2), or x and its mean square."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayesmix.ellipsoid import AlignedNormal
from bayesmix.families import Leaves, family, flat, linear, nothing


@family(dist.Normal, AlignedNormal)
@dataclass(frozen=True)
class Normal:
    """With ``isotropic``, every column of a cluster has the same scale."""

    isotropic: bool = False
    name = "Normal"
    location_scale = True
    spread = "scale"
    robust = False
    base = staticmethod(nothing)

    def features(self, z: jax.Array) -> jax.Array:
        """Each column counts the mean square as its own: only the sum over columns is used."""
        square = z * z
        return jnp.concatenate([linear(z), square.mean(0)[None] if self.isotropic else square])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        loc, scale = flat(leaves["loc"]), flat(leaves["scale"])
        precision = 1 / scale**2
        curvature = precision.sum(1)[:, None] if self.isotropic else precision
        eta = jnp.concatenate([precision * loc, -0.5 * curvature], axis=1)
        normaliser = 0.5 * precision * loc**2 + jnp.log(scale) + 0.5 * np.log(2 * np.pi)
        return eta, normaliser.sum(1)

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        return {
            "loc": (flat(leaves["loc"]) - shift) / scale,
            "scale": flat(leaves["scale"]) / scale,
        }
