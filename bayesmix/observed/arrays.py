"""Values, row weights and given parameters, as either way of writing a mixture needs them."""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_data(value: Any) -> jax.Array:
    """Observed values in the ambient precision, also those the program closed over."""
    if isinstance(value, np.ndarray):
        value = value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
    return jnp.asarray(value)


def check_shapes(name: str, site: dict[str, Any], event_dim: int) -> None:
    """Raise ValueError where the data are not of the site's own shape, or have no rows."""
    expected, value = tuple(site["fn"].shape()), jnp.shape(site["value"])
    if value != expected:
        raise ValueError(
            f"site {name!r} describes data of shape {expected} (rows, then columns) but its data "
            f"have shape {value}: check the plate's size and the number of columns"
        )
    if len(value) == event_dim:
        raise ValueError(
            f"site {name!r} has one observation and no rows: put it into numpyro.plate("
            "'obs_id', len(x))"
        )


def row_dims(frames: Sequence[Any], axes: Sequence[int]) -> tuple[str, ...]:
    """Names of the rows' axes: those of the plates, or obs_id."""
    plates = {frame.dim: frame.name for frame in frames}
    spare = ["obs_id"] if len(axes) == 1 else [f"obs_id_{i}" for i in range(len(axes))]
    return tuple(plates.get(axis, name) for axis, name in zip(axes, spare, strict=True))


def row_scale(
    site: dict[str, Any],
    masks: list[Any],
    rows: tuple[int, ...],
    axes: Sequence[int] | None = None,
) -> Any:
    """Weight of each row: handlers.scale times the masks, or None when all are one."""
    factors = [] if site["scale"] is None else [jnp.asarray(site["scale"], float)]
    factors += [jnp.asarray(mask, float) for mask in masks if mask is not True]
    if not factors:
        return None
    total = reduce(operator.mul, factors)
    if axes is None:
        return jnp.broadcast_to(total, rows)
    shared = [a for a in range(-total.ndim, 0) if a not in axes and total.shape[a] == 1]
    return jnp.broadcast_to(total.squeeze(shared), rows)


def mixing_values(mixing: Any) -> Any:
    """The mixing distribution's own parameter: probabilities if it has them, else logits."""
    return mixing.probs if "probs" in vars(mixing) else mixing.logits


def for_each_cell(value: jax.Array, base: Any, cells: tuple[int, ...]) -> jax.Array:
    """A given parameter in the shape of the data: cells, then the event of one component."""
    event = tuple(base.event_shape)
    return jnp.broadcast_to(value.reshape(value.shape + (1,) * len(event)), cells + event)
