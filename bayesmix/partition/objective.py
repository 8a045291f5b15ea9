"""The expected loss of a partition under construction, one observation at a time.

Two ways to hold the posterior. `tables.Tables` keeps the contingency table of every draw with
the current partition: any loss. `Pairs` keeps only the similarity matrix: losses linear in
co-clustering (Binder), exact where the similarity is. The search knows only what both offer.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bayesmix.partition.losses import Loss

STEP = 8  # columns are added this many at a time: one cache line
CALL = 2**15  # what a call costs besides the numbers it works on, in numbers


class Objective(Protocol):
    """labels : (N,) the current cluster of each observation, -1 where it is not yet allocated.

    sizes : of the clusters; one at least is empty. room : clusters that an allocation may need.
    effort : work done so far, about one unit for each number that was looked at.
    """

    labels: np.ndarray
    sizes: np.ndarray
    N: int
    room: int
    effort: int

    @property
    def batch(self) -> int:
        """For how many observations at once `costs` is cheapest."""

    def costs(self, items: np.ndarray) -> np.ndarray:
        """Expected loss with each of M observations in each cluster, less a constant.

        (M, clusters). Each is taken out of its cluster first; all of them are in the same one, or
        each is alone, or none is allocated. inf for other clusters of one that cannot be the
        cheapest.
        """

    def put(self, i: int, k: int) -> None:
        """Allocate observation i to cluster k."""

    def take(self, i: int) -> None:
        """Take observation i out of its cluster."""

    def reset(self, labels: np.ndarray) -> None:
        """Begin again from a partition, or from nothing (labels of -1)."""

    def value(self) -> float:
        """Expected loss of the current partition, computed afresh."""

    def merged(self) -> np.ndarray:
        """Expected loss after merging two clusters of several members.

        (clusters, clusters), above the diagonal; inf elsewhere and where there are not two.
        """


class Pairs:
    """Expected Binder loss from the similarity matrix P, (N, N) with diagonal 1.

    toward[i, k] : sum of P[i, j] over the members j of cluster k.
    """

    batch = 64

    def __init__(self, loss: Loss, P: np.ndarray) -> None:
        self.loss, self.P, self.N = loss, P, len(P)
        self.room, self.effort = self.N, 0
        self.join = 2 - (1.0 if loss.a is None else loss.a)  # cost of joining a pair that is apart
        self.reset(np.full(self.N, -1))

    def reset(self, labels: np.ndarray) -> None:
        self.labels = np.array(labels)
        width = STEP * ((int(self.labels.max()) + 1) // STEP + 1)
        self.sizes = np.bincount(self.labels[self.labels >= 0], minlength=width)
        self.toward = self.P @ (self.labels[:, None] == np.arange(width)).astype(np.float64)

    def costs(self, items: np.ndarray) -> np.ndarray:
        k = self.labels[items[0]]
        costs = 2 * self.join * self.sizes - 4 * self.toward[items]
        self.effort += CALL + costs.size
        if k >= 0:
            own = np.arange(len(items)), self.labels[items]
            costs[own] -= 2 * self.join - 4 * self.P[items, items]
        return costs

    def put(self, i: int, k: int) -> None:
        self.toward[:, k] += self.P[i]
        self.sizes[k] += 1
        self.labels[i] = k
        if self.sizes.all():
            self.toward = np.hstack([self.toward, np.zeros((self.N, STEP))])
            self.sizes = np.r_[self.sizes, np.zeros(STEP, self.sizes.dtype)]

    def take(self, i: int) -> None:
        k = self.labels[i]
        self.toward[:, k] -= self.P[i]
        self.sizes[k] -= 1
        self.labels[i] = -1

    def value(self) -> float:
        own = np.trace(self.P)
        C = self.toward[np.arange(self.N), self.labels].sum() - own
        B = self.loss.phi(self.sizes).sum()
        return float(self.loss.of(self.P.sum() - own, B, C, self.N))

    def merged(self) -> np.ndarray:
        sizes, width = self.sizes, len(self.sizes)
        self.effort += CALL + self.N * width
        between = (self.labels == np.arange(width)[:, None]).astype(np.float64) @ self.toward
        change = 2 * self.join * np.outer(sizes, sizes) - 4 * between
        values = self.value() + change / self.N**2
        large = sizes > 1
        return np.where(np.triu(np.outer(large, large), 1), values, np.inf)
