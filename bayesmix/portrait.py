"""A point of a mixture as a person reads it: a column for each cluster, a row for each number.

Lives here: which numbers are shown under which names. Does not live here: layout (`sheet`), and
the numbers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bayesmix.program import Mixture, Site
from bayesmix.sheet import WIDTH, Table

MOST_ROWS = 24
WHOLE_MATRIX = 2  # columns up to which a covariance shows more than its diagonal


def named_elements(mixture: Mixture, params: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name[labels], value) of every element of every site, with the columns' names."""
    for name, value in params.items():
        labels = axis_labels(mixture, mixture.sites[name])
        for position, element in np.ndenumerate(value):
            inside = ", ".join(names[i] for i, names in zip(position, labels, strict=True))
            yield f"{name}[{inside}]" if labels else name, float(element)


def axis_labels(mixture: Mixture, site: Site) -> list[list[str]]:
    """What the positions along each axis of a site are called."""
    named, columns = mixture.coords, mixture.columns
    return [
        [str(label) for label in named[dim]]
        if dim in named
        else [str(label) for label in columns]
        if dim.startswith("feature") and columns and len(columns) == size
        else [str(i) for i in range(size)]
        for dim, size in zip(site.dims, site.shape, strict=True)
    ]


def portrait(
    mixture: Mixture, params: Mapping[str, np.ndarray], counts: np.ndarray
) -> tuple[list[Table], list[str]]:
    """Tables of the clusters' and of the shared numbers, and lines on what they leave out.

    counts : rows that each cluster holds, (K,).
    """
    own = [("rows", [f"{c:.1f}" for c in counts])]
    shared: list[tuple[str, list[str]]] = []
    partly: list[str] = []
    for name, value in params.items():
        site = mixture.sites[name]
        rows, whole = _rows(site, axis_labels(mixture, site), np.asarray(value))
        (shared if site.cluster_axis is None else own).extend(rows)
        partly += [] if whole else [name]
    table, left = _clusters(mixture.K, own)
    tables = [table]
    if shared:
        body = tuple((name, *cells) for name, cells in shared[:MOST_ROWS])
        tables.append(Table(("all clusters", ""), body, "lr"))
        left += _cut(len(shared))
    if partly:
        left.append(f"Of {', '.join(partly)} the diagonal is shown: .params has the matrices.")
    return tables, left


def _rows(
    site: Site, labels: list[list[str]], value: np.ndarray
) -> tuple[list[tuple[str, list[str]]], bool]:
    """(name, one number per cluster, or one for all) of a site; and whether that is all of it."""
    axis = site.cluster_axis
    values = value[..., None] if axis is None else np.moveaxis(value, axis, -1)
    inner = [names for i, names in enumerate(labels) if i != axis]
    square = len(inner) == 2 and inner[0] == inner[1] and len(inner[0]) > 1
    square = square and bool(np.allclose(values, values.swapaxes(0, 1)))
    whole, rows = not square or len(inner[0]) <= WHOLE_MATRIX, []
    for position in np.ndindex(values.shape[:-1]):
        if square and (position[0] < position[1] or (not whole and position[0] != position[1])):
            continue
        inside = ", ".join(names[i] for i, names in zip(position, inner, strict=True))
        name = f"{site.name}[{inside}]" if position else site.name
        rows.append((name, [_number(v) for v in values[position]]))
    return rows, whole


def _clusters(K: int, rows: list[tuple[str, list[str]]]) -> tuple[Table, list[str]]:
    """As many clusters side by side as fit the width, and as many rows as may be."""
    kept = rows[:MOST_ROWS]
    head = [f"cluster {k}" for k in range(K)]
    label = max(len(name) for name, _ in kept)
    widths = [2 + max(len(head[k]), *(len(cells[k]) for _, cells in kept)) for k in range(K)]
    fit = max(1, int(np.searchsorted(label + np.cumsum(widths), WIDTH, side="right")))
    body = tuple((name, *cells[:fit]) for name, cells in kept)
    left = [f"… and {K - fit} more clusters: .summary()"] if fit < K else []
    return Table(("", *head[:fit]), body, "l" + "r" * min(fit, K)), left + _cut(len(rows))


def _cut(count: int) -> list[str]:
    return [f"… and {count - MOST_ROWS} more rows: .summary()"] if count > MOST_ROWS else []


def _number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"
