"""Zero-inflated Poisson components, alone or in products: T(x) = (x, 1 where x = 0).

With a share g of extra zeros, log f(x) = log(1 - g) - rate + x log rate - log x! for x > 0, and
f(0) = g + (1 - g) exp(-rate): the indicator's natural parameter is the log of how many times more
zeros there are than the Poisson's own.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bayesmix.families import Leaves, family, flat, linear
from bayesmix.families.poisson import Poisson


@family(dist.ZeroInflatedPoisson)
class ZeroInflatedPoisson:
    name = "ZeroInflatedPoisson"
    location_scale = False
    poisson = Poisson()

    def features(self, z: jax.Array) -> jax.Array:
        return jnp.concatenate([linear(z), (z == 0).astype(z.dtype)])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        log_rate, total = self.poisson.natural(leaves)
        gate = flat(leaves["gate"])
        kept = jnp.log1p(-gate)
        more = jnp.logaddexp(0.0, jnp.log(gate) - kept + flat(leaves["rate"]))
        return jnp.concatenate([log_rate, more], axis=1), total - kept.sum(1)

    def base(self, z: jax.Array) -> jax.Array:
        return self.poisson.base(z)
