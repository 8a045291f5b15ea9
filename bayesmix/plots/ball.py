"""How far the posterior spreads about one partition: its credible ball, and each observation.

Lives here: drawing. The numbers are those of `bm.credible_ball` and `bm.stability`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.allocations import draws_of
from bayesmix.partition import clusters_in_words
from bayesmix.partition.ball import Bounds, CredibleBall
from bayesmix.partition.certainty import stability
from bayesmix.plots.alluvial import named_like
from bayesmix.plots.canvas import (
    INK,
    MUTED,
    cluster_name,
    colours,
    figure_of,
    new_figure,
    panel,
    put_title,
    styled,
)
from bayesmix.plots.plane import Plane, draw_groups, plane_of, shrinkage

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POSSIBLE = 0.05  # a runner-up of less probability is not shown
NAMED = 5  # observations that carry their name
ROOM = (0.1, 0.035)  # that a name needs, share of the axes

# The ball.


def credible_ball(
    ball: CredibleBall, data: Any, *, columns: Sequence[str | int] | None = None
) -> Figure:
    """Four partitions of the data: the estimate, and the edges of its credible ball.

    ball : result of `bm.credible_ball`. data : DataFrame, Series, array, tree or result, one row
    per observation. columns : one or two, by name or number; by default the first two principal
    components of the standardised columns where there are more than two.
    Colours follow the estimate: a cluster of a bound has the colour of the cluster it shares most
    observations with (one to one), or a new one. Observations elsewhere than in the estimate are
    marked. Of several bounds that tie, the first is drawn and the title counts the others.
    """
    if not isinstance(ball, CredibleBall):
        raise ValueError(
            f"credible_ball draws a result of bm.credible_ball, not {type(ball).__name__}"
        )
    plane = plane_of(data, len(ball.centre), columns)
    unit = " bits" if ball.distance == "vi" else ""
    bounds = {
        "Horizontal bound": ball.horizontal,
        "Upper vertical bound": ball.upper,
        "Lower vertical bound": ball.lower,
    }
    with styled():
        figure = new_figure(9.2, 7.0)
        axes = figure.subplots(2, 2, sharex=True, sharey=True)
        groups = [named_like(ball.centre, bound.labels[0]) for bound in bounds.values()]
        inks = colours(1 + max(int(g.max()) for g in (ball.centre, *groups)))
        still = np.zeros(len(ball.centre), bool)
        draw_groups(axes[0, 0], plane, ball.centre, inks, still)
        put_title(axes[0, 0], "Estimate", clusters_in_words(ball.centre))
        for ax, name, group in zip(axes.flat[1:], bounds, groups, strict=True):
            draw_groups(ax, plane, group, inks, group != ball.centre)
            same = name != "Horizontal bound" and np.array_equal(group, groups[0])
            words = "the horizontal bound again" if same else _in_words(bounds[name], unit)
            put_title(ax, name, words)
        for ax in axes.flat:
            ax.label_outer()
        figure.suptitle(
            f"{ball.prob:.0%} credible ball of partitions, radius {ball.radius:.3g}{unit}",
            x=0.01, ha="left", fontsize=13, fontweight="bold",
        )  # fmt: skip
        marked = "black ticks" if plane.line else "black edges"
        said = f"{marked}: observations that are elsewhere than in the estimate"
        figure.supxlabel(
            f"{said}; {plane.said}" if plane.said else said, x=0.01, ha="left", fontsize=9,
            color=MUTED,
        )  # fmt: skip
    return figure


def _in_words(bound: Bounds, unit: str) -> str:
    more = len(bound.labels) - 1
    tied = f"; {more} more like it" if more else ""
    return f"{clusters_in_words(bound.labels[0], 6)}: {bound.distance:.3g}{unit} away{tied}"


# Each observation.


def uncertainty(
    draws: Any,
    partition: Any,
    *,
    data: Any = None,
    columns: Sequence[str | int] | None = None,
    mixture: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """How sure the posterior is of each observation's cluster, on a map of the data.

    draws, partition, mixture : as in `bm.stability`; draws may be a result. data : as in
    `credible_ball`; by default what the tree observed. Colour: the observation's cluster. Area:
    entropy of its posterior over the clusters (nats; those without a match in the partition count
    as one more). Edge: the colour of the runner-up, where it has more than 5 % probability. Data of
    one column are drawn against the probability of staying in the cluster. The five least certain
    carry their names where there is room.
    """
    draws, mixture = draws_of(draws, mixture)
    found = stability(draws, partition, mixture=mixture)
    labels = found["cluster_of"].to_numpy()
    plane = plane_of(_data_of(draws) if data is None else data, len(labels), columns)
    stays = found["stability"].to_numpy()
    points = np.column_stack([plane.points[:, 0], stays]) if plane.line else plane.points
    spread = _entropy(found["membership"].to_numpy())
    possible = found["runner_up_probability"].to_numpy() > POSSIBLE
    inks = colours(int(labels.max()) + 1)
    edges = np.where(possible[:, None], inks[found["runner_up"].to_numpy()], 1.0)
    order = np.argsort(spread, kind="stable")  # the doubtful above the sure
    order = order[~np.isnan(points[order]).any(1)]
    widths = np.where(possible, 1.8, 0.4) * shrinkage(len(labels))
    with styled():
        ax = panel(ax, 8.0, 5.4)
        ax.scatter(
            points[order, 0], points[order, 1], s=_area(spread[order], len(labels)),
            c=inks[labels[order]], edgecolors=edges[order].tolist(),
            linewidths=widths[order].tolist(), zorder=3,
        )  # fmt: skip
        _write_names(ax, points, stays, _names(found))
        _label_axes(ax, plane)
        _uncertainty_legend(ax, labels, spread, inks, bool(possible.any()))
        doubtful = int((stays < 0.9).sum())
        title = f"{doubtful} of {len(labels)} observations are less than 90 % sure of their cluster"
        put_title(ax, title, plane.said)
    return figure_of(ax)


def _data_of(draws: Any) -> Any:
    from xarray import DataTree

    if isinstance(draws, DataTree):
        return draws
    raise ValueError("labels do not hold the data: pass data=")


def _names(found: xarray.Dataset) -> list[str]:
    rows = found["stability"]
    return [str(name) for name in rows[rows.dims[0]].to_numpy()]


def _entropy(membership: np.ndarray) -> np.ndarray:
    """Entropy of each row, nats; what is missing to 1 counts as one more cluster."""
    from scipy.special import entr

    rest = np.clip(1 - membership.sum(axis=1), 0, 1)
    return np.maximum(entr(membership).sum(axis=1) + entr(rest), 0)


def _area(spread: np.ndarray, N: int) -> np.ndarray:
    return (18 + 150 * spread) * shrinkage(N)


def _write_names(ax: Axes, points: np.ndarray, stays: np.ndarray, names: list[str]) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white")]
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    place = (points - low) / np.maximum(high - low, 1e-12)
    order = np.argsort(stays, kind="stable")
    written: list[int] = []
    for row in order[~np.isnan(points[order]).any(1)][:NAMED]:
        if any((np.abs(place[row] - place[other]) < ROOM).all() for other in written):
            continue
        written.append(row)
        ax.annotate(
            names[row], points[row], (8, 5), textcoords="offset points", fontsize=8, color=INK,
            path_effects=halo, zorder=6,
        )  # fmt: skip


def _label_axes(ax: Axes, plane: Plane) -> None:
    ax.set_xlabel(plane.axes[0])
    if plane.line:
        ax.set_ylabel("probability of staying in its cluster")
        ax.set_ylim(top=1.04)
        ax.grid(axis="y")
    else:
        ax.set_ylabel(plane.axes[1])


def _uncertainty_legend(
    ax: Axes, labels: np.ndarray, spread: np.ndarray, inks: np.ndarray, ringed: bool
) -> None:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"marker": "o", "ls": "", "mec": "white"}
    share = np.bincount(labels) / len(labels)
    marks = [
        Line2D([], [], ms=7, mfc=c, label=cluster_name(k, share[k]), **style)
        for k, c in enumerate(inks)
    ]
    for value in (0.0, float(spread.max()) / 2, float(spread.max())):
        size = float(np.sqrt(_area(np.array(value), len(labels))))
        marks.append(Line2D([], [], ms=size, mfc=MUTED, label=f"entropy {value:.2f} nats", **style))
    if ringed:
        edge = {**style, "mec": INK, "mew": 1.8}
        marks.append(Line2D([], [], ms=8, mfc="white", label="edge: colour of runner-up", **edge))
    ax.legend(
        handles=marks, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, labelspacing=0.8
    )
