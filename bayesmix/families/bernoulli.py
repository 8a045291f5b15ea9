"""Bernoulli components by probability or by logit, alone or in products: T(x) = x."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.util import clamp_probs

from bayesmix.families import Leaves, family, flat


@family(dist.BernoulliProbs, dist.BernoulliLogits)
class Bernoulli:
    name = "Bernoulli"
    location_scale = False

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """Probabilities of exactly 0 and 1 are moved inside by rounding, as NumPyro does."""
        if "logits" in leaves:
            logits = flat(leaves["logits"])
            return logits, jax.nn.softplus(logits).sum(1)
        probs = clamp_probs(flat(leaves["probs"]))
        return jnp.log(probs) - jnp.log1p(-probs), -jnp.log1p(-probs).sum(1)
