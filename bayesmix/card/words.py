"""The card's sentences: the verdict, the notes, and the one-line descriptions.

Lives here: every number that a sentence uses (`facts_of`), and the sentences that no other room has
already. Does not live here: how they are laid out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesmix.card.observations import OVERCONFIDENT, calibration_error
from bayesmix.card.sources import Source
from bayesmix.diagnose import words as chains
from bayesmix.diagnose.words import HIGHER, count, start_sentence
from bayesmix.relabel.report import listed

if TYPE_CHECKING:
    import pandas as pd

CERTAIN = 0.99
CALIBRATED = 0.02  # expected calibration error up to which EM's responsibilities will do
AS_GOOD = 0.05  # share of its expected loss that another partition may cost more
NAN = float("nan")

MODE_SENTENCE = (
    "MAP: the highest point of the density of the constrained parameters (no Jacobian), the one "
    "that textbook MAP-EM and NumPyro's AutoDelta mean."
)
BOOTSTRAP_SENTENCE = (
    "These draws are EM's estimates on reweighted rows: they show how EM's answer varies, and "
    "nothing checks how close that is to the posterior; run NUTS, or em.laplace."
)
JUDGED = {"SMC": "SMC", "Laplace": "Laplace's approximation"}  # their results judge themselves
BY_NAME = "(Compared by names that cannot be trusted.)"
PROVISIONAL = "Until the draws can be trusted, all that is held against them is provisional."

# Facts.


def facts_of(em: Any, sources: Sequence[Source], tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Every number that a sentence uses; tables : of the card, by name."""
    first = sources[0]
    invariant, parameters = tables["invariant"], tables["parameters"]
    return {
        "reference": first.kind,
        "draws": int(next(iter(first.draws.values())).shape[1]),
        "chains": int(next(iter(first.draws.values())).shape[0]),
        "seconds_em": float(em.seconds),
        "seconds_nuts": float(first.result.seconds) if first.kind == "NUTS" else NAN,
        "converged": bool(em.converged),
        "regular": bool(em.modes[0].regular) if len(em.modes) else True,
        "drop": float(em.log_joint) - float(invariant.loc["log_joint", "mean"]),
        "expected_drop": em.n_parameters / 2,
        "higher": float(np.nanmax(first.tree["invariant"]["log_joint"])) - float(em.log_joint),
        "renamed": float(first.tree.attrs["relabel_changed"]),
        "pivot": str(first.tree.attrs["relabel_pivot"]),
        "farthest": _farthest(parameters["map_in_sd"]),
        "unconstrained": _farthest(
            (parameters["unconstrained_mode"] - parameters["map"]) / parameters["sd"]
        ),
        "entropy_draws": float(invariant.loc["entropy", "mean"]),
        **_draws_facts(em, first),
        **_names_facts(first),
        **_observation_facts(tables["observations"], tables["calibration"]),
    }


def _draws_facts(em: Any, source: Source) -> dict[str, Any]:
    """Whether the draws can be trusted, by the room that judges such draws."""
    if source.kind == "NUTS":
        from bayesmix.diagnose import diagnose, numbers

        found = diagnose(source.tree, mixture=source.result.mixture)
        facts = numbers.facts_of(source.tree, found.quantities, found.chains)
        keep = (
            "kind",
            "rhat_invariant",
            "rhat_parameters",
            "ess_invariant",
            "divergences",
            "stays",
        )
        tables = {"chain_table": found.chains, "cluster_table": found.clusters}
        return {name: facts[name] for name in keep} | tables
    from bayesmix.symmetry import exchangeable

    free = any(len(c) > 1 for c in exchangeable(em.mixture, em.params))
    judged = (BOOTSTRAP_SENTENCE, False)
    if source.kind in JUDGED:
        judged = (f"{JUDGED[source.kind]}: {source.result.verdict}.", source.result.trusted)
    return {"kind": "relabelled" if free else "as declared", "judged": judged}


def _names_facts(source: Source) -> dict[str, Any]:
    from bayesmix.relabel.report import label_report

    found = label_report(source.thinned, mixture=source.result.mixture)
    return {"names": found.verdict, "names_trusted": found.trusted}


def _observation_facts(observations: pd.DataFrame, calibration: pd.DataFrame) -> dict[str, Any]:
    gap = observations["overconfidence"]
    both = observations["em_prob"] > CERTAIN
    return {
        "N": len(observations),
        "moved": int((observations["em_cluster"] != observations["posterior_cluster"]).sum()),
        "overconfident": int((gap > OVERCONFIDENT).sum()),
        "em_certain": int(both.sum()),
        "certain_lost": int((both & (observations["same_prob"] < CERTAIN)).sum()),
        "entropy_em": float(observations["em_entropy"].mean()),
        "entropy_posterior": float(observations["posterior_entropy"].mean()),
        "calibration_error": calibration_error(calibration),
        "wrong_em": float((1 - observations["em_prob"]).sum()),
        "wrong_posterior": float((1 - observations["same_prob"]).sum()),
    }


def _farthest(shift: pd.Series) -> tuple[str, float]:
    """Name and size (in sd) of the largest shift; ("", nan) when there is none."""
    known = shift.abs().dropna()
    return (str(known.idxmax()), float(shift[known.idxmax()])) if len(known) else ("", NAN)


# What may be trusted.


class Part(NamedTuple):
    """One part of what a fit says: whether it may be used as it stands, and why."""

    name: str
    trusted: bool
    because: str


def parts(f: dict[str, Any]) -> list[Part]:
    """The draws first; while they are not trusted, nothing that is held against them is."""
    named, doubt = f["names_trusted"], "" if f["names_trusted"] else f" {BY_NAME}"
    em_settled = f["converged"] and f["regular"] and f["higher"] <= HIGHER
    near = not abs(f["farthest"][1]) > 1
    calibrated = f["calibration_error"] <= CALIBRATED
    as_good = f["excess"] <= AS_GOOD * f["expected_vi"] + 1e-9
    rest = [
        Part("names of the clusters", named, f["names"]),
        Part(
            "EM's MAP as a posterior mean", named and em_settled and near, map_sentence(f) + doubt
        ),
        Part("EM's responsibilities", named and calibrated, responsibility_sentence(f) + doubt),
        Part("EM's partition", as_good, partition_sentence(f)),
    ]
    sound = trusted(f)
    return [
        Part(f"draws ({f['reference']})", sound, gist(f)),
        *(part._replace(trusted=sound and part.trusted) for part in rest),
    ]


def trusted(f: dict[str, Any]) -> bool:
    """Whether the draws themselves can be trusted."""
    return chains.trusted(f) if f["reference"] == "NUTS" else f["judged"][1]


def gist(f: dict[str, Any]) -> str:
    """Whether the draws themselves can be trusted, in one sentence."""
    return chains.gist(f) if f["reference"] == "NUTS" else f["judged"][0]


def needs_care(f: dict[str, Any]) -> bool:
    """Whether the reader should hesitate."""
    return not (trusted(f) and f["converged"] and f["regular"] and f["names_trusted"])


def verdict(f: dict[str, Any]) -> Iterator[str]:
    """The gist first, then what may be used, then why."""
    draws, *rest = parts(f)
    yield draws.because
    yield _summary(rest) if draws.trusted else PROVISIONAL
    if not f["converged"]:
        yield "EM did not converge (see its line above): its MAP is provisional."
    if not f["regular"]:
        yield "EM found no regular mode: its MAP lies where the log joint is degenerate."
    if f["reference"] == "NUTS":
        yield from chains.objections(f, f["chain_table"], f["cluster_table"])
    elif f["higher"] > HIGHER:
        yield chains.higher_sentence(f)
    yield from (part.because for part in rest)


def _summary(rest: Sequence[Part]) -> str:
    may = [part.name for part in rest if part.trusted]
    not_yet = [part.name for part in rest if not part.trusted]
    yes = [f"May be used: {listed(may)}."] if may else []
    no = [f"Not as they stand: {listed(not_yet)}."] if not_yet else []
    return " ".join(yes + no)


def map_sentence(f: dict[str, Any]) -> str:
    """How far the MAP lies from the posterior mean."""
    name, shift = f["farthest"]
    if not name:
        return "No parameter moves, so the MAP is the posterior mean."
    if abs(shift) > 1:
        return f"The MAP is not the posterior mean: {name} lies {shift:+.1f} sd from it."
    return f"The MAP lies within 1 sd of the posterior mean (farthest: {name}, {shift:+.1f} sd)."


def responsibility_sentence(f: dict[str, Any]) -> str:
    """What averaging over the posterior does to the observations."""
    moved = (
        "No observation changes cluster"
        if f["moved"] == 0
        else f"{f['moved']} of {count(f['N'], 'observation')} "
        f"{'changes' if f['moved'] == 1 else 'change'} cluster"
    )
    over = (
        f"EM is overconfident by more than {OVERCONFIDENT:.2f} about "
        f"{count(f['overconfident'], 'observation')}"
        if f["overconfident"]
        else f"EM is nowhere overconfident by more than {OVERCONFIDENT:.2f}"
    )
    return (
        f"{moved} when EM's responsibilities are averaged over the posterior; {over} (expected "
        f"calibration error {f['calibration_error']:.4f})."
    )


def partition_sentence(f: dict[str, Any]) -> str:
    """What EM's partition would cost in place of the point estimate, and how sure that is."""
    low, high = f["rand_range"]
    same = f["em_vi"] < 1e-9
    if f["estimate_number"] == 1:  # the index is then 0, whatever the draws
        sure = (
            "so observations cannot be told apart one by one, however clear the parameters of the "
            "clusters may be"
        )
    else:
        of = "it" if same else "the estimate"
        sure = f"90% of the draws have an adjusted Rand index of {low:.2f} to {high:.2f} with {of}"
    if same:
        found = f"EM's partition is the posterior's point estimate, {f['estimate_clusters']}"
        return f"{found}; {sure}."
    more = _percent(f["excess"], f["expected_vi"])
    return (
        f"EM's partition ({f['em_clusters']}) is expected to cost {more} more than the posterior's "
        f"point estimate, which lies {f['em_vi']:.3f} bits of VI (adjusted Rand {f['em_rand']:.3f})"
        f" from it and has {f['estimate_clusters']}; {sure}."
    )


def _percent(excess: float, of: float) -> str:
    """A share in words; a cost of nothing has no share."""
    return f"{excess / of:.0%}" if of > 0 else f"{excess:.3f} bits"


# Lines of the sections.


def uncertainty_lines(f: dict[str, Any]) -> tuple[str, ...]:
    """How sure of the clusters EM is, and how sure the posterior."""
    return (
        f"mean entropy of responsibilities: {f['entropy_em']:.4f} nats at the MAP, "
        f"{f['entropy_posterior']:.4f} averaged over the posterior "
        f"({f['entropy_draws']:.4f} within draws, the rest is parameter uncertainty)",
        f"more than {CERTAIN:.2f} certain: {f['em_certain']} of {f['N']} at the MAP; "
        f"{f['certain_lost']} of them no longer after averaging",
        f"{f['moved']} of {f['N']} observations change cluster; EM overconfident by more than "
        f"{OVERCONFIDENT:.2f} about {f['overconfident']}",
    )


def calibration_lines(f: dict[str, Any]) -> tuple[str, ...]:
    """Whether EM's probabilities are what they say."""
    return (
        f"put each where EM thinks it most probable: EM expects {f['wrong_em']:.2f} of {f['N']} to "
        f"be wrong, the posterior {f['wrong_posterior']:.2f}",
        f"expected calibration error {f['calibration_error']:.4f} (mean over observations of the "
        f"gaps below; up to {CALIBRATED:.2f} will do)",
    )


def partition_lines(f: dict[str, Any]) -> tuple[str, ...]:
    """What the posterior says about the partition."""
    occupied = listed(
        f"{number} ({share:.0%})" for number, share in enumerate(f["occupied"]) if share >= 0.005
    )
    some = f["partition_rows"] < f["N"]
    of = f"a random {f['partition_rows']} of {f['N']}" if some else f"all {f['N']}"
    lies = (
        ", EM's partition"
        if f["em_vi"] < 1e-9
        else f"; EM's has {f['em_clusters']}, and in its place is expected to cost "
        f"{f['excess']:.4f} ± {2 * f['excess_mcse']:.1g} bits more"
    )
    return (
        f"point estimate, of least expected VI: {f['estimate_clusters']}{lies}",
        f"occupied clusters, and their posterior probability: {occupied}",
        f"from one assignment of {of} observations for each of {f['partition_draws']} draws; VI is "
        f"0 to {f['most_vi']:.1f} bits, adjusted Rand 1 for equal partitions and 0 by chance",
    )


# Notes and headings.


def notes(em: Any, sources: Sequence[Source], tables: Any, f: dict[str, Any]) -> Iterator[str]:
    """What to know when reading the numbers."""
    for each in sources:
        yield _origin(each)
    for each in sources[1:]:
        yield _beside(each, sources[0].kind, tables["parameters"])
    name, shift = f["unconstrained"]
    yield MODE_SENTENCE + (
        f" NUTS moves in unconstrained space, whose highest point lies elsewhere: farthest in "
        f"{name}, {shift:+.2f} sd."
        if name
        else " The highest point in NUTS's unconstrained space lies elsewhere (Newton found none)."
    )
    yield from _rivals(em)
    yield (
        f"Log joint: draws lie {f['drop']:.1f} nats below the MAP on average; a Gaussian posterior "
        f"of {em.n_parameters} parameters would lie {f['expected_drop']:.1f} below."
    )
    few = sources[0].thinned["posterior"].sizes["draw"]
    if few < f["draws"]:
        yield (
            f"Responsibilities, names and partitions were looked at in {few} evenly spaced of the "
            f"{f['draws']} draws per chain, as all would be too large."
        )
    yield from (f"EM: {note}" for note in em.notes)
    yield from (f"{each.kind}: {note}" for each in sources for note in each.result.notes)


def _origin(source: Source) -> str:
    """Where draws come from, and what that means for them."""
    result = source.result
    if source.kind == "NUTS":
        return start_sentence(result.start_policy, result.start is not None)
    known = f"{source.kind}: {result.start_policy}"
    return f"{known}; {result.verdict}." if source.kind in JUDGED else f"{known}."


def _beside(source: Source, reference: str, table: pd.DataFrame) -> str:
    """How far another result's means and standard deviations lie from the reference's."""
    prefix, moves = f"{source.kind.lower()}_", table["sd"] > 0
    shift = ((table[f"{prefix}mean"] - table["mean"]) / table["sd"])[moves]
    ratio = (table[f"{prefix}sd"] / table["sd"])[moves]
    name, size = _farthest(shift)
    return (
        f"{source.kind} beside {reference}: parameters' means differ by at most {abs(size):.2f} sd "
        f"({name}), standard deviations are {ratio.min():.2f} to {ratio.max():.2f} times as large."
    )


def _rivals(em: Any) -> Iterator[str]:
    """How far below the MAP EM's next regular mode lies."""
    others = [m for m in list(em.modes)[1:] if m.regular]
    if others:
        yield (
            f"EM's next regular mode lies {em.log_joint - others[0].log_joint:.2f} nats below the "
            f"MAP ({count(others[0].starts, 'start')}); em.modes lists them all."
        )


def title_of(mixture: Any) -> str:
    """The task in one line."""
    return (
        f"{count(mixture.N, 'observation')} of {mixture.name!r}, "
        f"{count(mixture.K, 'cluster')}, {mixture.family} components"
    )


def em_line(em: Any) -> str:
    """EM in one line."""
    return (
        f"{_seconds(em.seconds)}; log joint {em.log_joint:.3f}; "
        f"{count(len(em.modes), 'distinct mode')}; {em.steps} steps: {em.stop.rstrip('.')}"
    )


def source_line(source: Source, f: dict[str, Any]) -> str:
    """One other result in one line."""
    result = source.result
    took, many = _seconds(result.seconds), next(iter(source.draws.values())).shape[1]
    if source.kind == "NUTS":
        return (
            f"{took}; {count(f['chains'], 'chain')} x {f['draws']} draws; "
            f"{count(f['divergences'], 'divergence')}"
        )
    if source.kind == "SMC":
        evidence = f"{result.log_evidence:.3f} +- {result.log_evidence_error:.3f}"
        return f"{took}; {many} draws that count alike; log evidence {evidence}"
    if source.kind == "Laplace":
        return f"{took}; {many} independent draws, taken by their weights; k-hat {result.k_hat:.2f}"
    return f"{took}; {many} replicates of EM, {result.settings['weights']} row weights"


def relabelling_line(f: dict[str, Any]) -> str:
    """What was done to the names of the clusters."""
    if f["kind"] != "relabelled":
        return "not relabelled: the priors already tell the clusters apart"
    pivot = "EM's MAP" if f["pivot"] == "em" else "the draw of highest log joint"
    return f"relabelled (ECR, pivot {pivot}): {f['renamed']:.0%} of the draws changed names"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
