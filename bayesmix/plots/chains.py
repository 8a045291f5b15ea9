"""Chains by ArviZ's own plots: label-invariant quantities first, then relabelled parameters."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.plots.canvas import INK, PALETTE, released, styled
from bayesmix.plots.names import left_out, symmetric
from bayesmix.plots.view import relabelled_tree

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

VISUALS: dict[str, Any] = {
    "plot_trace": {"trace": {"width": 0.5, "alpha": 0.6}},  # else the last chain hides the others
    "plot_rank": {"ecdf_lines": {"width": 1.2}},
}
RANKED = 250  # draws of a chain that are ranked


NEEDED = {"matplotlib": (), "plotly": ("plotly", "webcolors"), "bokeh": ("bokeh",), "none": ()}


def trace(
    source: Any, var_names: Sequence[str] | None = None, *, backend: str = "matplotlib"
) -> Any:
    """Draws of every chain in order, by ArviZ: first label-invariant quantities, then parameters.

    source : NUTS's result or tree, relabelled here. var_names : which variables; default all, as
    long as there are at most 24 panels (large arrays are left out, largest first).
    backend : "matplotlib" gives a Figure; "plotly" or "bokeh", where installed, ArviZ's interactive
    PlotCollection, which its method `show` opens ("none": the same without a picture).
    """
    return _by_arviz("plot_trace", source, var_names, "Draws of every chain, in order", backend)


def rank(
    source: Any, var_names: Sequence[str] | None = None, *, backend: str = "matplotlib"
) -> Any:
    """Rank plots by ArviZ: chains that agree stay inside the envelope. Arguments as in `trace`.

    At most 250 evenly spread draws of a chain are ranked: the envelope is simulated, in a time that
    grows with their number.
    """
    return _by_arviz(
        "plot_rank",
        source,
        var_names,
        "Ranks of every chain: chains that agree stay inside the grey envelope",
        backend,
    )


def _by_arviz(
    name: str, source: Any, var_names: Sequence[str] | None, title: str, backend: str
) -> Any:
    import arviz_plots

    _check_backend(backend)
    tree = _diagnostic_tree(source)
    if name == "plot_rank":
        tree = tree.isel(draw=slice(None, None, -(-tree["posterior"].sizes["draw"] // RANKED)))
    names = list(var_names) if var_names is not None else _few_enough(tree)
    draw = getattr(arviz_plots, name)
    if backend != "matplotlib":
        return draw(tree, var_names=names, backend=backend, visuals=VISUALS[name])
    with styled():
        drawn = draw(tree, var_names=names, backend=backend, visuals=VISUALS[name])
        figure = drawn.viz["figure"].item()
        left = [str(n) for n in tree["posterior"].data_vars if n not in names]
        title += left_out([] if var_names is not None else left)
        _tidy(figure, tree["posterior"].sizes["chain"], title)
    return released(figure)


def _check_backend(backend: str) -> None:
    if backend not in NEEDED:
        raise ValueError(f"unknown backend {backend!r}: use one of {', '.join(map(repr, NEEDED))}")
    missing = [package for package in NEEDED[backend] if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"backend {backend!r} needs {' and '.join(missing)}: "
            f"pip install 'arviz-plots[{backend}]'"
        )


def _tidy(figure: Figure, chains: int, title: str) -> None:
    """ArviZ's grid with one-line titles, room between the panels and a legend of the chains."""
    from matplotlib.lines import Line2D

    panels = [ax for ax in figure.axes if ax.has_data()]
    cols = len({round(ax.get_position().x0, 3) for ax in panels})
    figure.set_layout_engine("constrained")
    figure.set_size_inches(3.1 * cols, 1.7 * -(-len(panels) // cols) + 0.8)
    last = {round(ax.get_position().x0, 3): ax for ax in panels}
    for ax in panels:
        for where in ("left", "center", "right"):
            words = ax.get_title(loc=where).split("\n")
            text = words[0] + (f"[{', '.join(words[1:])}]" if len(words) > 1 else "")
            ax.set_title(text, loc=where, fontsize=9.5, fontweight="normal", pad=4, color=INK)
        if ax in last.values():
            ax.tick_params(labelbottom=True)  # also where the grid goes on without a panel
        else:
            ax.set_xlabel("")
        ax.tick_params(labelsize=8)
    colours = [PALETTE[c % len(PALETTE)] for c in range(chains)]
    marks = [Line2D([], [], color=c, lw=2, label=f"chain {i}") for i, c in enumerate(colours)]
    figure.legend(handles=marks, loc="outside lower left", ncols=min(chains, 8))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")


def _diagnostic_tree(source: Any) -> xarray.DataTree:
    """Posterior and sample_stats, with the label-invariant quantities in front of the sites."""
    from xarray import DataTree

    tree = relabelled_tree(source)
    if tree.attrs["inference_method"] == "em":
        raise ValueError("EM's result is one point and has no chains: pass NUTS's result")
    posterior = tree.children["posterior"].to_dataset(inherit=False)
    if "invariant" in tree.children:
        sites = sorted(posterior.data_vars, key=lambda name: posterior[name].size)
        invariant = tree.children["invariant"].to_dataset(inherit=False)
        posterior = invariant.merge(posterior[sites])
    posterior = posterior.map(_once, keep_attrs=True)
    groups = {"posterior": posterior, "sample_stats": tree.children["sample_stats"].to_dataset()}
    return DataTree.from_dict(groups)


def _once(variable: xarray.DataArray) -> xarray.DataArray:
    """A symmetric matrix as the numbers of its lower half; all else as it is."""
    values = variable.to_numpy()
    if variable.ndim < 4 or not symmetric(values[0, 0].reshape(-1, *values.shape[-2:])[0]):
        return variable
    rows, columns = np.tril_indices(values.shape[-1])
    *_, first, second = variable.dims
    labels = [
        f"{variable[first].to_numpy()[i]}, {variable[second].to_numpy()[j]}"
        for i, j in zip(rows, columns, strict=True)
    ]
    element = f"{variable.name}_element"
    at = {first: ((element,), rows), second: ((element,), columns)}
    from xarray import Variable

    picked = variable.isel({dim: Variable(*each) for dim, each in at.items()})
    return picked.drop_vars([first, second]).assign_coords({element: labels})


def _few_enough(tree: xarray.DataTree, most: int = 24) -> list[str]:
    posterior = tree["posterior"].to_dataset()
    panels = {str(n): int(np.prod(x.shape[2:])) for n, x in posterior.data_vars.items()}
    while sum(panels.values()) > most and len(panels) > 1:
        del panels[max(panels, key=lambda n: panels[n])]
    return list(panels)
