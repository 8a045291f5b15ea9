"""Weights of rows that share an assignment: powers within their group, and shares of it.

They come from ``handlers.scale`` around the assignment and around the rows. ``Assigned`` raises
the rows' densities to the powers, and gives each row its share of what the group's come to.
"""

from typing import Any

import jax.numpy as jnp

from bayesmix.groups import by_group
from bayesmix.marginal.assignment import own_name, row_axes


def powers_in_groups(
    assignment: dict[str, Any], site: dict[str, Any], group: Any
) -> tuple[Any, Any]:
    """Powers and shares of the rows (N,) of groups, some of which handlers.scale covers.

    The weight of the assignment is the group's; what a row has beyond it counts the row within
    the group. So a row of weight 2 is one that was seen twice, and a group of weight 2, with
    all of its rows, is a group that was seen twice. NumPyro multiplies what a row is given of
    its group's log density by the row's weight.
    """
    whole, scale, G = assignment["scale"], site["scale"], assignment["fn"].batch_shape[-1]
    if scale is None and whole is None:
        return None, None
    if scale is None:
        whose, name = own_name(assignment["name"]), site["name"]
        raise ValueError(
            f"handlers.scale covers the groups of {whose!r} but not {name!r}: put the rows "
            "inside it, too, with the weight of their group (weight[group])"
        )
    of_rows = jnp.broadcast_to(jnp.asarray(scale, float), group.shape)
    of_groups = jnp.broadcast_to(jnp.asarray(1.0 if whole is None else whole, float), (G,))
    own = of_groups[group]
    powers = jnp.where(own > 0, of_rows / jnp.where(own > 0, own, 1.0), 0.0)
    total = by_group(of_rows, group, G)[group]
    return powers, jnp.where(total > 0, own / jnp.where(total > 0, total, 1.0), 0.0)


def powers_inside(
    assignment: dict[str, Any], site: dict[str, Any], shape: tuple[int, ...]
) -> tuple[Any, Any]:
    """The same for rows, of the batch ``shape``, in plates inside those of the assignment."""
    whole, scale, rows = assignment["scale"], site["scale"], row_axes(assignment)
    axes = range(-len(shape), 0)
    inside = tuple(a for a in axes if a not in rows and shape[a] > 1)
    if scale is not None and inside and (whole is None or _varies(scale, inside)):
        own = jnp.broadcast_to(1.0 if whole is None else whole, assignment["fn"].batch_shape)
        of_rows = jnp.broadcast_to(jnp.asarray(scale, float), shape)
        total = of_rows.sum(inside, keepdims=True)
        shares = jnp.where(total > 0, own / jnp.where(total > 0, total, 1.0), 0.0)
        powers = jnp.where(own > 0, of_rows / jnp.where(own > 0, own, 1.0), 0.0)
        return powers, shares.reshape([shape[a] for a in axes if a in rows])
    if (scale is None) != (whole is None):
        whose, name = own_name(assignment["name"]), site["name"]
        raise ValueError(
            f"handlers.scale covers only one of {whose!r} and {name!r}: put both inside it"
        )
    return None, None


def _varies(value: Any, axes: tuple[int, ...]) -> bool:
    """Whether a value has more than one entry along one of the axes, counted from the right."""
    shape = jnp.shape(value)
    return any(-axis <= len(shape) and shape[axis] > 1 for axis in axes)
