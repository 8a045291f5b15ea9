"""Exponential components, alone or in products: T(x) = x."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bayesmix.families import Leaves, family, flat


@family(dist.Exponential)
class Exponential:
    name = "Exponential"
    location_scale = False

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        rate = flat(leaves["rate"])
        return -rate, -jnp.log(rate).sum(1)
