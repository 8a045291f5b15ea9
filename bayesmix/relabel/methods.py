"""Relabelling methods, as losses.

Most methods look at the observations, and differ in one table only: `loss[n, k]`, what it costs to
say that observation n is in cluster k. The expected cost of calling draw s's cluster j "k" is then

    cost[s, j, k] = sum_n w_n resp[s, n, j] loss[n, k]        (one matrix product per draw)

ECR takes the table from a pivot. The iterative methods take it from the mean of the relabelled
responsibilities, and alternate: table from names, names from table. The data-based table is
quadratic in the data, so that the data's moments in each cluster are all it needs. Two methods look
at the parameters instead: `cost` is the distance to a pivot's, or sorts them.

As the assignments are summed out, exact responsibilities take the place of one sampled allocation
per draw; with one-hot responsibilities the methods are those of the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bayesmix.relabel.assignment import Alignment, Classes, assign, joined
from bayesmix.relabel.blocks import Responsibilities

SMALLEST = 1e-6
ROUNDING = 1e-9
STEPS = 100


# The tables, (N, K).


def disagreement(pivot: np.ndarray) -> np.ndarray:
    """ECR: the chance that the pivot puts the observation elsewhere.

    Papastamoulis and Iliopoulos (2010), J. Comput. Graph. Stat. 19(2), 313-331.
    """
    return 1.0 - pivot


def outvoted(mean: np.ndarray) -> np.ndarray:
    """Iterative ECR: 0 in the cluster where the observation is most often, 1 elsewhere.

    Papastamoulis (2016), J. Stat. Softw. 69(c1): version 1 counts allocations, version 2 averages
    responsibilities.
    """
    return 1.0 - np.eye(mean.shape[-1])[mean.argmax(-1)]


def surprise(mean: np.ndarray) -> np.ndarray:
    """Stephens: -log of the mean probability (nats), so that the cost is the Kullback-Leibler
    divergence of the draw from the mean, less the draw's own entropy, which has no names.

    Probabilities below 1e-6 count as 1e-6, as in R's label.switching.
    Stephens (2000), J. R. Stat. Soc. B 62(4), 795-809, algorithm 2.
    """
    return -np.log(np.maximum(mean, SMALLEST))


# From a table to names.


def align(
    draws: Responsibilities, loss: np.ndarray, classes: Classes, order: np.ndarray | None = None
) -> tuple[Alignment, np.ndarray]:
    """Names under one table, and the mean responsibilities (N, K) under these names; one pass."""
    weighted = draws.shares[:, None] * loss
    parts, mean = [], np.zeros(draws.shape[1:])
    for start, block in draws.blocks():
        numbers = None if order is None else order[start : start + len(block)]
        found = assign(np.matmul(np.swapaxes(block, -1, -2), weighted), classes, numbers)
        for resp, perm in zip(block, found.perm, strict=True):
            mean += resp[:, perm]
        parts.append(found)
    return joined(parts), mean / draws.shape[0]


def named_mean(draws: Responsibilities, perm: np.ndarray) -> np.ndarray:
    """Mean responsibilities (N, K) under given names; one pass."""
    mean = np.zeros(draws.shape[1:])
    for start, block in draws.blocks():
        for resp, names in zip(block, perm[start : start + len(block)], strict=True):
            mean += resp[:, names]
    return mean / draws.shape[0]


def named_cost(draws: Responsibilities, loss: np.ndarray, perm: np.ndarray) -> np.ndarray:
    """cost[s, j, k] of calling the cluster that is named j "k", (S, K, K); one pass."""
    weighted = draws.shares[:, None] * loss
    cost = np.concatenate(
        [np.matmul(np.swapaxes(block, -1, -2), weighted) for _, block in draws.blocks()]
    )
    return np.take_along_axis(cost, perm[:, :, None], axis=1)


def alternate(step: Callable[[Any], tuple[Alignment, Any]], state: Any) -> Alignment:
    """Names from `state` and the next state from the names, until names return."""
    seen: set[bytes] = set()
    for _ in range(STEPS):
        found, state = step(state)
        names = found.perm.tobytes()
        if names in seen:
            break
        seen.add(names)
    return found


# From the data's moments in each cluster to names.


class Moments(NamedTuple):
    """Of the standardised data in each cluster of each draw: sums of 1, x and x^2.

    mass : (S, K). first, second : (S, K, D).
    """

    mass: np.ndarray
    first: np.ndarray
    second: np.ndarray


def moments(draws: Responsibilities, x: np.ndarray) -> Moments:
    """x : (N, D) numbers. One pass over the responsibilities."""
    centre, spread = x.mean(0), x.std(0)
    z = (x - centre) / np.where(spread > 0, spread, 1.0)
    table = draws.weights[:, None] * np.hstack([np.ones((len(z), 1)), z, z**2])
    sums = np.concatenate(
        [np.matmul(np.swapaxes(block, -1, -2), table) for _, block in draws.blocks()]
    )
    D = x.shape[1]
    return Moments(sums[..., 0], sums[..., 1 : 1 + D], sums[..., 1 + D :])


def centres(found: Moments, perm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over draws of the clusters' means and standard deviations, each (K, D).

    Draws count where the cluster holds an observation (for the deviation: two).
    """
    mass, first, second = (
        np.take_along_axis(sums, perm.reshape(*perm.shape, *[1] * (sums.ndim - 2)), axis=1)
        for sums in found
    )
    size = np.maximum(mass, 1.0)[..., None]
    variance = (second - first**2 / size) / np.maximum(size - 1.0, 1.0)
    centre = _mean_where(mass >= 1 - ROUNDING, first / size, 0.0)
    spread = _mean_where(mass >= 2 - ROUNDING, np.sqrt(np.maximum(variance, 0.0)), 1.0)
    return centre, np.maximum(spread, SMALLEST)


def _mean_where(counts: np.ndarray, values: np.ndarray, otherwise: float) -> np.ndarray:
    """Mean over draws of (S, K, D) where counts (S, K); `otherwise` where that is nowhere."""
    total = counts.sum(0)[:, None]
    mean = np.einsum("sk,skd->kd", counts, values) / np.maximum(total, 1)
    return np.where(total > 0, mean, otherwise)


def data_distance(found: Moments, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Data-based: squared distance of the observations from the cluster's centre, in its standard
    deviations, (S, K, K), per observation.

    Rodriguez and Walker (2014), J. Comput. Graph. Stat. 23(1), 25-45, algorithms 5 and 6. They
    average centres and deviations in one passage through the draws; here names and averages are
    alternated, so that the order of the draws does not matter.
    """
    precision = 1.0 / spread**2
    squares = (
        found.second @ precision.T
        - 2 * found.first @ (centre * precision).T
        + found.mass[..., None] * np.sum(centre**2 * precision, axis=-1)
    )
    return squares / found.mass.sum(1)[:, None, None]


# From parameters to names.


def parameter_distance(values: np.ndarray, pivot: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Pivotal reordering: squared distance of each cluster's parameters from the pivot's.

    values : (S, K, P); pivot : (K, P); scale : (P,), the unit of each. Returns (S, K, K).
    Marin, Mengersen and Robert (2005), Handbook of Statistics 25, 459-507, maximise the inner
    product with the pivot, which is the same with scale 1.
    """
    a, b = values / scale, pivot / scale
    return np.sum(a**2, -1)[:, :, None] + np.sum(b**2, -1) - 2 * a @ b.T


def spread_within(values: np.ndarray, perm: np.ndarray) -> np.ndarray:
    """Standard deviation of each parameter over draws, within clusters, (P,); 1 where constant."""
    named = np.take_along_axis(values, perm[:, :, None], axis=1)
    floor = SMALLEST * values.std(axis=(0, 1))
    spread = np.maximum(np.sqrt(named.var(axis=0).mean(axis=0)), floor)
    return np.where(spread > 0, spread, 1.0)


def rank_cost(numbers: np.ndarray, classes: Classes) -> np.ndarray:
    """Order constraint: by the rearrangement inequality the cheapest permutation sorts.

    numbers : (S, K). Returns cost (S, K, K); the margin of a draw is its smallest gap.
    """
    rank = np.empty(numbers.shape[1])
    for members in classes:
        rank[list(members)] = np.argsort(np.argsort(members))
    return -numbers[:, :, None] * rank
