"""The assignment problem behind every relabelling: costs in, permutations out.

`cost[s, j, k]` is what it costs to call draw s's cluster j "cluster k". A permutation costs the sum
over k of cost[s, perm[k], k]. Only clusters of one class may change places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Classes = Sequence[Sequence[int]]


class Alignment(NamedTuple):
    """What a method found, one entry per draw.

    perm : (S, K) int; new cluster k is old cluster perm[k].
    cost : (S,) of that permutation, in the method's unit.
    margin : (S,) what the second-best permutation would cost more; inf where the allowed
        permutations are the identity alone. A draw of margin near 0 could as well carry other
        names.
    swap : (S, K, K) what exchanging the names j and k would cost more; inf where not allowed.
    """

    perm: np.ndarray
    cost: np.ndarray
    margin: np.ndarray
    swap: np.ndarray


def assign(cost: np.ndarray, classes: Classes, order: np.ndarray | None = None) -> Alignment:
    """Cheapest allowed permutation of each draw, by the Hungarian algorithm.

    cost : (S, K old, K new). order : (S, K) numbers that travel with the clusters; exact ties are
    decided by them, so that the result does not depend on the names the draw came with.
    """
    S, K, _ = cost.shape
    perm = np.tile(np.arange(K), (S, 1))
    for members in (np.asarray(c) for c in classes if len(c) > 1):
        perm[:, members] = _within(cost, members, order)
    aligned = np.take_along_axis(cost, perm[:, :, None], axis=1)
    return Alignment(perm, np.einsum("skk->s", aligned), *margins(aligned, classes))


def margins(aligned: np.ndarray, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Margin (S,) and swap (S, K, K) of names given already: cost[s, j, k] of calling j "k".

    A margin is 0 also where other names would be cheaper.
    """
    moves = _moves(aligned, classes)
    return _second_best(moves), moves + np.swapaxes(moves, 1, 2)


def joined(parts: Sequence[Alignment]) -> Alignment:
    """The alignments of consecutive blocks of draws as one."""
    return Alignment(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def anchored(found: Alignment, names: np.ndarray, classes: Classes) -> Alignment:
    """The same alignment with its clusters called, for all draws at once, as in `names` (S, K).

    The one permutation within the classes under which most clusters of all draws coincide.
    """
    K = names.shape[1]
    differing = np.stack(
        [[np.mean(found.perm[:, j] != names[:, k]) for k in range(K)] for j in range(K)]
    )
    best = assign(differing[None], classes).perm[0]
    return found._replace(perm=found.perm[:, best], swap=found.swap[:, best][:, :, best])


def _within(cost: np.ndarray, members: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Old cluster for each new one, (S, C), within one class."""
    from scipy.optimize import linear_sum_assignment

    old = np.tile(members, (len(cost), 1))
    if order is not None:
        ranks = np.argsort(order[:, members], axis=1, kind="stable")
        old = members[ranks]
    block = np.take_along_axis(cost[:, :, members], old[:, :, None], axis=1)
    picked = np.stack([linear_sum_assignment(b.T)[1] for b in block])
    return np.take_along_axis(old, picked, axis=1)


def _moves(aligned: np.ndarray, classes: Classes) -> np.ndarray:
    """What it costs more to call cluster j "k", (S, K, K); inf where that is not allowed."""
    S, K, _ = aligned.shape
    moves = np.full((S, K, K), np.inf)
    for members in (np.asarray(c) for c in classes if len(c) > 1):
        cell = (slice(None), members[:, None], members[None, :])
        moves[cell] = aligned[cell] - aligned[:, members, members][:, None, :]
    moves[:, np.arange(K), np.arange(K)] = np.inf
    return moves


def _second_best(moves: np.ndarray) -> np.ndarray:
    """What the second-best permutation costs more, (S,).

    Another permutation moves the clusters of some cycles. The optimal one leaves no cycle of
    negative cost, so the cheapest single cycle is the second best: shortest paths from each
    cluster back to itself (Floyd and Warshall), K^3 per draw instead of K! permutations.
    """
    K = moves.shape[-1]
    path = moves.copy()
    detour = np.empty_like(path)
    for k in range(K):
        np.add(path[:, :, k, None], path[:, None, k, :], out=detour)
        np.minimum(path, detour, out=path)
    return np.maximum(np.einsum("skk->sk", path).min(axis=1, initial=np.inf), 0.0)
