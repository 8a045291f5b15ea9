"""The card as plain text, and the cells of its tables of quantities, which the HTML shares.

Each row is shown with as many decimals as its standard deviation deserves.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bayesmix.card.grids import Grid, formatter, grids, quantity
from bayesmix.diagnose.words import rhat_text

if TYPE_CHECKING:
    import pandas as pd

    from bayesmix.card import Card

HEAD = ("EM (MAP)", "mean", "sd", "95% eti", "MAP at", "R-hat", "ESS")


def text_of(card: Card, width: int, rows: int) -> Iterator[str]:
    """Lines of the text; at most `rows` parameters are listed."""
    yield from textwrap.wrap(f"{card.heading}: {card.title}", width)
    widest = max(len(name) for name, _ in card.engines)
    for name, line in card.engines:
        yield from _wrap(line, width, f"  {name:<{widest}}  ")
    yield ""
    for mark, sentence in zip(["=>", *["  "] * len(card.verdict)], card.verdict, strict=False):
        yield from _wrap(sentence, width, f"{mark} ")
    yield ""
    yield "Label-invariant (read these first)"
    yield from _quantities(card.invariant, rows)
    yield ""
    yield f"Parameters, {card.relabelling}"
    yield from _quantities(card.parameters, rows)
    yield ""
    for grid in grids(card, rows):
        yield from _section(grid, width)
        yield ""
    for note in card.notes:
        yield from _wrap(note, width, "· ")


def _quantities(table: pd.DataFrame, rows: int) -> Iterator[str]:
    shown = table.head(rows)
    body = [(quantity(str(name)), *cells(row)) for name, row in shown.iterrows()]
    yield from _aligned([("", *HEAD), *body])
    if len(table) > rows:
        yield f"  … and {len(table) - rows} more: card.to_frame()"


def _section(grid: Grid, width: int) -> Iterator[str]:
    yield f"{grid.title}, {grid.tag}"
    for line in grid.lines:
        yield from _wrap(line, width, "  ")
    if grid.body:
        yield from _aligned([grid.head, *grid.body])
    if grid.more:
        yield f"  {grid.more}"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for name, *rest in lines:
        right = (f"{cell:>{w}}" for cell, w in zip(rest, widths[1:], strict=True))
        yield "  " + "  ".join([f"{name:<{widths[0]}}", *right])


def _wrap(text: str, width: int, first: str) -> list[str]:
    indent = " " * len(first)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent)


def cells(row: pd.Series) -> tuple[str, ...]:
    """The cells of one row, in the order of HEAD."""
    show = formatter(row)
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
