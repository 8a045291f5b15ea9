"""The data under the fitted mixture: curves for one column, ellipses for several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.plots.canvas import (
    INK,
    MUTED,
    PALE,
    blend,
    cluster_name,
    colours,
    figure_of,
    new_figure,
    panel,
    put_title,
    styled,
)
from bayesmix.plots.lines import draw_lines
from bayesmix.plots.plane import (
    ACROSS,
    ALONG,
    jitter,
    not_shown,
    position,
    put_levels,
    shrinkage,
)
from bayesmix.plots.response import is_regression
from bayesmix.plots.view import PROB, View, band, component_densities, moments_of, view_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CERTAIN = 0.9  # observations less certain than this are ringed
CURVES = 60  # posterior draws whose ellipses are drawn
COUNTS = (
    "Poisson", "Binomial", "Geometric", "NegativeBinomial", "GammaPoisson", "ZeroInflated",
    "HurdlePoisson", "HurdleGeometric", "HurdleNegativeBinomial",
)  # fmt: skip
DISCRETE = (*COUNTS, "Bernoulli", "Categorical")


# One column: density.


def density(result: Any, x: Any = None, *, ax: Axes | None = None) -> Figure:
    """Data of one column with the mixture density and its weighted components.

    result : EMResult (curves) or NUTSResult (posterior mean curves with 95 % bands).
    x : where to evaluate, increasing; default covers the data. Counts are shown as bars.
    Raises ValueError when the data have several columns (see `clusters`), or when the program
    cannot be evaluated at new points.
    """
    if getattr(result, "mixture", None) is None:
        raise ValueError("density needs a result of EM or NUTS: a tree holds no density")
    view = view_of(result)
    if is_regression(view):
        raise ValueError(
            "the density of a regression differs by row: plots.clusters draws its lines"
        )
    values, gone = _one_column(view)
    discrete = view.family.startswith(DISCRETE)
    grid = _grid(view, values, discrete) if x is None else np.asarray(x, float).reshape(-1)
    parts = component_densities(view, grid)
    with styled():
        ax = panel(ax)
        _draw_data(ax, values, discrete)
        _draw_curves(ax, grid, parts, discrete, view)
        ax.set_xlabel(view.columns[0])
        ax.set_ylabel("probability" if discrete else "density")
        ax.set_ylim(bottom=0)
        ax.margins(x=0.01)
        kind = "probability" if discrete else "density"
        put_title(
            ax, f"{view.columns[0]}: the mixture {kind} and its {view.K} parts", _bands(view) + gone
        )
        if view.columns[0] in view.levels:
            put_levels(ax.xaxis, view.levels[view.columns[0]])
        elif discrete:
            ax.locator_params(axis="x", integer=True)
        handles, names = ax.get_legend_handles_labels()
        order = sorted(range(len(names)), key=lambda i: names[i] != "data")
        ax.legend([handles[i] for i in order], [names[i] for i in order], loc="best")
    return figure_of(ax)


def _bands(view: View) -> str:
    return view.said if view.method == "em" else f"{view.said}: posterior mean and 95 % bands"


def _one_column(view: View) -> tuple[np.ndarray, str]:
    """The observed values, and in words how many rows have none."""
    if view.data.ndim > 1 and view.data.shape[1] != 1:
        raise ValueError(
            f"density draws one column and the data have {view.data.shape[1]}: use plots.clusters"
        )
    values = view.data.reshape(-1, 1).astype(float)
    gone = not_shown(values)
    return values[~np.isnan(values)], f"; {gone}" if gone else ""


def _grid(view: View, values: np.ndarray, discrete: bool) -> np.ndarray:
    """Points that cover the data, with room beside them as far as the support goes."""
    lo, hi = float(values.min()), float(values.max())
    if discrete:
        return np.arange(np.floor(lo), np.ceil(hi) + 1)
    pad = 0.12 * (hi - lo or 1.0)
    grid = np.linspace(lo - pad, hi + pad, 400)
    inside = [np.asarray(support(grid)) for support in view.mixture.observed[0].supports]
    within = grid[np.all(inside, axis=0)]
    return grid if len(within) == len(grid) else np.linspace(within[0], within[-1], 400)


def _draw_data(ax: Axes, values: np.ndarray, discrete: bool) -> None:
    if discrete:
        seen, count = np.unique(values, return_counts=True)
        ax.bar(seen, count / count.sum(), width=0.86, color=PALE, label="data", zorder=1)
        return
    ax.hist(values, bins=_bins(values), density=True, color=PALE, label="data", zorder=1)
    if len(values) <= 2000:
        height = np.full_like(values, 0.012)
        ax.plot(
            values, height, "|", color=MUTED, alpha=0.4, ms=6, mew=0.8, zorder=5,
            transform=ax.get_xaxis_transform(),
        )  # fmt: skip


def _bins(values: np.ndarray) -> Any:
    """Edges of a histogram; for whole numbers each bin holds equally many of them."""
    wanted = int(np.clip(np.ceil(2 * np.sqrt(len(values))), 12, 60))
    lo, hi = values.min(), values.max()
    if (values == np.round(values)).all() and hi - lo >= wanted / 2:
        width = max(1.0, np.ceil((hi - lo) / wanted))
        return np.arange(lo - 0.5, hi + width, width)
    return np.histogram_bin_edges(values, bins=wanted)


def _draw_curves(ax: Axes, grid: np.ndarray, parts: np.ndarray, discrete: bool, view: View) -> None:
    style: dict[str, Any] = {"marker": "o", "ms": 4} if discrete else {}
    whole: dict[str, Any] = {"ls": (0, (4, 2))}
    if view.columns[0] in view.levels:  # nothing lies between two categories
        style |= {"ms": 7, "ls": ""}
        whole = {"ls": "", "marker": "_", "ms": 24}
    shares = view.mean_resp.mean(0)
    total = parts.sum(-1)
    for k, colour in enumerate(colours(view.K)):
        if len(parts) > 1:
            ax.fill_between(grid, *band(parts[..., k]), color=colour, alpha=0.28, lw=0, zorder=3)
        name = cluster_name(k, shares[k])
        ax.plot(grid, parts[..., k].mean(0), color=colour, lw=1.8, label=name, zorder=4, **style)
    if len(parts) > 1:
        ax.fill_between(grid, *band(total), color=INK, alpha=0.14, lw=0, zorder=2)
    ax.plot(grid, total.mean(0), color=INK, lw=1.2, label="mixture", zorder=4, **whole)


# Several columns: clusters.


def clusters(
    source: Any,
    data: Any = None,
    *,
    columns: Sequence[str | int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Scatter of the data, coloured by responsibilities, with the clusters' 95 % ellipses.

    source : result or tree of EM or NUTS; for NUTS the ellipses of many draws are drawn faintly,
    so that their spread is the posterior's. data : DataFrame or array, default the observed data.
    columns : names or numbers; two give one panel, more (the default, up to 5) a grid of pairs.
    An ellipse holds 95 % of its cluster (for Gaussian components; else only centres are marked).

    A result of a regression is drawn as lines: the response against each covariate (columns= names
    one or several), with each cluster's mean (of NUTS with 95 % bands) where the other covariates
    are at their means; with several, also against the fitted means. Rows have the colour of their
    most probable cluster, faint where it is not certain; rows of a group are joined. Squares and
    products of columns move with them. Binomial responses are drawn as shares, Poisson ones with an
    offset as y / exp(offset), Normal ones less their offset.
    """
    view = view_of(source, data)
    if is_regression(view) and data is None:
        with styled():
            return draw_lines(view, columns, ax)
    if view.data.ndim == 1 or view.data.shape[1] == 1:
        raise ValueError(
            "clusters draws two columns or more and the data have one: use density"
            + ("" if view.mixture else ", or for the lines of a regression give the result itself")
        )
    chosen = _chosen(view, columns)
    moments = moments_of(view)
    with styled():
        if len(chosen) == 2:
            ax = panel(ax, 7.2, 5.4)
            _draw_pair(ax, view, moments, chosen[0], chosen[1])
            beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
            cluster_legend(ax, view, moments, **(beside if view.K > 6 else {}))
            gone = not_shown(view.data[:, chosen].astype(float))
            subtitle = _clusters_subtitle(view, moments) + (f"; {gone}" if gone else "")
            put_title(ax, _clusters_title(view), subtitle)
            return figure_of(ax)
        if ax is not None:
            raise ValueError(f"ax= holds one panel: name two columns, not {len(chosen)}")
        return _pairs(view, moments, chosen)


def _clusters_title(view: View) -> str:
    return f"{len(view.data)} observations in {view.K} cluster{'s' if view.K > 1 else ''}"


def _clusters_subtitle(view: View, moments: Any) -> str:
    if moments is None or moments[1] is None:
        return f"{view.said}: colours mix by responsibility"
    one = "ellipses hold 95 % of a cluster"
    many = f"each thin ellipse is one draw and holds 95 % of a cluster ({CURVES} drawn)"
    return f"{view.said}: {one if view.method == 'em' else many}"


def _chosen(view: View, columns: Sequence[str | int] | None) -> list[int]:
    D = view.data.shape[1]
    if columns is None:
        return list(range(min(D, 5)))
    picked = [position(column, view.columns) for column in columns]
    if len(picked) < 2:
        raise ValueError("clusters draws two columns or more: name at least two")
    return picked


def _draw_pair(ax: Axes, view: View, moments: Any, i: int, j: int, size: float = 26) -> None:
    resp, small = view.mean_resp, shrinkage(len(view.data))
    sure = resp.max(1) >= CERTAIN
    colour = blend(resp)
    x, y = _place(view, i, ACROSS), _place(view, j, ALONG)
    for mask, edge, width in ((sure, "white", 0.4), (~sure, INK, 0.9)):
        ax.scatter(
            x[mask],
            y[mask],
            s=size * small,
            c=colour[mask],
            edgecolors=edge,
            linewidths=width * small,
            alpha=0.85,
            zorder=2,
        )
    if moments is not None:
        _draw_ellipses(ax, view, moments, i, j, scale=min(1.0, size / 16))
        _keep_to(ax, view.data[:, [i, j]].astype(float))
    ax.set_xlabel(view.columns[i])
    ax.set_ylabel(view.columns[j])
    for axis, column in ((ax.xaxis, i), (ax.yaxis, j)):
        if view.columns[column] in view.levels:
            put_levels(axis, view.levels[view.columns[column]])


def _place(view: View, column: int, step: float) -> np.ndarray:
    """Where the rows stand along a column: those of one category side by side."""
    values = view.data[:, column].astype(float)
    return (
        values + jitter(len(values), 0.5, step) if view.columns[column] in view.levels else values
    )


def _draw_ellipses(ax: Axes, view: View, moments: Any, i: int, j: int, scale: float) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    loc, cov = moments
    at = view.thin(CURVES)
    single = len(at) == 1
    halo = [withStroke(linewidth=2.6 * scale, foreground="white")]
    for k, colour in enumerate(colours(view.K)):
        if cov is not None:
            square = cov[at, k][:, [i, j]][:, :, [i, j]]
            lines = _ellipses(loc[at, k][:, [i, j]], square)
            style = {"lw": 2.0, "alpha": 1.0} if single else {"lw": 0.7, "alpha": 0.32}
            ax.add_collection(LineCollection(list(lines), colors=[colour], zorder=3, **style))
        ax.plot(
            *loc[:, k, [i, j]].mean(0),
            "P",
            ms=9 * scale,
            mfc=colour,
            mec="white",
            mew=1.2 * scale,
            zorder=6,
            path_effects=halo,
        )
    ax.autoscale_view()


def _keep_to(ax: Axes, points: np.ndarray) -> None:
    """Limits no wider than the data and half of it on each side: a cluster of a row or two has an
    ellipse as wide as its prior, which would leave no room for the data.
    """
    low, high = np.nanmin(points, 0), np.nanmax(points, 0)
    room = 0.5 * (high - low)
    for limits, put, lo, hi, more in (
        (ax.get_xlim(), ax.set_xlim, low[0], high[0], room[0]),
        (ax.get_ylim(), ax.set_ylim, low[1], high[1], room[1]),
    ):
        if more > 0:
            put(max(limits[0], lo - more), min(limits[1], hi + more))


def _ellipses(loc: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Contours that hold 95 % of a Gaussian, (S, 100, 2)."""
    turn = np.linspace(0, 2 * np.pi, 100)
    radius = np.sqrt(-2 * np.log(1 - PROB))
    circle = radius * np.stack([np.cos(turn), np.sin(turn)], -1)
    return loc[:, None] + circle @ np.swapaxes(np.linalg.cholesky(cov), -1, -2)


def cluster_legend(ax: Axes, view: View, moments: Any, **where: Any) -> None:
    """Colours and marks in words; where : as in matplotlib's legend."""
    from matplotlib.lines import Line2D

    shares = view.mean_resp.mean(0)
    marks = [
        Line2D([], [], marker="o", ls="", ms=7, mfc=c, mec="white", label=cluster_name(k, s))
        for k, (c, s) in enumerate(zip(colours(view.K), shares, strict=True))
    ]
    unsure = int((view.mean_resp.max(1) < CERTAIN).sum())
    if unsure:
        label = f"less than {CERTAIN:.0%} certain ({unsure})"
        marks.append(Line2D([], [], marker="o", ls="", ms=7, mfc="white", mec=INK, label=label))
    if moments is not None:
        label = "centre" if view.method == "em" else "posterior mean centre"
        marks.append(Line2D([], [], marker="P", ls="", ms=8, mfc=MUTED, mec="white", label=label))
    ax.legend(handles=marks, **{"loc": "best", **where})


def _pairs(view: View, moments: Any, chosen: Sequence[int]) -> Figure:
    n = len(chosen)
    figure = new_figure(2.35 * n + 0.4, 2.2 * n + 0.5)
    axes = figure.subplots(n, n, squeeze=False, sharex="col")
    for row, j in enumerate(chosen):
        for col, i in enumerate(chosen):
            ax = axes[row, col]
            if col > row:
                ax.axis("off")
            elif col == row:
                _draw_marginal(ax, view, i)
            else:
                _draw_pair(ax, view, moments, i, j, size=11)
            ax.label_outer(remove_inner_ticks=False)
    axes[0, 0].set_ylabel("")
    dropped = view.data.shape[1] - n
    gone = int(np.isnan(view.data[:, chosen].astype(float)).any(1).sum())
    more = f"\n{gone} rows with missing values stand\nonly where both are known" if gone else ""
    more += f"\nfirst {n} of {view.data.shape[1]} columns" if dropped and n == 5 else ""
    subtitle = _clusters_subtitle(view, moments).replace(": ", ":\n").replace(" and ", "\nand ")
    cluster_legend(
        axes[0, -1],
        view,
        moments,
        loc="upper right",
        borderaxespad=0.0,
        title=subtitle + more,
        alignment="left",
    )
    axes[0, -1].get_legend().set_in_layout(False)  # it stands in the empty half of the grid
    figure.suptitle(_clusters_title(view), x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    return figure


def _draw_marginal(ax: Axes, view: View, i: int) -> None:
    seen = ~np.isnan(view.data[:, i].astype(float))
    values, resp = view.data[seen, i], view.mean_resp[seen]
    levels = view.levels.get(view.columns[i])
    if levels is None:
        edges = np.histogram_bin_edges(values, bins=int(np.clip(np.sqrt(len(values)) * 1.5, 8, 40)))
        width, middle = np.diff(edges), (edges[:-1] + edges[1:]) / 2
    else:
        edges, middle = np.arange(len(levels) + 1) - 0.5, np.arange(len(levels))
        width = np.full(len(levels), 0.7)
        put_levels(ax.xaxis, levels)
    bottom = np.zeros(len(middle))
    for k, colour in enumerate(colours(view.K)):
        height, _ = np.histogram(values, edges, weights=resp[:, k])
        ax.bar(middle, height, width, bottom, color=colour, lw=0)
        bottom += height
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(view.columns[i])
