"""Groups of rows that share one assignment: ``z`` in the plate of the groups, ``z[group]`` in rows.

The groups may differ in size. The log densities of a group's rows are added up; then everything
goes on by group. Knows arrays, nothing of NumPyro's messages.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Indexed(np.ndarray):
    """All values of an assignment, which become those of the rows when indexed by their group.

    ``looked_up(index)`` gives the values for the rows and remembers the index.
    """

    looked_up: Callable[[Any], Any]

    def __getitem__(self, index: Any) -> Any:
        looked_up = getattr(self, "looked_up", None)
        if looked_up is None or not hasattr(index, "dtype"):
            return np.asarray(self)[index]
        return looked_up(index)


def indexed(values: np.ndarray, looked_up: Callable[[Any], Any]) -> Indexed:
    """``values`` as an assignment whose use as ``z[group]`` calls ``looked_up(group)``."""
    found = values.view(Indexed)
    found.looked_up = looked_up
    return found


def by_group(values: Any, group: Any, count: int) -> jax.Array:
    """Sums over the rows of each group: values (N, ...), group (N,), result (count, ...)."""
    return jnp.zeros((count, *values.shape[1:]), values.dtype).at[group].add(values)


def to_rows(values: Any, group: Any) -> jax.Array:
    """Values of groups (G,) shared out evenly among their rows (N,), so that the sum stays."""
    ones = jnp.ones(group.shape, values.dtype)
    return (values / jnp.maximum(by_group(ones, group, len(values)), 1))[group]


def group_means(values: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Means over the rows of each group, every cell a column: (N, ...) -> (count, D).

    Of the observed cells where some are NaN; NaN where a group has none.
    """
    flat = values.reshape(len(values), -1).astype(float)
    seen = ~np.isnan(flat)
    total, cells = np.zeros((count, flat.shape[1])), np.zeros((count, flat.shape[1]))
    np.add.at(total, group, np.where(seen, flat, 0.0))
    np.add.at(cells, group, seen)
    return np.where(cells > 0, total / np.maximum(cells, 1), np.nan)


def check_groups(name: str, group: np.ndarray, count: int) -> None:
    """Raise ValueError unless the numbers of groups are 0 to count - 1, each with a row."""
    outside = (group < 0) | (group >= count)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"site {name!r}: row {row} is of group {group[row]}, but the groups are 0 to "
            f"{count - 1}"
        )
    empty = np.bincount(group, minlength=count) == 0
    if empty.any():
        raise ValueError(
            f"site {name!r}: group {int(empty.argmax())} of 0 to {count - 1} has no rows: number "
            "the groups without gaps, for example by numpy.unique(labels, return_inverse=True)[1]"
        )
