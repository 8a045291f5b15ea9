"""Multinomial components by probability or by logit, alone or in products: T(x) = x."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from bayesmix.families import Leaves, family, flat, linear


@family(dist.MultinomialProbs, dist.MultinomialLogits)
@dataclass(frozen=True)
class Multinomial:
    """``levels``: the number of categories.

    The numbers of trials are data: columns of ``z`` that follow those of the counts, the trials of
    a row once for each of its categories.
    """

    levels: int = 1
    name: str = "Multinomial"
    location_scale: bool = False
    isotropic: bool = False

    def shaped(self, shapes: dict[str, tuple[int, ...]]) -> "Multinomial":
        """The family of components with these shapes of parameters."""
        return Multinomial(shapes.get("probs", shapes.get("logits", (1,)))[-1])

    def features(self, z: jax.Array) -> jax.Array:
        counts, _ = jnp.split(z, 2)
        return linear(counts)

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """A probability of exactly 0 counts as the smallest number, so that 0 * log 0 is 0."""
        if "logits" in leaves:
            eta = flat(jax.nn.log_softmax(leaves["logits"]))
        else:
            probs = flat(leaves["probs"])
            eta = jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny))
        return eta, jnp.zeros(eta.shape[0], eta.dtype)

    def base(self, z: jax.Array) -> jax.Array:
        """log of the number of orders in which the counts can come."""
        counts, trials = jnp.split(z, 2)
        return gammaln(trials[:: self.levels] + 1).sum(0) - gammaln(counts + 1).sum(0)
