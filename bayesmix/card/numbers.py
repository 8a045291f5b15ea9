"""The card's tables: the two results side by side, clusters under one name.

Lives here: that both results answer the same question, the names of clusters and parameters, and
the statistics of every row. Does not live here: any sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PROB = 0.95
TAIL = (0.05, 0.95)
NAN = float("nan")

# Do the two results answer the same question?


def check_same_question(em: Any, nuts: Any) -> None:
    """Nothing, or a ValueError that says in which way the two results differ."""
    if not hasattr(em, "params") or not hasattr(em, "modes"):
        raise ValueError(f"card needs EM's result first, not {type(em).__name__}: card(em, nuts)")
    if not hasattr(nuts, "samples"):
        raise ValueError(
            f"card needs NUTS's result second, not {type(nuts).__name__}: card(em, nuts)"
        )
    a, b = em.mixture, nuts.mixture
    if a is b:
        return
    if a.K != b.K:
        raise ValueError(
            f"em has {a.K} clusters and nuts has {b.K}: compare fits with the same number"
        )
    shape_a, shape_b = np.shape(a.value), np.shape(b.value)
    if shape_a != shape_b:
        raise ValueError(
            f"em saw data of shape {shape_a} and nuts of shape {shape_b}: fit the same"
        )
    if not np.array_equal(a.value, b.value):
        at = np.argwhere(np.asarray(a.value) != np.asarray(b.value))[0]
        raise ValueError(f"em and nuts saw different data (first at row {at[0]}): fit the same")
    if not np.array_equal(_sample_weights(a), _sample_weights(b)):
        raise ValueError("em and nuts saw different sample weights: fit the same")
    _check_same_sites(a, b)
    if a.program is not b.program:
        _check_same_joint(em, b)


def _check_same_sites(a: Any, b: Any) -> None:
    sites_a = {name: tuple(site.shape) for name, site in a.sites.items()}
    sites_b = {name: tuple(site.shape) for name, site in b.sites.items()}
    if sites_a != sites_b:
        odd = sorted(set(sites_a.items()) ^ set(sites_b.items()))[0][0]
        raise ValueError(
            f"em and nuts come from different programs: site {odd!r} has shape "
            f"{sites_a.get(odd, 'none')} in em and {sites_b.get(odd, 'none')} in nuts"
        )


def _check_same_joint(em: Any, mixture: Any) -> None:
    """Two programs of the same sites are one when they agree on EM's log joint."""
    there = _evaluate(mixture, {k: np.asarray(v)[None, None] for k, v in em.params.items()})
    value = float(there["log_joint"][0, 0])
    if not np.isclose(value, em.log_joint, rtol=1e-6, atol=1e-6):
        raise ValueError(
            f"em and nuts come from different programs: at EM's MAP the log joint is "
            f"{em.log_joint:.6g} in one and {value:.6g} in the other"
        )


def _sample_weights(mixture: Any) -> np.ndarray:
    weights = getattr(mixture, "weights", None)
    return np.ones(mixture.rows) if weights is None else np.asarray(weights, float)


def _evaluate(mixture: Any, draws: dict[str, np.ndarray]) -> dict[str, Any]:
    from bayesmix.draws import evaluate_draws

    return evaluate_draws(mixture, draws)


# One naming of the clusters: EM's.


class Aligned(NamedTuple):
    """Draws with clusters named as in EM, and how they came by the names.

    draws : site -> (chain, draw, *shape). resp : (N, K) posterior-averaged responsibilities.
    renamed : share of draws whose names relabelling changed. pivot : "em" or "draw".
    """

    draws: dict[str, np.ndarray]
    resp: np.ndarray
    renamed: float
    pivot: str


def aligned(em: Any, nuts: Any, tree: Any) -> Aligned:
    """Relabelled draws of NUTS; tree : its DataTree."""
    from bayesmix.relabel import relabel

    tree = relabel(tree, mixture=nuts.mixture)
    names = json.loads(tree.attrs.get("site_names", "{}"))
    draws = {s: tree["posterior"][names.get(s, s)].to_numpy() for s in nuts.mixture.sites}
    resp = _mean_responsibilities(tree, draws, nuts.mixture)
    classes = json.loads(tree.attrs.get("exchangeable", "[]"))
    perm = _perm_to_em(_flat_resp(em.responsibilities), resp, classes)
    for name, site in nuts.mixture.sites.items():
        if site.cluster_axis is not None:
            draws[name] = np.take(draws[name], perm, axis=2 + site.cluster_axis)
    renamed = float(tree.attrs.get("relabel_changed", 0.0))
    return Aligned(draws, resp[:, perm], renamed, str(tree.attrs.get("relabel_pivot", "em")))


def _flat_resp(resp: Any) -> np.ndarray:
    """(rows, K), whatever the number of row dims."""
    resp = np.asarray(resp, float)
    return resp.reshape(-1, resp.shape[-1])


def _mean_responsibilities(tree: Any, draws: dict[str, np.ndarray], mixture: Any) -> np.ndarray:
    """Mean over draws (N, K); where too large to be stored, over evenly thinned draws."""
    if "responsibilities" in tree.children:
        resp = tree["responsibilities"]["resp"].to_numpy()
        return _flat_resp(resp.mean(axis=(0, 1)))
    chains, length = next(iter(draws.values())).shape[:2]
    few = max(1, int(100e6 / (8 * chains * mixture.N * mixture.K)))
    step = max(1, -(-length // few))
    thin = {name: values[:, ::step] for name, values in draws.items()}
    return _flat_resp(np.mean(_evaluate(mixture, thin)["responsibilities"], axis=(0, 1)))


def _perm_to_em(em: np.ndarray, nuts: np.ndarray, classes: Sequence[Sequence[int]]) -> np.ndarray:
    """perm with nuts[:, perm] closest to em, moving only exchangeable clusters."""
    from scipy.optimize import linear_sum_assignment

    perm = np.arange(em.shape[1])
    shared = em.T @ nuts
    for members in (np.asarray(c) for c in classes if len(c) > 1):
        perm[members] = members[
            linear_sum_assignment(shared[np.ix_(members, members)], maximize=True)[1]
        ]
    return perm


# Rows of the tables.


def invariant_rows(
    em: Any, em_tree: Any, nuts_tree: Any
) -> Iterator[tuple[str, float, np.ndarray]]:
    """(name, EM's value, draws) of each quantity that does not depend on clusters' names."""
    at, draws = _invariants(em_tree), _invariants(nuts_tree)
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


def parameters(em: Any, nuts: Any) -> list[Parameter]:
    """Every parameter, relabelled, clusters named as in EM; raises like `card`."""
    check_same_question(em, nuts)
    return list(rows_of(em, aligned(em, nuts, nuts.to_datatree()).draws))


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


def table_of(rows: Iterable[tuple[str, float, np.ndarray]]) -> pd.DataFrame:
    """One row of statistics per (name, EM's value, draws (chain, draw))."""
    import pandas as pd

    names, points, draws = zip(*rows, strict=True)
    return pd.DataFrame(
        [_summary(point, x) for point, x in zip(points, draws, strict=True)],
        index=pd.Index(names, name="quantity"),
    )


def _summary(point: float, draws: np.ndarray) -> dict[str, float]:
    """One row; draws : (chain, draw)."""
    from arviz_stats.base import array_stats

    mean, sd = float(draws.mean()), float(draws.std(ddof=1)) if draws.size > 1 else NAN
    lb, ub = np.quantile(draws, [(1 - PROB) / 2, (1 + PROB) / 2])
    moves = draws.shape[1] >= 4 and np.isfinite(draws).all() and sd > 1e-12 * abs(mean)
    several = moves and draws.shape[0] > 1
    return {
        "map": point,
        "mean": mean,
        "sd": sd,
        "eti95_lb": float(lb),
        "eti95_ub": float(ub),
        "map_in_sd": (point - mean) / sd if moves else NAN,
        "r_hat": float(array_stats.rhat(draws)) if several else NAN,
        "ess_bulk": float(array_stats.ess(draws, method="bulk")) if moves else NAN,
        "ess_tail": float(array_stats.ess(draws, method="tail", prob=TAIL)) if moves else NAN,
        "mcse_mean": float(array_stats.mcse(draws)) if moves else NAN,
    }


def unconstrained(em: Any, rows: Sequence[Parameter]) -> np.ndarray:
    """The mode in NUTS's unconstrained space, a column of `parameters`; NaN where there is none."""
    from bayesmix.laplace import unconstrained_mode

    mode = unconstrained_mode(em.mixture, em.params)
    if mode is None:
        return np.full(len(rows), NAN)
    return np.array([float(np.asarray(mode[row.site])[row.at]) for row in rows])


def observations_of(em: Any, nuts: np.ndarray) -> pd.DataFrame:
    """One row per observation; nuts : posterior-averaged responsibilities (N, K)."""
    import pandas as pd

    mine = _flat_resp(em.responsibilities)
    row = np.arange(len(mine))
    first, second = mine.argmax(1), nuts.argmax(1)
    return pd.DataFrame(
        {
            "em_cluster": first,
            "em_prob": mine[row, first],
            "nuts_cluster": second,
            "nuts_prob": nuts[row, second],
            "same_prob": nuts[row, first],
            "overconfidence": mine[row, first] - nuts[row, first],
            "em_entropy": _entropy(mine),
            "nuts_entropy": _entropy(nuts),
        },
        index=_row_index(em.mixture),
    )


def _entropy(resp: np.ndarray) -> np.ndarray:
    return -np.sum(resp * np.log(np.where(resp > 0, resp, 1.0)), axis=-1) + 0.0


def _row_index(mixture: Any) -> pd.Index:
    import pandas as pd

    if len(mixture.rows) > 1:
        return pd.MultiIndex.from_product(
            [range(n) for n in mixture.rows], names=list(mixture.row_dims)
        )
    index = getattr(mixture, "index", None)
    return pd.Index(range(mixture.N) if index is None else index, name=mixture.row_dims[0])


def higher(em: Any, tree: Any) -> float:
    """By how many nats the best draw exceeds EM's MAP; negative when it does not."""
    return float(np.nanmax(tree["invariant"]["log_joint"].to_numpy())) - float(em.log_joint)
