"""Zero-inflated and hurdle components: another family's, with zeros that have a rule of their own.

Both are exponential families wherever the family inside is one. With g the probability ``gate`` and
p0 what the family inside gives 0, a zero-inflated one has the features of the inside and an
indicator of 0, whose natural parameter is the log of how many times more zeros there are than the
inside's own:

    f(0) = g + (1 - g) p0,    f(x) = (1 - g) inside(x) for x > 0.

A hurdle has f(0) = g and f(x) = (1 - g) inside(x) / (1 - p0) for x > 0: the features of the inside
where x > 0, and an indicator of that, so that g enters Q as a Bernoulli's probability does.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.util import clamp_probs

from bayesmix.families import Leaves, family, flat

COUNTS = ("Poisson", "Geometric", "NegativeBinomial")
POSITIVE = ("Gamma", "InverseGamma", "Exponential")  # without an own probability of 0
HURDLES = tuple("Hurdle" + name for name in (*COUNTS, *POSITIVE))


@dataclass(frozen=True)
class Gated:
    """What both have: ``inside``, univariate and in products, with features kind by kind."""

    inside: Any = None
    prefix: ClassVar[str]
    location_scale: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.prefix + self.inside.name

    def _of_cells(self, leaves: Leaves) -> tuple[jax.Array, jax.Array, jax.Array]:
        """eta of the inside, (K, F), and by column its log-normaliser and log p0, (K, D)."""
        gates = ("gate", "gate_logits")
        own = {name: flat(leaf) for name, leaf in leaves.items() if name not in gates}
        eta, normaliser = jax.vmap(self.inside.natural, 1, 1)(own)
        nothing = jnp.zeros((1, 1), eta.dtype)
        at_zero = eta @ self.inside.features(nothing)[1:, 0] - normaliser
        at_zero = at_zero + self.inside.base(nothing)
        return eta.swapaxes(1, 2).reshape(len(eta), -1), normaliser, at_zero

    def _gates(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        """log g and log(1 - g), (K, D); exactly 0 and 1 are moved inside by rounding."""
        if "gate_logits" in leaves:
            logits = flat(leaves["gate_logits"])
            return -jax.nn.softplus(-logits), -jax.nn.softplus(logits)
        gate = clamp_probs(flat(leaves["gate"]))
        return jnp.log(gate), jnp.log1p(-gate)


@family(dist.ZeroInflatedProbs, dist.ZeroInflatedLogits)
class ZeroInflated(Gated):
    prefix = "ZeroInflated"

    def over(self, inside: Any) -> "ZeroInflated | None":
        """The family around another, or None where its zeros are not counts."""
        return ZeroInflated(inside) if inside.name in COUNTS else None

    def features(self, z: jax.Array) -> jax.Array:
        return jnp.concatenate([self.inside.features(z), (z == 0).astype(z.dtype)])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        eta, normaliser, at_zero = self._of_cells(leaves)
        gate, kept = self._gates(leaves)
        more = jnp.logaddexp(0.0, gate - kept - at_zero)
        return jnp.concatenate([eta, more], axis=1), (normaliser - kept).sum(1)

    def base(self, z: jax.Array) -> jax.Array:
        return self.inside.base(z)


@family(dist.HurdleProbs, dist.HurdleLogits)
class Hurdle(Gated):
    prefix = "Hurdle"

    def over(self, inside: Any) -> "Hurdle | None":
        """The family around another, or None where that is none of counts or positive numbers."""
        return Hurdle(inside) if self.prefix + inside.name in HURDLES else None

    def features(self, z: jax.Array) -> jax.Array:
        own, passed = self.inside.features(z), z > 0
        each = jnp.tile(passed, ((len(own) - 1) // len(z), 1))
        return jnp.concatenate([own[:1], jnp.where(each, own[1:], 0), passed.astype(z.dtype)])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        eta, normaliser, at_zero = self._of_cells(leaves)
        gate, kept = self._gates(leaves)
        truncated = jax.nn.log1mexp(-at_zero) if self.inside.name in COUNTS else 0.0
        passed = kept - truncated - normaliser - gate
        return jnp.concatenate([eta, passed], axis=1), -gate.sum(1)

    def base(self, z: jax.Array) -> jax.Array:
        each = jax.vmap(self.inside.base)(z[:, None])
        return jnp.where(z > 0, each, 0).sum(0)
