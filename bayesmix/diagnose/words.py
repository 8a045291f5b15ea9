"""The sentences of a diagnosis, which the card uses as well.

Lives here: bounds, the gist, and what may speak against draws. Does not live here: the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.relabel.report import listed

if TYPE_CHECKING:
    import pandas as pd

RHAT_GOOD = 1.01
RHAT_BAD = 1.05
ESS_GOOD = 400
HIGHER = 1e-3  # nats by which a draw must exceed EM's MAP to be news
OFTEN = 0.05  # share of draws
LIKE_PRIOR = 0.1  # Kolmogorov-Smirnov distance; a spread of two thirds of the prior's gives 0.1

START_SENTENCE = (
    "As every chain started at a mode that EM found, and draws were aligned to one pivot, a low "
    "R-hat comes partly by construction: it does not test for modes that EM never saw; dispersed "
    "starts do."
)
ALIGNED_SENTENCE = (
    "R-hat of relabelled parameters is low partly by construction, as all draws were aligned to "
    "one pivot; how the chains started is not known."
)
DISPERSED_SENTENCE = (
    "The chains did not start at EM's modes; R-hat of relabelled parameters is still low partly "
    "by construction, as all draws were aligned to one pivot."
)


def trusted(f: dict[str, Any]) -> bool:
    """Whether no number speaks against the draws as a whole."""
    settled = f["rhat_invariant"] <= RHAT_GOOD and f["rhat_parameters"] <= RHAT_GOOD
    enough = f["ess_invariant"] >= ESS_GOOD and f["divergences"] == 0
    return settled and enough and f["higher"] <= HIGHER and not f["stays"]


def gist(f: dict[str, Any]) -> str:
    """Whether the chains agree, and on what, in one sentence."""
    invariant, named = rhat_text(f["rhat_invariant"]), rhat_text(f["rhat_parameters"])
    if np.isnan(f["rhat_invariant"]):
        return (
            "One chain only (or a constant posterior): R-hat cannot be computed; run more chains."
        )
    if f["rhat_invariant"] > RHAT_BAD:
        return (
            f"The chains do not agree (R-hat up to {invariant} on label-invariant "
            f"quantities): do not use these draws; run longer or look for separate modes."
        )
    if f["rhat_invariant"] > RHAT_GOOD:
        return (
            f"The chains nearly agree (R-hat up to {invariant} on label-invariant quantities): "
            f"run them longer before relying on the numbers."
        )
    if f["ess_invariant"] < ESS_GOOD:
        return (
            f"The chains agree, but with an effective sample size of {f['ess_invariant']:.0f} the "
            f"numbers are rough: draw more."
        )
    if f["rhat_parameters"] > RHAT_GOOD:
        return (
            f"The chains agree on label-invariant quantities, but relabelled parameters do not "
            f"settle (R-hat up to {named}): the clusters' names cannot be "
            f"told apart reliably; trust label-invariant quantities only."
        )
    if f["stays"]:
        return (
            f"The chains agree (R-hat at most {invariant} label-invariant), but at least one stood "
            f"still for long, so what they visit rarely is uncertain."
        )
    return (
        f"The chains agree (R-hat at most {invariant} label-invariant, {named} "
        f"{f['kind']}): the posterior can be read."
    )


def divergence_sentence(f: dict[str, Any]) -> str:
    """What divergent transitions mean."""
    return (
        f"{count(f['divergences'], 'transition')} of {f['chains'] * f['draws']} diverged: the "
        f"sampler could not follow the posterior everywhere; intervals may be too short."
    )


def higher_sentence(f: dict[str, Any]) -> str:
    """What a draw above EM's MAP means."""
    return (
        f"One of the draws has a log joint {f['higher']:.2f} nats above EM's MAP: EM listed a "
        f"higher mode on few rows and did not return it (see its notes), or missed one (raise "
        f"restarts and fit again), or the log joint is unbounded."
    )


def findings(f: dict[str, Any], chains: pd.DataFrame, clusters: pd.DataFrame) -> Iterator[str]:
    """What speaks against the draws, the worst first; then how to read a low R-hat."""
    yield from objections(f, chains, clusters)
    yield from _prior_sentences(f, clusters)
    yield from _start_sentences(f)


def objections(f: dict[str, Any], chains: pd.DataFrame, clusters: pd.DataFrame) -> Iterator[str]:
    """What speaks against the draws, the worst first; and where EM's MAP lies among the chains."""
    if f["divergences"]:
        yield divergence_sentence(f)
    for sentence in f["stays"]:
        yield f"{sentence[0].upper()}{sentence[1:]}."
    yield from _mode_sentences(chains)
    if f["higher"] > HIGHER:
        yield higher_sentence(f)
    yield from _em_sentences(f, chains)
    yield from _cluster_sentences(clusters)


def _mode_sentences(chains: pd.DataFrame) -> Iterator[str]:
    groups = chains.groupby("mode").groups
    if len(groups) < 2:
        return
    where = "; ".join(
        f"{_chains(members)} at a mean log joint of {chains.loc[members, 'log_joint'].mean():.1f}"
        for members in groups.values()
    )
    yield (
        f"The chains sit in {len(groups)} different modes, more than relabelling can explain: "
        f"{where}. How many chains are in a mode says nothing about its posterior probability."
    )


def _em_sentences(f: dict[str, Any], chains: pd.DataFrame) -> Iterator[str]:
    if "in_em_mode" not in chains:
        return
    away = chains.index[~chains["in_em_mode"]]
    if len(away):
        share = chains.loc[away, "em_distance"].max()
        yield (
            f"{_chains(away).capitalize()} {'sits' if len(away) == 1 else 'sit'} in another mode "
            f"than EM's MAP, which puts {share:.0%} of the observations elsewhere, farther than "
            "any of their draws lies from their mean."
        )
    elif f["higher"] <= HIGHER:
        one = f["rhat_invariant"] <= RHAT_BAD  # else the chains move between modes themselves
        above = f"{-f['higher']:.2f} nats above the best draw"
        if one:
            yield f"EM's MAP is in the mode of all chains, {above}."
        else:
            yield f"The draws of every chain spread around EM's MAP; it is {above}."


def _cluster_sentences(clusters: pd.DataFrame) -> Iterator[str]:
    empty = clusters[clusters["empty"] > OFTEN]
    if len(empty):
        which = listed(f"{k} ({row.empty:.0%} of the draws)" for k, row in _rows(empty))
        yield (
            f"Empty clusters, which hold less than one observation: {which}. Their parameters are "
            "draws from the prior; fewer clusters may do."
        )
    pairs = {
        tuple(sorted((k, int(row.duplicate_of)))): row.duplicate
        for k, row in _rows(clusters[clusters["duplicate"] > OFTEN])
    }
    if pairs:
        which = listed(f"{j} and {k} ({share:.0%} of the draws)" for (j, k), share in pairs.items())
        yield f"Duplicate clusters, equal but for their weights: {which}. Fewer clusters may do."


def _prior_sentences(f: dict[str, Any], clusters: pd.DataFrame) -> Iterator[str]:
    columns = [name for name in clusters if str(name).startswith("from_prior(")]
    found = [
        f"{name.removeprefix('from_prior(').removesuffix(')')} of cluster {k}"
        for name in columns
        for k in clusters.index[clusters[name] < LIKE_PRIOR]
    ]
    if found:
        yield f"Hardly learnt from the data, the posterior is close to the prior: {listed(found)}."
    elif not f["prior"]:
        yield (
            "Whether the data say anything about each cluster was not checked: "
            "to_datatree(prior_key=...) adds the prior draws that this takes."
        )


def _start_sentences(f: dict[str, Any]) -> Iterator[str]:
    if f["policy"]:
        yield start_sentence(f["policy"], f["from_em"])
    elif f["kind"] == "relabelled":
        yield ALIGNED_SENTENCE


def start_sentence(policy: str, from_em: bool) -> str:
    """How the chains started, and what a low R-hat means after that and after relabelling."""
    starts = policy.removeprefix("starts: ").split(";")[0].rstrip(".")
    return f"Starts: {starts}. {START_SENTENCE if from_em else DISPERSED_SENTENCE}"


def _rows(table: pd.DataFrame) -> Any:
    return ((int(row.Index), row) for row in table.itertuples())


def _chains(members: Any) -> str:
    return f"{'chain' if len(members) == 1 else 'chains'} {listed(members)}"


def count(n: int, noun: str) -> str:
    """1 draw, 2 draws."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def rhat_text(value: float) -> str:
    """R-hat with the digits that matter."""
    return "–" if np.isnan(value) else f"{value:.3f}" if value < 10 else f"{value:.1f}"
