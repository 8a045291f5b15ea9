"""How probable it is that two observations share a cluster, and how sure each assignment is.

Idea: given the parameters, z_i and z_j are independent, so p(z_i = z_j | draw) is entry (i, j) of
R R^T for i != j. Its mean over draws is the posterior similarity without the noise of sampled z
(Rao and Blackwell).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.allocations import (
    BLOCK,
    Rows,
    check_tree,
    draws_of,
    read_labels,
    resp_blocks,
    rows_of,
)

if TYPE_CHECKING:
    import xarray


def similarity(draws: Any, *, mixture: Any = None) -> xarray.DataArray:
    """Posterior probability that two observations share a cluster, DataArray (obs, obs).

    draws : a result, or a tree with responsibilities (the exact mean of R R^T, diagonal 1), or
    labels from anywhere, DataArray (chain, draw, obs) or array (draw, obs) (how often two labels
    are equal).
    Neither the names of the clusters nor the order of the draws matter. mixture : needed only where
    the responsibilities were too large to store; they are then computed and summed in blocks, so
    memory is the result's, 8 N^2 bytes. Cost: N^2 x draws x clusters multiplications.
    """
    from xarray import DataArray

    draws, mixture = draws_of(draws, mixture)
    blocks, rows = blocks_of(draws, mixture)
    P, _ = mean_products(blocks)
    rows = rows or rows_of(draws, len(P))
    dims = (rows.dim, f"{rows.dim}_2")
    return DataArray(P, dims=dims, coords=rows.coords(*dims), name="similarity")


def blocks_of(draws: Any, mixture: Any = None) -> tuple[Iterator[np.ndarray], Rows | None]:
    """Responsibilities (block, N, K), labels as 0 and 1; the observations, where labels have them.

    draws, mixture : as in `similarity`.
    """
    draws, mixture = draws_of(draws, mixture)
    if has_responsibilities(draws, mixture):
        check_tree(draws, "similarity")
        return resp_blocks(draws, mixture), None
    labels = read_labels(draws)
    return one_hot(labels.values), labels.rows


def mean_products(blocks: Iterator[np.ndarray]) -> tuple[np.ndarray, int]:
    """Mean over draws of R R^T with diagonal 1, (N, N), and the number of draws."""
    total, count = None, 0
    for block in blocks:
        total = _add_products(total, block)
        count += len(block)
    assert total is not None
    P = np.triu(total, 1).astype(np.float64) / count  # BLAS has filled one triangle
    P += P.T
    np.fill_diagonal(P, 1.0)
    return P, count


def has_responsibilities(draws: Any, mixture: Any = None) -> bool:
    """Whether draws is a tree whose assignments can be summed out."""
    from xarray import DataTree

    if not isinstance(draws, DataTree):
        return False
    stored = draws.children
    return mixture is not None or "responsibilities" in stored or "allocations" not in stored


def _add_products(total: np.ndarray | None, block: np.ndarray) -> np.ndarray:
    """total + sum over the block's draws of R R^T, in place, upper triangle only."""
    from scipy.linalg import blas

    S, N, K = block.shape
    dtype = np.float32 if block.dtype == np.float32 else np.float64
    stacked = np.ascontiguousarray(block.transpose(0, 2, 1), dtype).reshape(S * K, N)
    if total is None:
        total = np.zeros((N, N), dtype, order="F")
    product = blas.ssyrk if dtype == np.float32 else blas.dsyrk
    return product(1.0, stacked.T, beta=1.0, c=total, overwrite_c=1)


def one_hot(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Labels as responsibilities 0 and 1; counts in float32 are exact up to 16 million draws."""
    N, many = labels.shape[1], int(labels.max()) + 1
    size = max(1, 4 * BLOCK // (N * many))
    for start in range(0, len(labels), size):
        yield (labels[start : start + size, :, None] == np.arange(many)).astype(np.float32)


def entropy(tree: xarray.DataTree, *, mixture: Any = None) -> xarray.DataArray:
    """Entropy of each observation's posterior assignment, nats, DataArray (obs).

    Mean over draws of the entropy of its responsibilities: 0 where every draw is sure, log K where
    none knows anything. It does not depend on the names of the clusters, so what only
    label switching blurs is not counted; nor is what the draws disagree about (see `stability`).
    """
    from scipy.special import xlogy
    from xarray import DataArray

    tree, mixture = draws_of(tree, mixture)
    check_tree(tree, "entropy")
    total, count = np.zeros(()), 0
    for block in resp_blocks(tree, mixture):
        total = total - xlogy(block, block).sum(axis=(0, 2), dtype=np.float64)
        count += len(block)
    rows = rows_of(tree, len(total))
    return DataArray(total / count, dims=(rows.dim,), coords=rows.coords(rows.dim), name="entropy")
