"""Counts of successes held against the numbers of trials."""

from typing import TYPE_CHECKING

import numpy as np
import numpyro.distributions as dist

from bayesmix.checks.places import counted, place

if TYPE_CHECKING:
    from bayesmix.program import Mixture, Observed

MULTINOMIAL = (dist.MultinomialProbs, dist.MultinomialLogits)


def check_trials(mixture: "Mixture", site: "Observed", used: np.ndarray) -> None:
    """Refuse more successes than trials, and numbers that are not whole or negative."""
    trials = site.given.get("total_count")
    if trials is None:
        return
    x = site.value
    if site.components[0] in MULTINOMIAL:
        _check_totals(mixture, site, used, trials)
        return
    bad = (x > trials) | (x < 0) | (x != np.floor(x)) | (trials != np.floor(trials))
    bad &= counted(used, x.ndim) & ~site.missing
    if bad.any():
        position = np.argwhere(bad)[0]
        successes, count = x[tuple(position)], trials[tuple(position)]
        raise ValueError(
            f"site {site.name!r}: {place(mixture, position)} has {successes:g} successes in "
            f"{count:g} trials; they must be whole numbers from 0 to the number of trials"
        )


def _check_totals(
    mixture: "Mixture", site: "Observed", used: np.ndarray, trials: np.ndarray
) -> None:
    """Refuse counts that are not whole, negative, or do not sum to the row's number of trials."""
    x = site.value
    some = counted(used, x.ndim)
    bad = ((x < 0) | (x != np.floor(x))) & some
    if bad.any():
        position = np.argwhere(bad)[0]
        raise ValueError(
            f"site {site.name!r}: {place(mixture, position)} is {x[tuple(position)]:g}, but "
            "the counts of a Multinomial are whole numbers from 0"
        )
    off = (x.sum(-1) != trials[..., 0]) & some[..., 0]
    if off.any():
        position = np.argwhere(off)[0]
        row, total = tuple(position), trials[..., 0]
        raise ValueError(
            f"site {site.name!r}: row {position[0]} has counts that sum to {x.sum(-1)[row]:g}, but "
            f"its total_count is {total[row]:g}"
        )
