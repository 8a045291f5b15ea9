"""What rules share: sums over tied axes, and the Normal's share of the statistics.

A rule works on arrays of the parameter's full shape (K, *event); a site that is tied across
clusters or columns takes the sum over the axes it does not have.
"""

import jax
import jax.numpy as jnp

from bayesmix.families.student import ScaleMixture
from bayesmix.mstep.rules import Context, Target


def counts(context: Context, shape: tuple[int, ...]) -> jax.Array:
    """Expected number of observations behind every element of a parameter (K, *event)."""
    if context.counts is not None:
        return context.counts.reshape(shape)
    return _spread_out(context.statistics.mass, shape)


def to_site(values: jax.Array, target: Target) -> jax.Array:
    """Sum an array of the parameter's shape over the axes that the site lacks: the site's shape."""
    along = target.link.axes
    summed = values.sum(axis=tuple(i for i, axis in enumerate(along) if axis is None))
    order = [axis for axis in along if axis is not None]
    return jnp.transpose(summed, _argsort(order)).reshape(target.shape)


def normal_statistics(context: Context) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Expected rows (K,), and mass (K,) and features (K, F) of the Normal.

    A Student-t is Normal given the scales u: its mass is the expected sum of u, not of rows.
    """
    mass, features = context.statistics
    if isinstance(context.density.family, ScaleMixture):
        return mass, features[:, 1], features[:, 2:]
    return mass, mass, features


def normal_counts(context: Context, shape: tuple[int, ...]) -> jax.Array:
    """The Normal's mass behind every element of a parameter (K, *event)."""
    if context.counts is not None:
        return context.counts.reshape(shape)
    return _spread_out(normal_statistics(context)[1], shape)


def _spread_out(mass: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(mass.reshape(-1, *(1,) * (len(shape) - 1)), shape)


def _argsort(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
