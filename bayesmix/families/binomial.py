"""Binomial components by probability or by logit, alone or in products: T = (successes, trials)."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from numpyro.distributions.util import clamp_probs

from bayesmix.families import Leaves, family, flat


@family(dist.BinomialProbs, dist.BinomialLogits)
class Binomial:
    """The numbers of trials are data: columns of ``z`` that follow those of the successes."""

    name = "Binomial"
    location_scale = False
    isotropic = False
    spread = ""

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """Probabilities of exactly 0 and 1 are moved inside by rounding, as NumPyro does."""
        if "logits" in leaves:
            logits = flat(leaves["logits"])
            failure = -jax.nn.softplus(logits)
        else:
            probs = clamp_probs(flat(leaves["probs"]))
            failure = jnp.log1p(-probs)
            logits = jnp.log(probs) - failure
        eta = jnp.concatenate([logits, failure], 1)
        return eta, jnp.zeros(eta.shape[0], eta.dtype)

    def base(self, z: jax.Array) -> jax.Array:
        successes, trials = jnp.split(z, 2)
        ways = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
        return ways.sum(0)
