"""A mixture as ``trace`` found it in a program: its sites, its data and its graph.

Shapes, names and counts that follow from them are properties here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from bayesmix.arguments import Arguments
from bayesmix.carry import mark, packed
from bayesmix.marginal import marginalize
from bayesmix.program.sites import Observed, Site
from bayesmix.reader import Reading, read, x64
from bayesmix.sheet import Sheet, Shown


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(Shown):
    """What ``trace`` found in a program. Printing it shows the sites and the plan for EM.

    ``observed`` are its observed sites: one, or those that share an assignment, whose site is
    ``assignment``. ``value`` are the data: those of the one site, or all columns side by side;
    where rows are of groups, the groups' means.
    ``weights`` and ``labels`` (the known assignments, -1 for none) are by row, or None. ``by_row``:
    whether weights or parameters of components differ by row. ``masked``: whether a mask lies on
    components.
    """

    program: Callable[..., Any]
    arguments: Arguments
    name: str
    K: int
    sites: dict[str, Site]
    observed: tuple[Observed, ...]
    assignment: str | None
    by_row: bool
    masked: bool
    mixture_event_dim: int
    value: Any  # an array, or Blocks
    weights: np.ndarray | None
    labels: np.ndarray | None
    row_dims: tuple[str, ...]
    event_dims: tuple[str, ...]
    cluster_dim: str
    static_data: bool
    _readings: dict[bool, Reading]
    cache: dict[Any, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Names of the components' families."""
        return ", ".join(dict.fromkeys(site.family for site in self.observed))

    @property
    def general(self) -> bool:
        """Whether the clusters are of families of their own (MixtureGeneral)."""
        return len(self.observed[0].components) > 1

    @cached_property
    def background(self) -> tuple[int, ...]:
        """Clusters of a MixtureGeneral that nothing is fitted to: noise, a fixed value."""
        if not self.general:
            return ()
        fixed = [
            not any(node.depends for node in leaves.values()) for leaves in self.reading.leaves
        ]
        return () if all(fixed) else tuple(k for k, known in enumerate(fixed) if known)

    @cached_property
    def marginal(self) -> Callable[..., Any]:
        """The program as NumPyro can run it: its assignment and missing cells summed out."""
        plain = self.assignment is None and not self.partial
        return self.program if plain else marginalize(self.program)

    @property
    def rows(self) -> tuple[int, ...]:
        """Shape of the observations, usually (N,)."""
        return self.value.shape[: self.value.ndim - self.mixture_event_dim]

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.value.shape[self.value.ndim - self.mixture_event_dim :]

    @property
    def N(self) -> int:
        return int(np.prod(self.rows))

    @property
    def partial(self) -> bool:
        """Whether cells are missing, and are integrated out."""
        return any(site.partial for site in self.observed)

    @cached_property
    def missing(self) -> np.ndarray:
        """Which cells are missing, in the shape of ``value``."""
        return np.isnan(self.value) if self.partial else np.zeros(self.value.shape, bool)

    @property
    def gaps(self) -> str:
        """How many cells are missing, in words; "" if none are."""
        if not self.partial:
            return ""
        cells = sum(int(site.missing.sum()) for site in self.observed)
        empty = int(self.missing.reshape(self.N, -1).all(1).sum())
        some = np.zeros(self.N, bool)
        for site in self.observed:
            gone = site.missing.reshape(len(site.value) if site.group is not None else self.N, -1)
            hit = np.flatnonzero(gone.any(1))
            some[hit if site.group is None else site.group[hit]] = True
        rows = int(some.sum())
        text = f"{cells} missing cells in {rows} of {self.N} rows are integrated out"
        return text + (f"; rows without any value: {empty}" if empty else "")

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the observed columns, where the data came as a table that has them.

        Several sites may take the columns of a table in any order: only as they lie in it.
        """
        names = self.coords.get("feature")
        if names is None and (len(self.observed) == 1 or self._as_they_lie):
            names = self._names_of_table
        width = self.event_shape[-1] if self.event_shape else 1
        return names if names is not None and len(names) == width else None

    @cached_property
    def _names_of_table(self) -> tuple[str, ...] | None:
        """Column names of the argument that the data are, beside a table of covariates, say; of the
        first table where the data are made from what was given.
        """
        arguments = self.arguments
        if len(arguments.arrays) > 1:
            args, kwargs = arguments.rebuild(arguments.arrays)
            given = {f"argument {i + 1}": a for i, a in enumerate(args)} | kwargs
            same = [n for n, a in given.items() if isinstance(a, np.ndarray) and self._is_data(a)]
            if same and np.ndim(given[same[0]]) > 1:
                return dict(arguments.tables).get(same[0])
        return arguments.columns

    def _is_data(self, array: np.ndarray) -> bool:
        own = self.value
        return isinstance(own, np.ndarray) and np.array_equal(array, own, equal_nan=True)

    @cached_property
    def _as_they_lie(self) -> bool:
        """Whether the data, side by side, are one of the arguments."""
        return any(map(self._is_data, self.arguments.arrays))

    @property
    def coords(self) -> dict[str, tuple[str, ...]]:
        """{dim: labels} of the sites' axes, from a program that names them as it reads tables."""
        named = self.arguments.rebuild(self.arguments.arrays)[1].get("coords")
        return named if hasattr(self.program, "prepare") and named else {}

    @property
    def levels(self) -> dict[str, tuple[Any, ...]]:
        """{observed site: categories, by their numbers}, from a program that numbers them."""
        named = self.arguments.rebuild(self.arguments.arrays)[1].get("levels")
        known = named if hasattr(self.program, "prepare") and named else {}
        return {site.name: known[site.name] for site in self.observed if site.name in known}

    @property
    def index(self) -> Any:
        """The row labels of the table that the data came in, or None."""
        index = self.arguments.index
        return index if index is not None and len(index) == self.rows[0] else None

    @property
    def reading(self) -> Reading:
        """The graph in the ambient precision (float64 under ``jax.enable_x64``)."""
        key = x64()
        if key not in self._readings:
            self._readings[key] = read(self.program, self.arguments, self.static_data)[0]
        return self._readings[key]

    def __reduce__(self) -> Any:
        """Program and data, which are read anew. Raises PicklingError, see ``packed``."""
        from bayesmix.program.tracing import restored

        given = self.arguments.rebuild(self.arguments.arrays)
        with jax.enable_x64(True):
            known = mark(self.reading)
        return restored, (packed(self.program), given, self.arguments.names, known)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mixture":
        return self

    @cached_property
    def _sheet(self) -> Sheet:
        from bayesmix.mstep import describe

        return describe(self)
