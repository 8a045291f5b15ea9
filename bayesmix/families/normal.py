"""Normal components, alone or in products: T(x) = (x, x^2) for every column."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayesmix.families import Leaves, family, flat


@family(dist.Normal)
class Normal:
    name = "Normal"
    location_scale = True

    def features(self, z: jax.Array) -> jax.Array:
        return jnp.concatenate([z, z * z])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        loc, scale = flat(leaves["loc"]), flat(leaves["scale"])
        precision = 1 / scale**2
        eta = jnp.concatenate([precision * loc, -0.5 * precision], axis=1)
        normaliser = 0.5 * precision * loc**2 + jnp.log(scale) + 0.5 * np.log(2 * np.pi)
        return eta, normaliser.sum(1)

    def base(self, z: jax.Array) -> jax.Array:
        return jnp.zeros(z.shape[1:], z.dtype)

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        return {
            "loc": (flat(leaves["loc"]) - shift) / scale,
            "scale": flat(leaves["scale"]) / scale,
        }
