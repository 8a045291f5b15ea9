"""Several partitions in place of one, where the posterior has several centres.

WASABI (Balocchi and Wade 2025, arXiv:2506.16295): the weighted mixture of n partitions that is
closest to the posterior in Wasserstein distance, with the variation of information as the cost. For
given partitions every draw goes to the nearest, so the distance is the mean over draws of the VI to
the nearest; for given groups each partition is the VI estimate of its group. The two steps
alternate, as in k-medoids. Departure: groups are begun as in k-means++.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.allocations import Rows, read_labels
from bayesmix.arguments import check_counts, seed_of
from bayesmix.partition import COARSE, clusters_in_words, spread
from bayesmix.partition.losses import distances, loss_of
from bayesmix.partition.search import Search
from bayesmix.partition.tables import Tables

if TYPE_CHECKING:
    import xarray

VI = loss_of("vi", None)
RUNS = 2  # random starts of an update; the partition before it is another
SETTLED = 1e-9


@dataclass(frozen=True)
class Representatives:
    """n partitions that stand for the posterior, the heaviest first.

    labels : (n, N). weights : (n,) share of the draws nearest to each. group : (S,) which is
    nearest to each draw. within : (n,) mean VI of its draws to each, bits. distance : Wasserstein
    distance to the posterior, bits (the mean VI to the nearest). alone : the same with the best
    single partition; when `distance` is not much smaller, one partition is enough.
    """

    labels: np.ndarray
    weights: np.ndarray
    group: np.ndarray
    within: np.ndarray
    distance: float
    alone: float
    rows: Rows = field(repr=False)

    def to_dataarray(self) -> xarray.DataArray:
        """The labels with the observations' names."""
        from xarray import DataArray

        dims = ("representative", self.rows.dim)
        return DataArray(self.labels, dims=dims, coords=self.rows.coords(self.rows.dim))

    def __repr__(self) -> str:
        lines = [
            f"{len(self.weights)} partitions for the posterior: mean VI to the nearest "
            f"{self.distance:.4f} bits, to the best single one {self.alone:.4f}"
        ]
        lines += [
            f"  {weight:6.1%}  VI {near:.4f}  {clusters_in_words(labels)}"
            for weight, near, labels in zip(self.weights, self.within, self.labels, strict=True)
        ]
        return "\n".join(lines)


def representatives(
    key: Any, draws: Any, n: int, *, runs: int = 4, mixture: Any = None
) -> Representatives:
    """The n partitions whose weighted mixture is closest to the posterior (Wasserstein, VI).

    key, draws, mixture : as in `partition`. n : how many; at most the number of distinct draws.
    runs : beginnings, of which the best end is kept.
    Raises ValueError where the draws have fewer than n distinct partitions.
    """
    check_counts(n=n, runs=runs)
    labels = read_labels(draws, key, mixture=mixture)
    unique, which, counts = np.unique(
        labels.values, axis=0, return_inverse=True, return_counts=True
    )
    if n > len(unique):
        plural = "s" if len(unique) > 1 else ""
        raise ValueError(f"n={n}, but the draws hold only {len(unique)} distinct partition{plural}")
    rng = np.random.default_rng(seed_of(key))
    alternation = _Alternation(unique, counts / counts.sum(), rng)
    best, centres = alternation.best(n, runs)
    alone = best if n == 1 else alternation.best(1, runs)[0]
    far = alternation.far(centres)
    group = far.argmin(axis=0)
    weights = np.bincount(group, alternation.weights, n)
    within = np.bincount(group, alternation.weights * far.min(axis=0), n) / weights
    order = np.argsort(-weights, kind="stable")
    return Representatives(
        labels=centres[order],
        weights=weights[order],
        group=np.argsort(order)[group][which],
        within=within[order],
        distance=best,
        alone=alone,
        rows=labels.rows,
    )


@dataclass
class _Alternation:
    """Distinct draws (U, N) with their shares (U,)."""

    unique: np.ndarray
    weights: np.ndarray
    rng: np.random.Generator

    def best(self, n: int, runs: int) -> tuple[float, np.ndarray]:
        """The best end of some beginnings."""
        return min((self.run(n) for _ in range(runs)), key=lambda end: end[0])

    def run(self, n: int) -> tuple[float, np.ndarray]:
        """Mean VI to the nearest, and the n partitions, from one beginning."""
        centres = self._begin(n)
        far, before = self._settled(centres), np.inf
        while (now := float(self.weights @ far.min(axis=0))) < before - SETTLED:
            before, group = now, far.argmin(axis=0)
            centres = np.array([self._centre(c, group == k) for k, c in enumerate(centres)])
            far = self._settled(centres)
        return now, centres

    def _settled(self, centres: np.ndarray) -> np.ndarray:
        """VI of every draw to every centre, (n, U).

        A centre that is nearest to no draw becomes the draw that is worst off.
        """
        far = self.far(centres)
        while not (owns := np.bincount(far.argmin(axis=0), minlength=len(centres)) > 0).all():
            k, draw = int(np.argmin(owns)), int(np.argmax(self.weights * far.min(axis=0)))
            centres[k] = self.unique[draw]
            far[k] = distances(VI, centres[k], self.unique)
        return far

    def far(self, centres: np.ndarray) -> np.ndarray:
        """VI of every draw to every centre, (n, U)."""
        return np.array([distances(VI, centre, self.unique) for centre in centres])

    def _begin(self, n: int) -> np.ndarray:
        """Draws far from each other: each next with probability in proportion to its VI^2."""
        centres = [self.unique[self.rng.choice(len(self.unique), p=self.weights)]]
        while len(centres) < n:
            share = self.weights * self.far(np.array(centres)).min(axis=0) ** 2
            centres.append(self.unique[self.rng.choice(len(self.unique), p=share / share.sum())])
        return np.array(centres)

    def _centre(self, before: np.ndarray, members: np.ndarray) -> np.ndarray:
        """The VI estimate of a group, never worse than the one before."""
        draws, weights = self.unique[members], self.weights[members]
        some = spread(np.arange(len(draws)), COARSE)
        optima = self._search(draws[some], weights[some]).run(RUNS, [before])
        if len(some) < len(draws):
            optima = self._search(draws, weights).refine(optima)
        candidates = [before] + [optimum.labels for optimum in optima[:2]]
        costs = [weights @ distances(VI, c, draws) for c in candidates]
        return candidates[int(np.argmin(costs))]

    def _search(self, draws: np.ndarray, weights: np.ndarray) -> Search:
        objective = Tables(VI, draws, weights / weights.sum())
        return Search(objective, self.rng, self.unique.shape[1])
