"""The card as plain text, and the cells that text and HTML share.

Each row is shown with as many decimals as its standard deviation deserves.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.card.words import OVERCONFIDENT, uncertainty_lines
from bayesmix.diagnose.words import rhat_text

if TYPE_CHECKING:
    import pandas as pd

    from bayesmix.card import Card

HEAD = ("EM (MAP)", "mean", "sd", "95% eti", "MAP at", "R-hat", "ESS")
PLAIN = {"log_joint": "log joint", "entropy": "mean entropy"}


def text_of(card: Card, width: int, rows: int) -> Iterator[str]:
    """Lines of the text; at most `rows` parameters are listed."""
    yield f"EM against NUTS: {card.title}"
    for name, line in card.engines:
        yield from _wrap(line, width, f"  {name:<5} ")
    yield ""
    for mark, sentence in zip(["=>", *["  "] * len(card.verdict)], card.verdict, strict=False):
        yield from _wrap(sentence, width, f"{mark} ")
    yield ""
    yield from _text_table("Label-invariant (read these first)", card.invariant, rows)
    yield ""
    head = f"Parameters, {card.relabelling}"
    yield from _text_table(head, card.parameters, rows)
    yield ""
    yield from _text_observations(card, width)
    yield ""
    for note in card.notes:
        yield from _wrap(note, width, "· ")


def _text_table(head: str, table: pd.DataFrame, rows: int) -> Iterator[str]:
    shown = table.head(rows)
    body = [(quantity(str(name)), *cells(row)) for name, row in shown.iterrows()]
    lines = [("", *HEAD), *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    yield head
    for line in lines:
        name, *rest = (f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True))
        yield "  " + "  ".join([f"{name.strip():<{widths[0]}}", *rest])
    if len(table) > rows:
        yield f"  … and {len(table) - rows} more: card.to_frame()"


def _text_observations(card: Card, width: int) -> Iterator[str]:
    yield "Observations, EM's responsibilities against their posterior average"
    for line in uncertainty_lines(card.facts):
        yield from _wrap(line, width, "  ")
    worst = ranked(card)
    if len(worst):
        yield "  most overconfident:"
    for label, row in worst.iterrows():
        yield (
            f"    {row_name(card, label)}: EM {row['em_prob']:.2f} in cluster "
            f"{row['em_cluster']:.0f}, posterior {row['same_prob']:.2f}"
            + (f" → cluster {row['nuts_cluster']:.0f}" if moved(row) else "")
        )


def _wrap(text: str, width: int, first: str) -> list[str]:
    indent = " " * len(first)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent)


def cells(row: pd.Series) -> tuple[str, ...]:
    """The cells of one row, in the order of HEAD."""
    show = _formatter(row)
    shift = row["map_in_sd"]
    return (
        show(row["map"]),
        show(row["mean"]),
        show(row["sd"]),
        f"{show(row['eti95_lb'])} … {show(row['eti95_ub'])}",
        "–" if np.isnan(shift) else f"{round(shift, 1) or 0.0:+.1f} sd",
        rhat_text(row["r_hat"]),
        "–" if np.isnan(row["ess_bulk"]) else f"{row['ess_bulk']:.0f}",
    )


def _formatter(row: pd.Series) -> Any:
    """Two digits of the sd, and the same decimals for the whole row."""
    sd, size = float(row["sd"]), float(np.max(np.abs(row[["map", "mean"]])))
    if not np.isfinite(sd) or sd <= 0:
        return lambda x: f"{x:.4g}"
    decimals = max(0, 1 - int(np.floor(np.log10(sd))))
    if decimals > 6 or size >= 1e8:
        return lambda x: f"{x:.3e}"
    return lambda x: f"{x:.{decimals}f}"


def quantity(name: str) -> str:
    """The row's name as a reader would say it."""
    if name.startswith("sorted_weights["):
        rank = int(name[len("sorted_weights[") : -1])
        return "largest weight" if rank == 0 else f"{_ordinal(rank + 1)} weight"
    return PLAIN.get(name, name)


def _ordinal(n: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(n % 10 if n % 100 not in (11, 12, 13) else 0, "th")
    return f"{n}{ending}"


def ranked(card: Card, rows: int = 5) -> pd.DataFrame:
    """The observations about which EM is most overconfident."""
    worst = card.observations.sort_values("overconfidence", ascending=False, kind="stable")
    return worst[worst["overconfidence"] > OVERCONFIDENT].head(rows)


def moved(row: pd.Series) -> bool:
    """Whether the observation changes cluster."""
    return bool(row["em_cluster"] != row["nuts_cluster"])


def row_name(card: Card, label: Any) -> str:
    """What the data call this observation."""
    return f"{card.observations.index.name or 'row'} {label}"
