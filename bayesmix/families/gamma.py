"""Gamma and inverse gamma components, alone or in products: T = (log x, x) and (log x, 1 / x)."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from bayesmix.families import Leaves, family, flat, within


def _normaliser(concentration: jax.Array, rate: jax.Array) -> jax.Array:
    """log of the integral of x^(a - 1) e^(-b x), summed over columns, (K,)."""
    return (gammaln(concentration) - concentration * jnp.log(rate)).sum(1)


@family(dist.Gamma)
class Gamma:
    name = "Gamma"
    location_scale = False

    def features(self, z: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.ones_like(z[:1]), jnp.log(within(z)), z])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        concentration, rate = flat(leaves["concentration"]), flat(leaves["rate"])
        eta = jnp.concatenate([concentration - 1, -rate], axis=1)
        return eta, _normaliser(concentration, rate)


@family(dist.InverseGamma)
class InverseGamma:
    """1 / x is Gamma with the same parameters."""

    name = "InverseGamma"
    location_scale = False

    def features(self, z: jax.Array) -> jax.Array:
        x = within(z)
        return jnp.concatenate([jnp.ones_like(x[:1]), jnp.log(x), 1 / x])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        concentration, rate = flat(leaves["concentration"]), flat(leaves["rate"])
        eta = jnp.concatenate([-concentration - 1, -rate], axis=1)
        return eta, _normaliser(concentration, rate)
