"""Where a value of the data is, in words, and which values count."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bayesmix.program import Mixture, Observed


def place(mixture: "Mixture", position: np.ndarray) -> str:
    """Where a value of the data is, in words: its row and, if it has one, its column."""
    rows = len(mixture.rows)
    row = ", ".join(str(int(i)) for i in position[:rows])
    if len(position) == rows:
        return f"row {row}"
    column = int(position[-1])
    named = mixture.columns if len(mixture.observed) == 1 else None
    label = repr(named[column]) if named else str(column)
    return f"row {row}, column {label}"


def used_of(site: "Observed", used: np.ndarray) -> np.ndarray:
    """Which rows of a site count: those of positive weight, or of groups of positive weight."""
    return used if site.group is None else used[site.group]


def counted(used: np.ndarray, ndim: int) -> np.ndarray:
    """Which rows count, as an array that meets the values of ``ndim`` axes."""
    return used.reshape(used.shape + (1,) * (ndim - used.ndim))
