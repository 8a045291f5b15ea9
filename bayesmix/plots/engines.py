"""What the engines say: EM's path, responsibilities, and EM's MAP on the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.plots.canvas import (
    INK,
    MUTED,
    PALETTE,
    colours,
    figure_of,
    new_figure,
    panel,
    put_title,
    styled,
)
from bayesmix.plots.view import View, band, row_names, same_names, view_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SURE = 0.999  # observations more certain than this need no line of their own

# EM's path.


LABEL = 0.09  # of the height of the panel: two lines of a label


def history(em: Any, *, ax: Axes | None = None) -> Figure:
    """How far EM's log joint was from its final value, step by step (log scale, nats).

    Dashed lines mark the other distinct modes that EM found, at their distance below the best.
    """
    values = np.asarray(getattr(em, "history", ()), float)
    if values.size < 2:
        raise ValueError("history needs an EM result of two steps or more")
    gap = float(em.log_joint) - values
    floor = 1e-12 * max(1.0, abs(float(em.log_joint)))
    shown = gap > floor
    with styled():
        ax = panel(ax, 7.2, 4.2)
        ax.grid(axis="y")
        steps = np.arange(len(values))
        ax.plot(steps[shown], gap[shown], "-o", color=PALETTE[0], ms=4.5, lw=1.6, label="this run")
        ax.set_yscale("log")
        _mark_modes(ax, em)
        ax.set_xlabel("EM step")
        ax.set_ylabel("nats below the final log joint")
        ax.set_xlim(-0.02 * len(values), 1.02 * (len(values) - 1))
        _integer_ticks(ax)
        state = "converged" if em.converged else "not converged"
        put_title(
            ax,
            f"EM's climb to log joint {em.log_joint:.2f}".replace("-", "−"),
            f"{state} after {em.steps} steps; a straight line is a constant rate of convergence",
        )
    return figure_of(ax)


def _mark_modes(ax: Axes, em: Any) -> None:
    """Dashed lines at other modes, named on the right, where the climb does not pass."""
    best = float(em.log_joint)
    others = [m for m in em.modes if np.isfinite(m.log_joint) and best - m.log_joint > 1e-3][:3]
    below = [best - float(mode.log_joint) for mode in others]
    for height in below:
        ax.axhline(height, color=PALETTE[1], lw=1, ls=(0, (4, 3)))
    lowest, highest = np.log(ax.get_ylim())
    at = np.inf
    for mode, height in zip(others[::-1], below[::-1], strict=True):  # from the top down
        at = min(np.log(height), at - LABEL * (highest - lowest))
        starts = f"\n({mode.starts} start{'s' if mode.starts != 1 else ''})" if mode.starts else ""
        ax.annotate(
            f"another mode{starts}", (1, np.exp(at)), (4, 0), va="center", fontsize=8.5,
            xycoords=("axes fraction", "data"), textcoords="offset points", color=PALETTE[1],
            annotation_clip=False,
        )  # fmt: skip


def _integer_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


# Responsibilities.


def responsibilities(*results: Any, show: int = 30) -> Figure:
    """Each observation's responsibilities, and how sure the posterior is of the doubtful ones.

    results : EM's, NUTS's, or both (either order). One strip per result: a column is an
    observation, its colours are its clusters; both strips are sorted alike. Below, the `show`
    least certain observations: probability of the cluster that the first result gives them, EM as
    a diamond, the posterior as mean and 95 % interval over draws.
    """
    if not 1 <= len(results) <= 2:
        raise ValueError(f"responsibilities draws one or two results, not {len(results)}")
    views = sorted((view_of(r) for r in results), key=lambda v: v.method != "em")
    if len({v.mean_resp.shape for v in views}) > 1:
        raise ValueError("the two results differ in their observations or number of clusters")
    from matplotlib.patches import Patch

    views = same_names(views)
    order = _sorted_rows(views[-1].mean_resp)
    with styled():
        figure = new_figure(8.4, 1.25 * len(views) + 3.6)
        ratios = [1.0] * len(views) + [2.6]
        axes = figure.subplots(len(views) + 1, 1, gridspec_kw={"height_ratios": ratios})
        for ax, view in zip(axes, views, strict=False):
            _draw_strip(ax, view, order)
        axes[len(views) - 1].set_xlabel("observation, sorted by cluster and certainty")
        marks = [Patch(color=c, label=f"cluster {k}") for k, c in enumerate(colours(views[0].K))]
        columns = -(-len(marks) // (1 + (len(marks) - 1) // 5))  # rows of at most 5, balanced
        figure.legend(handles=marks, loc="outside upper right", ncols=columns)
        what = " and ".join(view.engine for view in views)
        axes[0].set_title(f"Responsibilities of {len(order)} observations, by {what}")
        _draw_doubtful(axes[-1], views, show)
    return figure


def _sorted_rows(resp: np.ndarray) -> np.ndarray:
    """By cluster; inside, from the certain to the doubtful."""
    return np.lexsort((-resp.max(1), resp.argmax(1)))


def _draw_strip(ax: Axes, view: View, order: np.ndarray) -> None:
    resp = view.mean_resp[order]
    edges = np.arange(len(order) + 1) - 0.5
    top = np.concatenate([np.zeros((len(order), 1)), np.cumsum(resp, axis=1)], axis=1)
    for k, colour in enumerate(colours(view.K)):
        ax.stairs(top[:, k + 1], edges, baseline=top[:, k], fill=True, color=colour, lw=0)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1])
    ax.set_ylabel("EM" if view.method == "em" else f"{view.engine}\n(averaged)")


def _draw_doubtful(ax: Axes, views: list[View], show: int) -> None:
    lead = views[0]
    row = np.arange(len(lead.mean_resp))
    cluster = lead.mean_resp.argmax(1)
    doubt = np.min([view.mean_resp[row, cluster] for view in views], axis=0)
    worst = np.argsort(doubt, kind="stable")[:show]
    worst = worst[: max(5, int((doubt[worst] < SURE).sum()))]
    at, ink = np.arange(len(worst)), colours(lead.K)[cluster[worst]]
    ax.grid(axis="y")
    for view in views:
        prob = view.mean_resp[worst, cluster[worst]]
        if view.method == "em":
            ax.scatter(
                at,
                prob,
                marker="D",
                s=30,
                c="white",
                edgecolors=INK,
                linewidths=1.1,
                zorder=4,
                label="EM",
            )
            continue
        if view.resp is not None and len(view.resp) > 1:
            ax.vlines(at, *band(view.resp[:, worst, cluster[worst]]), color=ink, lw=2.2)
        ax.scatter(at, prob, s=26, c=ink, zorder=3, label="posterior mean and 95 % of draws")
    ax.axhline(0.5, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlim(-0.8, len(worst) - 0.2)
    ax.set_xticks(at, row_names(lead, worst), rotation=90, fontsize=8)
    ax.set_xlabel("observation, least certain first")
    ax.set_ylabel("probability of\n" + ("EM's cluster" if lead.method == "em" else "its cluster"))
    ax.set_title(f"The {len(worst)} least certain of {len(row)}", fontsize=10.5)
    ax.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.3, borderaxespad=0.2
    )


# EM against NUTS.


def forest(em: Any, nuts: Any, var_names: Sequence[str] | None = None) -> Figure:
    """Posterior intervals of the relabelled parameters (50 and 95 %), with EM's MAP as diamonds.

    Differences from the MAP are drawn, because clusters lie far apart and their posteriors are
    narrow; the MAP itself stands at the left. One panel per parameter and column, in its own unit;
    one line per cluster, which carries the name it has in EM. var_names : which sites; default all,
    as long as there are at most 30 panels (large sites are left out, largest first). Raises
    ValueError like `card`.
    """
    from bayesmix.card import parameters

    sites: dict[str, dict[str, list[tuple[int | None, Any]]]] = {}
    for row in parameters(em, nuts):
        axis = em.mixture.sites[row.site].cluster_axis
        k = None if axis is None else row.at[axis]
        panels = sites.setdefault(row.site, {})
        panels.setdefault(_without_cluster(row.label, axis), []).append((k, row))
    chosen = _few_enough(sites) if var_names is None else list(var_names)
    for name in chosen:
        if name not in sites:
            raise ValueError(f"no site {name!r}: there are {', '.join(sites)}")
    with styled():
        shown = {panel: rows for site in chosen for panel, rows in sites[site].items()}
        return _draw_forest(shown, em.mixture.K)


def _few_enough(sites: dict[str, dict[str, Any]], most: int = 30) -> list[str]:
    panels = {site: len(of_site) for site, of_site in sites.items()}
    while sum(panels.values()) > most and len(panels) > 1:
        del panels[max(panels, key=lambda site: panels[site])]
    return list(panels)


def _without_cluster(label: str, axis: int | None) -> str:
    """loc[0, waiting] -> loc[waiting]."""
    if axis is None or "[" not in label:
        return label
    name, inner = label[:-1].split("[", 1)
    parts = inner.split(", ")
    del parts[axis]
    return f"{name}[{', '.join(parts)}]" if parts else name


def _draw_forest(panels: dict[str, list[tuple[int | None, Any]]], K: int) -> Figure:
    n = len(panels)
    cols = min(n, 3 if n > 4 else 2)
    rows = -(-n // cols)
    lines = max(len(members) for members in panels.values())
    figure = new_figure(3.7 * cols + 0.4, rows * (0.75 + 0.26 * lines) + 1.15)
    axes = figure.subplots(rows, cols, squeeze=False)
    for ax, (name, members) in zip(axes.ravel(), panels.items(), strict=False):
        _draw_intervals(ax, name, members, K)
    for ax in axes.ravel()[n:]:
        ax.axis("off")
    figure.legend(handles=_forest_legend(), loc="outside lower left", ncols=4)
    figure.suptitle(
        "How far the posterior lies from EM's MAP, in each parameter's own unit",
        x=0.01,
        ha="left",
        fontsize=11.5,
        fontweight="bold",
    )
    return figure


def _draw_intervals(ax: Axes, name: str, members: list[tuple[int | None, Any]], K: int) -> None:
    """Draws less the MAP: clusters far apart would else shrink every interval to a dot."""
    inks = colours(K)
    ax.axvline(0, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    for line, (k, row) in enumerate(members):
        colour = INK if k is None else inks[k]
        shift = row.draws - row.point
        lo, low, high, hi = np.quantile(shift, [0.025, 0.25, 0.75, 0.975])
        ax.hlines(line, lo, hi, color=colour, lw=1.4)
        ax.hlines(line, low, high, color=colour, lw=4.5)
        ax.plot(shift.mean(), line, "o", ms=6.5, mfc=colour, mec="white", mew=1.0)
        ax.plot(0, line, "D", ms=5, mfc="white", mec=INK, mew=1.1, zorder=5)
    names = [f"{row.point:.4g}" if k is None else f"{k}:  {row.point:.4g}" for k, row in members]
    ax.set_yticks(range(len(members)), names)
    ax.set_ylim(len(members) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)
    ax.grid(axis="x")
    ax.set_title(name, fontsize=10, fontweight="normal", pad=4)


def _forest_legend() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [],
            [],
            marker="D",
            ls="",
            ms=5.5,
            mfc="white",
            mec=INK,
            label="EM's MAP (value at left)",
        ),
        Line2D([], [], marker="o", ls="", ms=7, mfc=MUTED, mec="white", label="posterior mean"),
        Line2D([], [], color=MUTED, lw=4.5, label="50 % interval"),
        Line2D([], [], color=MUTED, lw=1.4, label="95 % interval"),
    ]
