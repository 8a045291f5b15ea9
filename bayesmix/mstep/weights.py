"""Mixing weights under a Dirichlet prior, or under none."""

import jax
import jax.numpy as jnp

from bayesmix.mstep.rules import Context, Target, rule


@rule("any", "weights", "identity", "Dirichlet", text="Dirichlet")
def dirichlet_weights(target: Target, context: Context) -> jax.Array:
    """Weights that maximise Q: counts + concentration - 1, normalised.

    Where that is negative (concentration below 1, nearly empty cluster) the density has no interior
    maximum and the weight goes to the boundary, 0.
    """
    return _normalised(_counts(context) + context.prior(target.name)["concentration"] - 1)


@rule("any", "weights", "identity", "ImproperUniform", text="flat prior")
def flat_weights(target: Target, context: Context) -> jax.Array:
    """The mean responsibilities."""
    return _normalised(_counts(context))


def _counts(context: Context) -> jax.Array:
    return context.density.counts(context.statistics)


def _normalised(counts: jax.Array) -> jax.Array:
    counts = jnp.maximum(counts, 0)
    return counts / counts.sum()
