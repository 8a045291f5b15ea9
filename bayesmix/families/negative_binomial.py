"""Negative binomial components in NumPyro's four parametrisations, alone or in products.

With an unknown concentration this is no exponential family in x, but every distribution of counts
is one in their indicators: T(x)_v = 1 where x = v, eta_v = log f(v), for v = 0, ..., the largest
count. So EM's Q is free of N here too, and costs as much as the range of the counts.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayesmix.blocks import Blocks
from bayesmix.families import Leaves, family, flat
from bayesmix.marginal import IMPOSSIBLE

PARAMETRISED = {
    ("mean", "concentration"): dist.NegativeBinomial2,
    ("concentration", "rate"): dist.GammaPoisson,
    ("total_count", "probs"): dist.NegativeBinomialProbs,
    ("total_count", "logits"): dist.NegativeBinomialLogits,
}
FEWEST = 16
MOST = 1024  # counts in the table; a larger range is left to the general sweep


@family(*PARAMETRISED.values())
@dataclass(frozen=True)
class NegativeBinomial:
    """``size``: the counts are below it. A power of 2, so that data of like range share code."""

    size: int = 1
    name: str = "NegativeBinomial"
    location_scale: bool = False
    isotropic: bool = False

    def seen(self, values: Any) -> "NegativeBinomial | None":
        """The family for these counts; None where their range is too large, or not known."""
        if isinstance(values, Blocks):
            return None
        largest = int(np.max(values, initial=0, where=np.isfinite(values)))
        size = max(FEWEST, 1 << largest.bit_length())
        return NegativeBinomial(size) if size <= MOST else None

    def features(self, z: jax.Array) -> jax.Array:
        """1 and an indicator of every count in every column, (1 + size * D, n)."""
        indicators = z == jnp.arange(self.size)[:, None, None]
        own = indicators.reshape(-1, z.shape[-1]).astype(z.dtype)
        return jnp.concatenate([jnp.ones_like(z[:1]), own])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """The log probabilities of all counts, an impossible one kept finite.

        NumPyro's, but for the form by logits, whose values are the same and whose slope in the
        concentration is better (the other forms' values are wrong in the seventh digit, and what is
        fitted is the program's own density).
        """
        names = next(names for names in PARAMETRISED if set(names) == set(leaves))
        own = {name: flat(leaves[name])[:, None] for name in names}
        if "logits" in own:
            table = _summed_up(self.size, **own)
        else:
            counts = jnp.arange(self.size, dtype=float)[:, None]
            table = PARAMETRISED[names](**own).log_prob(counts)
        return flat(jnp.maximum(table, IMPOSSIBLE)), jnp.zeros(len(table), table.dtype)


def _summed_up(size: int, total_count: jax.Array, logits: jax.Array) -> jax.Array:
    """log f(x) for x below ``size``, (K, size, D), from f(x + 1) / f(x) = (r + x) s / (x + 1).

    Unlike lgamma(r + x) - lgamma(r) the sum keeps its slope in r where r is large.
    """
    x = jnp.arange(size - 1, dtype=logits.dtype)[:, None]
    rises = jnp.log(total_count + x) - jnp.log1p(x) + jax.nn.log_sigmoid(logits)
    steps = jnp.concatenate([-total_count * jax.nn.softplus(logits), rises], 1)
    return jnp.cumsum(steps, 1)
