"""The posterior of partitions: who shares a cluster, how many clusters there are."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.allocations import read_partition
from bayesmix.plots.canvas import (
    INK,
    MUTED,
    PALE,
    PALETTE,
    colours,
    figure_of,
    panel,
    put_title,
    styled,
)
from bayesmix.similarity import blocks_of, mean_products

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 600  # observations of a heat map
HEAT = ("#FFFFFF", "#D3E3EF", "#7FB2D6", "#2478AE", "#0B3C5D")


def similarity(
    draws: Any, *, partition: Any = None, mixture: Any = None, ax: Axes | None = None
) -> Figure:
    """Heat map of the posterior probability that two observations share a cluster.

    draws, mixture : as in `bm.similarity`, or a result. partition : a result of `bm.partition` or
    (N,) labels: its clusters are framed and lie side by side when they are alike; inside a cluster,
    observations that are alike lie side by side (average linkage, leaves in optimal order).
    Without it, all observations are ordered in that way. Of more than 600 observations, 600 are
    shown, from every cluster in proportion; the subtitle says so.
    """
    blocks, _ = blocks_of(draws, mixture)
    first = next(blocks)
    N = first.shape[1]
    labels = np.zeros(N, int) if partition is None else read_partition(partition, N)
    rows = _spread_by_cluster(labels)
    P, S = mean_products(block[:, rows] for block in chain([first], blocks))
    order, ends = _ordered(P, labels[rows])
    with styled():
        ax = panel(ax, 6.6, 6.0)
        image = ax.imshow(P[np.ix_(order, order)], cmap=_heat(), vmin=0, vmax=1)
        bar = figure_of(ax).colorbar(image, ax=ax, shrink=0.72, pad=0.03, ticks=[0, 0.5, 1])
        bar.set_label("probability of sharing a cluster")
        bar.ax.spines["outline"].set_visible(False)
        ax.set(xticks=[], yticks=[])
        ax.spines[["left", "right", "top", "bottom"]].set(visible=True, color=PALE)
        if partition is not None:
            _outline(ax, labels[rows][order], ends, np.bincount(labels))
        few = f"{len(rows)} of {N} observations shown" if len(rows) < N else f"{N} observations"
        how = "framed: the partition" if partition is not None else "ordered by similarity"
        put_title(ax, "Which observations share a cluster", f"{few}, {S} draws; {how}")
    return figure_of(ax)


def _heat() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("similarity", HEAT)


def _spread_by_cluster(labels: np.ndarray) -> np.ndarray:
    """At most `SHOWN` observations, evenly from all clusters."""
    order = np.argsort(labels, kind="stable")
    at = np.unique(np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int))
    return np.sort(order[at])


def _ordered(P: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of the observations, and where each cluster ends in it."""
    clusters = np.unique(labels)
    members = (labels == clusters[:, None]).astype(float)
    between = members @ P @ members.T / np.outer(members.sum(axis=1), members.sum(axis=1))
    groups = []
    for cluster in clusters[_leaves(between)]:
        at = np.flatnonzero(labels == cluster)
        groups.append(at[_leaves(P[np.ix_(at, at)])])
    return np.concatenate(groups), np.cumsum([len(group) for group in groups])


def _leaves(P: np.ndarray) -> np.ndarray:
    """Leaves of the average-linkage tree in the order that puts like beside like."""
    if len(P) < 3:
        return np.arange(len(P))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    far = np.clip(1 - P, 0, 1)
    np.fill_diagonal(far, 0)
    return leaves_list(linkage(squareform(far, checks=False), "average", optimal_ordering=True))


def _outline(ax: Axes, labels: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> None:
    """Frames in the clusters' colours, with their number and size at the left."""
    from matplotlib.patches import Rectangle

    inks = colours(len(sizes))
    for start, end in zip(np.r_[0, ends[:-1]], ends, strict=True):
        k, span = labels[start], end - start
        corner = (start - 0.5, start - 0.5)
        ax.add_patch(
            Rectangle(corner, span, span, fill=False, ec=inks[k], lw=2.0, zorder=3, clip_on=False)
        )
        ax.annotate(
            f"{k}  ({sizes[k]})" if span >= 0.02 * ends[-1] else f"{k}",
            (-0.5, (start + end - 1) / 2), (-6, 0), textcoords="offset points", ha="right",
            va="center", color=inks[k], fontsize=9, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    ax.set_ylabel("cluster of the partition (its size)", labelpad=52)


def n_occupied(draws: Any, *, ax: Axes | None = None) -> Figure:
    """Posterior probability of each number of occupied clusters, as bars.

    draws : as in `bm.n_occupied`.
    """
    from bayesmix.partition.certainty import n_occupied as probabilities

    found = probabilities(draws)
    share, number = found.to_numpy(), found["n_clusters"].to_numpy()
    first = int(np.flatnonzero(share)[0])
    share, number = share[first:], number[first:]
    with styled():
        ax = panel(ax, 5.6, 3.6)
        most = share.argmax()
        inks = [PALETTE[0] if k == most else "#A9C6DB" for k in range(len(share))]
        bars = ax.bar(number, share, width=0.72, color=inks)
        ax.bar_label(bars, [_percent(p) for p in share], padding=2, color=INK, fontsize=9)
        ax.set_xticks(number)
        ax.set_xlim(number[0] - 0.7, number[-1] + 0.7)
        ax.set_ylim(0, 1.12 * share.max())
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="x", length=0, labelcolor=INK)
        ax.spines["bottom"].set_color(MUTED)
        ax.set_xlabel("occupied clusters (with at least one observation)")
        ax.set_ylabel("posterior probability")
        put_title(ax, f"Occupied clusters: most probably {number[most]} ({_percent(share[most])})")
    return figure_of(ax)


def _percent(share: float) -> str:
    if share == 0:
        return "0"
    return f"{share:.0%}" if share >= 0.01 else "<1%"
