"""Dirichlet components, alone or in products: T(x) = log x."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from bayesmix.families import Leaves, family, flat, within


@family(dist.Dirichlet)
class Dirichlet:
    name = "Dirichlet"
    location_scale = False

    def features(self, z: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.ones_like(z[:1]), jnp.log(within(z))])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        concentration = leaves["concentration"]
        normaliser = gammaln(concentration).sum(-1) - gammaln(concentration.sum(-1))
        return flat(concentration) - 1, flat(normaliser).sum(1)
