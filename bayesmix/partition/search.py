"""Search for the partition of least expected loss.

SALSO (Dahl, Johnson and Mueller 2022): from nothing, allocate the observations one by one in random
order, each where it costs least; then move single observations while that helps; then destroy a
cluster, allocate its members anew, and keep what is better ("zealous" updates). Departures: a
descent also merges two clusters where that helps; a zealous update is followed by a descent; it is
tried once per local optimum, however many starts arrive there. Where salso allows as many clusters
as the most varied draw has, starts may open a few more, and more than the best optimum so far has;
at the end the best optima descend once more without that bound. Descents also begin at the best of
some draws and at the partition in which every observation is alone.

The work is bounded: when `WORK` is done, no start, zealous update or descent begins; at twice as
much a descent stops where it is. `stopped` tells that something was left out. As work is counted
rather than timed, a search ends in the same way on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bayesmix.partition.objective import STEP, Objective

ATTEMPTS = 10  # clusters destroyed per local optimum, as in salso
BEST = 4  # optima refined although no start ended there
SURE = 2  # optima refined whatever the work: one may have been found with many more clusters
CLOSE = 8  # one observation in so many is visited again at once
SPARE = 3  # clusters that starts may open beyond those of any draw
WORK = 4 * 10**9  # numbers looked at; some seconds
LONGER = 2.0  # how far descents may exceed it
LARGE = 1000  # observations beyond which it grows with their number
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
    begun : random starts made. most : clusters that may be opened now. stopped : whether the bound
    of work left something out.
    """

    objective: Objective
    rng: np.random.Generator
    max_clusters: int
    end: dict[bytes, bytes] = field(default_factory=dict)
    loss: dict[bytes, float] = field(default_factory=dict)
    starts: dict[bytes, int] = field(default_factory=dict)
    begun: int = 0
    most: int = 0
    stopped: bool = False

    def run(self, runs: int, given: Iterable[np.ndarray] = ()) -> list[Optimum]:
        """Distinct optima from `runs` random starts (one at least) and from the given partitions.

        The best first.
        """
        while self.begun < runs and not (self.begun and self._spent()):
            self.begun += 1
            self.most = self._room()
            self.objective.reset(np.full(self.objective.N, -1))
            self._allocate(self.rng.permutation(self.objective.N))
            self._improve(self.objective.labels, 1)
        for labels in given:
            self.most = self._room()
            self._improve(labels, 0)
        return self.refine(self._optima())

    def refine(self, optima: list[Optimum]) -> list[Optimum]:
        """From optima of this or a similar objective, descend with as many clusters as help."""
        self.starts, self.most = {}, self.max_clusters
        for rank, optimum in enumerate(optima):
            here = before = optimum.labels.tobytes()
            if rank < SURE or ((rank < BEST or optimum.starts) and not self._spent()):
                here = self._descend(optimum.labels)
            if here != before:
                self.loss.pop(before, None)
            if here in self.loss:
                self.starts[here] = self.starts.get(here, 0) + optimum.starts
        return self._optima()

    def neighbours(self, labels: np.ndarray) -> list[np.ndarray]:
        """The best partitions with one observation moved, and with two clusters merged."""
        self.objective.reset(labels)
        found, merged = [], self.objective.merged()
        gap, k = np.full(len(labels), np.inf), np.zeros(len(labels), int)
        for some in self._batches(np.arange(len(labels)), LONGER):
            gap[some], k[some] = self._gaps(some)
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

    def _spent(self, times: float = 1.0) -> bool:
        """Whether the work is done that is allowed; asked before something is begun."""
        bound = times * WORK * max(1.0, self.objective.N / LARGE)
        spent = self.objective.effort > bound
        self.stopped |= spent
        return spent

    def _room(self) -> int:
        """Clusters that a start may open."""
        best = min(self.loss, key=self.loss.__getitem__, default=None)
        many = max(self.objective.room, 0 if best is None else clusters_of(best))
        return min(self.max_clusters, many + SPARE)

    def _allocate(self, items: np.ndarray) -> None:
        for i in items:
            self.objective.put(i, int(np.argmin(self._costs(np.array([i])))))

    def _costs(self, items: np.ndarray) -> np.ndarray:
        costs, sizes = self.objective.costs(items), self.objective.sizes
        if np.count_nonzero(sizes) >= self.most:
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
        while not self._spent(LONGER):
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
        """Merge the two clusters that gain most by it, if any do.

        An observation alone is no cluster here: merging it is moving it.
        """
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
        for some in self._batches(self.rng.permutation(items), LONGER):
            gap, _ = self._gaps(some)
            margin[some] = abs(gap)
            for i in some[gap < 0]:
                moved |= self._move(i)
        return moved

    def _batches(self, items: np.ndarray, times: float) -> Iterator[np.ndarray]:
        """Some observations of one cluster, or each alone, at a time; in the order they come.

        Until `times` the bound of work.
        """
        left, objective = items, self.objective
        while len(left) and not self._spent(times):
            own = objective.labels[left]  # clusters may come and go in between
            alone = objective.sizes[own] == 1
            alike = np.flatnonzero(alone if alone[0] else own == own[0])[: objective.batch]
            yield left[alike]
            left = np.delete(left, alike)

    def _gaps(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What moving each of the items to the best other cluster would cost, and that cluster.

        The items are of one cluster, or each is alone.
        """
        costs, at = self._costs(items), np.arange(len(items))
        own, sizes = self.objective.labels[items], self.objective.sizes
        here = costs[at, own]
        costs[at, own] = np.inf
        if sizes[own[0]] == 1:  # one that is alone has nothing to find in an empty cluster
            costs[:, sizes == 0] = np.inf
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
            if not left or self._spent():
                break
            there, loss = self._descend(*self._without(best, left.pop())), self.loss[best]
            if self.loss[there] < loss - ROUNDING * (1 + loss):
                if there in self.end:
                    return self.end[there]
                best, left = there, self._clusters(there)
        return best

    def _clusters(self, labels: bytes) -> list[int]:
        return list(self.rng.permutation(clusters_of(labels)))

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


def clusters_of(labels: bytes) -> int:
    """Clusters of a tidy partition."""
    return int(np.frombuffer(labels, np.intp).max()) + 1
