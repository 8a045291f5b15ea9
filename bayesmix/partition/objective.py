"""The expected loss of a partition under construction, one observation at a time.

Two ways to hold the posterior. `Tables` keeps the contingency table of every draw with the current
partition: any loss. `Pairs` keeps only the similarity matrix: losses linear in co-clustering
(Binder), exact where the similarity is. The search knows only what both offer.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bayesmix.partition.losses import Loss, cells_of

CACHE = 2**17  # numbers that are worked on at once
STEP = 8  # columns are added this many at a time: one cache line


class Objective(Protocol):
    """labels : (N,) the current cluster of each observation, -1 where it is not yet allocated.

    sizes : of the clusters; one at least is empty.
    """

    labels: np.ndarray
    sizes: np.ndarray
    N: int

    @property
    def batch(self) -> int:
        """For how many observations at once `costs` is cheapest."""

    def costs(self, items: np.ndarray) -> np.ndarray:
        """Expected loss with each of M observations in each cluster, less a constant; (M, columns).

        Each is taken out of its cluster first; all of them are in one, or none is.
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
        """Expected loss after merging two clusters, (clusters, clusters); inf where not two."""


class Tables:
    """Expected loss over draws, any loss.

    counts[cell, k] : members that cluster `cell` of some draw shares with cluster k, where the
    clusters of all draws are numbered through. gain : phi(counts + 1) - phi(counts).
    """

    def __init__(self, loss: Loss, draws: np.ndarray, weights: np.ndarray) -> None:
        cells, ends = cells_of(draws)
        self.loss, self.weights, self.starts = loss, weights, np.r_[0, ends[:-1]]
        self.cells = np.ascontiguousarray(cells.T, np.intp)
        self.rows, self.N = int(ends[-1]), draws.shape[1]
        self.phi = loss.phi(np.arange(self.N + 2))
        self.step = np.diff(self.phi)
        self.reset(np.full(self.N, -1))

    def reset(self, labels: np.ndarray) -> None:
        self.labels = np.array(labels)
        width = STEP * ((int(self.labels.max()) + 1) // STEP + 1)
        here = np.flatnonzero(self.labels >= 0)
        flat = (self.cells[here] * width + self.labels[here, None]).ravel()
        self.counts = np.bincount(flat, minlength=self.rows * width).reshape(-1, width)
        self.gain = self.step[self.counts]
        self.sizes = np.bincount(self.labels[here], minlength=width)
        self._sum()

    def _sum(self) -> None:
        """The three sums of the loss, per draw where they differ by draw."""
        self.A = self._by_draw(self.phi[self.counts.sum(axis=1)])
        self.B = float(self.phi[self.sizes].sum())
        self.C = self._by_draw(self.phi[self.counts].sum(axis=1))

    def _by_draw(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.starts)

    def value(self) -> float:
        self._sum()
        return float(self.weights @ self.loss.of(self.A, self.B, self.C, int(self.sizes.sum())))

    def merged(self) -> np.ndarray:
        self._sum()
        clusters = np.flatnonzero(self.sizes)
        counts, phi = self.counts[:, clusters], self.phi[self.counts[:, clusters]]
        values = np.full((len(self.sizes), len(self.sizes)), np.inf)
        for at, k in enumerate(clusters[:-1]):
            later = slice(at + 1, None)
            both = self.phi[counts[:, [at]] + counts[:, later]] - phi[:, [at]] - phi[:, later]
            dC = np.add.reduceat(both, self.starts, axis=0)
            values[k, clusters[later]] = self._with(self._merge_B(k, clusters[later]), dC)
        return values

    def _merge_B(self, k: int, others: np.ndarray) -> np.ndarray:
        phi, sizes = self.phi, self.sizes
        return phi[sizes[k] + sizes[others]] - phi[sizes[k]] - phi[sizes[others]]

    def _with(self, dB: np.ndarray, dC: np.ndarray) -> np.ndarray:
        """Expected loss when the sums change by dB (M,) and dC (S, M)."""
        loss = self.loss.of(self.A[:, None], self.B + dB, self.C[:, None] + dC, self.N)
        return self.weights @ loss

    @property
    def batch(self) -> int:
        return max(1, CACHE // (len(self.weights) * len(self.sizes)))

    def costs(self, items: np.ndarray) -> np.ndarray:
        own, at = self.labels[items], np.arange(len(items))
        cells, width = self.cells[items], len(self.sizes)
        gain = self.gain.take(cells.ravel(), axis=0).reshape(*cells.shape, width)
        dB = np.tile(self.step[self.sizes], (len(items), 1))
        leaves = None
        if own[0] >= 0:
            dB[at, own] = self.step[self.sizes[own] - 1]
            leaves = self.step.take(self.counts.ravel().take(cells * width + own[:, None]) - 1)
        if self.loss.a is None:
            return self._general_costs(own, cells, gain, dB, leaves)
        dC = self.weights @ gain
        if leaves is not None:
            dC[at, own] = leaves @ self.weights
        return (2 - self.loss.a) * dB - 2 * dC

    def _general_costs(
        self,
        own: np.ndarray,
        cells: np.ndarray,
        gain: np.ndarray,
        dB: np.ndarray,
        leaves: np.ndarray | None,
    ) -> np.ndarray:
        """gain (M, S, clusters), dB (M, clusters); leaves (M, S) is what each adds where it is."""
        A, B, C, n = self.A, self.B, self.C, int(self.sizes.sum())
        if leaves is not None:
            at = np.arange(len(own))
            gain[at, :, own] = leaves
            B, C = B - dB[at, own][:, None], C - leaves
        else:
            A, n = A + self.step[self.counts.take(cells, axis=0).sum(axis=-1)], n + 1
        loss = self.loss.of(A[..., None], (B + dB)[:, None], C[..., None] + gain, n)
        return self.weights @ loss

    def put(self, i: int, k: int) -> None:
        cells = self.cells[i]
        if self.loss.a is None:
            self.A += self.step[self.counts.take(cells, axis=0).sum(axis=1)]
            self.B += self.step[self.sizes[k]]
            self.C += self.gain[cells, k]
        self._shift(cells, k, 1)
        self.labels[i] = k
        if self.sizes.all():
            self._widen()

    def take(self, i: int) -> None:
        cells, k = self.cells[i], self.labels[i]
        self._shift(cells, k, -1)
        self.labels[i] = -1
        if self.loss.a is None:
            self.A -= self.step[self.counts.take(cells, axis=0).sum(axis=1)]
            self.B -= self.step[self.sizes[k]]
            self.C -= self.gain[cells, k]

    def _shift(self, cells: np.ndarray, k: int, by: int) -> None:
        at = cells * self.counts.shape[1] + k
        new = self.counts.ravel().take(at) + by
        self.counts.ravel()[at] = new
        self.gain.ravel()[at] = self.step[new]
        self.sizes[k] += by

    def _widen(self) -> None:
        empty = np.zeros((self.rows, STEP), self.counts.dtype)
        self.counts = np.hstack([self.counts, empty])
        self.gain = np.hstack([self.gain, self.step[empty]])
        self.sizes = np.r_[self.sizes, np.zeros(STEP, self.sizes.dtype)]


class Pairs:
    """Expected Binder loss from the similarity matrix P, (N, N) with diagonal 1.

    toward[i, k] : sum of P[i, j] over the members j of cluster k.
    """

    batch = 64

    def __init__(self, loss: Loss, P: np.ndarray) -> None:
        self.loss, self.P, self.N = loss, P, len(P)
        self.join = 2 - (1.0 if loss.a is None else loss.a)  # cost of joining a pair that is apart
        self.reset(np.full(self.N, -1))

    def reset(self, labels: np.ndarray) -> None:
        self.labels = np.array(labels)
        width = STEP * ((int(self.labels.max()) + 1) // STEP + 1)
        self.sizes = np.bincount(self.labels[self.labels >= 0], minlength=width)
        self.toward = self.P @ (self.labels[:, None] == np.arange(width)).astype(np.float64)

    def costs(self, items: np.ndarray) -> np.ndarray:
        own, at = self.labels[items], np.arange(len(items))
        costs = 2 * self.join * self.sizes - 4 * self.toward[items]
        if own[0] >= 0:
            costs[at, own] -= 2 * self.join - 4 * self.P[items, items]
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
        between = (self.labels == np.arange(width)[:, None]).astype(np.float64) @ self.toward
        change = 2 * self.join * np.outer(sizes, sizes) - 4 * between
        values = self.value() + change / self.N**2
        return np.where(np.triu(np.outer(sizes, sizes) > 0, 1), values, np.inf)
