"""What a Density works on, and what it hands over: data made ready, statistics of gaps."""

from typing import Any, NamedTuple

import jax

from bayesmix.sweep import Statistics


class Data(NamedTuple):
    """All that a Density needs of the data: summaries for the program's arithmetic, and rows."""

    known: list[Any]
    rows: Any  # Rows; of the general sweep Chunks, or None, or factors of the row weights (*rows)
    base: Any
    frame: Any = None  # of lines: what the coefficients are in the sweep's coordinates
    ordered: Any = None  # of observed sites with kinks: {site: Ordered}


class Ordered(NamedTuple):
    """Columns in ascending order: their values, (D, N), and the row of each, (D, N)."""

    values: Any
    order: Any


class Partial(NamedTuple):
    """What an E-step over rows with missing cells gives.

    ``observed``: statistics of the observed cells by pattern, (P, K) and (P, K, F), on which Q
    depends. ``completed``: those of whole rows, (K,) and (K, F), with the missing cells expected.
    """

    observed: Statistics
    completed: Statistics

    @property
    def mass(self) -> jax.Array:
        """Rows in each cluster, (K,)."""
        return self.completed.mass
