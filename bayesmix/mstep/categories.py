"""Closed forms for Categorical and Multinomial probabilities."""

import jax
import jax.numpy as jnp

from bayesmix.mstep.reduce import to_site
from bayesmix.mstep.rules import Context, Target, rule

FAMILIES = ("Categorical", "Multinomial")


@rule(
    FAMILIES,
    "probs",
    "identity",
    "Dirichlet",
    text="Dirichlet on category probabilities",
    by_cell=True,
)
def categories_under_dirichlet(target: Target, context: Context) -> jax.Array:
    """Counts + concentration - 1, normalised; a category that this makes negative gets 0."""
    return _shares(target, context, context.prior(target.name)["concentration"] - 1)


@rule(FAMILIES, "probs", "identity", "ImproperUniform", text="shares (flat prior)", by_cell=True)
def categories_under_flat(target: Target, context: Context) -> jax.Array:
    """The shares of the categories."""
    return _shares(target, context, 0.0)


def _shares(target: Target, context: Context, added: jax.Array | float) -> jax.Array:
    """Normalised counts; the current value where nothing bears on the site.

    A category that is nowhere seen gets the smallest positive number where the prior is flat: at 0
    itself NumPyro's Dirichlet(1) has no density.
    """
    leaf = context.leaves()["probs"]
    counts = to_site(context.statistics.features.reshape(leaf.shape), target)
    counts = jnp.maximum(counts + added, 0)
    total = counts.sum(-1, keepdims=True)
    shares = counts / jnp.where(total > 0, total, 1)
    shares = jnp.where((shares == 0) & (added == 0), jnp.finfo(shares.dtype).tiny, shares)
    return jnp.where(total > 0, shares, context.params[target.name])
