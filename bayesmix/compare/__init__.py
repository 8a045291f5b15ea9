"""Which of several mixtures: another K, another family, another covariance, on the same data.

Each engine has its own answer. EM gives information criteria. Draws give leave-one-out prediction,
by ArviZ, gated by whether the chains agree. SMC and Laplace give the evidence. One table holds what
all of the given results can answer, and sentences say what may be concluded from it.

Lives here: `compare` and `Comparison`. `contenders` reads the results and refuses those that cannot
stand side by side, `tables` has the numbers, `words` the sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayesmix.compare import words
from bayesmix.compare.contenders import read
from bayesmix.compare.tables import shown, table_of
from bayesmix.sheet import Sheet, Shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """Mixtures side by side, the best first; printing it gives the table and what it means.

    by : what they are ranked by, "elpd", "log_evidence" or "bic".
    table : DataFrame, one row per mixture, index its name; `clusters` and, where all results give
        them:
        `elpd` (expected log predictive density of the rows, each left out, nats), `se`, `p`
        (effective number of parameters), `elpd_diff` (to the best, at most 0), `dse` (its standard
        error), `weight` (stacking), `bad_k` (rows whose k-hat is too large), `r_hat` (the largest
        of label-invariant quantities; NaN where the draws are no chains);
        `log_evidence` (nats), `log_evidence_error`, `log_bayes_factor` (to the best), `probability`
        (of the mixture if all were equally probable before);
        `log_likelihood` (at the MAP, nats), `n_parameters`, `aic`, `bic`, `icl` (smaller is
        better), `bic_diff` (to the best, at least 0).
    verdict : the gist. findings : what speaks against reading more into the table.
    """

    by: str
    table: pd.DataFrame
    verdict: str
    findings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table

    @property
    def _sheet(self) -> Sheet:
        findings = (f"- {finding}" for finding in self.findings)
        return Sheet(("The best first", shown(self.table), self.verdict, *findings))


def compare(results: Mapping[str, Any]) -> Comparison:
    """Rank mixtures that were fitted to the same data, {name: result}.

    results : two or more of EM (ranked by BIC), or of NUTS, SMC, Laplace and DataTrees (also from
    `bm.adopt`, with a group log_likelihood). NUTS and DataTrees are ranked by leave-one-out
    prediction, Laplace by the evidence; SMC has both, and stands beside either.

    Clusters may differ in number, family and prior: nothing here depends on their names. R-hat is
    of label-invariant quantities, and so is the relative efficiency that leave-one-out needs (the
    rows' own densities; that of labelled parameters would be spoiled by label switching).

    Raises ValueError for fewer than two results, for results of different data or row weights, for
    kinds that have nothing in common (EM beside NUTS), and for draws without pointwise log
    likelihood.

    Sources: Vehtari, Gelman & Gabry (2017), Stat. Comput. 27, 1413-1432 (PSIS-LOO); Sivula,
    Magnusson, Matamoros & Vehtari (2025), Bayesian Anal. (when a difference means something);
    Yao, Vehtari, Simpson & Gelman (2018), Bayesian Anal. 13(3) (stacking); Kass & Raftery (1995),
    JASA 90, 773-795 (how strong a difference of BIC or of log evidence is).
    """
    contenders = read(results)
    by, table = table_of(contenders)
    return Comparison(
        by=by,
        table=table,
        verdict=words.verdict(by, table),
        findings=tuple(words.findings(table, contenders)),
    )
