"""Log-normal components, alone or in products: a Normal's features of y = log x."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bayesmix.families import Leaves, family, within
from bayesmix.families.normal import Normal

_normal = Normal()


@family(dist.LogNormal)
class LogNormal:
    """f(x) = Normal(log x) / x; the parameters are those of log x."""

    name = "LogNormal"
    location_scale = False

    def features(self, z: jax.Array) -> jax.Array:
        return _normal.features(jnp.log(within(z)))

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        return _normal.natural(leaves)

    def base(self, z: jax.Array) -> jax.Array:
        return -jnp.log(within(z)).sum(0)
