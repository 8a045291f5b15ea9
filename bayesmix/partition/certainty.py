"""How sure the posterior is of the number of clusters, and of each observation's place."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.allocations import (
    Rows,
    draws_of,
    read_labels,
    read_partition,
    refuse_a_point,
    resp_blocks,
    rows_of,
)
from bayesmix.partition.ball import labels_behind
from bayesmix.similarity import has_responsibilities, one_hot

if TYPE_CHECKING:
    import xarray


DOUBTFUL = 10  # clusters of one draw that may be empty, of which all sets are looked at
SURELY = 1e-12  # a cluster that is empty with less probability is occupied


def n_occupied(draws: Any, *, mixture: Any = None) -> xarray.DataArray:
    """Posterior probability of each number of occupied clusters, DataArray (n_clusters).

    Clusters that own at least one observation; their number can be smaller than the number of
    components in the program. draws, mixture : as in `similarity`. From a result, or a tree with
    responsibilities, the assignments are summed out: given the params observations are
    independent, so a set of clusters is empty with probability prod over n of (1 - r_n(set)), and
    inclusion and exclusion over the sets gives the number. Where more than 10 clusters of one draw
    may be empty that takes too many sets: it is refused, with `bm.allocations(key, tree)` as the
    remedy, labels of which the draws are counted.
    """
    from xarray import DataArray

    draws, mixture = draws_of(draws, mixture)
    if has_responsibilities(draws, mixture):
        refuse_a_point(draws)
        share = _mean_occupied(resp_blocks(draws, mixture))
    else:
        many = read_labels(draws).values.max(axis=1) + 1
        share = (many[:, None] == np.arange(1, many.max() + 1)).mean(axis=0)
    number = np.arange(1, len(share) + 1)
    return DataArray(share, dims=("n_clusters",), coords={"n_clusters": number}, name="probability")


def _mean_occupied(blocks: Iterator[np.ndarray]) -> np.ndarray:
    total, count = np.zeros(()), 0
    for block in blocks:
        total = total + sum(_occupied(resp) for resp in block.astype(np.float64))
        count += len(block)
    share = total / count
    return share[: int(np.flatnonzero(share > SURELY)[-1]) + 1]


def _occupied(resp: np.ndarray) -> np.ndarray:
    """Probability of 1, ..., K occupied clusters, given responsibilities (N, K) of one draw."""
    K = resp.shape[1]
    with np.errstate(divide="ignore"):
        doubtful = np.flatnonzero(np.log1p(-np.minimum(resp, 1)).sum(axis=0) > np.log(SURELY))
    if len(doubtful) > DOUBTFUL:
        raise ValueError(
            f"{len(doubtful)} clusters of a draw may be empty, too many to look at every set of "
            "them: count the labels of bm.allocations(key, tree)"
        )
    sets = _subsets(len(doubtful))
    empty = np.clip(1 - resp[:, doubtful] @ sets.T, 0, 1).prod(axis=0)  # these, maybe others too
    for k in range(len(doubtful)):  # from "these at least" to "these and no others"
        with_k = np.flatnonzero(sets[:, k])
        empty[with_k - 2**k] -= empty[with_k]
    found = np.zeros(K + 1)
    np.add.at(found, K - sets.sum(axis=1), np.maximum(empty, 0))
    return found[1:] / found[1:].sum()


@cache
def _subsets(n: int) -> np.ndarray:
    """All sets of n clusters as 0 and 1, (2^n, n); cluster k is in the sets whose bit k is set."""
    return np.arange(2**n)[:, None] >> np.arange(n) & 1


def stability(draws: Any, partition: Any, *, mixture: Any = None) -> xarray.Dataset:
    """How surely each observation stays in its cluster of an estimate, Dataset over (obs, cluster).

    In every draw the clusters are matched one to one with those of the estimate, so that as many
    observations as possible agree (Hungarian algorithm). `membership` (obs, cluster): probability
    of being in the match of each cluster; what is missing to 1 is in clusters without a match.
    `stability` (obs): the entry of its own cluster. `runner_up` (obs): the most probable other
    cluster, -1 where it has no probability; `runner_up_probability` (obs).
    draws, partition : as in `credible_ball`; from a tree with responsibilities the assignments are
    summed out.
    """
    from xarray import Dataset

    blocks, rows = _blocks(draws, partition, mixture)
    parts, count = np.zeros(()), 0
    labels = np.zeros(0, int)
    for block in blocks:
        labels = labels if count else read_partition(partition, block.shape[1])
        parts = parts + _matched(block, labels)
        count += len(block)
    membership = parts / count
    others = np.where(np.arange(membership.shape[1]) == labels[:, None], -1.0, membership)
    chance = np.maximum(others.max(axis=1), 0.0)
    dim = rows.dim
    return Dataset(
        {
            "cluster_of": (dim, labels),
            "stability": (dim, membership[np.arange(len(labels)), labels]),
            "runner_up": (dim, np.where(chance > 0, others.argmax(axis=1), -1)),
            "runner_up_probability": (dim, chance),
            "membership": ((dim, "cluster"), membership),
        },
        coords=rows.coords(dim) | {"cluster": np.arange(membership.shape[1])},
    )


def _blocks(draws: Any, partition: Any, mixture: Any) -> tuple[Iterator[np.ndarray], Rows]:
    draws, mixture = draws_of(draws, mixture)
    if has_responsibilities(draws, mixture):
        N = np.size(getattr(partition, "labels", partition))
        return resp_blocks(draws, mixture), rows_of(draws, N)
    labels = labels_behind(draws, partition, mixture)
    return one_hot(labels.values), labels.rows


def _matched(resp: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sum over draws of the responsibilities (S, N, K) of each cluster's match: (N, clusters)."""
    from scipy.optimize import linear_sum_assignment

    estimate = labels == np.arange(labels.max() + 1)[:, None]
    shared = estimate.astype(resp.dtype) @ resp
    total = np.zeros(estimate.shape[::-1])
    for table, draw in zip(shared, resp, strict=True):
        clusters, matches = linear_sum_assignment(table, maximize=True)
        total[:, clusters] += draw[:, matches]
    return total
