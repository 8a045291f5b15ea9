"""Whether draws of a mixture can be trusted, from quantities that survive label switching.

Lives here: the report. `numbers` makes its tables, `words` its sentences (and those that the card
shares). Does not live here: the names of clusters, see `bayesmix.label_report`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayesmix.diagnose import numbers, words
from bayesmix.relabel import relabel
from bayesmix.relabel.tree import check, shape_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray

LEAST_DRAWS = 4


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found; printing it gives the verdicts in words.

    trusted : whether nothing speaks against using the draws. verdict : the gist; findings : what
    speaks against them, and what the numbers do not say.
    quantities : DataFrame, one row per quantity: `kind` ("label-invariant"; "relabelled" or, where
        no cluster may be renamed, "as declared"; "shared" for sites without clusters), `mean`,
        `sd`, `r_hat`, `ess_bulk`, `ess_tail`, `mcse_mean`.
    chains : DataFrame, one row per chain: `mode` (chains of one number agree up to names),
        `log_joint` (mean, nats), `best` (highest), `em_distance` (share of observations that EM's
        MAP puts elsewhere than the chain's mean), `in_em_mode`.
    clusters : DataFrame, one row per cluster: `share` of the observations, `empty` (share of draws
        in which it holds less than one observation), `duplicate_of` and `duplicate` (the cluster
        most often equal to it, and in what share of the draws), and for each site the distance of
        its posterior from its prior (Kolmogorov-Smirnov, 0 to 1) where the tree has prior draws.
    """

    trusted: bool
    verdict: str
    findings: tuple[str, ...]
    quantities: pd.DataFrame
    chains: pd.DataFrame
    clusters: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """One row per quantity."""
        return self.quantities

    def __repr__(self) -> str:
        return "\n".join([self.verdict, *(f"- {finding}" for finding in self.findings)])


def diagnose(tree: xarray.DataTree, *, mixture: Any = None) -> Diagnosis:
    """R-hat, effective sample sizes and modes of a mixture's draws, with a verdict in words.

    First come quantities that no renaming of clusters changes: log joint, entropy of the
    responsibilities, sorted weights, log density and similarity at six probe observations (from the
    least clear on). Relabelled parameters are listed beside, marked as
    such. Then: which chains sit in different modes, whether that is EM's mode, empty and duplicate
    clusters, and clusters about which the data say little (only where the tree has prior draws,
    `to_datatree(prior_key=...)`).

    tree : draws of NUTS or from elsewhere (`bm.adopt`), relabelled or not. mixture : as in
    `bm.relabel`. Raises ValueError for EM's single point, for independent draws (Laplace,
    bootstrap), which have no chains, and for less than 4 draws per chain.
    Source of the bounds: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), Bayesian
    Anal. 16(2), 667-718: R-hat below 1.01, 400 effective draws.
    """
    check(tree)
    _refuse_points(tree)
    named = tree if "relabelled" in tree.attrs else relabel(tree, mixture=mixture)
    found = numbers.visit(named, mixture)
    quantities = numbers.quantities_of(named, found)
    chains = numbers.chains_of(named, found)
    clusters = numbers.clusters_of(named, found)
    facts = numbers.facts_of(named, quantities, chains)
    return Diagnosis(
        trusted=words.trusted(facts),
        verdict=words.gist(facts),
        findings=tuple(words.findings(facts, chains, clusters)),
        quantities=quantities,
        chains=chains,
        clusters=clusters,
    )


def _refuse_points(tree: xarray.DataTree) -> None:
    chains, draws = shape_of(tree)
    if tree.attrs.get("inference_method") == "em":
        raise ValueError(
            "this is the tree of an EM result, one point: R-hat and effective sample sizes are of "
            "draws; run bm.NUTS(program).run(key, ..., start=em)"
        )
    if tree.attrs.get("draws_are") == "independent":
        raise ValueError(
            f"these are independent draws ({tree.attrs.get('inference_method')}), no chains whose "
            "agreement could be looked at: the result's own verdict says how far to trust them, "
            "bm.label_report whether their clusters have names"
        )
    if draws < LEAST_DRAWS:
        raise ValueError(
            f"{chains} chains x {draws} draws are too few for R-hat: give at least {LEAST_DRAWS} "
            "draws per chain"
        )
