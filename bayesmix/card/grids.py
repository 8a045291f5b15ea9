"""The card's small tables as cells of text, which the terminal and the notebook both lay out.

Lives here: what a cell says. Does not live here: the layout (`text`, `page`), and the two large
tables of quantities, whose cells are in `text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesmix.card.words import calibration_lines, partition_lines, uncertainty_lines

if TYPE_CHECKING:
    import pandas as pd

    from bayesmix.card import Card

PLAIN = {"log_joint": "log joint", "entropy": "mean entropy"}
PARTITION_ROWS = {
    ("vi", "em"): "VI, EM's partition",
    ("vi", "estimate"): "VI, point estimate",
    ("adjusted_rand", "em"): "adjusted Rand, EM's partition",
    ("adjusted_rand", "estimate"): "adjusted Rand, point estimate",
}


class Grid(NamedTuple):
    """One section: its title and what it is about, sentences, and a table (None: no table).

    more : rows that are left out, and where they are.
    """

    title: str
    tag: str
    lines: tuple[str, ...]
    head: tuple[str, ...] = ()
    body: tuple[tuple[str, ...], ...] = ()
    more: str = ""


def grids(card: Card, rows: int) -> Iterator[Grid]:
    """The sections behind the tables of quantities, in order; at most `rows` parameters."""
    if len(card.engines) > 2:
        yield side_by_side(card, rows)
    yield observations(card)
    yield calibration(card)
    yield partitions(card)


def side_by_side(card: Card, rows: int) -> Grid:
    """Mean and standard deviation of each parameter from every result."""
    first, *others = (name for name, _ in card.engines[1:])
    prefixes = {"": first} | {f"{name.lower()}_": name for name in others}
    body = []
    for name, row in card.parameters.head(rows).iterrows():
        show = formatter(row)
        pairs = ((row[f"{p}mean"], row[f"{p}sd"]) for p in prefixes)
        spread = (f"{show(mean)} ± {show(sd)}" for mean, sd in pairs)
        body.append((quantity(str(name)), show(row["map"]), *spread))
    left = len(card.parameters) - len(body)
    return Grid(
        "Side by side",
        "posterior mean ± sd of the parameters, by every result",
        (),
        ("", "EM (MAP)", *prefixes.values()),
        tuple(body),
        f"… and {left} more: card.parameters" if left else "",
    )


def observations(card: Card, rows: int = 5) -> Grid:
    """Responsibilities, and the observations about which EM is most overconfident."""
    worst = card.overconfident
    body = tuple(
        (
            row_name(card, label),
            f"{row['em_cluster']:.0f}",
            f"{row['em_prob']:.3f}",
            f"{row['same_prob']:.3f}",
            f"{row['overconfidence']:+.3f}",
            ("→ " if moved(row) else "") + f"{row['posterior_cluster']:.0f}",
        )
        for label, row in worst.head(rows).iterrows()
    )
    left = len(worst) - len(body)
    return Grid(
        "Observations",
        "EM's responsibilities against their posterior average",
        uncertainty_lines(card.facts),
        ("most overconfident", "EM's cluster", "EM", "posterior", "difference", "posterior's"),
        body,
        f"… and {left} more: card.overconfident" if left else "",
    )


def calibration(card: Card) -> Grid:
    """How probable EM's clusters are where EM is so sure."""
    return Grid(
        "Calibration",
        "of EM's responsibilities against the posterior",
        calibration_lines(card.facts),
        ("EM's probability", "observations", "EM", "posterior", "gap"),
        tuple(
            (
                f"{row['low']:.2f} to {row['high']:.2f}",
                f"{row['observations']:.0f}",
                f"{row['em']:.4f}",
                f"{row['posterior']:.4f}",
                f"{row['gap']:+.4f}",
            )
            for _, row in card.calibration.iterrows()
        ),
    )


def partitions(card: Card) -> Grid:
    """Distances between partitions, which no renaming of clusters changes."""
    table = card.partitions
    quantiles = [str(name) for name in table if str(name).startswith("q")]
    shown = ["to_estimate", "mean", *quantiles]
    return Grid(
        "Partitions",
        "distances to the posterior's point estimate, and to the draws",
        partition_lines(card.facts),
        ("", "to estimate", "to draws: mean", *(f"{int(q[1:])}%" for q in quantiles)),
        tuple(
            (words, *(f"{value:.4f}" for value in table.loc[key, shown]))
            for key, words in PARTITION_ROWS.items()
        ),
    )


# Cells.


def formatter(row: pd.Series) -> Any:
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


def moved(row: pd.Series) -> bool:
    """Whether the observation changes cluster."""
    return bool(row["em_cluster"] != row["posterior_cluster"])


def row_name(card: Card, label: Any) -> str:
    """What the data call this observation."""
    return f"{card.observations.index.name or 'row'} {label}"
