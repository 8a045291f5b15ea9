"""Search for the partition of least expected loss.

SALSO (Dahl, Johnson and Mueller 2022): from nothing, allocate the observations one by one in random
order, each where it costs least; then move single observations while that helps; then destroy a
cluster, allocate its members anew, and keep what is better ("zealous" updates). Departures: a
descent also merges two clusters where that helps; a zealous update is followed by a descent; and it
is tried once per local optimum, however many starts arrive there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bayesmix.partition.objective import STEP, Objective

ATTEMPTS = 10  # clusters destroyed per local optimum, as in salso
BEST = 4  # optima refined although no start ended there
SHAKEN = 2  # refined optima that get zealous updates on all draws
CLOSE = 8  # one observation in so many is visited again at once
ROUNDING = 1e-10


class Optimum(NamedTuple):
    """A local optimum that was met, and how many of the random starts ended there."""

    labels: np.ndarray
    loss: float
    starts: int


@dataclass
class Search:
    """An objective, a random generator, and the local optima met so far.

    loss : of each. end : where zealous updates led from it. starts : random starts that led there.
    """

    objective: Objective
    rng: np.random.Generator
    max_clusters: int
    end: dict[bytes, bytes] = field(default_factory=dict)
    loss: dict[bytes, float] = field(default_factory=dict)
    starts: dict[bytes, int] = field(default_factory=dict)

    def run(self, runs: int, given: Iterable[np.ndarray] = ()) -> list[Optimum]:
        """Distinct optima from `runs` random starts and from the given partitions, best first."""
        for labels in given:
            self._improve(labels, 0)
        for _ in range(runs):
            self.objective.reset(np.full(self.objective.N, -1))
            self._allocate(self.rng.permutation(self.objective.N))
            self._improve(self.objective.labels, 1)
        return self._optima()

    def refine(self, optima: list[Optimum]) -> list[Optimum]:
        """The same for optima of a similar objective: descend from each, shake the best."""
        for rank, optimum in enumerate(optima):
            if rank < BEST or optimum.starts:
                here = self._descend(optimum.labels)
                self.starts[here] = self.starts.get(here, 0) + optimum.starts
        for here in sorted(self.loss, key=self.loss.__getitem__)[:SHAKEN]:
            reached = self._shake(here)
            self.end[here] = self.end[reached] = reached
            if reached != here:
                self.starts[reached] = self.starts.pop(here, 0) + self.starts.get(reached, 0)
        return self._optima()

    def neighbours(self, labels: np.ndarray) -> list[np.ndarray]:
        """The best partitions with one observation moved, and with two clusters merged."""
        self.objective.reset(labels)
        found, merged = [], self.objective.merged()
        parts = [self._gaps(some) for some in self._batches(np.arange(len(labels)))]
        gap, k = (np.concatenate(part) for part in zip(*parts, strict=True))
        if np.isfinite(gap).any():
            i = int(np.argmin(gap))
            found.append(tidy(np.where(np.arange(len(labels)) == i, k[i], labels)))
        if np.isfinite(merged).any():
            one, other = np.unravel_index(np.argmin(merged), merged.shape)
            found.append(tidy(np.where(labels == other, one, labels)))
        return found

    def _optima(self) -> list[Optimum]:
        found = [
            Optimum(np.frombuffer(at, np.intp), loss, self.starts.get(at, 0))
            for at, loss in self.loss.items()
        ]
        return sorted(found, key=lambda optimum: optimum.loss)

    def _improve(self, labels: np.ndarray, count: int) -> None:
        here = self._descend(labels)
        if here not in self.end:
            reached = self._shake(here)
            self.end[here] = self.end[reached] = reached
        at = self.end[here]
        self.starts[at] = self.starts.get(at, 0) + count

    def _allocate(self, items: np.ndarray) -> None:
        for i in items:
            self.objective.put(i, int(np.argmin(self._costs(np.array([i])))))

    def _costs(self, items: np.ndarray) -> np.ndarray:
        costs, sizes = self.objective.costs(items), self.objective.sizes
        if np.count_nonzero(sizes) >= self.max_clusters:
            costs = np.where(sizes > 0, costs, np.inf)
        return costs

    def _descend(self, labels: np.ndarray, first: np.ndarray | None = None) -> bytes:
        """Move single observations and merge clusters until neither lowers the expected loss.

        After a sweep over all (or over some, `first`), only those close to moving are visited until
        they rest; then all again, until a sweep over all moves none.
        """
        self.objective.reset(tidy(labels))
        margin = np.full(self.objective.N, np.inf)
        everyone = np.arange(self.objective.N)
        items = everyone if first is None else first
        while True:
            moved = self._sweep(items, margin)
            if len(self.objective.sizes) > np.count_nonzero(self.objective.sizes) + STEP:
                self.objective.reset(tidy(self.objective.labels))
            if moved:
                items = np.argsort(margin)[: max(1, len(everyone) // CLOSE)]
            elif len(items) < len(everyone) or self._merge():
                items = everyone
            else:
                break
        here = tidy(self.objective.labels).tobytes()
        self.loss[here] = self.objective.value()
        return here

    def _merge(self) -> bool:
        """Merge the two clusters that gain most by it, if any do."""
        values, now = self.objective.merged(), self.objective.value()
        k, other = np.unravel_index(np.argmin(values), values.shape)
        if not values[k, other] < now - ROUNDING * (1 + now):
            return False
        labels = np.where(self.objective.labels == other, k, self.objective.labels)
        self.objective.reset(tidy(labels))
        return True

    def _sweep(self, items: np.ndarray, margin: np.ndarray) -> bool:
        """Whether any of the items moved; margin learns what their second choice would cost."""
        moved = False
        for some in self._batches(self.rng.permutation(items)):
            gap, _ = self._gaps(some)
            margin[some] = abs(gap)
            for i in some[gap < 0]:
                moved |= self._move(i)
        return moved

    def _batches(self, items: np.ndarray) -> Iterator[np.ndarray]:
        while len(items):
            size = self.objective.batch  # clusters may come and go in between
            yield items[:size]
            items = items[size:]

    def _gaps(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What moving each of the items to the best other cluster would cost, and that cluster."""
        costs, at, own = self._costs(items), np.arange(len(items)), self.objective.labels[items]
        here = costs[at, own]
        costs[at, own] = np.inf
        # an observation that is alone already has nothing to find in an empty cluster
        costs[np.outer(self.objective.sizes[own] == 1, self.objective.sizes == 0)] = np.inf
        k = np.argmin(costs, axis=1)
        gap = costs[at, k] - here
        return np.where(np.abs(gap) <= ROUNDING * (1 + np.abs(here)), 0.0, gap), k

    def _move(self, i: int) -> bool:
        """Move one observation if that helps still."""
        gap, k = self._gaps(np.array([i]))
        if gap[0] < 0:
            self.objective.take(i)
            self.objective.put(i, int(k[0]))
        return bool(gap[0] < 0)

    def _shake(self, best: bytes) -> bytes:
        """Destroy clusters in random order while that leads to something better."""
        left = self._clusters(best)
        for _ in range(ATTEMPTS):
            if not left:
                break
            there, loss = self._descend(*self._without(best, left.pop())), self.loss[best]
            if self.loss[there] < loss - ROUNDING * (1 + loss):
                if there in self.end:
                    return self.end[there]
                best, left = there, self._clusters(there)
        return best

    def _clusters(self, labels: bytes) -> list[int]:
        return list(self.rng.permutation(np.frombuffer(labels, np.intp).max() + 1))

    def _without(self, labels: bytes, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The partition with the members of cluster k allocated anew, and those members."""
        members = np.flatnonzero(np.frombuffer(labels, np.intp) == k)
        self.objective.reset(np.frombuffer(labels, np.intp))
        for i in members.tolist():
            self.objective.take(i)
        self._allocate(self.rng.permutation(members))
        return self.objective.labels, members


def tidy(labels: np.ndarray) -> np.ndarray:
    """Clusters numbered 0, 1, ... by their first member."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
