"""Geometric components by probability or by logit, alone or in products: T(x) = x."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.util import clamp_probs

from bayesmix.families import Leaves, family, flat


@family(dist.GeometricProbs, dist.GeometricLogits)
class Geometric:
    """x failures before the first success."""

    name = "Geometric"
    location_scale = False

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """Probabilities of exactly 0 and 1 are moved inside by rounding."""
        if "logits" in leaves:
            logits = flat(leaves["logits"])
            return -jax.nn.softplus(logits), jax.nn.softplus(-logits).sum(1)
        probs = clamp_probs(flat(leaves["probs"]))
        return jnp.log1p(-probs), -jnp.log(probs).sum(1)
