"""Responsibilities of all draws, handed out in blocks: stored, from allocations, or computed anew.

A method may go over them several times; only one block of them exists at a time beside what the
tree stores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.relabel.tree import dataset, observation_weights

if TYPE_CHECKING:
    import xarray

BLOCK_BYTES = 64 * 2**20
ROUGH = 1e-3  # by which probabilities from elsewhere may miss a sum of 1, or be below 0


@dataclass(frozen=True)
class Responsibilities:
    """Responsibilities of S flattened draws, (S, N, K), without holding them.

    of : numbers of draws -> their responsibilities. weights : (N,) of the observations.
    """

    of: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, int, int]
    weights: np.ndarray

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First draw and responsibilities (block, N, K) of each block; refuses what is none."""
        S, N, K = self.shape
        size = max(1, BLOCK_BYTES // max(1, 8 * N * K))
        for start in range(0, S, size):
            block = self.of(np.arange(start, min(S, start + size)))
            yield start, _checked(block, start)

    @property
    def shares(self) -> np.ndarray:
        """The weights, made to sum to 1."""
        total = self.weights.sum()
        return self.weights / (total if total > 0 else 1.0)

    def voted(self) -> Responsibilities:
        """Every observation wholly in its most probable cluster; the labels are kept."""
        labels = [block.argmax(-1).astype(np.int16) for _, block in self.blocks()]
        return of_labels(np.concatenate(labels), self.shape[-1], self.weights)


def of_array(resp: np.ndarray, weights: np.ndarray | None = None) -> Responsibilities:
    """Of an array (S, N, K). weights : (N,), default 1."""
    return _made(lambda some: resp[some], resp.shape, weights)


def of_labels(labels: np.ndarray, K: int, weights: np.ndarray | None = None) -> Responsibilities:
    """One-hot, of labels 0..K-1, (S, N)."""
    return _made(lambda some: np.eye(K)[labels[some]], (*labels.shape, K), weights)


def of_tree(tree: xarray.DataTree, mixture: Any = None) -> Responsibilities:
    """Stored responsibilities; else those of `mixture` at the draws; else one-hot allocations.

    Raises ValueError where the tree has none of them.
    """
    stored, weights = dataset(tree, "responsibilities"), observation_weights(tree)
    if "resp" in stored:
        resp = stored["resp"].to_numpy()
        flat = resp.reshape(-1, math.prod(resp.shape[2:-1]), resp.shape[-1])
        return of_array(flat, weights)
    if mixture is not None:
        return _computed(tree, mixture, weights)
    sampled = sampled_allocations(tree)
    if sampled is not None:
        return sampled
    raise ValueError(
        "the tree has no group 'responsibilities' (it is left out above 256 MB): pass "
        "mixture=result.mixture, or thin the draws before to_datatree(); of draws from elsewhere "
        "pass the labels or bm.adopt(...)"
    )


def sampled_allocations(tree: xarray.DataTree) -> Responsibilities | None:
    """The allocations that another sampler drew, one-hot; None where the tree has none."""
    group = dataset(tree, "allocations")
    if "z" not in group:
        return None
    labels = group["z"].to_numpy()
    flat = labels.reshape(labels.shape[0] * labels.shape[1], -1)
    return of_labels(flat, int(tree.attrs["n_clusters"]), observation_weights(tree))


def _computed(tree: xarray.DataTree, mixture: Any, weights: np.ndarray | None) -> Responsibilities:
    from bayesmix.draws import draw_responsibilities

    names = json.loads(tree.attrs.get("site_names", "{}"))
    posterior = dataset(tree, "posterior")
    draws = {
        site: (v := posterior[names.get(site, site)].to_numpy()).reshape(-1, *v.shape[2:])
        for site in mixture.sites
    }
    S = posterior.sizes["chain"] * posterior.sizes["draw"]

    def of(some: np.ndarray) -> np.ndarray:
        return draw_responsibilities(mixture, {site: v[some] for site, v in draws.items()})

    return _made(of, (S, mixture.N, mixture.K), weights)


def _made(
    of: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], weights: np.ndarray | None
) -> Responsibilities:
    S, N, K = shape
    return Responsibilities(of, (S, N, K), np.ones(N) if weights is None else weights)


def _checked(block: np.ndarray, start: int) -> np.ndarray:
    bad = ~np.isfinite(block).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f"the responsibilities of draw {start + int(bad.argmax())} of the flattened chains "
            "are not finite: drop such draws"
        )
    total = block @ np.ones(block.shape[-1], block.dtype)
    if block.min() < -ROUGH or np.abs(total - 1).max() > ROUGH:
        wrong = (block.min(axis=-1) < -ROUGH) | (np.abs(total - 1) > ROUGH)
        s, n = np.argwhere(wrong)[0]
        raise ValueError(
            f"the responsibilities of draw {start + s} of the flattened chains, observation {n}, "
            f"sum to {total[s, n]:.4g}, the least is {block[s, n].min():.4g}: give probabilities "
            "of the clusters, which sum to 1"
        )
    return block
