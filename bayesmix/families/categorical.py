"""Categorical components by probability or by logit, alone or in products: T(x) = indicators."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.util import clamp_probs

from bayesmix.families import Leaves, family


@family(dist.CategoricalProbs, dist.CategoricalLogits)
@dataclass(frozen=True)
class Categorical:
    """``levels``: the number of categories, the same in every column of one site."""

    levels: int = 0
    name: str = "Categorical"
    location_scale: bool = False
    isotropic: bool = False

    def shaped(self, shapes: dict[str, tuple[int, ...]]) -> "Categorical":
        """The family of components with these shapes of parameters."""
        return Categorical(shapes.get("probs", shapes.get("logits", (0,)))[-1])

    def features(self, z: jax.Array) -> jax.Array:
        """1 and an indicator of every category of every column, (1 + D * levels, n)."""
        indicators = z[:, None, :] == jnp.arange(self.levels)[:, None]
        own = indicators.reshape(-1, z.shape[-1]).astype(z.dtype)
        return jnp.concatenate([jnp.ones_like(z[:1]), own])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """Probabilities of exactly 0 are moved inside by rounding, as NumPyro does."""
        probs = leaves.get("probs")
        logits = leaves["logits"] if probs is None else jnp.log(clamp_probs(probs))
        eta = jax.nn.log_softmax(logits)
        return eta.reshape(eta.shape[0], -1), jnp.zeros(eta.shape[0], eta.dtype)
