"""One tree to be relabelled: each method as a few lines over the losses in `methods`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.relabel import methods
from bayesmix.relabel.assignment import Alignment, Classes, anchored, assign
from bayesmix.relabel.blocks import Responsibilities, of_tree, sampled_allocations
from bayesmix.relabel.pivot import Pivot, best_draw, central, pivot_of
from bayesmix.relabel.tree import (
    classes_of,
    dataset,
    first_numbers,
    numbers_by,
    observations,
    parameters,
    pivot_parameters,
)

if TYPE_CHECKING:
    import xarray

METHODS = (
    "ecr",
    "ecr-iterative-1",
    "ecr-iterative-2",
    "stephens",
    "data-based",
    "pra",
    "order",
)

Means = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Task:
    """One tree to be relabelled: what the methods need, each read at most once."""

    tree: xarray.DataTree
    mixture: Any = None

    @cached_property
    def draws(self) -> Responsibilities:
        return of_tree(self.tree, self.mixture)

    @cached_property
    def K(self) -> int:
        return int(self.tree.attrs.get("n_clusters", 0)) or self.draws.shape[-1]

    @cached_property
    def classes(self) -> Classes:
        return classes_of(self.tree, self.K)

    @cached_property
    def order(self) -> np.ndarray | None:
        return first_numbers(self.tree, self.K)

    @cached_property
    def pivot(self) -> Pivot:
        return pivot_of(self.tree, self.draws)

    @property
    def kind(self) -> str:
        """Where the pivot comes from: "em", "draw" or "central draw"."""
        stored = dataset(self.tree, "pivot").attrs.get("kind")
        return str(stored) if stored else "central draw" if best_draw(self.tree) is None else "draw"

    @cached_property
    def ecr(self) -> tuple[Alignment, np.ndarray]:
        """ECR's names, and the mean responsibilities under them."""
        return self._aligned(self.draws, self.pivot)

    def solve(self, method: str, by: Any = None) -> Alignment:
        """Names by a method; they are the pivot's, but for "order", which makes its own."""
        found = self._solve(method, by)
        if method in ("ecr", "pra", "order"):
            return found
        return anchored(found, self.ecr[0].perm, self.classes)

    def _solve(self, method: str, by: Any) -> Alignment:
        if method == "ecr":
            return self.ecr[0]
        if method == "order":
            cost = methods.rank_cost(numbers_by(self.tree, by, self.K), self.classes)
            return assign(cost, self.classes)
        if method == "pra":
            return self._pra()
        if method == "data-based":
            return self._data_based()
        if method == "stephens":
            return self._settled(self.draws, methods.surprise, self._means)
        if method == "ecr-iterative-2":
            return self._settled(self.draws, methods.outvoted, self._means)
        votes = sampled_allocations(self.tree) or self.draws.voted()
        starts = self._starts(votes, self._aligned(votes, self.pivot))
        return self._settled(votes, methods.outvoted, starts)

    def _settled(
        self, draws: Responsibilities, loss_of: Callable[[np.ndarray], np.ndarray], starts: Means
    ) -> Alignment:
        """The cheapest of the descents from the starts."""

        def step(mean: np.ndarray) -> tuple[Alignment, np.ndarray]:
            return methods.align(draws, loss_of(mean), self.classes, self.order)

        found = [methods.alternate(step, mean) for mean in starts]
        return min(found, key=lambda one: float(one.cost.sum()))

    @cached_property
    def _means(self) -> Means:
        return self._starts(self.draws, self.ecr)

    def _starts(self, draws: Responsibilities, here: tuple[Alignment, np.ndarray]) -> Means:
        """Mean responsibilities under the pivot's names and, where these differ, a central draw's.

        here : the alignment with the pivot.
        """
        there = self._aligned(draws, central(draws))
        turned = anchored(there[0], here[0].perm, self.classes)
        same = np.array_equal(turned.perm, here[0].perm)
        return (here[1],) if same else (here[1], there[1])

    def _aligned(self, draws: Responsibilities, pivot: Pivot) -> tuple[Alignment, np.ndarray]:
        loss = methods.disagreement(pivot.resp)
        return methods.align(draws, loss, self.classes, self.order)

    def _data_based(self) -> Alignment:
        found = methods.moments(self.draws, observations(self.tree, self.draws.shape[1]))

        def step(perm: np.ndarray) -> tuple[Alignment, np.ndarray]:
            cost = methods.data_distance(found, *methods.centres(found, perm))
            names = assign(cost, self.classes, self.order)
            return names, names.perm

        return methods.alternate(step, self.ecr[0].perm)

    def _pra(self) -> Alignment:
        values = parameters(self.tree, self.K)
        pivot = self._pivot_parameters(values)

        def step(scale: np.ndarray) -> tuple[Alignment, np.ndarray]:
            cost = methods.parameter_distance(values, pivot, scale)
            names = assign(cost, self.classes, self.order)
            return names, methods.spread_within(values, names.perm)

        return methods.alternate(step, self._first_scale(values))

    def _first_scale(self, values: np.ndarray) -> np.ndarray:
        """Spread within ECR's clusters; over all clusters where nothing is known of observations.

        Over all clusters, parameters that only vary by noise would count as much as those that
        tell clusters apart.
        """
        if self.mixture is None and not {"responsibilities", "allocations"} & set(
            self.tree.children
        ):
            spread = values.std(axis=(0, 1))
            return np.where(spread > 0, spread, 1.0)
        return methods.spread_within(values, self.ecr[0].perm)

    def _pivot_parameters(self, values: np.ndarray) -> np.ndarray:
        stored = pivot_parameters(self.tree, self.K)
        if stored is not None:
            return stored
        best = best_draw(self.tree)
        return np.asarray(values[self.pivot.draw if best is None else best])
