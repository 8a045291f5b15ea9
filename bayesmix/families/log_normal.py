"""Log-normal components, alone or in products: a Normal of y = log x."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayesmix.families import Leaves, family
from bayesmix.families.normal import Normal

_normal = Normal()


@family(dist.LogNormal)
class LogNormal:
    """f(x) = Normal(log x) / x; the sweep's columns are y, and the parameters are those of y."""

    name = "LogNormal"
    location_scale = True
    spread = "scale"

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """Rows that do not count may hold anything; their impossible values become log 1."""
        return np.log(np.where(x <= 0, 1.0, x), dtype=np.float64)

    def features(self, z: jax.Array) -> jax.Array:
        return _normal.features(z)

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        return _normal.natural(leaves)

    def base(self, z: jax.Array) -> jax.Array:
        """The Jacobian: -log x."""
        return -jnp.sum(z, axis=0)

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        return _normal.standardise(leaves, shift, scale)
