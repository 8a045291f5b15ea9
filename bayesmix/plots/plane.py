"""Observations as points that can be drawn: one column, two columns, or principal components.

Lives here: coordinates, and how a partition is shown on them. Does not live here: which partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.diagnose.words import count
from bayesmix.plots.canvas import INK, MUTED, PALE
from bayesmix.plots.view import observed_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes


ACROSS, ALONG = (5**0.5 - 1) / 2, 2**0.5 - 1  # their multiples modulo 1 are evenly spread
FEW, ROOM = 24, 0.25  # values that rows share, and how far they are moved, of their distance
LONG = 14  # letters of a category


@dataclass(frozen=True)
class Plane:
    """Where each observation is drawn.

    points : (N, 1) or (N, 2), NaN where a value is missing: not drawn. axes : names of these
    coordinates. said : how they came about and how many are not drawn, for a subtitle ("" for
    plain columns).
    """

    points: np.ndarray
    axes: tuple[str, ...]
    said: str

    @property
    def line(self) -> bool:
        """Whether there is one coordinate."""
        return self.points.shape[1] == 1


def plane_of(data: Any, N: int, columns: Sequence[str | int] | None = None) -> Plane:
    """Coordinates of N observations from a DataFrame, Series, array, tree or result.

    columns : one or two, by name or number; by default the first two principal components of the
    standardised columns where there are more than two.
    """
    values, names = _numbers(data, N, columns)
    if values.shape[1] <= 2:
        return Plane(values, names, not_shown(values))
    if columns is not None:
        raise ValueError(f"a panel has one or two columns and columns= names {len(columns)}")
    return _components(values)


def _numbers(
    data: Any, N: int, columns: Sequence[str | int] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    values, names = observed_in(data)
    values = values.reshape(len(values), -1)
    if len(values) != N:
        raise ValueError(f"data has {len(values)} rows but the partition is of {N} observations")
    if columns is not None:
        at = [position(column, names) for column in columns]
        values, names = values[:, at], tuple(names[i] for i in at)
    if not values.shape[1]:
        raise ValueError("there is no column to draw: name one or two with columns=")
    found = np.column_stack([_number(x, n) for x, n in zip(values.T, names, strict=True)])
    if len(found) and np.isnan(found).any(1).all():
        raise ValueError(
            f"every row has a missing value in {', '.join(names)}: name other columns with columns="
        )
    return found, names


def not_shown(values: np.ndarray) -> str:
    """How many rows (N, D) are not drawn because a value is missing, in words; "" for none."""
    rows = int(np.isnan(values).any(1).sum())
    return f"{count(rows, 'row')} with missing values not shown" if rows else ""


def position(column: str | int, names: Sequence[str]) -> int:
    """Number of a column given by name or number."""
    if isinstance(column, str):
        if column not in names:
            raise ValueError(f"no column {column!r}: there are {', '.join(names)}")
        return list(names).index(column)
    if not 0 <= int(column) < len(names):
        raise ValueError(f"no column {column}: the data have {len(names)}, counted from 0")
    return int(column)


def _number(values: np.ndarray, name: str) -> np.ndarray:
    import pandas as pd

    try:
        numbers = np.where(pd.isna(values), np.nan, values).astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"column {name!r} is no number ({values[~pd.isna(values)][0]!r}, ...): name numeric "
            "ones with columns="
        ) from None
    if np.isinf(numbers).any():
        row = int(np.flatnonzero(np.isinf(numbers))[0])
        raise ValueError(f"column {name!r} is infinite in row {row}: it cannot be drawn")
    return numbers


def _components(values: np.ndarray) -> Plane:
    """First two principal components of the standardised columns, from the complete rows."""
    whole = ~np.isnan(values).any(1)
    points = np.full((len(values), 2), np.nan)
    centred = values[whole] - values[whole].mean(axis=0)
    scale = centred.std(axis=0)
    if not scale.any():
        raise ValueError("every column of the data is constant: there is nothing to spread them by")
    left, singular, right = np.linalg.svd(
        centred / np.where(scale > 0, scale, 1), full_matrices=False
    )
    # a component has no sign of its own: its largest loading points up
    sign = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(axis=1)])
    share = singular**2 / np.square(singular).sum()
    points[whole] = (left * singular)[:, :2] * sign
    said = f"principal components of {values.shape[1]} standardised columns"
    gone = not_shown(values)
    return Plane(
        points,
        tuple(f"component {i + 1} ({share[i]:.0%} of variance)" for i in range(2)),
        f"{said}; {gone}" if gone else said,
    )


def shrinkage(N: int) -> float:
    """Factor on the area of a point, so that many points do not hide each other."""
    return float(np.sqrt(min(1.0, 300 / N)))


def apart(values: np.ndarray, step: float) -> np.ndarray:
    """Values that many rows share, moved a little so that each row is seen."""
    seen = np.unique(values[~np.isnan(values)])
    if len(seen) < 2 or len(seen) > FEW or len(values) < 4 * len(seen):
        return values
    return values + jitter(len(values), ROOM * np.diff(seen).min(), step)


def jitter(N: int, width: float, step: float) -> np.ndarray:
    """N numbers within +- width / 2, the same at every call, evenly spread."""
    return width * ((np.arange(N) * step) % 1 - 0.5)


def put_levels(axis: Any, levels: Sequence[str]) -> None:
    """Ticks at the codes of categories, long names short and aslant."""
    short = [name if len(name) <= LONG else f"{name[: LONG - 1]}…" for name in levels]
    aslant = axis.axis_name == "x" and len(levels) * max(map(len, short)) > 3 * LONG // 2
    turn: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axis.set_ticks(range(len(short)), short, **(turn if aslant else {}))


def draw_groups(
    ax: Axes, plane: Plane, groups: np.ndarray, inks: np.ndarray, ringed: np.ndarray
) -> None:
    """Observations in their groups' colours: stacked bars on a line, points on a plane.

    groups : (N,) numbers into `inks`. ringed : (N,) bool, drawn with a dark edge.
    """
    ax.ticklabel_format(axis="y", style="plain", useOffset=False)  # a factor would be in the title
    if plane.line:
        _draw_stack(ax, plane.points[:, 0], groups, inks, ringed)
    else:
        small = shrinkage(len(groups))
        for mask, edge, width, above in ((~ringed, "white", 0.4, 2), (ringed, INK, 1.0, 3)):
            x, y = plane.points[mask].T
            ax.scatter(
                x, y, s=24 * small, c=inks[groups[mask]], edgecolors=edge,
                linewidths=width * small, zorder=above,
            )  # fmt: skip
        ax.set_ylabel(plane.axes[1])
    ax.set_xlabel(plane.axes[0])


def _draw_stack(
    ax: Axes, values: np.ndarray, groups: np.ndarray, inks: np.ndarray, ringed: np.ndarray
) -> None:
    seen = ~np.isnan(values)
    values, groups, ringed = values[seen], groups[seen], ringed[seen]
    edges = np.histogram_bin_edges(values, bins=int(np.clip(3 * np.sqrt(len(values)), 15, 60)))
    bottom = np.zeros(len(edges) - 1)
    for group in np.unique(groups):
        height, _ = np.histogram(values[groups == group], edges)
        ax.bar(
            edges[:-1], height, np.diff(edges), bottom, align="edge", color=inks[group],
            edgecolor="white", linewidth=0.4,
        )  # fmt: skip
        bottom += height
    down = -0.07 * bottom.max()
    ax.plot(values, np.full_like(values, down), "|", color=PALE, ms=7, mew=1.0)
    ax.plot(values[ringed], np.full(ringed.sum(), down), "|", color=INK, ms=9, mew=1.2)
    ax.axhline(0, color=MUTED, lw=0.8)
    ax.set_ylim(2.1 * down, 1.06 * bottom.max())
    ax.locator_params(axis="y", integer=True, nbins=5)
    ax.set_ylabel("observations")
