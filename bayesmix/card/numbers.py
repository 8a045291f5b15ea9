"""The card's tables of quantities: EM's value beside the draws of every other result.

Lives here: the names of parameters, and the statistics of every row. Does not live here: whose
draws they are and how clusters got their names (`sources`), any sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesmix.card.sources import Source, check_same_question, kind_of, source

if TYPE_CHECKING:
    import pandas as pd

PROB = 0.95
TAIL = (0.05, 0.95)
PRECISION = ("r_hat", "ess_bulk", "ess_tail", "mcse_mean")
BESIDE = ("mean", "sd", "eti95_lb", "eti95_ub")
NAN = float("nan")

# Rows of the tables.


def invariant_rows(em: Any, em_tree: Any, tree: Any) -> Iterator[tuple[str, float, np.ndarray]]:
    """(name, EM's value, draws) of each quantity that does not depend on clusters' names."""
    at, draws = _invariants(em_tree), _invariants(tree)
    yield "log_joint", float(em.log_joint), draws["log_joint"]
    top = at["sorted_weights"].reshape(-1)
    for k, weight in enumerate(top if len(top) > 1 else []):
        yield f"sorted_weights[{k}]", float(weight), draws["sorted_weights"][..., k]
    yield "entropy", float(at["entropy"].reshape(-1)[0]), draws["entropy"]


def _invariants(tree: Any) -> dict[str, np.ndarray]:
    """What does not depend on the clusters' names, over (chain, draw)."""
    return {str(name): x.to_numpy() for name, x in tree["invariant"].data_vars.items()}


class Parameter(NamedTuple):
    """Element `at` of a site: EM's value, and the draws (chain, draw) in EM's names."""

    label: str
    site: str
    at: tuple[Any, ...]
    point: float
    draws: np.ndarray


def parameters(em: Any, result: Any) -> list[Parameter]:
    """Every parameter, relabelled, clusters named as in EM; raises like `card`."""
    kind = kind_of(result)
    check_same_question(em, result, kind)
    return list(rows_of(em, source(em, kind, result).draws))


def rows_of(em: Any, draws: dict[str, np.ndarray]) -> Iterator[Parameter]:
    """Every parameter, site by site; `draws` relabelled, in EM's names."""
    for name, names in labels_of(em.mixture).items():
        point, values = np.asarray(em.params[name], float), np.asarray(draws[name], float)
        for at in np.ndindex(*names.shape):
            if not _redundant(point, values, at):
                yield Parameter(str(names[at]), name, at, float(point[at]), values[(..., *at)])


def labels_of(mixture: Any) -> dict[str, np.ndarray]:
    """A name per element of each site, such as loc[0, waiting]; small sites before large ones."""
    names = {}
    for name, site in sorted(mixture.sites.items(), key=lambda s: int(np.prod(s[1].shape))):
        labels = np.empty(tuple(site.shape), dtype=object)
        axes = [_axis_labels(mixture, *axis) for axis in zip(site.dims, site.shape, strict=True)]
        for at in np.ndindex(*labels.shape):
            parts = [axis[i] for axis, i in zip(axes, at, strict=True)]
            labels[at] = f"{name}[{', '.join(parts)}]" if parts else name
        names[name] = labels
    return names


def _axis_labels(mixture: Any, dim: str, size: int) -> list[str]:
    """The data's column names along an axis of columns, else numbers."""
    if len(mixture.coords.get(dim, ())) == size:
        return list(mixture.coords[dim])
    columns, event = mixture.columns, mixture.event_dims
    if columns and event and len(columns) == size and dim.startswith(event[0]):
        return [str(column) for column in columns]
    return [str(i) for i in range(size)]


def _redundant(point: np.ndarray, values: np.ndarray, at: tuple[Any, ...]) -> bool:
    """Upper triangle of a symmetric matrix, or a structural constant such as a Cholesky zero."""
    if len(at) < 2 or point.shape[-1] != point.shape[-2]:
        return False
    mine = values[(..., *at)]
    if np.ptp(mine) == 0 and mine.flat[0] == point[at]:
        return True
    mirror = (*at[:-2], at[-1], at[-2])
    return at[-1] > at[-2] and bool(np.allclose(mine, values[(..., *mirror)], rtol=1e-6, atol=0))


def invariant_table(em: Any, sources: Sequence[Source]) -> pd.DataFrame:
    """The label-invariant quantities, of all results."""
    point = em.to_datatree()
    return _side_by_side(
        [(each, list(invariant_rows(em, point, each.tree))) for each in sources],
    )


def parameter_table(em: Any, sources: Sequence[Source]) -> pd.DataFrame:
    """The parameters, of all results."""
    rows = [list(rows_of(em, each.draws)) for each in sources]
    table = _side_by_side(
        [
            (each, [(row.label, row.point, row.draws) for row in some])
            for each, some in zip(sources, rows, strict=True)
        ]
    )
    table["unconstrained_mode"] = _unconstrained(em, rows[0])
    return table


def _side_by_side(results: Sequence[tuple[Source, Sequence[tuple[Any, ...]]]]) -> pd.DataFrame:
    """All statistics of the first result; mean, sd and interval of the others."""
    (first, rows), *others = results
    table = _table_of(rows, first.ess)
    for each, some in others:
        beside = _table_of(some, each.ess)[list(BESIDE)].reindex(table.index)
        table = table.join(beside.add_prefix(f"{each.kind.lower()}_"))
    return table


def _table_of(rows: Iterable[tuple[str, float, np.ndarray]], ess: float | None) -> pd.DataFrame:
    """One row of statistics per (name, EM's value, draws (chain, draw))."""
    import pandas as pd

    names, points, draws = zip(*rows, strict=True)
    return pd.DataFrame(
        [_summary(point, x, ess) for point, x in zip(points, draws, strict=True)],
        index=pd.Index(names, name="quantity"),
    )


def _summary(point: float, draws: np.ndarray, ess: float | None) -> dict[str, float]:
    """One row; draws : (chain, draw); ess : of independent draws, None for chains."""
    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    lb, ub = np.quantile(draws, [(1 - PROB) / 2, (1 + PROB) / 2])
    moves = bool(np.isfinite(draws).all() and sd > 1e-12 * abs(mean))
    return {
        "map": point,
        "mean": mean,
        "sd": sd,
        "eti95_lb": float(lb),
        "eti95_ub": float(ub),
        "map_in_sd": (point - mean) / sd if moves else NAN,
        **dict.fromkeys(PRECISION, NAN),
        **(_precision(draws, sd, ess) if moves else {}),
    }


def _precision(draws: np.ndarray, sd: float, ess: float | None) -> dict[str, float]:
    """R-hat, effective sample sizes and Monte-Carlo error of draws that move."""
    from arviz_stats.base import array_stats

    if ess is not None:
        return {"ess_bulk": ess, "mcse_mean": sd / np.sqrt(ess)}
    return {
        "r_hat": float(array_stats.rhat(draws)) if len(draws) > 1 else NAN,
        "ess_bulk": float(array_stats.ess(draws, method="bulk")),
        "ess_tail": float(array_stats.ess(draws, method="tail", prob=TAIL)),
        "mcse_mean": float(array_stats.mcse(draws)),
    }


def _unconstrained(em: Any, rows: Sequence[Parameter]) -> np.ndarray:
    """The mode in unconstrained space, a column of `parameters`; NaN where there is none."""
    from bayesmix.laplace import unconstrained_mode

    mode = unconstrained_mode(em.mixture, em.params)
    if mode is None:
        return np.full(len(rows), NAN)
    return np.array([float(np.asarray(mode[row.site])[row.at]) for row in rows])


def higher(em: Any, tree: Any) -> float:
    """By how many nats the best draw exceeds EM's MAP; negative when it does not."""
    return float(np.nanmax(tree["invariant"]["log_joint"].to_numpy())) - float(em.log_joint)
