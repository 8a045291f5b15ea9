"""Exponential components, alone or in products: T(x) = x."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bayesmix.families import Leaves, family, flat, linear


@family(dist.Exponential)
class Exponential:
    name = "Exponential"
    location_scale = False

    def features(self, z: jax.Array) -> jax.Array:
        return linear(z)

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        rate = flat(leaves["rate"])
        return -rate, -jnp.log(rate).sum(1)

    def base(self, z: jax.Array) -> jax.Array:
        return jnp.zeros(z.shape[1:], z.dtype)
