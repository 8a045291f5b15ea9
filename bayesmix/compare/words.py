"""What may be concluded from a comparison, in words.

Lives here: bounds and sentences. Does not live here: the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np

from bayesmix.compare.contenders import Contender
from bayesmix.density import Data, Density, data_of, density_of
from bayesmix.diagnose.words import RHAT_BAD, RHAT_GOOD, count, rhat_text
from bayesmix.estimate import EMResult
from bayesmix.importance import bound
from bayesmix.program import Params
from bayesmix.relabel.report import listed
from bayesmix.relabel.tree import dataset, shape_of

if TYPE_CHECKING:
    import pandas as pd

SMALL = 4.0  # nats of elpd below which no difference is worth its name (Sivula et al.)
ERRORS = 2.0  # standard errors
FEW_ROWS = 100  # below which the standard error of a difference is too small (Sivula et al.)
STRONG = 6.0  # difference of BIC, or of twice the log evidence (Kass & Raftery)
EQUAL = 1e-8  # slope of the log prior, relative to the params' own size


def verdict(by: str, table: pd.DataFrame) -> str:
    """Which is best, and which others are as good, in one sentence."""
    best, *others = table.index
    near = [name for name in others if not _apart(by, table, name)]
    what = {
        "elpd": "predicts left-out rows best",
        "log_evidence": "has the most evidence",
        "bic": "has the smallest BIC",
    }[by]
    runner = f"{others[0]!r} is {_distance(by, table, others[0])} behind"
    if not near:
        return f"{best!r} {what}: {runner}."
    return (
        f"{best!r} {what}, but {listed([repr(n) for n in near])} cannot be told from it: {runner}."
    )


def _apart(by: str, table: pd.DataFrame, name: str) -> bool:
    row = table.loc[name]
    if by == "elpd":
        return -row["elpd_diff"] > max(SMALL, ERRORS * row["dse"])
    if by == "log_evidence":
        error = np.hypot(row["log_evidence_error"], table["log_evidence_error"].iloc[0])
        return -row["log_bayes_factor"] > max(STRONG / 2, ERRORS * error)
    return row["bic_diff"] > STRONG


def _distance(by: str, table: pd.DataFrame, name: str) -> str:
    row = table.loc[name]
    if by == "elpd":
        return f"{-row['elpd_diff']:.1f} ± {row['dse']:.1f} nats"
    if by == "log_evidence":
        error = np.hypot(row["log_evidence_error"], table["log_evidence_error"].iloc[0])
        return f"{-row['log_bayes_factor']:.2f} ± {error:.2f} nats"
    return f"{row['bic_diff']:.1f}"


def findings(table: pd.DataFrame, contenders: Sequence[Contender]) -> Iterator[str]:
    """What speaks against reading more into the table."""
    if "elpd" in table:
        yield from _of_predictions(table, contenders)
    if "log_evidence" in table:
        yield from _of_evidences(contenders)
    if "bic" in table:
        yield from _of_criteria(table, contenders)
    if any(c.weights is not None for c in contenders):
        yield "Rows carry weights: a row counts, and is left out, with all of its weight."


def _of_predictions(table: pd.DataFrame, contenders: Sequence[Contender]) -> Iterator[str]:
    split = table["r_hat"][table["r_hat"] > RHAT_GOOD]
    for name, value in split.items():
        agree = "do not agree" if value > RHAT_BAD else "do not quite agree yet"
        yield (
            f"The chains of {name!r} {agree} (R-hat {rhat_text(value)} on label-invariant "
            "quantities): its numbers are not those of its posterior; nuts.report() says more."
        )
    bad = table["bad_k"][table["bad_k"] > 0]
    if len(bad):
        where = ", ".join(f"{count(int(n), 'row')} of {name!r}" for name, n in bad.items())
        yield (
            f"k-hat is above {_bound(contenders):.2f} for {where}: leaving these out changes the "
            "posterior too much for a reweighting, so elpd is too high there by an unknown amount."
        )
    sizes = dataset(contenders[0].tree, "log_likelihood").sizes
    rows = math.prod(size for dim, size in sizes.items() if dim not in ("chain", "draw"))
    if rows < FEW_ROWS:
        yield (
            f"{count(rows, 'row')} are few: the standard error of a difference tends to be too "
            "small below 100."
        )
    yield (
        "Leave-one-out asks which mixture predicts best, not how many clusters there are: one "
        "component too many costs it little. For clusters look at bm.partition and bm.n_occupied."
    )


def _bound(contenders: Sequence[Contender]) -> float:
    sizes = [shape_of(c.tree) for c in contenders]
    return min(bound(math.prod(shape)) for shape in sizes)


def _of_evidences(contenders: Sequence[Contender]) -> Iterator[str]:
    for contender in contenders:
        if not contender.result.trusted:
            yield f"The evidence of {contender.name!r} is in doubt: {contender.result.verdict}."
    yield (
        "The evidence is of the model with its priors: the wider the prior of a component, the "
        "more each further one costs. Priors that were not meant make probabilities that mean "
        "nothing."
    )


def _of_criteria(table: pd.DataFrame, contenders: Sequence[Contender]) -> Iterator[str]:
    for measure in ("icl", "aic"):
        if table[measure].idxmin() != table.index[0]:
            yield f"{measure.upper()} prefers {table[measure].idxmin()!r}: {REASONS[measure]}."
    for contender in contenders:
        result = contender.result
        if not result.converged:
            yield f"EM of {contender.name!r} did not converge: {result.stop}."
        if not result.modes[0].regular:
            yield f"No regular mode of {contender.name!r} was found: {result.modes[0].reason}."
    sloped = [repr(c.name) for c in contenders if _prior_matters(c.result)]
    if sloped:
        yield (
            f"The priors of {listed(sloped)} are not flat: the criteria take the likelihood at the "
            "MAP, which is below its maximum, so they are not those of maximum likelihood."
        )


REASONS = {
    "icl": "it also charges for rows whose cluster is not clear",
    "aic": "it charges less for parameters, and tends to too many components",
}


@partial(jax.jit, static_argnums=0)
def _prior_slope(density: Density, params: Params, data: Data) -> Params:
    return jax.grad(density.log_prior)(params, data)


def _prior_matters(em: EMResult) -> bool:
    """Whether the log prior has a slope at the MAP."""
    with jax.enable_x64(True):
        params = {name: np.asarray(value, float) for name, value in em.params.items()}
        slope = _prior_slope(density_of(em.mixture), params, data_of(em.mixture))
    return any(
        bool((np.abs(np.asarray(slope[name]) * value) > EQUAL).any())
        for name, value in params.items()
    )
