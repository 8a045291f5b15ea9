"""Several mixtures side by side: how far each is behind the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.compare import Comparison
from bayesmix.plots.canvas import INK, MUTED, PALETTE, figure_of, panel, put_title, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CRITERIA = {"bic": "BIC", "icl": "ICL", "aic": "AIC"}
BEHIND = {  # column, its standard error, what is written beside, title, axis
    "elpd": (
        "elpd_diff",
        "dse",
        "weight",
        "Leave-one-out prediction",
        "difference of elpd to the best (nats)",
    ),
    "log_evidence": (
        "log_bayes_factor",
        "log_evidence_error",
        "probability",
        "Evidence",
        "log Bayes factor against the best (nats)",
    ),
}


def comparison(found: Comparison, *, ax: Axes | None = None) -> Figure:
    """How far each mixture of `bm.compare` is behind the best, and how sure that is.

    Of draws: differences of elpd or of the log evidence with two standard errors, and stacking
    weights or probabilities beside. Of EM: BIC, ICL and AIC, each less its smallest, by the number
    of parameters. Raises ValueError for anything that is not a Comparison.
    """
    if not isinstance(found, Comparison):
        raise ValueError(
            f"comparison draws what bm.compare gives, not {type(found).__name__}: "
            "bm.plots.comparison(bm.compare({...}))"
        )
    with styled():
        height = 1.6 + 0.42 * len(found.table)
        ax = panel(ax, 7.2, 4.2 if found.by == "bic" else height)
        (_criteria if found.by == "bic" else _behind)(ax, found)
    return figure_of(ax)


def _behind(ax: Axes, found: Comparison) -> None:
    column, error, beside, title, label = BEHIND[found.by]
    table = found.table
    at: list[float] = list(range(len(table)))
    spread = 2 * table[error].to_numpy(float)
    ax.axvline(0, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    ax.errorbar(
        table[column], at, xerr=spread, fmt="o", color=PALETTE[0], capsize=3, lw=1.4, markersize=6
    )
    for y, value in zip(at, table[beside], strict=True):
        text = f"{beside} {value:.2f}"
        ax.annotate(
            text, (1, y), xycoords=ax.get_yaxis_transform(), xytext=(8, 0), color=MUTED,
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    ax.set_yticks(at, [str(name) for name in table.index], color=INK)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(label)
    put_title(ax, title, "points: difference to the best; bars: 2 standard errors")


def _criteria(ax: Axes, found: Comparison) -> None:
    table = found.table.sort_values("n_parameters", kind="stable")
    at: Any = np.arange(len(table))
    for (column, name), colour in zip(CRITERIA.items(), PALETTE, strict=False):
        behind = table[column] - table[column].min()
        ax.plot(at, behind, "o-", color=colour, label=name, lw=1.4, markersize=5)
        best = int(behind.to_numpy().argmin())
        ax.plot(best, 0, "o", color=colour, markersize=11, mfc="none", mew=1.6)
    labels = [f"{name}\n{row['n_parameters']:.0f} par." for name, row in table.iterrows()]
    ax.set_xticks(at, labels, color=INK)
    ax.margins(x=0.08)
    ax.set_ylabel("behind the best")
    ax.legend()
    put_title(ax, "Information criteria", "each less its smallest, which is circled")
