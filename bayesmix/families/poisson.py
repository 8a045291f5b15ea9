"""Poisson components, alone or in products: T(x) = x."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from bayesmix.families import Leaves, family, flat


@family(dist.Poisson)
class Poisson:
    name = "Poisson"
    location_scale = False

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """A rate of exactly 0 counts as the smallest positive number, so that 0 * log 0 is 0."""
        rate = flat(leaves["rate"])
        return jnp.log(jnp.maximum(rate, jnp.finfo(rate.dtype).tiny)), rate.sum(1)

    def base(self, z: jax.Array) -> jax.Array:
        return -gammaln(z + 1).sum(0)
