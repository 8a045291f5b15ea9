"""A mixture of regressions as numbers to draw: covariates, the response, each cluster's mean.

The lines are the program's own: it is read again with rows that lie on a grid of one covariate, the
others at their means. The observed rows ride along, and must keep their means.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayesmix.expected import expected_at
from bayesmix.plots.view import GRID_DRAWS, View

POINTS = 60  # of a line
TERMS = 20  # columns among which products are looked for
WORK = 1e7  # means (draw, row, cluster) that are held at once


@dataclass(frozen=True)
class Covariate:
    """What the lines depend on: a column of an argument, or the indicators of a text column.

    values : (N,) numbers, or codes into `levels`, which are () for a number. grid : (G,) where the
    lines are drawn. lines : their means there, (S, G, K).
    """

    name: str
    values: np.ndarray
    levels: tuple[str, ...]
    grid: np.ndarray
    lines: np.ndarray


@dataclass(frozen=True)
class Response:
    """The rows of a regression, and its lines, on the scale that is drawn.

    y : (N,), NaN where missing; `name` says its scale. resp : (N, K), of a row's group where rows
    are of groups (`group`, (N,), else None). fitted : posterior mean of each row's mean in each
    cluster, (N, K). said : where the lines stand, for a subtitle. discrete : y is whole numbers.
    """

    name: str
    y: np.ndarray
    resp: np.ndarray
    group: np.ndarray | None
    fitted: np.ndarray
    covariates: tuple[Covariate, ...]
    said: str
    discrete: bool


@dataclass(frozen=True)
class _Term:
    """`columns` of the array at leaf `leaf`: a number, or `levels` and their values, (L, C)."""

    name: str
    leaf: int
    columns: list[int]
    levels: tuple[str, ...] = ()
    codes: np.ndarray | None = None

    def grid(self, leaf: np.ndarray) -> np.ndarray:
        """From the least to the largest number, (G, C); the levels."""
        if self.codes is not None:
            return self.codes
        column = _table(leaf)[:, self.columns[0]]
        grid = np.linspace(column.min(), column.max(), POINTS)
        return (grid if leaf.dtype.kind == "f" else np.unique(grid.round()))[:, None]

    def values(self, leaf: np.ndarray) -> np.ndarray:
        """Of each row: the number, or the number of its level."""
        own = _table(leaf)[:, self.columns]
        if self.codes is None:
            return own[:, 0].astype(float)
        return np.abs(own[:, None] - self.codes).sum(-1).argmin(1)


def is_regression(view: View) -> bool:
    """Whether one number is observed in each row, whose distribution differs by row."""
    mixture = view.mixture
    if mixture is None or not mixture.by_row or len(mixture.observed) > 1:
        return False
    return mixture.observed[0].value.ndim == 1


def response_of(view: View) -> Response:
    """The rows, their covariates and the clusters' lines. Raises ValueError where the program's
    means of the observed rows change with the rows beside them.
    """
    mixture = view.mixture
    site, known = mixture.observed[0], mixture.arguments.leaves
    N, options = len(site.value), _options(mixture)
    terms = list(_terms(mixture, N))
    grids = [term.grid(known[term.leaf]) for term in terms]
    edges = N + np.cumsum([0, *map(len, grids)])
    rows = np.r_[np.arange(N), np.zeros(edges[-1] - N, int)]
    leaves = [leaf[rows] if _by_row(leaf, N) else leaf for leaf in known]
    for at, leaf in enumerate(known):
        if _by_row(leaf, N) and leaf.dtype.kind in "iuf":
            leaves[at][N:] = _middle(leaf, options.get(at, ""), site)
    for term, grid, start in zip(terms, grids, edges, strict=False):
        _table(leaves[term.leaf])[start : start + len(grid), term.columns] = grid
    for at in {term.leaf for term in terms}:
        for j, (a, b) in _products(_table(known[at])).items():
            leaves[at][N:, j] = leaves[at][N:, a] * leaves[at][N:, b]
    means = _means(view, replace(mixture.arguments, leaves=tuple(leaves)), rows)
    y, means, name, said = _on_scale(mixture, options, means, rows)
    covariates = []
    for term, grid, start in zip(terms, grids, edges, strict=False):
        lines = means[:, start : start + len(grid)]
        if np.ptp(lines, axis=1).any():  # else an array that the lines do not depend on
            places = np.arange(len(grid)) if term.levels else grid[:, 0]
            values = term.values(known[term.leaf])
            covariates.append(Covariate(term.name, values, term.levels, places, lines))
    resp = view.mean_resp if site.group is None else view.mean_resp[site.group]
    whole = bool(np.equal(site.value, np.round(site.value))[~np.isnan(site.value)].all())
    fitted = means[:, :N].mean(0)
    return Response(name, y, resp, site.group, fitted, tuple(covariates), said, whole)


# What the covariates are.


def _by_row(leaf: Any, N: int) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.ndim > 0 and len(leaf) == N


def _table(leaf: np.ndarray) -> np.ndarray:
    """A column as a table of one, without copying."""
    return leaf[:, None] if leaf.ndim == 1 else leaf


def _options(mixture: Any) -> dict[int, str]:
    """Arguments of the ready-made regression that are no covariates: number of the leaf -> name."""
    if not hasattr(mixture.program, "prepare"):
        return {}
    given = mixture.arguments.rebuild(mixture.arguments.arrays)[1]
    names = [n for n in ("offset", "trials", "gating", "groups") if given.get(n) is not None]
    return {_number(mixture, given[name]): name for name in names}


def _number(mixture: Any, array: np.ndarray) -> int:
    return next(i for i, leaf in enumerate(mixture.arguments.leaves) if leaf is array)


def _terms(mixture: Any, N: int) -> Iterator[_Term]:
    args, kwargs = mixture.arguments.rebuild(mixture.arguments.arrays)
    if hasattr(mixture.program, "prepare"):
        yield from _named_terms(_number(mixture, args[0]), args[0], kwargs["levels"])
        return
    for at, columns in _own_arrays(mixture, args, kwargs):
        leaf = mixture.arguments.leaves[at]
        if not _by_row(leaf, N) or leaf.dtype.kind not in "iuf" or leaf.ndim > 2:
            continue
        X = _table(leaf)
        if X.shape[1] == 1 and np.array_equal(X[:, 0], mixture.observed[0].value, equal_nan=True):
            continue
        products = _products(X)
        yield from (
            _number_or_two(columns[j], at, X, j) for j in range(len(columns)) if j not in products
        )


def _named_terms(at: int, X: np.ndarray, levels: Any) -> Iterator[_Term]:
    """Covariates of `bm.models.regression`: the indicators of a text column are one."""
    names, products = list(levels["fitted"]["X"]), _products(X)
    text = {f"{column}[{v}]": column for column, own in levels["X"].items() for v in own[1:]}
    done: set[str] = set()
    for j, name in enumerate(names):
        column = text.get(name)
        if column is None and j not in products:
            yield _number_or_two(f"x[{name}]" if name.isdigit() else name, at, X, j)
        elif column is not None and column not in done:
            done.add(column)
            own = tuple(map(str, levels["X"][column]))
            columns = [names.index(f"{column}[{v}]") for v in own[1:]]
            yield _Term(column, at, columns, own, np.eye(len(own))[:, 1:])


def _own_arrays(mixture: Any, args: Any, kwargs: Any) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Arrays that a program of one's own takes: number of the leaf, names of its columns."""
    parameters = list(inspect.signature(mixture.program).parameters)
    tables = dict(mixture.arguments.tables)
    places = [
        (f"argument {i + 1}", n, a) for i, (n, a) in enumerate(zip(parameters, args, strict=False))
    ]
    for where, name, value in [*places, *((n, n, a) for n, a in kwargs.items())]:
        if isinstance(value, np.ndarray) and value.ndim:
            width = value.shape[1] if value.ndim > 1 else 0
            numbered = tuple(f"{name}[{j}]" for j in range(width)) or (name,)
            yield _number(mixture, value), tables.get(where, numbered)


def _number_or_two(name: str, at: int, X: np.ndarray, j: int) -> _Term:
    """A column of numbers; one of two values is drawn as two levels."""
    seen = np.unique(X[:, j])
    if len(seen) != 2:
        return _Term(name, at, [j])
    return _Term(name, at, [j], tuple(f"{v:g}" for v in seen), seen[:, None])


def _products(X: np.ndarray) -> dict[int, tuple[int, int]]:
    """Columns that are the product of two others (a square, an interaction) move with them."""
    found: dict[int, tuple[int, int]] = {}
    if not 1 < X.shape[1] <= TERMS:
        return found
    few = X[:32]
    for j in range(X.shape[1]):
        others = [i for i in range(X.shape[1]) if i != j and i not in found]
        for a, b in ((a, b) for a in others for b in others if a <= b):
            if np.allclose(few[:, j], few[:, a] * few[:, b], 1e-12) and np.allclose(
                X[:, j], X[:, a] * X[:, b], 1e-12
            ):
                found[j] = (a, b)
                break
    return found


# The lines.


def _middle(leaf: np.ndarray, option: str, site: Any) -> Any:
    """What rows on a grid have: the means, one trial, the first row's group."""
    if option == "groups" or (site.group is not None and np.array_equal(leaf, site.group)):
        return leaf[0]
    if option == "trials":
        return 1
    if option == "offset" and site.family in ("Normal", "Poisson"):
        return 0
    middle = np.nanmean(leaf, axis=0)
    return middle if leaf.dtype.kind == "f" else np.round(middle)


def _means(view: View, arguments: Any, rows: np.ndarray) -> np.ndarray:
    """Each cluster's mean of each row, (S, rows, K)."""
    mixture = view.mixture
    site = mixture.observed[0]
    N, name = len(site.value), site.name
    at = view.thin(int(np.clip(WORK / (len(rows) * view.K), 1, GRID_DRAWS)))
    draws = {site: values[at] for site, values in view.draws.items()}
    first = {site: values[:1] for site, values in draws.items()}
    group = site.group
    known = expected_at(mixture, mixture.arguments, group, first).by_cluster[name]
    groups = None if group is None else group[rows]
    found = expected_at(mixture, arguments, groups, draws).by_cluster[name]
    if found.shape[1] != len(rows) or not np.allclose(found[:1, :N], known, 1e-6):
        raise ValueError(
            "the program transforms its rows by what it learns from them (their mean, say): its "
            "lines at new points cannot be told; transform the covariates before the call"
        )
    return found


def _on_scale(
    mixture: Any, options: dict[int, str], means: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str, str]:
    """Response, means, name of the scale, and what a subtitle says of it: shares of the trials,
    counts per exp(offset), and Normal responses less their offset, so that one line fits all rows.
    """
    site = mixture.observed[0]
    y, name = site.value.astype(float), _response_name(mixture)
    offset = next((mixture.arguments.leaves[i] for i, o in options.items() if o == "offset"), None)
    if "total_count" in site.given:
        trials = np.broadcast_to(site.given["total_count"], y.shape).astype(float)
        ready = "trials" in options.values()
        per = np.where((np.arange(len(rows)) >= len(y)) & ready, 1.0, trials[rows])
        y, means, name = y / trials, means / per[:, None], f"{name} / trials"
    if offset is None:
        return y, means, name, ""
    there = np.where(np.arange(len(rows)) < len(y), offset[rows], 0.0)[:, None]
    match site.family:
        case "Normal":
            return y - offset, means - there, f"{name} - offset", ""
        case "Poisson":
            return y / np.exp(offset), means / np.exp(there), f"{name} / exp(offset)", ""
    return y, means, name, "the offset at its mean"


def _response_name(mixture: Any) -> str:
    known = mixture.arguments.rebuild(mixture.arguments.arrays)[1].get("levels")
    if not hasattr(mixture.program, "prepare"):
        return str(mixture.name)
    return str(known["fitted"]["response"])
