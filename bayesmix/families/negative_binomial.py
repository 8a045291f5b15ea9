"""Negative binomial components in NumPyro's four parametrisations, alone or in products.

With an unknown concentration this is no exponential family in x, but every distribution of counts
is one in their indicators: T(x)_v = 1 where x = v, eta_v = log f(v), for v = 0, ..., the largest
count. So EM's Q is free of N here too, and costs as much as the range of the counts.
"""

from dataclasses import dataclass
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayesmix.blocks import Blocks
from bayesmix.families import Leaves, family, flat
from bayesmix.marginal import IMPOSSIBLE


def _by_mean(mean: Any, concentration: Any) -> tuple[Any, Any, Any]:
    return concentration, -jnp.log1p(mean / concentration), mean / (concentration + mean)


def _by_rate(concentration: Any, rate: Any) -> tuple[Any, Any, Any]:
    return concentration, -jnp.log1p(1 / rate), 1 / (1 + rate)


def _by_probs(total_count: Any, probs: Any) -> tuple[Any, Any, Any]:
    return total_count, jnp.log1p(-probs), probs


def _by_logits(total_count: Any, logits: Any) -> tuple[Any, Any, Any]:
    return total_count, -jax.nn.softplus(logits), jax.nn.sigmoid(logits)


# The concentration, log probability of a failure and probability of a success of each form.
FORMS = (_by_mean, _by_rate, _by_probs, _by_logits)
FORM_OF = {frozenset(signature(form).parameters): form for form in FORMS}
FEWEST = 16
MOST = 1024  # counts in the table; a larger range is left to the general sweep


@family(
    dist.NegativeBinomial2,
    dist.GammaPoisson,
    dist.NegativeBinomialProbs,
    dist.NegativeBinomialLogits,
)
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

        log f(x + 1) - log f(x) = log (r + x) s / (x + 1), with s the probability of a success and r
        the concentration, is summed from log f(0) on: unlike lgamma(r + x) - lgamma(r) it keeps
        its slope in r where r is large.
        """
        own = {name: flat(leaf)[:, None] for name, leaf in leaves.items()}
        r, log_failure, success = FORM_OF[frozenset(own)](**own)
        x = jnp.arange(self.size - 1)[:, None]
        rises = jnp.log((r + x) * success / (x + 1))
        steps = jnp.concatenate([r * log_failure, jnp.maximum(rises, IMPOSSIBLE)], 1)
        table = jnp.maximum(jnp.cumsum(steps, 1), IMPOSSIBLE)
        return flat(table), jnp.zeros(len(table), table.dtype)
