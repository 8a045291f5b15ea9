"""Mixture components joined into clusters, step by step.

A cluster that is not Gaussian takes several Gaussian components. Joining the pair whose merging
lowers the entropy of the soft assignment most, again and again, gives a tree of clusterings with K,
K - 1, ..., 1 clusters; none of them changes the fitted density.
Source: Baudry, Raftery, Celeux, Lo and Gottardo (2010), JCGS 19(2), 332-353.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayesmix.allocations import draws_of, resp_blocks

NEEDED = (
    "combine needs an EM result, a tree, or responsibilities (N, K) that are finite and not "
    "negative"
)


@dataclass(frozen=True)
class Combination:
    """The tree of joined components.

    resp : (N, K) the soft assignment it began with. joined : (K - 1, 2), the two components that
    stand for what is joined at each step (the smaller number goes on standing for both).
    entropy : (K,) of the soft assignment with K, K - 1, ..., 1 clusters, nats summed over rows.
    suggested : number of clusters at the elbow of the entropy (two straight lines, least squares,
    in the number of observations joined so far); None below four components.
    """

    resp: np.ndarray
    joined: np.ndarray
    entropy: np.ndarray
    suggested: int | None

    def components(self, n: int) -> list[tuple[int, ...]]:
        """The components in each of n clusters."""
        K = self.resp.shape[1]
        if not isinstance(n, int | np.integer) or not 1 <= n <= K:
            raise ValueError(f"n={n!r} must be a whole number from 1 to {K}, the components")
        groups: dict[int, tuple[int, ...]] = {k: (k,) for k in range(K)}
        for kept, gone in self.joined[: K - n].tolist():
            groups[kept] = tuple(sorted(groups[kept] + groups.pop(gone)))
        return list(groups.values())

    def responsibilities(self, n: int) -> np.ndarray:
        """Soft assignment to n clusters, (N, n)."""
        groups = self.components(n)
        return np.stack([self.resp[:, list(group)].sum(axis=1) for group in groups], axis=1)

    def labels(self, n: int) -> np.ndarray:
        """Most probable of n clusters for each observation, (N,)."""
        return self.responsibilities(n).argmax(axis=1)

    def __repr__(self) -> str:
        K = self.resp.shape[1]
        lines = [f"{K} components joined step by step (entropy in nats)"]
        for n in range(K, 0, -1):
            groups = " ".join("{" + ",".join(map(str, g)) + "}" for g in self.components(n))
            mark = "  <- elbow" if n == self.suggested else ""
            noun = "clusters" if n > 1 else "cluster "
            lines.append(f"  {n:>3} {noun}  {self.entropy[K - n]:10.3f}  {groups}{mark}")
        return "\n".join(lines)


def combine(source: Any, *, mixture: Any = None) -> Combination:
    """Components joined into clusters by entropy, from EM's or the posterior's soft assignment.

    source : a result, a tree (its draws are relabelled first, and the responsibilities averaged
    over them), or an array (N, K) of responsibilities. mixture : as in `similarity`.
    Read `labels(n)` for the number of clusters you choose, `suggested` for the elbow's.
    """
    resp = _soft(source, mixture)
    joined, entropies, sizes, current = [], [_entropy(resp)], [0.0], resp.copy()
    alive = list(range(resp.shape[1]))
    while len(alive) > 1:
        kept, gone = _next_pair(current, alive)
        sizes.append(sizes[-1] + float(current[:, [kept, gone]].sum()))
        current[:, kept] += current[:, gone]
        alive.remove(gone)
        joined.append((kept, gone))
        entropies.append(_entropy(current[:, alive]))
    return Combination(
        resp=resp,
        joined=np.array(joined, dtype=int).reshape(-1, 2),
        entropy=np.array(entropies),
        suggested=_elbow(np.array(sizes), np.array(entropies)),
    )


def _soft(source: Any, mixture: Any) -> np.ndarray:
    from xarray import DataTree

    if not hasattr(source, "responsibilities"):
        source, mixture = draws_of(source, mixture)
    if isinstance(source, DataTree):
        from bayesmix.relabel import relabel

        total, count = np.zeros(()), 0
        for block in resp_blocks(relabel(source, mixture=mixture), mixture):
            total, count = total + block.sum(axis=0), count + len(block)
        return np.asarray(total / count)
    try:
        resp = np.asarray(getattr(source, "responsibilities", source), np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"source holds no plain table of numbers: {NEEDED}") from error
    if resp.ndim != 2 or resp.size == 0 or not np.isfinite(resp).all() or (resp < 0).any():
        raise ValueError(f"source has shape {resp.shape}: {NEEDED}")
    if not np.allclose(resp.sum(axis=1), 1.0, atol=1e-6):
        row = int(np.abs(resp.sum(axis=1) - 1.0).argmax())
        raise ValueError(f"row {row} of the responsibilities sums to {resp[row].sum():.6g}, not 1")
    return resp


def _entropy(resp: np.ndarray) -> float:
    from scipy.special import xlogy

    return max(0.0, -float(xlogy(resp, resp).sum()))


def _next_pair(resp: np.ndarray, alive: list[int]) -> tuple[int, int]:
    """The pair whose joining lowers the entropy most."""
    from scipy.special import xlogy

    alone = xlogy(resp, resp).sum(axis=0)
    best, found = -np.inf, (alive[0], alive[1])
    for at, k in enumerate(alive):
        for other in alive[at + 1 :]:
            both = resp[:, k] + resp[:, other]
            gain = float(xlogy(both, both).sum() - alone[k] - alone[other])
            if gain > best:
                best, found = gain, (k, other)
    return found


def _elbow(sizes: np.ndarray, entropies: np.ndarray) -> int | None:
    """Clusters where two straight lines meet that fit entropy best, each through 2 points at least.

    The horizontal axis is the number of observations joined so far, as the authors advise.
    """
    K = len(sizes)
    if K < 4:
        return None

    def misfit(x: np.ndarray, y: np.ndarray) -> float:
        if np.ptp(x) == 0:
            return float(np.square(y - y.mean()).sum())
        return float(np.square(y - np.polyval(np.polyfit(x, y, 1), x)).sum())

    meets = range(1, K - 1)  # a point that both lines share
    costs = [
        misfit(sizes[: at + 1], entropies[: at + 1]) + misfit(sizes[at:], entropies[at:])
        for at in meets
    ]
    return K - meets[int(np.argmin(costs))]
