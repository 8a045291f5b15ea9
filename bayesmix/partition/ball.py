"""How far the posterior of partitions spreads about an estimate: credible balls.

Source: Wade and Ghahramani (2018), Bayesian Analysis 13(2), 559-626, section 4. Departures:
clusters are counted, not read off the largest label, and every draw at the radius belongs to the
ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayesmix.allocations import Labels, read_labels, read_partition
from bayesmix.partition import Partition, clusters_in_words
from bayesmix.partition.losses import distances, loss_of

SAME = 1e-9


@dataclass(frozen=True)
class Bounds:
    """Partitions at one edge of the ball: several where they tie.

    labels : (M, N) int, numbered by first members. distance : from the centre, one for all.
    """

    labels: np.ndarray
    distance: float

    @property
    def n_clusters(self) -> np.ndarray:
        """Clusters of each, (M,)."""
        return self.labels.max(axis=1) + 1


@dataclass(frozen=True)
class CredibleBall:
    """The smallest ball about a partition that holds `prob` of the posterior.

    centre : (N,). radius : in the unit of the distance ("vi": bits; "binder": share of the N^2
    pairs). inside : (S,) bool, which draws are in it. horizontal : the draws in the ball farthest
    from the centre. upper : those of the fewest clusters, and among them the farthest.
    lower : those of the most clusters, and among them the farthest.
    """

    centre: np.ndarray
    distance: str
    prob: float
    radius: float
    inside: np.ndarray
    horizontal: Bounds
    upper: Bounds
    lower: Bounds

    def __repr__(self) -> str:
        unit = " bits" if self.distance == "vi" else ""
        lines = [
            f"{self.prob:.0%} credible ball ({self.distance}) about "
            f"{clusters_in_words(self.centre)}",
            f"  radius      {self.radius:.4f}{unit}; {self.inside.mean():.1%} of the draws",
        ]
        for name in ("horizontal", "upper", "lower"):
            found = getattr(self, name)
            more = f" (and {len(found.labels) - 1} more)" if len(found.labels) > 1 else ""
            lines.append(
                f"  {name:<10}  {found.distance:.4f}{unit} away: "
                f"{clusters_in_words(found.labels[0])}{more}"
            )
        return "\n".join(lines)


def credible_ball(
    draws: Any, partition: Any, prob: float = 0.95, *, distance: str = "vi", mixture: Any = None
) -> CredibleBall:
    """The smallest ball about a partition that holds `prob` of the posterior draws, and its edges.

    draws : as in `partition`; from a tree without a group `allocations`, the draws are those that
    `partition` took with its key. partition : a result of `partition`, or (N,) labels.
    distance : "vi" or "binder", both metrics.
    Raises ValueError for prob outside (0, 1) and for partitions of other observations.
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob={prob} must be between 0 and 1, for example 0.95")
    if distance not in ("vi", "binder"):
        raise ValueError(f"unknown distance {distance!r}: use 'vi' or 'binder'")
    labels = labels_behind(draws, partition, mixture)
    centre = read_partition(partition, labels.values.shape[1])
    unique, which, counts = np.unique(
        labels.values, axis=0, return_inverse=True, return_counts=True
    )
    far = distances(loss_of(distance, None), centre, unique)
    radius = _radius(far, counts, prob)
    ball = np.flatnonzero(far <= radius + SAME)
    clusters = unique[ball].max(axis=1)
    return CredibleBall(
        centre=centre,
        distance=distance,
        prob=prob,
        radius=radius,
        inside=(far <= radius + SAME)[which],
        horizontal=_farthest(unique, far, ball),
        upper=_farthest(unique, far, ball[clusters == clusters.min()]),
        lower=_farthest(unique, far, ball[clusters == clusters.max()]),
    )


def labels_behind(draws: Any, partition: Any, mixture: Any) -> Labels:
    """The labels a result of `partition` stands for (the same draws, by its key)."""
    key = partition.key if isinstance(partition, Partition) else None
    return read_labels(draws, key, mixture=mixture)


def _radius(far: np.ndarray, counts: np.ndarray, prob: float) -> float:
    """Smallest distance within which at least a share `prob` of the draws lie."""
    order = np.argsort(far)
    reached = np.cumsum(counts[order]) >= prob * counts.sum() * (1 - SAME)
    return float(far[order[np.argmax(reached)]])


def _farthest(unique: np.ndarray, far: np.ndarray, among: np.ndarray) -> Bounds:
    distance = far[among].max()
    return Bounds(unique[among[far[among] >= distance - SAME]], float(distance))
