"""Where the sampler could not move, in words: divergent transitions (how many, near which values,
which prior would help) and chains that stayed at one point.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from bayesmix.program import Mixture

FEW = 5  # divergences, below which where they lie may be chance
LOW = 0.1  # share of the draws that are smaller than a value that is near zero
SUMS_TO_ONE = 1e-6
LONG = 50  # refusals in a row; 1 in 10^5 where a fifth of the proposals are accepted


def divergences(
    mixture: Mixture, samples: Mapping[str, np.ndarray], diverging: np.ndarray
) -> list[str]:
    """One sentence where transitions diverged, ``diverging`` (chain, draw); else none."""
    count = int(diverging.sum())
    if not count:
        return []
    said = (
        f"{count} of {diverging.size} transitions diverged: the sampler could not follow the "
        "density somewhere"
    )
    found = list(_near_zero(mixture, samples, diverging)) if count >= FEW else []
    if not found:
        return [f"{said}; a higher target_accept helps where only few did"]
    _, name, cluster, there, usual = min(found)
    return [
        f"{said}, mostly where {name!r} of cluster {cluster} is near zero (median {there:.2g}, "
        f"elsewhere {usual:.2g}); its prior is {mixture.sites[name].prior}, and one that vanishes "
        "fast enough at 0 (LogNormal or InverseGamma, away from tiny values) keeps the cluster "
        "from collapsing"
    ]


def stays(lp: np.ndarray) -> list[str]:
    """One sentence where a chain stayed at one point for long; else none. lp : (chain, draw)."""
    longest = np.array([_longest_run(chain[1:] == chain[:-1]) for chain in lp])
    if longest.max() < LONG:
        return []
    worst, held = int(longest.argmax()), int((longest >= LONG).sum())
    return [
        f"chain {worst} stayed at one point for {longest[worst]} transitions in a row "
        f"({held} of {len(lp)} chains for {LONG} or more): the sampler's steps are too large "
        "there, and how often the draws come near is uncertain; a higher target_accept takes "
        "smaller steps"
    ]


def _longest_run(same: np.ndarray) -> int:
    """Of True in (m,)."""
    ends = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
    return int(np.diff(ends).max()) - 1


def _near_zero(
    mixture: Mixture, samples: Mapping[str, np.ndarray], diverging: np.ndarray
) -> Iterator[tuple[float, str, int, float, float]]:
    """(median rank, site, cluster, median at divergences, median elsewhere) of what is small."""
    for name, site in mixture.sites.items():
        value = samples[name]
        if site.cluster_axis is None or value.min() <= 0 or _is_simplex(value, site.cluster_axis):
            continue
        by_cluster = np.moveaxis(value, 2 + site.cluster_axis, 2)
        least = by_cluster.reshape(*by_cluster.shape[:3], -1).min(-1)
        for cluster in range(mixture.K):
            x = least[..., cluster]
            there = float(np.median(x[diverging]))
            rank = float(np.mean(x < there))
            if rank < LOW:
                yield rank, name, cluster, there, float(np.median(x[~diverging]))


def _is_simplex(value: np.ndarray, axis: int) -> bool:
    return bool(np.ptp(value.sum(2 + axis)) < SUMS_TO_ONE)
