"""Closed forms for the directions of von Mises components.

Given the concentrations, Q in a direction is the projection of one vector, c cos loc + s sin loc,
and is greatest along it. The vector of a prior that is itself von Mises is added.
"""

import jax
import jax.numpy as jnp

from bayesmix.mstep.reduce import to_site
from bayesmix.mstep.rules import Context, Target, rule


def _pull(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Sums of r kappa cos x and of r kappa sin x, at the shape of the site."""
    kappa = context.leaves()["concentration"]
    cosine, sine = jnp.split(context.statistics.features, 2, axis=1)
    return (
        to_site(kappa * cosine.reshape(kappa.shape), target),
        to_site(kappa * sine.reshape(kappa.shape), target),
    )


def _angle(target: Target, context: Context, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """The direction of a vector, in [-pi, pi]; the current one where the vector is 0."""
    known = (cosine != 0) | (sine != 0)
    angle = jnp.arctan2(jnp.where(known, sine, 1.0), jnp.where(known, cosine, 1.0))
    return jnp.where(known, angle, context.params[target.name])


@rule("VonMises", "loc", "identity", "VonMises", text="von Mises prior on the direction")
def direction_under_von_mises(target: Target, context: Context) -> jax.Array:
    """The direction of the sum of the data's pull and the prior's."""
    cosine, sine = _pull(target, context)
    prior = context.prior(target.name)
    loc, kappa = prior["loc"], prior["concentration"]
    return _angle(target, context, cosine + kappa * jnp.cos(loc), sine + kappa * jnp.sin(loc))


@rule("VonMises", "loc", "identity", "Uniform", text="mean direction (uniform prior)")
def direction_under_uniform(target: Target, context: Context) -> jax.Array:
    """The mean direction, as the angle in the prior's interval; its nearer end if it has none."""
    prior = context.prior(target.name)
    low, high = prior["low"], prior["high"]
    mean = _angle(target, context, *_pull(target, context))
    angle = low + (mean - low) % (2 * jnp.pi)
    nearer = jnp.where(jnp.cos(high - mean) > jnp.cos(low - mean), high, low)
    return jnp.where(angle <= high, angle, nearer)


@rule("VonMises", "loc", "identity", "ImproperUniform", text="mean direction (flat prior)")
def direction_under_flat(target: Target, context: Context) -> jax.Array:
    """The mean direction, whole turns as before."""
    mean, current = _angle(target, context, *_pull(target, context)), context.params[target.name]
    return mean + 2 * jnp.pi * jnp.round((current - mean) / (2 * jnp.pi))
