"""Two partitions of the same observations, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.partition import Partition
from bayesmix.partition.losses import adjusted_rand, vi
from bayesmix.plots.canvas import INK, colours, figure_of, panel, put_title, styled
from bayesmix.plots.view import view_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.02  # between two clusters, share of the observations
BAR = 0.045  # width of a cluster's bar
WRITTEN = 0.012  # smaller flows carry no number


def named_like(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The second partition (N,), its clusters numbered like those of the first that they match.

    One to one, so that as many observations as possible agree; clusters without a match get the
    next free numbers.
    """
    from scipy.optimize import linear_sum_assignment

    table = _table(first, second)
    mine, theirs = linear_sum_assignment(table, maximize=True)
    number = np.full(table.shape[1], -1)
    number[theirs] = mine
    new = number < 0
    number[new] = len(table) + np.arange(new.sum())
    return number[second]


def _table(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Observations in both, (clusters of first, clusters of second)."""
    many = int(second.max()) + 1
    return np.bincount(first * many + second, minlength=(int(first.max()) + 1) * many).reshape(
        -1, many
    )


def alluvial(
    first: Any, second: Any, *, names: tuple[str, str] | None = None, ax: Axes | None = None
) -> Figure:
    """Where the observations of each cluster of one partition are in another.

    first, second : a result of `bm.partition`, (N,) labels, or a result or tree of EM or NUTS (each
    observation in its most probable cluster, after relabelling). names : what to call them. Colours
    are those of the first; a flow's number counts its observations; clusters of the second lie so
    that few flows cross. The subtitle tells how far apart the two are (variation of information,
    adjusted Rand index).
    """
    (one, one_called), (two, two_called) = _read(first, "first"), _read(second, "second")
    if len(one) != len(two):
        raise ValueError(
            f"first is of {len(one)} observations and second of {len(two)}: they must be the same"
        )
    called = names or (one_called, two_called)
    left, right = np.unique(one), np.unique(two)
    table = (one[:, None] == left).T.astype(int) @ (two[:, None] == right).astype(int)
    # a cluster of the second stands at the mean height of its members in the first
    order = np.argsort(np.arange(len(left)) @ table / table.sum(axis=0), kind="stable")
    table, right = table[:, order], right[order]
    with styled():
        ax = panel(ax, 6.4, 4.8)
        _draw_flows(ax, table / len(one), table, colours(int(one.max()) + 1)[left])
        _draw_bars(ax, table, left, right, called)
        ax.set(xlim=(-0.42, 1.42), ylim=(1 + GAP * (max(table.shape) - 1) + 0.06, -0.1))
        ax.axis("off")
        far = f"{vi(one, two):.3g} bits apart; adjusted Rand index {adjusted_rand(one, two):.3g}"
        put_title(ax, f"{_moved(table)} of {len(one)} observations change cluster", far)
    return figure_of(ax)


def _read(source: Any, what: str) -> tuple[np.ndarray, str]:
    """Labels with the numbers they have (what is no whole number is numbered), and their name."""
    from xarray import DataTree

    if isinstance(source, DataTree) or hasattr(source, "to_datatree"):
        view = view_of(source)
        return view.mean_resp.argmax(axis=1), view.said
    labels = np.asarray(getattr(source, "labels", source))
    if labels.ndim != 1 or not labels.size:
        raise ValueError(
            f"{what} has shape {labels.shape}: pass a partition, one label per observation"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        labels = np.unique(labels, return_inverse=True)[1]
    return labels, f"partition ({source.loss})" if isinstance(source, Partition) else what


def _moved(table: np.ndarray) -> int:
    """Observations left over when clusters are matched one to one."""
    from scipy.optimize import linear_sum_assignment

    return int(table.sum() - table[linear_sum_assignment(table, maximize=True)].sum())


def _tops(sizes: np.ndarray) -> np.ndarray:
    """Where each cluster's bar begins, from above."""
    return np.r_[0, np.cumsum(sizes)[:-1]] + GAP * np.arange(len(sizes))


def _draw_flows(ax: Axes, flow: np.ndarray, count: np.ndarray, inks: np.ndarray) -> None:
    left = _tops(flow.sum(axis=1))[:, None] + np.cumsum(flow, axis=1) - flow
    right = _tops(flow.sum(axis=0)) + np.cumsum(flow, axis=0) - flow
    for i, j in np.argwhere(count):
        ax.add_patch(_ribbon(left[i, j], right[i, j], flow[i, j], inks[i]))
        if flow[i, j] < WRITTEN or np.count_nonzero(count[i]) == 1 == np.count_nonzero(count[:, j]):
            continue
        for x, top, align in ((BAR, left[i, j], "left"), (1 - BAR, right[i, j], "right")):
            middle = top + flow[i, j] / 2
            ax.annotate(
                f"{count[i, j]}", (x, middle), (4 if x < 0.5 else -4, 0), ha=align, va="center",
                textcoords="offset points", fontsize=8, color=INK,
            )  # fmt: skip


def _ribbon(left: float, right: float, height: float, ink: np.ndarray) -> Any:
    """A band between two bars, level at both ends."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    ends, middle = (BAR, 1 - BAR), 0.5
    above = [(ends[0], left), (middle, left), (middle, right), (ends[1], right)]
    below = [(x, y + height) for x, y in reversed(above)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
    return PathPatch(Path(above + below, codes), fc=ink, alpha=0.42, lw=0, zorder=2)


def _draw_bars(
    ax: Axes, table: np.ndarray, left: np.ndarray, right: np.ndarray, called: tuple[str, str]
) -> None:
    from matplotlib.patches import Rectangle

    inks = colours(int(left.max()) + 1)[left]
    shares = table / table.sum()
    mixed = shares.T @ inks / shares.sum(axis=0)[:, None]
    sides = (
        (0.0, shares.sum(axis=1), left, inks, "right", -6),
        (1.0 - BAR, shares.sum(axis=0), right, mixed, "left", 6),
    )
    for (x, sizes, numbers, fill, align, shift), name in zip(sides, called, strict=True):
        for top, size, k, ink in zip(_tops(sizes), sizes, numbers, fill, strict=True):
            ax.add_patch(Rectangle((x, top), BAR, size, fc=ink, lw=0, zorder=3))
            ax.annotate(
                f"cluster {k} ({round(size * table.sum())})",
                (x if align == "right" else x + BAR, top + size / 2), (shift, 0), ha=align,
                va="center", textcoords="offset points", fontsize=9, color=INK,
            )  # fmt: skip
        ax.annotate(
            name, (x + BAR / 2, 0), (0, 8), ha="center", textcoords="offset points",
            fontsize=10, fontweight="bold", color=INK,
        )  # fmt: skip
