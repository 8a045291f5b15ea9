"""Beta components by two concentrations or by mean and concentration, alone or in products.

T(x) = (log x, log(1 - x)).
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from bayesmix.families import Leaves, family, flat, within


@family(dist.Beta, dist.BetaProportion)
class Beta:
    name = "Beta"
    location_scale = False

    def features(self, z: jax.Array) -> jax.Array:
        x = within(z)
        return jnp.concatenate([jnp.ones_like(x[:1]), jnp.log(x), jnp.log1p(-x)])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        if "mean" in leaves:
            mean, total = flat(leaves["mean"]), flat(leaves["concentration"])
            a, b = mean * total, (1 - mean) * total
        else:
            a, b = flat(leaves["concentration1"]), flat(leaves["concentration0"])
        normaliser = gammaln(a) + gammaln(b) - gammaln(a + b)
        return jnp.concatenate([a - 1, b - 1], axis=1), normaliser.sum(1)
