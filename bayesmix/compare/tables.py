"""The numbers of a comparison: leave-one-out prediction, evidence, information criteria."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from bayesmix.compare.contenders import Contender, common
from bayesmix.diagnose.numbers import summary
from bayesmix.importance import bound, tied_tail
from bayesmix.relabel.tree import dataset
from bayesmix.sheet import Table
from bayesmix.weigh import stack

if TYPE_CHECKING:
    import pandas as pd

PROBED = 64  # rows whose densities tell how many independent draws the draws are worth
DIGITS = {
    "elpd": 1, "se": 1, "p": 1, "elpd_diff": 1, "dse": 1, "weight": 2, "r_hat": 3,
    "log_evidence": 2, "log_evidence_error": 2, "log_bayes_factor": 2, "probability": 3,
    "log_likelihood": 2, "aic": 1, "bic": 1, "icl": 1, "bic_diff": 1,
}  # fmt: skip
LARGEST_FIRST = ("elpd", "log_evidence")


def table_of(contenders: Sequence[Contender]) -> tuple[str, pd.DataFrame]:
    """What ranks them, and the table, the best first."""
    import pandas as pd

    answers = common(contenders)
    index = pd.Index([c.name for c in contenders], name="mixture")
    parts = [pd.DataFrame({"clusters": [c.clusters for c in contenders]}, index=index)]
    parts += [TABLES[answer](contenders, index) for answer in answers]
    by = answers[0]
    order = parts[1][by].to_numpy()
    best_first = np.argsort(-order if by in LARGEST_FIRST else order, kind="stable")
    return by, pd.concat(parts, axis=1).iloc[best_first]


def shown(table: pd.DataFrame) -> Table:
    """The table as cells of text, each column with the decimals it deserves."""

    def cell(value: Any, digits: int) -> str:
        return "–" if value is None or value != value else f"{value:.{digits}f}"

    columns = [[cell(value, DIGITS.get(name, 0)) for value in table[name]] for name in table]
    rows = tuple(zip(map(str, table.index), *columns, strict=True))
    return Table(("", *table.columns), rows, "l" + "r" * len(columns))


def _predictions(contenders: Sequence[Contender], index: Any) -> pd.DataFrame:
    """Leave-one-out prediction. A difference is of pairs: most of a row's density is its own."""
    import pandas as pd

    found = [leave_one_out(contender) for contender in contenders]
    pointwise = np.stack([each["elpd_i"] for each in found], axis=1)
    N, elpd = len(pointwise), pointwise.sum(0)
    apart = pointwise - pointwise[:, [elpd.argmax()]]
    return pd.DataFrame(
        {
            "elpd": elpd,
            "se": np.sqrt(N * pointwise.var(0, ddof=1)),
            "p": [each["p"] for each in found],
            "elpd_diff": apart.sum(0),
            "dse": np.sqrt(N * apart.var(0, ddof=1)),
            "weight": stack(pointwise),
            "bad_k": [each["bad_k"] for each in found],
            "r_hat": [invariant_r_hat(contender.tree) for contender in contenders],
        },
        index=index,
    )


def leave_one_out(contender: Contender) -> dict[str, Any]:
    """ArviZ's PSIS-LOO of one mixture: elpd_i (N,) in nats, p, and the number of bad k-hats."""
    import arviz_stats

    tree = contender.tree
    log_likelihood = _pointwise(contender)
    with warnings.catch_warnings():  # k-hats are counted in the table, and put in words
        warnings.filterwarnings("ignore", message="Estimated shape parameter", category=UserWarning)
        found = arviz_stats.loo(tree, pointwise=True, reff=_efficiency(tree, log_likelihood))
    draws = int(np.prod(log_likelihood.shape[:2]))
    return {
        "elpd_i": np.asarray(found.elpd_i, float).reshape(-1),
        "p": float(found.p),
        "bad_k": int((np.asarray(found.pareto_k) > bound(draws)).sum()),
    }


def _pointwise(contender: Contender) -> np.ndarray:
    """Log likelihood (chain, draw, N), nats."""
    variables = list(dataset(contender.tree, "log_likelihood").values())
    if len(variables) != 1:
        raise ValueError(
            f"the tree {contender.name!r} has {len(variables)} variables of log likelihood: give "
            "one, summed over the sites that share an assignment"
        )
    values = variables[0].transpose("chain", "draw", ...).to_numpy()
    if not np.isfinite(values).all():
        row = np.argwhere(~np.isfinite(values.reshape(*values.shape[:2], -1)))[0][2]
        raise ValueError(
            f"the log likelihood of {contender.name!r} is not finite (first at row {row}): "
            "leave-one-out needs a density of every row in every draw"
        )
    values = values.reshape(*values.shape[:2], -1)
    still = tied_tail(-values.reshape(-1, values.shape[-1]).T)
    if still.any():
        raise ValueError(
            f"a chain of {contender.name!r} stands still (row {int(still.argmax())} has one "
            "density in all draws that fit it worst): leave-one-out needs draws that move"
        )
    return values


def _efficiency(tree: Any, log_likelihood: np.ndarray) -> float:
    """Independent draws that a draw is worth, for means of the rows' densities; at most 1.

    Of at most PROBED rows, evenly spaced. ArviZ would take the labelled parameters' by default,
    which label switching makes as small as it likes.
    """
    from arviz_stats.base import array_stats

    if tree.attrs.get("draws_are") == "independent":
        return 1.0
    some = log_likelihood[..., :: max(1, -(-log_likelihood.shape[-1] // PROBED))]
    density = np.exp(some - some.max((0, 1)))
    ess = [
        array_stats.ess(density[..., row], chain_axis=0, draw_axis=1, method="mean")
        for row in range(density.shape[-1])
    ]
    return float(min(np.nanmean(ess) / np.prod(some.shape[:2]), 1.0))


def invariant_r_hat(tree: Any) -> float:
    """The largest R-hat of log joint, entropy and sorted weights; NaN where there are no chains."""
    from xarray import DataTree

    chains = tree["log_likelihood"].sizes.get("chain", 1)
    independent = tree.attrs.get("draws_are") == "independent"
    if independent or chains < 2 or "invariant" not in tree.children:
        return np.nan
    quantities = DataTree.from_dict({"posterior": dataset(tree, "invariant")})
    return float(summary(quantities, kind="diagnostics")["r_hat"].max())


def _evidences(contenders: Sequence[Contender], index: Any) -> pd.DataFrame:
    """Log evidence of the whole model, and what follows if all were equally probable before."""
    import pandas as pd

    value = np.array([c.result.log_evidence for c in contenders])
    return pd.DataFrame(
        {
            "log_evidence": value,
            "log_evidence_error": [c.result.log_evidence_error for c in contenders],
            "log_bayes_factor": value - value.max(),
            "probability": softmax(value),
        },
        index=index,
    )


def _criteria(contenders: Sequence[Contender], index: Any) -> pd.DataFrame:
    """Information criteria of EM's best modes."""
    import pandas as pd

    names = ("log_likelihood", "n_parameters", "aic", "bic", "icl")
    table = pd.DataFrame(
        {name: [getattr(c.result, name) for c in contenders] for name in names}, index=index
    )
    return table.assign(bic_diff=table["bic"] - table["bic"].min())


TABLES = {"elpd": _predictions, "log_evidence": _evidences, "bic": _criteria}
