"""Colours, type and figures: what all pictures share.

No global setting of matplotlib is touched, and no window is asked for where there is none.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): colours that people with any colour vision tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#5B5B5B")
INK, MUTED, PALE = "#22262B", "#6B7178", "#E3E6E9"
LETTERS, LINE = 17, 12  # of a subtitle: letters to an inch, before its margins shrink; points
STYLE = {
    "font.size": 10.0,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "grid.color": "#E7E9EC",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "savefig.dpi": 150,
}


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's settings for the pictures, in here only."""
    import matplotlib as mpl
    from cycler import cycler

    settings = {**STYLE, "axes.prop_cycle": cycler(color=PALETTE)}
    before = {name: mpl.rcParams[name] for name in settings}
    # Not rc_context: on leaving, it would also undo what an inline backend sets up meanwhile.
    mpl.rcParams.update(settings)
    try:
        yield
    finally:
        mpl.rcParams.update(before)


def in_notebook() -> bool:
    """Whether IPython runs this process, so that figures show inline."""
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def new_figure(width: float, height: float) -> Figure:
    """A figure that shows once in a notebook, and that `plt.show()` shows under a GUI backend.

    Without pyplot in the process (the command line) none is loaded: no window system is asked.
    """
    from matplotlib.figure import Figure

    if not in_notebook() and "matplotlib.pyplot" not in sys.modules:
        return Figure(figsize=(width, height), layout="constrained")
    import matplotlib.pyplot as plt

    return released(plt.figure(figsize=(width, height), layout="constrained"))


def released(figure: Figure) -> Figure:
    """Out of pyplot's hands unless it has a window; the figure itself stays usable."""
    import matplotlib.pyplot as plt

    if getattr(type(figure.canvas), "required_interactive_framework", None) is None:
        plt.close(figure)
    return figure


def panel(ax: Axes | None, width: float = 7.2, height: float = 4.6) -> Axes:
    """The given panel, or the one of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def figure_of(ax: Axes) -> Figure:
    """The figure that holds a panel."""
    return cast("Figure", ax.figure)


def put_title(ax: Axes, title: str, subtitle: str = "") -> None:
    """What is seen, and below it in grey where it comes from, in lines no wider than the panel."""
    width = figure_of(ax).get_size_inches()[0] * ax.get_position().width
    lines = textwrap.wrap(subtitle, max(int(LETTERS * width), 20))
    ax.set_title(title, pad=8 + LINE * len(lines))
    if lines:
        text = "\n".join(lines)
        style = {"color": MUTED, "fontsize": 9, "verticalalignment": "bottom"}
        ax.annotate(text, (0, 1), (0, 5), "axes fraction", "offset points", None, None, **style)


def colours(K: int) -> np.ndarray:
    """K colours, (K, 3); beyond the palette they repeat, darker."""
    from matplotlib.colors import to_rgb

    base = np.array([to_rgb(c) for c in PALETTE])
    return np.array([base[k % len(base)] * 0.62 ** (k // len(base)) for k in range(K)])


def blend(resp: np.ndarray) -> np.ndarray:
    """Colour of each observation: its clusters' colours mixed by its responsibilities."""
    return np.clip(resp @ colours(resp.shape[-1]), 0, 1)


def cluster_name(k: int, share: float) -> str:
    """A cluster and its share of the data."""
    return f"cluster {k} ({share:.0%})"
