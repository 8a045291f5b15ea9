"""What a NUTS run says of itself: a summary of the relabelled draws, and a verdict in words."""

from typing import Any

RHAT = 1.01
ESS_PER_CHAIN = 100


def summary(tree: Any) -> Any:
    """ArviZ's summary of the sites of a relabelled tree: a DataFrame of unrounded numbers."""
    import arviz_stats

    return arviz_stats.summary(tree, round_to="none")


def report(result: Any, tree: Any) -> str:
    """Whether the draws may be trusted, from quantities that no relabelling changes, in words.

    The bounds are those of Vehtari et al. (2021): R-hat below 1.01, 100 effective draws a chain.
    """
    import arviz_stats

    invariant = tree["invariant"].to_dataset()
    rhat, ess = arviz_stats.rhat(invariant), arviz_stats.ess(invariant)
    chains, draws = invariant.sizes["chain"], invariant.sizes["draw"]
    worst = max(float(rhat[name].max()) for name in invariant.data_vars)
    least = min(float(ess[name].min()) for name in invariant.data_vars)
    divergences = int(result.sample_stats["diverging"].sum())
    lines = [
        f"NUTS of {result.mixture.name!r}: {chains} chains x {draws} draws in "
        f"{result.seconds:.1f} s, {divergences} divergences",
        *(
            f"  {name:<14}  R-hat {float(rhat[name].max()):.3f}  ESS {float(ess[name].min()):.0f}"
            for name in invariant.data_vars
        ),
        _verdict(worst, least, chains, divergences),
        result.start_policy,
        *result.notes,
    ]
    return "\n".join(lines)


def _verdict(worst: float, least: float, chains: int, divergences: int) -> str:
    if chains == 1:
        return "one chain: R-hat cannot tell whether other starts would agree; run several"
    if not worst < RHAT:
        return (
            f"the chains disagree (R-hat {worst:.2f} on quantities that relabelling cannot "
            "change): they sit in different modes or have not mixed, so do not average them"
        )
    if least < ESS_PER_CHAIN * chains:
        return f"the chains agree, but {least:.0f} effective draws are few: run longer"
    if divergences:
        return "the chains agree, but divergences say that part of the density was not reached"
    return "the chains agree on all quantities that relabelling cannot change"
