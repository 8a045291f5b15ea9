"""The card's sentences: the verdict, the notes, and the one-line descriptions.

Lives here: every number that a sentence uses (`facts_of`), and the sentences. Does not live here:
how they are laid out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.diagnose.words import (
    HIGHER,
    count,
    divergence_sentence,
    gist,
    higher_sentence,
    start_sentence,
    trusted,
)

if TYPE_CHECKING:
    import pandas as pd

OVERCONFIDENT = 0.05  # EM's probability exceeds the posterior-averaged one by more than this
CERTAIN = 0.99
NAN = float("nan")

MODE_SENTENCE = (
    "MAP: the highest point of the density of the constrained parameters (no Jacobian), the one "
    "that textbook MAP-EM and NumPyro's AutoDelta mean."
)


def facts_of(
    em: Any,
    nuts: Any,
    invariant: pd.DataFrame,
    parameters: pd.DataFrame,
    observations: pd.DataFrame,
) -> dict[str, Any]:
    """Every number that a sentence uses."""
    from bayesmix.symmetry import exchangeable

    chains, draws = next(iter(nuts.samples.values())).shape[:2]
    gap = observations["overconfidence"]
    free = any(len(c) > 1 for c in exchangeable(em.mixture, em.params))
    both = observations["em_prob"] > CERTAIN
    return {
        "kind": "relabelled" if free else "as declared",
        "divergences": int(np.sum(nuts.sample_stats.get("diverging", 0))),
        "converged": bool(em.converged),
        "regular": bool(em.modes[0].regular) if len(em.modes) else True,
        "chains": chains,
        "draws": draws,
        "seconds_em": float(em.seconds),
        "seconds_nuts": float(nuts.seconds),
        "rhat_invariant": float(invariant["r_hat"].max()),
        "ess_invariant": float(invariant["ess_bulk"].min()),
        "rhat_parameters": float(parameters["r_hat"].max()),
        "ess_parameters": float(parameters["ess_bulk"].min()),
        "drop": float(em.log_joint) - float(invariant.loc["log_joint", "mean"]),
        "expected_drop": em.n_parameters / 2,
        "farthest": _farthest(parameters["map_in_sd"]),
        "unconstrained": _farthest(
            (parameters["unconstrained_mode"] - parameters["map"]) / parameters["sd"]
        ),
        "N": len(observations),
        "moved": int((observations["em_cluster"] != observations["nuts_cluster"]).sum()),
        "overconfident": int((gap > OVERCONFIDENT).sum()),
        "em_certain": int(both.sum()),
        "certain_lost": int((both & (observations["same_prob"] < CERTAIN)).sum()),
        "entropy_em": float(observations["em_entropy"].mean()),
        "entropy_nuts": float(observations["nuts_entropy"].mean()),
        "entropy_draws": float(invariant.loc["entropy", "mean"]),
    }


def _farthest(shift: pd.Series) -> tuple[str, float]:
    """Name and size (in sd) of the largest shift; ("", nan) when there is none."""
    known = shift.abs().dropna()
    return (str(known.idxmax()), float(shift[known.idxmax()])) if len(known) else ("", NAN)


def needs_care(f: dict[str, Any]) -> bool:
    """Whether the reader should hesitate."""
    return not (trusted(f) and f["converged"] and f["regular"])


def verdict(f: dict[str, Any]) -> Iterator[str]:
    """The gist first, then what it does not say."""
    yield gist(f)
    if not f["converged"]:
        yield "EM did not converge (see its line above): its MAP is provisional."
    if not f["regular"]:
        yield "EM found no regular mode: its MAP lies where the log joint is degenerate."
    if f["divergences"]:
        yield divergence_sentence(f)
    if f["higher"] > HIGHER:
        yield higher_sentence(f)
    name, shift = f["farthest"]
    if abs(shift) > 1:
        yield f"The MAP is not the posterior mean: {name} lies {shift:+.1f} sd from it."
    yield _observation_sentence(f)


def _observation_sentence(f: dict[str, Any]) -> str:
    moved = (
        "No observation changes cluster"
        if f["moved"] == 0
        else f"{f['moved']} of {f['N']} observations change{'s' if f['moved'] == 1 else ''} cluster"
    )
    over = (
        f"EM is overconfident by more than {OVERCONFIDENT:.2f} about "
        f"{count(f['overconfident'], 'observation')}"
        if f["overconfident"]
        else f"EM is nowhere overconfident by more than {OVERCONFIDENT:.2f}"
    )
    return f"{moved} when EM's responsibilities are averaged over the posterior; {over}."


def uncertainty_lines(f: dict[str, Any]) -> tuple[str, ...]:
    """How sure of the clusters EM is, and how sure the posterior."""
    return (
        f"mean entropy of responsibilities: {f['entropy_em']:.4f} nats at the MAP, "
        f"{f['entropy_nuts']:.4f} averaged over the posterior "
        f"({f['entropy_draws']:.4f} within draws, the rest is parameter uncertainty)",
        f"more than {CERTAIN:.2f} certain: {f['em_certain']} of {f['N']} at the MAP; "
        f"{f['certain_lost']} of them no longer after averaging",
        f"{f['moved']} of {f['N']} observations change cluster; EM overconfident by more than "
        f"{OVERCONFIDENT:.2f} about {f['overconfident']}",
    )


def notes(em: Any, nuts: Any, f: dict[str, Any]) -> Iterator[str]:
    """What to know when reading the numbers."""
    yield start_sentence(nuts.start_policy, nuts.start is not None)
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
    yield from (f"EM: {note}" for note in em.notes)
    yield from (f"NUTS: {note}" for note in nuts.notes)


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


def nuts_line(nuts: Any, f: dict[str, Any]) -> str:
    """NUTS in one line."""
    return (
        f"{_seconds(nuts.seconds)}; {count(f['chains'], 'chain')} x {f['draws']} draws; "
        f"{count(f['divergences'], 'divergence')}"
    )


def relabelling_line(f: dict[str, Any]) -> str:
    """What was done to the names of the clusters."""
    if f["kind"] != "relabelled":
        return "not relabelled: the priors already tell the clusters apart"
    pivot = "EM's MAP" if f["pivot"] == "em" else "the draw of highest log joint"
    return f"relabelled (ECR, pivot {pivot}): {f['renamed']:.0%} of the draws changed names"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
