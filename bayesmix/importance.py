"""Importance weights for a mixture whose clusters can be renamed.

Renamed copies of a mode are counted, not drawn. Draws are used in one cell of the parameter space:
the points that are nearer to one of the given modes than to any renamed copy of one. Every point
has exactly one copy in the cell, whatever "near" means, so an integral over the cell times the
order of the group is an integral over the whole space. A draw outside the cell has weight 0, and
nothing needs a sum over permutations.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from bayesmix.laplace import Geometry
from bayesmix.program import Mixture

FEWEST = 25
EQUAL = 1e-6


def in_cell(
    mixture: Mixture,
    params: dict[str, np.ndarray],
    geometries: Sequence[Geometry],
    log_share: np.ndarray,
    classes: Sequence[Sequence[int]],
) -> np.ndarray:
    """Whether each draw is nearer to a mode than to every renamed copy of a mode, (draws,).

    Near by the modes' shares and the clusters' own values, each taken as independent Normal with
    the mean and standard deviation it has at the mode.
    """
    here, anywhere = [], []
    features = by_cluster(mixture, params)
    for geometry, share in zip(geometries, log_share, strict=True):
        cost = costs(features, *(by_cluster(mixture, p)[0] for p in _batched(geometry)))
        here.append(share - np.einsum("skk->s", cost))
        anywhere.append(share - cheapest(cost, classes))
    return np.max(here, 0) >= np.max(anywhere, 0) - 1e-9


def _batched(geometry: Geometry) -> list[dict[str, np.ndarray]]:
    """Mean and standard deviation of every site at the mode, each as one draw."""
    return [{n: v[None] for n, v in part.items()} for part in (geometry.params, geometry.sd)]


def by_cluster(mixture: Mixture, params: dict[str, np.ndarray]) -> np.ndarray:
    """The numbers of each cluster, (draws, K, P), from every site that has a cluster axis."""
    blocks = [
        np.moveaxis(params[name], 1 + site.cluster_axis, 1)
        for name, site in mixture.sites.items()
        if site.cluster_axis is not None
    ]
    draws = len(next(iter(params.values())))
    flat = [block.reshape(draws, mixture.K, -1) for block in blocks]
    return np.concatenate(flat, -1) if flat else np.zeros((draws, mixture.K, 0))


def costs(features: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Minus the log density of cluster k's numbers under cluster j of the mode, (draws, K, K)."""
    free = (sd > 1e-10 * np.abs(mean)).all(0)  # less is rounding: the entry is a constant
    x, mean, sd = features[..., free], mean[:, free], sd[:, free]
    squares = [np.sum(((x - m) / s) ** 2, -1) / 2 for m, s in zip(mean, sd, strict=True)]
    return np.stack(squares, -1) + np.log(sd).sum(-1)


def cheapest(cost: np.ndarray, classes: Sequence[Sequence[int]]) -> np.ndarray:
    """Cost of the best renaming of each draw's clusters, within the classes, (draws,)."""
    total = np.zeros(len(cost))
    for members in map(list, classes):
        block = cost[:, members][:, :, members]
        best = np.einsum("skk->s", block).copy()
        for draw in np.flatnonzero((block.argmin(-1) != np.arange(len(members))).any(-1)):
            best[draw] = block[draw][linear_sum_assignment(block[draw])].sum()
        total += best
    return total


def smoothed(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto smoothed log weights, normalised, and k-hat; weights of 0 stay 0.

    Fitted to the weights that are visible beside the largest. k-hat is infinite where those are
    fewer than 25, and 0 where they are equal (the approximation is exact).
    """
    from arviz_stats.base import array_stats

    log_weights, k_hat = log_ratio.copy(), np.inf
    visible = log_ratio > log_ratio.max() + np.log(np.finfo(float).eps)
    if np.ptp(log_ratio[visible]) < EQUAL:
        k_hat = 0.0 if visible.sum() >= FEWEST else np.inf
    elif visible.sum() >= FEWEST:
        top = logsumexp(log_ratio[visible])
        log_weights[visible], k_hat = array_stats.psislw(-log_ratio[visible])
        log_weights[~visible] -= top
    return log_weights - logsumexp(log_weights), float(k_hat)


def tied_tail(log_ratio: np.ndarray) -> np.ndarray:
    """Whether the largest of the ratios (..., S) are all one value, as of a chain that stood still.

    No Pareto distribution fits such a tail. Its length is that of Vehtari et al. (2024).
    """
    count = log_ratio.shape[-1]
    tail = max(1, int(np.ceil(min(0.2 * count, 3 * np.sqrt(count)))))
    largest = np.partition(log_ratio, count - tail, axis=-1)[..., count - tail :]
    return np.asarray(np.ptp(largest, axis=-1) == 0)


def bound(draws: int) -> float:
    """The largest k-hat at which this many draws can be trusted."""
    return min(1 - 1 / np.log10(max(draws, 11)), 0.7)


def log_mean(log_ratio: np.ndarray) -> tuple[float, float]:
    """Log of the mean weight, and its standard error by the delta method."""
    mean = logsumexp(log_ratio) - np.log(log_ratio.size)
    relative = np.exp(log_ratio - mean)
    return float(mean), float(relative.std() / np.sqrt(log_ratio.size))
