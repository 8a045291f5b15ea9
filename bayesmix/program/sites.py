"""The sites of a mixture: where latent values go, and what was observed.

Descriptions only, without any arithmetic of the program.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.groups import group_means

Params = dict[str, Any]  # values of the latent sites, by name


@dataclass(frozen=True)
class Link:
    """How a latent site enters one parameter of the components.

    ``map`` is "identity", "sqrt", "rsqrt", "exp" or "cholesky" where the parameter is just the
    site up to broadcasts, and None for any other arithmetic. ``axes``: for each axis of the
    parameter, shape (K, *event), the axis of the site along it, or None where it is shared.
    """

    leaf: str
    map: str | None
    axes: tuple[int | None, ...]


@dataclass(frozen=True)
class Site:
    """A latent site: its prior, its shape, and where its value goes.

    ``dims`` names every axis; ``cluster_axis`` is the one along the clusters, or None for a site
    that all clusters share. ``fed_priors`` are the sites whose prior this site is part of;
    ``weighted`` says that handlers.scale or a mask changes the prior.
    """

    name: str
    shape: tuple[int, ...]
    prior: str
    support: Any  # a tree definition: jax.tree.unflatten(support, bounds) is the constraint
    dims: tuple[str, ...]
    cluster_axis: int | None
    links: tuple[Link, ...]
    fed_priors: tuple[str, ...]
    weighted: bool

    @property
    def feeds(self) -> tuple[str, ...]:
        """Names of the component parameters (and "weights") that the site enters."""
        return tuple(link.leaf for link in self.links)

    @property
    def improper(self) -> bool:
        return self.prior == "ImproperUniform"


@dataclass(frozen=True, eq=False)
class Observed:
    """An observed site of the mixture.

    ``value`` has the rows first, then the axes of plates within a row, then the event's
    (``event_dim`` of them); ``given`` are parameters that are data (numbers of trials), in the same
    shape. ``group`` is the group of each row where groups share an assignment (the mixture's own
    rows are then the groups), ``plate`` names these rows, and ``powers`` are the weights, if any,
    of the rows within their groups. ``components`` are the distributions'
    classes, one per family, and ``supports`` their supports. ``declared``: NaN stands for missing.
    """

    name: str
    value: Any = field(repr=False)  # an array, or Blocks
    given: dict[str, np.ndarray] = field(repr=False)
    event_dim: int
    components: tuple[type, ...]
    supports: tuple[Any, ...] = field(repr=False)
    plate: str = "obs_id"
    group: np.ndarray | None = field(default=None, repr=False)
    powers: np.ndarray | None = field(default=None, repr=False)
    declared: bool = False

    def of_rows(self, values: np.ndarray, rows: tuple[int, ...]) -> np.ndarray:
        """Values of the site by the mixture's rows, (*rows, ...); means over groups."""
        return values if self.group is None else group_means(values, self.group, rows[0])

    @cached_property
    def missing(self) -> np.ndarray:
        """Which cells are NaN and are integrated out, in the shape of ``value``."""
        if not self.declared or self.value.dtype.kind != "f":
            return np.zeros(self.value.shape, bool)
        return np.isnan(self.value)

    @property
    def partial(self) -> bool:
        """Whether cells are missing, and are integrated out."""
        return self.declared and not isinstance(self.value, Blocks) and bool(self.missing.any())

    @property
    def family(self) -> str:
        """Names of the families, without NumPyro's endings for a parametrisation."""
        names = (component.__name__ for component in self.components)
        return " | ".join(name.removesuffix("Probs").removesuffix("Logits") for name in names)
