"""EM's uncertainty by Laplace: independent draws around its modes, and how far to trust them.

Each genuine mode gets the Gaussian that fits it best in unconstrained coordinates; their mixture,
weighted by their masses, is drawn from and held against the posterior by importance weights. Pareto
smoothing (PSIS) says by k-hat whether the weights can carry the difference.

Lives here: `laplace`, and which modes it takes. `draws` draws around them, `result` is what comes
out.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from bayesmix.approximate.draws import Pool, pool_of
from bayesmix.approximate.result import LaplaceResult, ModeShare
from bayesmix.arguments import check_counts, seed_of
from bayesmix.density.layout import kink_movers
from bayesmix.draws import systematic
from bayesmix.estimate import EMResult
from bayesmix.importance import log_mean, smoothed
from bayesmix.laplace import KINK, Geometry, climb, refuse_improper
from bayesmix.symmetry import aligned

__all__ = ["LaplaceResult", "ModeShare", "laplace"]

MOST_MODES = 16
FAR_BELOW = 20.0  # nats below the best mode
NEGLIGIBLE = 1e-3  # share of the heaviest mode's mass
EQUAL = 1e-6


def laplace(
    key: Any, em: EMResult, draws: int = 1000, *, mode: int | None = None, resample: bool = False
) -> LaplaceResult:
    """Independent draws from Laplace's approximation of the posterior, with importance weights.

    The Gaussians sit at the modes of the *unconstrained* density, which are not EM's: a few Newton
    steps lead there from each of EM's regular modes. Modes are weighted by their masses; those
    below a thousandth of the largest are left out.

    mode : only this one of ``em.modes``. The evidence is then that of its surroundings.
    resample : return as many draws of the posterior, taken by their weights (systematic
        resampling) from Laplace draws and as many with heavier tails, instead of draws from the
        approximation with weights beside them.

    Raises ValueError for improper priors, for a mode that is not regular, and where the log density
    has no proper maximum near any mode.
    Source: Tierney & Kadane (1986), JASA 81; Vehtari, Simpson, Gelman, Yao & Gabry (2024), JMLR 25,
    for PSIS.
    """
    began = time.perf_counter()
    seed = seed_of(key)
    check_counts(draws=draws)
    refuse_improper(em.mixture, "a Laplace approximation")
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        known, notes = _known(em, mode)
        pool = pool_of(rng, em, [geometry for _, geometry in known], int(draws))
    evidence, error = log_mean(pool.log_ratio)
    corrected, k_hat = smoothed(pool.log_ratio)
    if resample:
        log_weights, kept = corrected, systematic(rng, np.exp(corrected), draws)
        returned = np.full(draws, -np.log(draws))
    else:
        returned, k_hat = smoothed(pool.log_ratio_normal)
        log_weights, kept = returned, np.arange(draws)
    return LaplaceResult(
        mixture=em.mixture,
        params={name: pool.params[name][kept] for name in em.mixture.sites},
        log_weights=returned,
        log_evidence=evidence,
        log_evidence_error=error,
        k_hat=k_hat,
        ess=min(float(np.exp(-logsumexp(2 * log_weights))), float(draws)),
        modes=_mode_shares(known, pool, corrected),
        sample_stats={"lp": pool.height[kept], "log_weight": returned},
        start=em,
        notes=tuple(notes),
        seconds=time.perf_counter() - began,
        seed=str(seed.entropy),
        settings={"draws": int(draws), "mode": mode, "resample": resample},
    )


def _known(em: EMResult, mode: int | None) -> tuple[list[tuple[int, Geometry]], list[str]]:
    """(number in the atlas, Gaussian) of the modes to draw from, heaviest first; and notes."""
    tried, kinked = _candidates(em, mode), kink_movers(em.mixture)
    found: dict[int, Geometry] = {}
    notes = []
    for number in tried:
        named = aligned(em.mixture, em.modes[number].params, em.params) if number else em.params
        geometry, reason = (None, KINK) if kinked else climb(em.mixture, named)
        if geometry is None:
            notes.append(f"mode {number} has no Laplace approximation: {reason}")
        elif not any(_same(geometry, other) for other in found.values()):
            found[number] = geometry
    if not found:
        raise ValueError(
            f"there is no Laplace approximation ({notes[0]}): run NUTS instead, which needs none"
        )
    heaviest_first = sorted(found.items(), key=lambda pair: -pair[1].log_evidence)
    least = heaviest_first[0][1].log_evidence + np.log(NEGLIGIBLE)
    return [pair for pair in heaviest_first if pair[1].log_evidence > least], notes


def _candidates(em: EMResult, mode: int | None) -> list[int]:
    """Numbers of the regular modes that are high enough to matter, or the one asked for."""
    if mode is None:
        regular = [number for number, each in enumerate(em.modes) if each.regular]
        if not regular:
            raise ValueError(
                f"EM reached no regular mode, so there is nothing to approximate: of the best, "
                f"{em.modes[0].reason}"
            )
        best = em.modes[regular[0]].log_joint
        near = [number for number in regular if em.modes[number].log_joint > best - FAR_BELOW]
        return near[:MOST_MODES]
    if not isinstance(mode, int | np.integer) or not 0 <= mode < len(em.modes):
        raise ValueError(f"mode must be a number from 0 to {len(em.modes) - 1}, not {mode!r}")
    if not em.modes[mode].regular:
        raise ValueError(f"mode {mode} cannot be approximated: {em.modes[mode].reason}")
    return [int(mode)]


def _same(a: Geometry, b: Geometry) -> bool:
    """Whether two of EM's modes lead to one unconstrained mode, up to names of clusters."""
    pairs = [(a.log_density, b.log_density), (a.log_evidence, b.log_evidence)]
    return all(abs(x - y) <= EQUAL * (1 + abs(x)) for x, y in pairs)


def _mode_shares(
    known: Sequence[tuple[int, Geometry]], pool: Pool, log_weights: np.ndarray
) -> tuple[ModeShare, ...]:
    corrected = pool.member @ np.exp(log_weights)
    return tuple(
        ModeShare(
            mode=number,
            log_evidence=geometry.log_evidence + pool.log_copies,
            condition=geometry.condition,
            share=float(share),
            corrected=float(held),
        )
        for (number, geometry), share, held in zip(known, pool.share, corrected, strict=True)
    )
