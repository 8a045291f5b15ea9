"""How results show themselves: sentences and small tables, in a terminal and in a notebook.

A `Sheet` is a list of lines and tables; it can be read as plain text or as a self-contained HTML
fragment. Lives here: layout, and where it appears (`Shown`). Does not live here: what a result has
to say.
"""

import html
import textwrap
from abc import ABC, abstractmethod
from dataclasses import dataclass

WIDTH = 100
NARROWEST = 24  # a cell that runs over several lines keeps this much room

# Type and tables of all that is shown in a notebook; SCOPE is the class of what is styled.
LOOK = """
.SCOPE{font:14px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
.SCOPE table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.SCOPE th,.SCOPE td{border:0;background:none;vertical-align:top}
.SCOPE th{font-weight:600;border-bottom:1px solid rgba(128,128,128,.45)}
.SCOPE tbody tr:nth-child(even){background:rgba(128,128,128,.07)}
"""
OWN = """
.bm-sheet{margin:.3em 0}.bm-sheet p{margin:.2em 0}.bm-sheet p.bm-title{font-weight:600}
.bm-sheet table{margin:.6em 0}.bm-sheet th,.bm-sheet td{padding:.12em .7em}
.bm-sheet th:first-child,.bm-sheet td:first-child{padding-left:0}
.bm-sheet td:not(:last-child){white-space:nowrap}
.bm-sheet .bm-l{text-align:left}.bm-sheet .bm-r{text-align:right}
"""


def style(scope: str, own: str) -> str:
    """The style of one class of element: the look of all, and rules of its ``own``."""
    return f"<style>{LOOK.replace('SCOPE', scope)}{own}</style>"


@dataclass(frozen=True)
class Table:
    """Cells of text. sides : "l" or "r" for each column; a last column on the left may wrap."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sides: str

    def lines(self) -> list[str]:
        """The table as text, a rule below its head."""
        every = [self.head, *self.rows]
        widths = [max(len(row[i]) for row in every) for i in range(len(self.head))]
        wraps = self.sides[-1] == "l" and len(self.head) > 1
        out = [line for row in every for line in self._row(row, widths, wraps)]
        out.insert(1, "-" * max(map(len, out)))
        return out

    def _row(self, row: tuple[str, ...], widths: list[int], wraps: bool) -> list[str]:
        cells = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, self.sides, strict=True)
        ]
        if not wraps:
            return ["  ".join(cells).rstrip()]
        head = "  ".join(cells[:-1])
        first, *rest = textwrap.wrap(row[-1], max(WIDTH - len(head) - 2, NARROWEST)) or [""]
        return [f"{head}  {first}".rstrip(), *(" " * (len(head) + 2) + line for line in rest)]

    def markup(self) -> str:
        """The table as HTML."""

        def line(cells: tuple[str, ...], tag: str) -> str:
            pairs = zip(cells, self.sides, strict=True)
            return "".join(f"<{tag} class='bm-{s}'>{html.escape(c)}</{tag}>" for c, s in pairs)

        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        return (
            f"<table><thead><tr>{line(self.head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
        )


@dataclass(frozen=True)
class Sheet:
    """Lines and tables in order; the first line is the title."""

    parts: tuple[str | Table, ...]

    def __str__(self) -> str:
        """Plain text, at most about WIDTH wide; a blank line on either side of a table."""
        out: list[str] = []
        for part in self.parts:
            if isinstance(part, Table):
                out += ["", *part.lines(), ""]
            else:
                out += textwrap.wrap(part, WIDTH)
        spaced = [line for i, line in enumerate(out) if line or (i and out[i - 1])]
        return "\n".join(spaced).strip("\n")

    def markup(self) -> str:
        """One self-contained HTML fragment: own style, no script, no network."""
        title, *rest = self.parts
        pieces = [f"<p class='bm-title'>{html.escape(str(title))}</p>"]
        for part in rest:
            pieces.append(
                part.markup() if isinstance(part, Table) else f"<p>{html.escape(part)}</p>"
            )
        return f"{style('bm-sheet', OWN)}<div class='bm-sheet'>{''.join(pieces)}</div>"


class Shown(ABC):
    """What shows itself by a sheet: as text in a terminal, as HTML in a notebook."""

    @property
    @abstractmethod
    def _sheet(self) -> Sheet: ...

    def __repr__(self) -> str:
        return str(self._sheet)

    def _repr_html_(self) -> str:
        return self._sheet.markup()
