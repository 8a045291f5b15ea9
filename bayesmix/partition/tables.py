"""The expected loss from the contingency tables of all draws with the current partition.

Any loss. The work is in looking up what an observation would gain in each cluster in each draw, so
clusters of one, of which some losses want hundreds, are kept out of the tables: they add nothing to
any sum, and of the pairs that could be made of them all but a few are excluded by a bound.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from bayesmix.partition.losses import Loss, cells_of, vanishes
from bayesmix.partition.objective import CALL, STEP
from bayesmix.similarity import mean_products, one_hot

CACHE = 2**17  # numbers that are worked on at once
BENT = 3  # what a number costs besides where a loss is not linear in C, in numbers
ALONE = 6  # and where a loss is computed for one observation only
MULTIPLY = 64  # multiplications in a product of matrices that cost as much as one number
FEW = 8  # observations alone up to which all pairs are summed
HELD = 4096  # observations up to which their similarity is held, 134 MB


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

    Where the clusters of all draws are numbered through as cells: filled[cell] : members that are
    allocated. counts[cell, column] : members that are in the cluster of that column; every cluster
    of two or more has one, and one column at least is free. gain : phi(counts + 1) - phi(counts).
    A cluster of one needs no column, because phi(1) = 0: it adds nothing to any sum, and joining it
    gains phi(2) in the draws that put the two together.
    column : of each cluster, -1 where it has none. owner, members : cluster of each column (-1
    where it is free) and its size. alone : the member of each cluster of one.
    """

    def __init__(self, loss: Loss, draws: np.ndarray, weights: np.ndarray) -> None:
        cells, ends = cells_of(draws)
        self.loss, self.draws, self.weights = loss, draws, weights
        self.starts = np.r_[0, ends[:-1]]
        self.cells = np.ascontiguousarray(cells.T, np.intp)
        self.rows, self.N = int(ends[-1]), draws.shape[1]
        self.phi = loss.phi(np.arange(self.N + 2))
        self.step = np.diff(self.phi)
        self.room, self.effort = int(draws.max()) + 1, 0
        self.reset(np.full(self.N, -1))

    def reset(self, labels: np.ndarray) -> None:
        self.labels = np.array(labels)
        here = np.flatnonzero(self.labels >= 0)
        width = STEP * ((int(self.labels.max()) + 1) // STEP + 1)
        self.sizes = np.bincount(self.labels[here], minlength=width)
        self.filled = np.bincount(self.cells[here].ravel(), minlength=self.rows)
        several = np.flatnonzero(self.sizes > 1)
        width = STEP * (len(several) // STEP + 1)
        self.column = np.full(len(self.sizes), -1)
        self.column[several] = np.arange(len(several))
        self.owner = np.r_[several, np.full(width - len(several), -1)]
        self.members = np.r_[self.sizes[several], np.zeros(width - len(several), np.intp)]
        self.alone = np.full(len(self.sizes), -1)
        self.alone[self.labels[here]] = here
        among = here[self.column[self.labels[here]] >= 0]
        flat = (self.cells[among] * width + self.column[self.labels[among], None]).ravel()
        self.counts = np.bincount(flat, minlength=self.rows * width).reshape(-1, width)
        self.gain = self.step[self.counts]
        self._sum()

    def _sum(self) -> None:
        """The three sums of the loss, per draw where they differ by draw."""
        self.A = np.add.reduceat(self.phi[self.filled], self.starts)
        self.B = float(self.phi[self.sizes].sum())
        self.C = np.add.reduceat(self.phi[self.counts].sum(axis=1), self.starts)
        self.shared: Slopes | None = None

    def value(self) -> float:
        self._sum()
        return float(self.weights @ self.loss.of(self.A, self.B, self.C, int(self.sizes.sum())))

    def merged(self) -> np.ndarray:
        self._sum()
        columns = np.flatnonzero(self.owner >= 0)
        values = np.full((len(self.sizes), len(self.sizes)), np.inf)
        for at, c in enumerate(columns[:-1]):
            others = columns[at + 1 :]
            found = self._with(self._merge_B(c, others), self._merge_C(c, others))
            one, other = self.owner[c], self.owner[others]
            values[np.minimum(one, other), np.maximum(one, other)] = found
        return values

    def _merge_C(self, c: int, others: np.ndarray) -> np.ndarray:
        """By how much C grows, (S, M): in the cells that c shares, of which each draw has some."""
        rows = np.flatnonzero(self.counts[:, c])
        one, other = self.counts[rows, c][:, None], self.counts[rows[:, None], others]
        self.effort += CALL + BENT * other.size
        both = self.phi[one + other] - self.phi[one] - self.phi[other]
        return np.add.reduceat(both, np.searchsorted(rows, self.starts), axis=0)

    def _merge_B(self, c: int, others: np.ndarray) -> np.ndarray:
        phi, sizes = self.phi, self.members
        return phi[sizes[c] + sizes[others]] - phi[sizes[c]] - phi[sizes[others]]

    def _with(self, dB: np.ndarray, dC: np.ndarray) -> np.ndarray:
        """Expected loss when the sums change by dB (M,) and dC (S, M)."""
        loss = self.loss.of(self.A[:, None], self.B + dB, self.C[:, None] + dC, self.N)
        return self.weights @ loss

    @property
    def batch(self) -> int:
        return max(1, CACHE // (len(self.weights) * len(self.members)))

    def costs(self, items: np.ndarray) -> np.ndarray:
        """As in `Objective`; inf for a cluster of one that cannot be the cheapest to join."""
        k, used = int(self.labels[items[0]]), np.flatnonzero(self.owner >= 0)
        columns = self._costs_of_columns(items, k)
        free = columns[:, np.argmin(self.owner)]  # an observation alone is in no column
        costs = np.repeat(free[:, None], len(self.sizes), axis=1)
        costs[:, self.owner[used]] = columns[:, used]
        single = np.flatnonzero(self.sizes == 1)
        if len(single):
            others = columns[:, used[self.owner[used] != k]]
            limit = others.min(axis=1, initial=np.inf)
            pairs = self._costs_of_pairs(items, k, self.alone[single], limit)
            own = self.labels[items][:, None] == single
            costs[:, single] = np.where(own, free[:, None], pairs)
        return costs

    def _costs_of_columns(self, items: np.ndarray, k: int) -> np.ndarray:
        """Costs of being in the cluster of each column, alone where it is free; (M, columns)."""
        cells, own = self.cells[items], -1 if k < 0 else int(self.column[k])
        gain = self.gain.take(cells.ravel(), axis=0).reshape(*cells.shape, -1)
        dB = self.step[self.members]
        self.effort += CALL + gain.size
        if self.loss.a is not None:
            costs = (2 - self.loss.a) * dB - 2 * (self.weights @ gain)
            if own >= 0:
                stays = self._leaves(cells, k) @ self.weights
                costs[:, own] = (2 - self.loss.a) * self.step[self.sizes[k] - 1] - 2 * stays
        elif k < 0:
            costs = self._costs_of_more(cells, self.B + dB, gain)
        else:
            C, size = self.C - self._leaves(cells, k), int(self.sizes[k])
            costs = (self._curved if self.loss.t else self._sloped)(size, C, gain)
            if own >= 0:
                costs[:, own] = self._slopes(size).now
        return costs

    def _costs_of_pairs(
        self, items: np.ndarray, k: int, others: np.ndarray, limit: np.ndarray
    ) -> np.ndarray:
        """Costs of joining observations that are alone; inf where they exceed limit or the least.

        The cost falls in the draws that put the two together, hence by at most their number times
        the largest fall: only the pairs that this leaves in the running are summed.
        """
        base, falls = self._falls(items, k)
        most = falls.max(axis=1)[:, None] * self._together(items, others)
        bound = np.where(items[:, None] == others, np.inf, base[:, None] - most)
        costs = np.full(bound.shape, np.inf)
        at, first = np.arange(len(items)), bound.argmin(axis=1)
        costs[at, first] = found = self._pair(items, others[first], base, falls)
        bound[at, first] = np.inf
        at, j = np.nonzero(bound <= np.minimum(limit, found)[:, None])
        size = max(1, CACHE // len(self.weights))
        for start in range(0, len(at), size):
            some, with_ = at[start : start + size], j[start : start + size]
            costs[some, with_] = self._pair(items[some], others[with_], base[some], falls[some])
        return costs

    def _falls(self, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cost of a cluster of two that no draw has, (M,), and how much less for each that has it.

        The second is (M, S), weighted.
        """
        two = float(self.step[1])
        if self.loss.a is not None:
            falls = np.broadcast_to(2 * two * self.weights, (len(items), len(self.weights)))
            return np.full(len(items), (2 - self.loss.a) * two), falls
        cells = self.cells[items]
        self.effort += ALONE * cells.size
        if k < 0:
            A, n = self.A + self.step[self.filled[cells]], int(self.sizes.sum()) + 1
            B, C = self.B + two, np.broadcast_to(self.C, cells.shape)
        else:
            A, n = self.A, self.N
            B, C = self.B - self.step[self.sizes[k] - 1] + two, self.C - self._leaves(cells, k)
        apart = self.loss.of(A, B, C, n)
        return apart @ self.weights, self.weights * (apart - self.loss.of(A, B, C + two, n))

    def _pair(
        self, items: np.ndarray, others: np.ndarray, base: np.ndarray, falls: np.ndarray
    ) -> np.ndarray:
        """Cost of each item with the other of the same place."""
        self.effort += CALL + falls.size
        return base - np.einsum("ms,ms->m", falls, self.cells[items] == self.cells[others])

    def _together(self, items: np.ndarray, others: np.ndarray) -> np.ndarray | int:
        """In how many of the distinct draws they are together, (M, others), or a bound of that."""
        self.effort += len(items) * len(others)
        if len(others) < FEW or self.N > HELD:
            return len(self.weights)
        return self._similarity[items[:, None], others]

    @cached_property
    def _similarity(self) -> np.ndarray:
        """How many of the distinct draws put two observations together, (N, N)."""
        self.effort += self.rows * self.N**2 // MULTIPLY
        share, draws = mean_products(one_hot(self.draws))
        return share * draws

    def _leaves(self, cells: np.ndarray, k: int) -> np.ndarray:
        """By how much C falls when each is taken out of cluster k, (M, S)."""
        if self.column[k] < 0:
            return np.zeros(cells.shape)
        at = cells * len(self.members) + self.column[k]
        return self.step.take(self.counts.ravel().take(at) - 1)

    def _costs_of_more(self, cells: np.ndarray, B: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Where the observations are in no cluster yet; gain (M, S, columns)."""
        self.effort += ALONE * gain.size
        A = self.A + self.step[self.filled[cells]]
        n = int(self.sizes.sum()) + 1
        return self.weights @ self.loss.of(A[..., None], B, self.C[:, None] + gain, n)

    def _slopes(self, size: int) -> Slopes:
        """What all costs of observations in clusters of that size share until one moves."""
        if self.shared is None or self.shared.size != size:
            self.effort += ALONE * len(self.weights) * len(self.members)
            weights, t = self.weights[:, None], self.loss.t
            B = self.B - self.step[size - 1] + self.step[self.members]
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
        """Expected (p + q (C + gain)) / r, a sum with slopes; gain (M, S, columns)."""
        _, _, base, slope = self._slopes(size)
        return base + C @ slope + np.einsum("msk,sk->mk", gain, slope)

    def _curved(self, size: int, C: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Where t is not 0: q / t + (p - q r / t) / (r + t (C + gain)). Overwrites gain."""
        B = self.B - self.step[size - 1] + self.step[self.members]
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
        cells, size = self.cells[i], int(self.sizes[k])
        if size == 1:
            self._open(k)
        if self.loss.a is None:
            self.A += self.step[self.filled[cells]]
            self.B += self.step[size]
            if size:
                self.C += self.gain[cells, self.column[k]]
            self.shared = None
        self.filled[cells] += 1
        self.labels[i], self.alone[k] = k, i
        self.sizes[k] += 1
        if size:
            self._shift(i, k, 1)
        if self.sizes.all():
            self.sizes, self.column, self.alone = (
                np.r_[values, np.full(STEP, fill)]
                for values, fill in ((self.sizes, 0), (self.column, -1), (self.alone, -1))
            )

    def take(self, i: int) -> None:
        cells, k = self.cells[i], int(self.labels[i])
        size = int(self.sizes[k]) - 1
        if size:
            self._shift(i, k, -1)
        self.filled[cells] -= 1
        self.labels[i] = -1
        self.sizes[k] = size
        if self.loss.a is None:
            self.A -= self.step[self.filled[cells]]
            self.B -= self.step[size]
            if size:
                self.C -= self.gain[cells, self.column[k]]
            self.shared = None
        if size == 1:
            self._close(k)

    def _shift(self, i: int, k: int, by: int) -> None:
        """Count an observation in the column of a cluster, or no longer."""
        at = self.cells[i] * len(self.members) + self.column[k]
        new = self.counts.ravel().take(at) + by
        self.counts.ravel()[at] = new
        self.gain.ravel()[at] = self.step[new]
        self.members[self.column[k]] += by

    def _open(self, k: int) -> None:
        """Give a cluster of one a column."""
        self.column[k] = c = int(np.argmin(self.owner))
        self.owner[c] = k
        self._shift(self.alone[k], k, 1)
        if (self.owner >= 0).all():
            more = len(self.owner)
            self.counts = np.pad(self.counts, ((0, 0), (0, more)))
            self.gain = np.pad(self.gain, ((0, 0), (0, more)), constant_values=self.step[0])
            self.owner = np.r_[self.owner, np.full(more, -1)]
            self.members = np.r_[self.members, np.zeros(more, np.intp)]

    def _close(self, k: int) -> None:
        """Free the column of a cluster of which one is left."""
        self.alone[k] = i = int(np.argmax(self.labels == k))
        self._shift(i, k, -1)
        self.owner[self.column[k]] = self.column[k] = -1
