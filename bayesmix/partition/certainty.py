"""How sure the posterior is of the number of clusters, and of each observation's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.allocations import Rows, read_labels, read_partition, resp_blocks, rows_of
from bayesmix.partition.ball import labels_behind
from bayesmix.similarity import has_responsibilities, one_hot

if TYPE_CHECKING:
    import xarray


def n_occupied(draws: Any) -> xarray.DataArray:
    """Posterior probability of each number of occupied clusters, DataArray (n_clusters).

    Clusters that own at least one observation; their number can be smaller than the number of
    components in the program. draws : labels as in `partition`; from a tree with responsibilities
    take `bm.allocations(key, tree)`. Assignments are not summed out here: within a draw only the
    expected number is cheap, sum over k of 1 - prod over n of (1 - r_nk); whether one cluster is
    empty depends on the others, so its distribution would take a sum over all sets of clusters.
    """
    from xarray import DataArray

    many = read_labels(draws).values.max(axis=1) + 1
    number = np.arange(1, many.max() + 1)
    share = (many[:, None] == number).mean(axis=0)
    return DataArray(share, dims=("n_clusters",), coords={"n_clusters": number}, name="probability")


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
