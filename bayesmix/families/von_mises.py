"""Von Mises components for angles, alone or in products: T(x) = (cos x, sin x)."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import i0e

from bayesmix.families import Leaves, family, flat


@family(dist.VonMises)
class VonMises:
    name = "VonMises"
    location_scale = False

    def features(self, z: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.ones_like(z[:1]), jnp.cos(z), jnp.sin(z)])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """log I0(kappa) = kappa + log i0e(kappa), which does not overflow."""
        loc, kappa = flat(leaves["loc"]), flat(leaves["concentration"])
        eta = jnp.concatenate([kappa * jnp.cos(loc), kappa * jnp.sin(loc)], axis=1)
        return eta, (kappa + jnp.log(i0e(kappa)) + np.log(2 * np.pi)).sum(1)
