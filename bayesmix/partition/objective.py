"""The expected loss of a partition under construction, one observation at a time.

Two ways to hold the posterior. `Tables` keeps the contingency table of every draw with the current
partition: any loss. `Pairs` keeps only the similarity matrix: losses linear in co-clustering
(Binder), exact where the similarity is. The search knows only what both offer.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from bayesmix.partition.losses import Loss, cells_of, vanishes

CACHE = 2**17  # numbers that are worked on at once
STEP = 8  # columns are added this many at a time: one cache line
CALL = 2**15  # what a call costs besides the numbers it works on, in numbers
BENT = 3  # what a number costs besides where a loss is not linear in C, in numbers
ALONE = 6  # and where a loss is computed for one observation only


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
        """Expected loss with each of M observations in each cluster, less a constant; (M, columns).

        Each is taken out of its cluster first; all of them are in the same one, or in none.
        """

    def put(self, i: int, k: int) -> None:
        """Allocate observation i to cluster k."""

    def take(self, i: int) -> None:
        """Take observation i out of its cluster."""

    def reset(self, labels: np.ndarray) -> None:
        """Begin again from a partition, or from nothing (labels of -1)."""

    def value(self) -> float:
        """Expected loss of the current partition, computed afresh."""

    def merged(self, least: int = 1) -> np.ndarray:
        """Expected loss after merging two clusters of `least` members or more.

        (clusters, clusters), above the diagonal; inf elsewhere and where there are not two.
        """


class Slopes(NamedTuple):
    """Parts of the expected cost of moves: base (clusters,), slope (S, clusters).

    size : of the cluster that is left. now : expected loss where nothing moves.
    """

    size: int
    now: float
    base: np.ndarray
    slope: np.ndarray


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
        self.room, self.effort = int(draws.max()) + 1, 0
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
        self.A = np.add.reduceat(self.phi[self.counts.sum(axis=1)], self.starts)
        self.B = float(self.phi[self.sizes].sum())
        self.C = np.add.reduceat(self.phi[self.counts].sum(axis=1), self.starts)
        self.shared: Slopes | None = None

    def value(self) -> float:
        self._sum()
        return float(self.weights @ self.loss.of(self.A, self.B, self.C, int(self.sizes.sum())))

    def merged(self, least: int = 1) -> np.ndarray:
        self._sum()
        clusters = np.flatnonzero(self.sizes >= least)
        values = np.full((len(self.sizes), len(self.sizes)), np.inf)
        for at, k in enumerate(clusters[:-1]):
            others = clusters[at + 1 :]
            values[k, others] = self._with(self._merge_B(k, others), self._merge_C(k, others))
        return values

    def _merge_C(self, k: int, others: np.ndarray) -> np.ndarray:
        """By how much C grows, (S, M): in the cells that k shares, of which each draw has some."""
        rows = np.flatnonzero(self.counts[:, k])
        one, other = self.counts[rows, k][:, None], self.counts[rows[:, None], others]
        self.effort += CALL + BENT * other.size
        both = self.phi[one + other] - self.phi[one] - self.phi[other]
        return np.add.reduceat(both, np.searchsorted(rows, self.starts), axis=0)

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
        k, cells = int(self.labels[items[0]]), self.cells[items]
        gain = self.gain.take(cells.ravel(), axis=0).reshape(*cells.shape, -1)
        dB = self.step[self.sizes]
        self.effort += CALL + gain.size
        if self.loss.a is not None:
            costs = (2 - self.loss.a) * dB - 2 * (self.weights @ gain)
            if k >= 0:
                stays = self._leaves(cells, k) @ self.weights
                costs[:, k] = (2 - self.loss.a) * self.step[self.sizes[k] - 1] - 2 * stays
        elif k < 0:
            costs = self._costs_of_more(cells, self.B + dB, gain)
        else:
            C, size = self.C - self._leaves(cells, k), int(self.sizes[k])
            costs = (self._curved if self.loss.t else self._sloped)(size, C, gain)
            costs[:, k] = self._slopes(size).now
        return costs

    def _leaves(self, cells: np.ndarray, k: int) -> np.ndarray:
        """By how much C falls when each is taken out of cluster k, (M, S)."""
        return self.step.take(self.counts.ravel().take(cells * len(self.sizes) + k) - 1)

    def _costs_of_more(self, cells: np.ndarray, B: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Where the observations are in no cluster yet; gain (M, S, clusters)."""
        self.effort += ALONE * gain.size
        A = self.A + self.step[self.counts.take(cells, axis=0).sum(axis=-1)]
        n = int(self.sizes.sum()) + 1
        return self.weights @ self.loss.of(A[..., None], B, self.C[:, None] + gain, n)

    def _slopes(self, size: int) -> Slopes:
        """What all costs of observations in clusters of that size share until one moves."""
        if self.shared is None or self.shared.size != size:
            self.effort += ALONE * len(self.weights) * len(self.sizes)
            weights, t = self.weights[:, None], self.loss.t
            B = self.B - self.step[size - 1] + self.step[self.sizes]
            p, q, r = self.loss.fraction(self.A[:, None], B, self.N)
            now = float(self.weights @ self.loss.of(self.A, self.B, self.C, self.N))
            if t:
                slope = weights * (p - q * r / t)
                self.shared = Slopes(size, now, np.full(len(B), q / t), slope)
            else:
                empty = vanishes(r, p)
                share = np.where(empty, 0.0, weights / np.where(empty, 1.0, r))
                self.shared = Slopes(size, now, (share * p).sum(axis=0), q * share)
        return self.shared

    def _sloped(self, size: int, C: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Expected (p + q (C + gain)) / r, a sum with slopes; gain (M, S, clusters)."""
        _, _, base, slope = self._slopes(size)
        return base + C @ slope + np.einsum("msk,sk->mk", gain, slope)

    def _curved(self, size: int, C: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Where t is not 0: q / t + (p - q r / t) / (r + t (C + gain)). Overwrites gain."""
        B = self.B - self.step[size - 1] + self.step[self.sizes]
        p, _, r = self.loss.fraction(self.A[:, None], B, self.N)
        self.effort += BENT * gain.size
        gain += C[..., None]
        below = r + self.loss.t * gain
        if vanishes(below.min(), p.max()):
            return self.weights @ self.loss.of(self.A[:, None], B, gain, self.N)
        np.divide(1.0, below, out=below)
        _, _, base, slope = self._slopes(size)
        return base + np.einsum("msk,sk->mk", below, slope)

    def put(self, i: int, k: int) -> None:
        cells = self.cells[i]
        if self.loss.a is None:
            self.A += self.step[self.counts.take(cells, axis=0).sum(axis=1)]
            self.B += self.step[self.sizes[k]]
            self.C += self.gain[cells, k]
            self.shared = None
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
            self.shared = None

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
            costs[:, k] -= 2 * self.join - 4 * self.P[items, items]
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

    def merged(self, least: int = 1) -> np.ndarray:
        sizes, width = self.sizes, len(self.sizes)
        self.effort += CALL + self.N * width
        between = (self.labels == np.arange(width)[:, None]).astype(np.float64) @ self.toward
        change = 2 * self.join * np.outer(sizes, sizes) - 4 * between
        values = self.value() + change / self.N**2
        large = sizes >= least
        return np.where(np.triu(np.outer(large, large), 1), values, np.inf)
