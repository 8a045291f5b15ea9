"""What names do to the draws: before and after relabelling, and each cluster's own posterior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesmix.plots.canvas import INK, MUTED, colours, new_figure, styled
from bayesmix.plots.view import PROB, relabelled_tree
from bayesmix.relabel.tree import cluster_axes, dataset, permuted

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 4000  # draws of one panel
MOST = 6  # rows or panels, unless variables are named


class Quantity(NamedTuple):
    """One number per cluster and draw: its site and name, and values (chain, draw, cluster)."""

    site: str
    name: str
    values: np.ndarray


def relabelling(source: Any, var_names: Sequence[str] | None = None) -> Figure:
    """Draws of every cluster's parameters as they came, and beside them relabelled.

    source : NUTS's result or tree; a tree that is relabelled already is shown under its own names,
    and under those it had before. One row per parameter and column, one colour per name of a
    cluster; chains stand side by side. An axis holds the central 99 % of every cluster's draws. The
    title counts the steps from one draw to the next at which names changed. var_names : which
    sites; default all that have clusters, up to 6 rows (large sites are left out, largest first).
    """
    tree = relabelled_tree(source)
    _refuse_points(tree, "relabelling")
    after = _quantities(tree, var_names)
    before = _quantities(_as_drawn(tree), list(dict.fromkeys(quantity.site for quantity in after)))
    with styled():
        figure = new_figure(9.6, 1.55 * len(after) + 1.2)
        axes = figure.subplots(len(after), 2, sharex=True, sharey="row", squeeze=False)
        for row, old, new in zip(axes, before, after, strict=True):
            _draw_chains(row[0], old.values)
            _draw_chains(row[1], new.values)
            row[0].set_ylabel(new.name.replace(", ", ",\n"))
            row[0].set_ylim(*_middle(new.values))
        for ax, title in zip(axes[0], ("As drawn", f"Relabelled ({_method(tree)})"), strict=True):
            ax.set_title(title, pad=18)
            _name_chains(ax, *after[0].values.shape[:2])
        for ax in axes[-1]:
            ax.set_xlabel("draw, chain after chain")
        title = _switches_in_words(tree) + _without(tree, after, var_names)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        figure.align_ylabels(axes[:, 0])
        _legend(figure, tree)
    return figure


def _method(tree: xarray.DataTree) -> str:
    return str(tree.attrs["relabelled"])


def _switches_in_words(tree: xarray.DataTree) -> str:
    """How often names changed from one draw of a chain to its next."""
    perm = dataset(tree, "relabelling")["permutation"].to_numpy()
    switched = (perm[:, 1:] != perm[:, :-1]).any(axis=-1)
    return f"Clusters changed names at {switched.sum()} of {switched.size} steps of the chains"


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Limits that hold the central 99 % of each cluster's draws, and a little room."""
    lo, hi = np.quantile(values.reshape(-1, values.shape[-1]), [0.005, 0.995], axis=0)
    room = 0.05 * (hi.max() - lo.min())
    return float(lo.min() - room), float(hi.max() + room)


def _refuse_points(tree: xarray.DataTree, name: str) -> None:
    if tree.attrs["inference_method"] == "em":
        raise ValueError(f"EM's result is one point: {name} draws NUTS's result or tree")


def _as_drawn(tree: xarray.DataTree) -> xarray.DataTree:
    """The tree with the names that its clusters had before relabelling."""
    perm = dataset(tree, "relabelling")["permutation"].to_numpy()
    old = tree.copy()
    before = permuted(dataset(tree, "posterior"), cluster_axes(tree), np.argsort(perm, axis=-1))
    old["posterior"] = type(tree)(before)
    return old


def _quantities(tree: xarray.DataTree, var_names: Sequence[str] | None) -> list[Quantity]:
    """The numbers that each cluster has in every draw."""
    axes = cluster_axes(tree)
    for name in var_names or ():
        if name not in axes:
            raise ValueError(f"no site {name!r} with clusters: there are {', '.join(axes)}")
    posterior = dataset(tree, "posterior")
    found = {
        name: list(_numbers(posterior[name], axes[name]))
        for name in (axes if var_names is None else var_names)
    }
    if not found:
        raise ValueError("no site of the posterior has clusters, so there are no names to give")
    while var_names is None and sum(map(len, found.values())) > MOST and len(found) > 1:
        del found[max(found, key=lambda name: len(found[name]))]
    return [quantity for some in found.values() for quantity in some]


def _without(tree: xarray.DataTree, drawn: list[Quantity], var_names: Sequence[str] | None) -> str:
    """Which sites with clusters are not drawn although none were named."""
    shown = {quantity.site for quantity in drawn}
    return left_out([n for n in cluster_axes(tree) if var_names is None and n not in shown])


def _numbers(variable: xarray.DataArray, axis: int) -> Iterator[Quantity]:
    """One site as numbers of each cluster; a symmetric matrix gives its lower half once."""
    others = [dim for i, dim in enumerate(variable.dims) if i not in (0, 1, axis)]
    values = np.moveaxis(variable.to_numpy(), axis, 2)
    for at in np.ndindex(*values.shape[3:]):
        if values.ndim == 5 and at[0] < at[1] and symmetric(values[0, 0, 0]):
            continue
        inner = ", ".join(
            str(variable[dim].to_numpy()[i]) for dim, i in zip(others, at, strict=True)
        )
        name = f"{variable.name}[{inner}]" if inner else str(variable.name)
        yield Quantity(str(variable.name), name, values[(..., *at)])


def symmetric(matrix: np.ndarray) -> bool:
    """Whether the upper half of a matrix (n, n) says the same as the lower."""
    return matrix.shape[0] == matrix.shape[1] > 1 and np.allclose(matrix, matrix.T)


def left_out(names: Sequence[str]) -> str:
    """A second line of a title: what there was no room for; "" for nothing."""
    return f"\nwithout {', '.join(names)}, for want of room: var_names= draws them" if names else ""


def _draw_chains(ax: Axes, values: np.ndarray) -> None:
    """Dots of every cluster, chain after chain."""
    chains, draws, K = values.shape
    every = -(-chains * draws // DOTS)
    at = np.arange(chains * draws).reshape(chains, draws)[:, ::every].ravel()
    flat = values[:, ::every].reshape(-1, K)
    # the clusters of a draw one after the other, so that none always covers the rest
    ax.scatter(
        np.repeat(at, K), flat.ravel(), s=max(1.6, 100 / np.sqrt(len(at))), lw=0,
        alpha=0.75, c=np.tile(colours(K), (len(at), 1)), rasterized=True,
    )  # fmt: skip
    for chain in range(1, chains):
        ax.axvline(chain * draws, color=MUTED, lw=0.8)
    ax.set_xlim(0, chains * draws)


def _name_chains(ax: Axes, chains: int, draws: int) -> None:
    for chain in range(chains):
        ax.annotate(
            f"chain {chain}", ((chain + 0.5) * draws, 1), (0, 4), ha="center", fontsize=8,
            xycoords=("data", "axes fraction"), textcoords="offset points", color=MUTED,
        )  # fmt: skip


def _legend(figure: Figure, tree: xarray.DataTree) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker="o", ls="", ms=6, mfc=c, mec="white", label=f"cluster {k}")
        for k, c in enumerate(colours(int(tree.attrs["n_clusters"])))
    ]
    figure.legend(handles=marks, loc="outside lower left", ncols=min(len(marks), 8))


# Ridges.


def ridges(source: Any, var_names: Sequence[str] | None = None) -> Figure:
    """Posterior density of each cluster's parameters, one ridge per cluster, after relabelling.

    source, var_names : as in `relabelling`. One panel per parameter and column, in its own unit;
    the dot is the median, the line holds 95 % of the draws, the axis 99 % of every cluster's.
    Densities are ArviZ's kernel estimates. All ridges have one height, so a sharp posterior is as
    tall as a wide one.
    """
    tree = relabelled_tree(source)
    _refuse_points(tree, "ridges")
    quantities = _quantities(tree, var_names)
    K, many = int(tree.attrs["n_clusters"]), len(quantities)
    cols = min(many, 3)
    rows = -(-many // cols)
    with styled():
        figure = new_figure(3.5 * cols + 0.5, rows * (0.9 + 0.42 * K) + 0.7)
        axes = figure.subplots(rows, cols, squeeze=False, sharey=True)
        for ax, quantity in zip(axes.flat, quantities, strict=False):
            _draw_ridges(ax, quantity.values.reshape(-1, K))
            ax.set_xlim(*_middle(quantity.values))
            ax.set_xlabel(quantity.name)
        for ax in axes.flat[many:]:
            ax.axis("off")
        figure.suptitle(
            f"Posterior of each cluster's parameters, relabelled ({_method(tree)})"
            + _without(tree, quantities, var_names),
            x=0.01, ha="left", fontsize=13, fontweight="bold",
        )  # fmt: skip
        figure.supxlabel(
            "dot: median; line: 95 % of the draws", x=0.01, ha="left", fontsize=9, color=MUTED
        )
    return figure


def _draw_ridges(ax: Axes, values: np.ndarray) -> None:
    from arviz_stats.base import array_stats

    K = values.shape[1]
    for k, colour in enumerate(colours(K)):
        grid, height, _ = array_stats.kde(values[:, k])
        top = k - 0.88 * height / height.max()
        ax.fill_between(grid, k, top, color=colour, alpha=0.55, lw=0, zorder=2 + k / K)
        ax.plot(grid, top, color=colour, lw=1.2, zorder=2 + k / K)
        lo, middle, hi = np.quantile(values[:, k], [(1 - PROB) / 2, 0.5, (1 + PROB) / 2])
        ax.hlines(k, lo, hi, color=INK, lw=1.6, zorder=4)
        ax.plot(middle, k, "o", ms=5, mfc=INK, mec="white", mew=0.8, zorder=5)
    ax.set_yticks(range(K), [f"cluster {k}" for k in range(K)])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(K - 0.75, -1.05)
    ax.locator_params(axis="x", nbins=5)
    ax.grid(axis="x")
