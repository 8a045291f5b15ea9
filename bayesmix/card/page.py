"""The card as one self-contained HTML fragment: own style, no script, no network."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bayesmix.card.grids import Grid, grids, quantity
from bayesmix.card.text import HEAD, cells
from bayesmix.card.words import needs_care
from bayesmix.diagnose.words import ESS_GOOD, RHAT_GOOD
from bayesmix.sheet import style

if TYPE_CHECKING:
    import pandas as pd

    from bayesmix.card import Card

OWN = """
.bm-card{max-width:72em;margin:.5em 0;padding:1em 1.25em;
 border:1px solid rgba(128,128,128,.35);border-radius:8px}
.bm-card h3{margin:0;font-size:1.15em}.bm-card h4{margin:1.3em 0 .3em;font-size:1em}
.bm-card .bm-sub{opacity:.75;margin:.15em 0}.bm-card .bm-sub b{display:inline-block;width:6em}
.bm-card .bm-verdict{border-left:4px solid #0072B2;padding:.35em .9em;margin:.9em 0;
 background:rgba(0,114,178,.08)}.bm-card .bm-verdict.bm-care{border-color:#D55E00;
 background:rgba(213,94,0,.09)}.bm-card .bm-verdict p{margin:.25em 0}
.bm-card .bm-verdict p:first-child{font-weight:600}
.bm-card table{width:100%;margin:0}
.bm-card th,.bm-card td{padding:.16em .6em;text-align:right;white-space:nowrap}
.bm-card td:first-child,.bm-card th:first-child{text-align:left;padding-left:0}
.bm-card td:first-child{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.92em}
.bm-card .bm-bad{color:#D55E00;font-weight:600}
.bm-card .bm-tag{font-weight:400;font-size:.85em;padding:.05em .6em;margin-left:.5em;
 border-radius:1em;background:rgba(128,128,128,.18)}
.bm-card ul{margin:.3em 0;padding-left:1.2em}.bm-card .bm-notes{font-size:.9em;opacity:.85}
.bm-card svg{vertical-align:middle;overflow:visible}.bm-card .bm-scroll{overflow-x:auto}
"""


def html_of(card: Card, rows: int = 60) -> Iterator[str]:
    """Pieces of the HTML; at most `rows` parameters are listed."""
    esc = html.escape
    yield f"{style('bm-card', OWN)}<div class='bm-card'><h3>{esc(card.heading)}</h3>"
    yield f"<p class='bm-sub'>{esc(card.title)}</p>"
    yield from (f"<p class='bm-sub'><b>{esc(n)}</b>{esc(line)}</p>" for n, line in card.engines)
    care = " bm-care" if needs_care(card.facts) else ""
    yield f"<div class='bm-verdict{care}'>"
    yield from (f"<p>{esc(sentence)}</p>" for sentence in card.verdict)
    yield "</div><h4>Label-invariant<span class='bm-tag'>read these first</span></h4>"
    yield from _html_table(card.invariant, rows)
    yield f"<h4>Parameters<span class='bm-tag'>{esc(card.relabelling)}</span></h4>"
    yield from _html_table(card.parameters, rows)
    for grid in grids(card, rows):
        yield from _section(grid)
    yield "<h4>How to read this</h4><ul class='bm-notes'>"
    yield from (f"<li>{esc(note)}</li>" for note in card.notes)
    yield "</ul></div>"


def _section(grid: Grid) -> Iterator[str]:
    esc = html.escape
    yield f"<h4>{esc(grid.title)}<span class='bm-tag'>{esc(grid.tag)}</span></h4>"
    if grid.lines:
        yield "<ul>" + "".join(f"<li>{esc(line)}</li>" for line in grid.lines) + "</ul>"
    if grid.body:
        yield "<div class='bm-scroll'><table><thead><tr>"
        yield "".join(f"<th scope='col'>{esc(name)}</th>" for name in grid.head)
        yield "</tr></thead><tbody>"
        for row in grid.body:
            yield "<tr>" + "".join(f"<td>{esc(cell)}</td>" for cell in row) + "</tr>"
        yield "</tbody></table></div>"
    if grid.more:
        yield f"<p class='bm-sub'>{esc(grid.more)}</p>"


def _html_table(table: pd.DataFrame, rows: int) -> Iterator[str]:
    yield "<div class='bm-scroll'><table><thead><tr><th scope='col'></th>"
    yield "".join(f"<th scope='col'>{h}</th>" for h in (*HEAD[:4], "", *HEAD[4:]))
    yield "</tr></thead><tbody>"
    for name, row in table.head(rows).iterrows():
        *left, shift, rhat, ess = cells(row)
        bad_rhat = " class='bm-bad'" if row["r_hat"] > RHAT_GOOD else ""
        bad_ess = " class='bm-bad'" if row["ess_bulk"] < ESS_GOOD else ""
        yield f"<tr><td>{html.escape(quantity(str(name)))}</td>"
        yield "".join(f"<td>{cell}</td>" for cell in left)
        yield f"<td>{_strip(row)}</td><td>{shift}</td><td{bad_rhat}>{rhat}</td>"
        yield f"<td{bad_ess}>{ess}</td></tr>"
    yield "</tbody></table></div>"
    if len(table) > rows:
        yield f"<p class='bm-sub'>… and {len(table) - rows} more: card.to_frame()</p>"


def _strip(row: pd.Series, width: int = 96, span: float = 3.2) -> str:
    """Interval, mean and MAP of one row on an axis of posterior sds around the mean, as SVG."""
    if np.isnan(row["map_in_sd"]):
        return ""

    def x(value: float) -> float:
        z = np.clip((value - row["mean"]) / row["sd"], -span, span)
        return float(width / 2 * (1 + z / span))

    at, lo, hi = x(row["map"]), x(row["eti95_lb"]), x(row["eti95_ub"])
    return (
        f"<svg width='{width}' height='14' role='img' aria-label='MAP {row['map_in_sd']:+.1f} sd "
        f"from the mean'><line x1='0' x2='{width}' y1='7' y2='7' stroke='currentColor' "
        f"stroke-opacity='.18'/><line x1='{lo:.1f}' x2='{hi:.1f}' y1='7' y2='7' stroke='#0072B2' "
        f"stroke-width='3' stroke-linecap='round'/><circle cx='{width / 2}' cy='7' r='3.2' "
        f"fill='#0072B2'/><path d='M{at:.1f} 2l4 5l-4 5l-4 -5z' fill='#D55E00' stroke='#fff' "
        f"stroke-width='.8'/></svg>"
    )
