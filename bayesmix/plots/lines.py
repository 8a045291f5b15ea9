"""Clusters of a mixture of regressions: the response against a covariate, and each cluster's line.

Lives here: drawing. The numbers are those of `plots.response`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.diagnose.words import count
from bayesmix.plots.canvas import (
    INK,
    MUTED,
    cluster_name,
    colours,
    figure_of,
    new_figure,
    panel,
    put_title,
)
from bayesmix.plots.plane import ACROSS, ALONG, apart, jitter, position, put_levels, shrinkage
from bayesmix.plots.response import Covariate, Response, response_of
from bayesmix.plots.view import View, band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 5  # covariates without being named
FAINT, STRONG = 0.12, 0.8  # opacity of a row of no cluster's, and of a certain one
SPREAD = 0.6  # of one level's points, of the distance between levels


def draw_lines(view: View, columns: Sequence[str | int] | None, ax: Axes | None) -> Figure:
    """See `plots.clusters`."""
    response = response_of(view)
    if not response.covariates:
        raise ValueError(
            f"no covariate moves the clusters' means of {response.name!r}: there is no line to draw"
        )
    chosen = _chosen(response, columns)
    subtitle = _subtitle(view, response, chosen)
    title = (
        f"{count(len(response.y), 'row')} in {count(view.K, 'cluster')}, by the line they follow"
    )
    if len(chosen) == 1:
        ax = panel(ax, 7.4, 5.0)
        _draw_panel(ax, response, chosen[0])
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
        ax.legend(handles=_marks(view, response), **(beside if view.K > 4 else {"loc": "best"}))
        put_title(ax, title, subtitle)
        return figure_of(ax)
    if ax is not None:
        raise ValueError(
            f"ax= holds one panel: name one covariate with columns=, not {len(chosen)}"
        )
    return _panels(view, response, chosen, title, subtitle)


def _chosen(response: Response, columns: Sequence[str | int] | None) -> list[Covariate]:
    if columns is None:
        return list(response.covariates[:MOST])
    names = [covariate.name for covariate in response.covariates]
    wanted = [columns] if isinstance(columns, str | int) else list(columns)
    if not wanted:
        raise ValueError(f"columns= names no covariate: there are {', '.join(names)}")
    return [response.covariates[position(column, names)] for column in wanted]


def _subtitle(view: View, response: Response, chosen: Sequence[Covariate]) -> str:
    lines = "each cluster's mean"
    said = [f"{view.said}: {lines}" + (" with its 95 % band" if view.S > 1 else "")]
    others = len(response.covariates) - 1
    if others:
        said.append(f"the other {'covariate' if others == 1 else 'covariates'} at the mean")
    if len(response.covariates) > len(chosen):
        said.append(f"{len(chosen)} of {len(response.covariates)} covariates")
    gone = int(np.isnan(response.y).sum())
    missing = f"{count(gone, 'row')} without a response not shown" if gone else ""
    return "; ".join(filter(None, [*said, response.said, missing]))


# Panels.


def _panels(
    view: View, response: Response, chosen: list[Covariate], title: str, subtitle: str
) -> Figure:
    n = len(chosen) + 1
    cols = min(n, 3)
    rows = -(-n // cols)
    figure = new_figure(3.5 * cols, 3.1 * rows + 0.9)
    axes = figure.subplots(rows, cols, squeeze=False).ravel()
    for ax, covariate in zip(axes, chosen, strict=False):
        _draw_panel(ax, response, covariate)
    _draw_fitted(axes[n - 1], response)
    for ax in axes[n:]:
        ax.axis("off")
    for number, ax in enumerate(axes[:n]):
        ax.set_ylabel(response.name if number % cols == 0 or number == n - 1 else "")
    below: dict[str, Any] = {"title": subtitle, "alignment": "left", "title_fontsize": 9}
    figure.legend(handles=_marks(view, response), loc="outside lower left", ncols=5, **below)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    return figure


def _draw_panel(ax: Axes, response: Response, covariate: Covariate) -> None:
    K, x, y = (
        response.resp.shape[1],
        covariate.values,
        apart(response.y, ALONG) if response.discrete else response.y,
    )
    if covariate.levels:
        shift = SPREAD * ((np.arange(K) + 0.5) / K - 0.5)
        x = x + shift[response.resp.argmax(1)] + jitter(len(x), 0.6 * SPREAD / K, ACROSS)
    else:
        x = apart(x, ACROSS)
    if response.group is not None:
        _draw_groups(ax, response, x, y)
    _draw_points(ax, response, x, y)
    if covariate.levels:
        _draw_levels(ax, covariate, shift, 0.8 * SPREAD / K)
    else:
        _draw_curves(ax, covariate)
    _keep_to(ax, response.y)
    ax.set_xlabel(covariate.name)
    ax.set_ylabel(response.name)


def _keep_to(ax: Axes, y: np.ndarray) -> None:
    """Leaves a line that runs away from the data less room than they have."""
    low, high = np.nanmin(y), np.nanmax(y)
    shown, room = ax.get_ylim(), 0.3 * (high - low)
    if room > 0:
        ax.set_ylim(max(shown[0], low - room), min(shown[1], high + room))


def _draw_points(ax: Axes, response: Response, x: np.ndarray, y: np.ndarray) -> None:
    K = response.resp.shape[1]
    ink = np.ones((len(y), 4))
    ink[:, :3] = colours(K)[response.resp.argmax(1)]
    sure = (response.resp.max(1) - 1 / K) / (1 - 1 / K) if K > 1 else np.ones(len(y))
    ink[:, 3] = FAINT + (STRONG - FAINT) * sure
    seen = ~np.isnan(y)
    small = shrinkage(len(y))
    ax.scatter(x[seen], y[seen], s=26 * small, c=ink[seen], linewidths=0, zorder=2)


def _draw_groups(ax: Axes, response: Response, x: np.ndarray, y: np.ndarray) -> None:
    """The rows of one group joined, along x."""
    from matplotlib.collections import LineCollection

    seen = np.flatnonzero(~np.isnan(y))
    order = seen[np.lexsort((x[seen], response.group[seen]))]  # type: ignore[index]
    group = response.group[order]  # type: ignore[index]
    parts = np.split(order, np.flatnonzero(np.diff(group)) + 1)
    paths = [np.column_stack([x[rows], y[rows]]) for rows in parts if len(rows) > 1]
    first = [rows[0] for rows in parts if len(rows) > 1]
    ink = colours(response.resp.shape[1])[response.resp[first].argmax(1)]
    ax.add_collection(LineCollection(paths, colors=ink, lw=0.8, alpha=0.35, zorder=1))


def _draw_curves(ax: Axes, covariate: Covariate) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3.2, foreground="white")]
    for k, colour in enumerate(colours(covariate.lines.shape[-1])):
        line = covariate.lines[..., k]
        if len(line) > 1:
            ax.fill_between(covariate.grid, *band(line), color=colour, alpha=0.25, lw=0, zorder=3)
        ax.plot(covariate.grid, line.mean(0), color=colour, lw=2.2, zorder=4, path_effects=halo)


def _draw_levels(ax: Axes, covariate: Covariate, shift: np.ndarray, width: float) -> None:
    """A bar at each cluster's mean of each level, side by side, with its band."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3.2, foreground="white")]
    for k, colour in enumerate(colours(covariate.lines.shape[-1])):
        line, at = covariate.lines[..., k], covariate.grid + shift[k]
        if len(line) > 1:
            lo, hi = band(line)
            ax.bar(at, hi - lo, width, lo, color=colour, alpha=0.25, lw=0, zorder=3)
        ends = (at - width / 2, at + width / 2)
        ax.hlines(line.mean(0), *ends, color=colour, lw=2.4, zorder=4, path_effects=halo)
    put_levels(ax.xaxis, covariate.levels)
    ax.set_xlim(-0.6, len(covariate.levels) - 0.4)


def _draw_fitted(ax: Axes, response: Response) -> None:
    """The response against the mean of its most probable cluster."""
    fitted = response.fitted[np.arange(len(response.y)), response.resp.argmax(1)]
    _draw_points(
        ax, response, fitted, apart(response.y, ALONG) if response.discrete else response.y
    )
    both = np.array([fitted.min(), fitted.max()])
    ax.plot(both, both, color=INK, lw=1.0, ls=(0, (4, 2)), zorder=3)
    ax.set_xlabel("fitted, in the most probable cluster")


def _marks(view: View, response: Response) -> list[Any]:
    from matplotlib.lines import Line2D

    shares = view.mean_resp.mean(0)
    marks: list[Any] = [
        Line2D([], [], marker="o", lw=2.2, ms=6, color=c, mec=c, label=cluster_name(k, s))
        for k, (c, s) in enumerate(zip(colours(view.K), shares, strict=True))
    ]
    if (response.resp.max(1) < 0.9).any():
        label = "the fainter, the less certain"
        marks.append(
            Line2D([], [], marker="o", ls="", ms=6, mfc=MUTED, mec="none", alpha=0.35, label=label)
        )
    if response.group is not None:
        marks.append(Line2D([], [], lw=0.8, color=MUTED, label="rows of one group"))
    return marks
