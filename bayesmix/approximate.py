"""EM's uncertainty by Laplace: independent draws around its modes, and how far to trust them.

Each genuine mode gets the Gaussian that fits it best in unconstrained coordinates; their mixture,
weighted by their masses, is drawn from and held against the posterior by importance weights. Pareto
smoothing (PSIS) says by k-hat whether the weights can carry the difference.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import gammaln, logsumexp

from bayesmix.arguments import seed_of
from bayesmix.carry import own_fields
from bayesmix.curvature import evaluate
from bayesmix.draws import systematic
from bayesmix.estimate import EMResult
from bayesmix.importance import FEWEST, bound, in_cell, log_mean, smoothed
from bayesmix.laplace import Geometry, climb, refuse_improper
from bayesmix.portrait import portrait
from bayesmix.program import Mixture
from bayesmix.sheet import Sheet, Shown, Table
from bayesmix.symmetry import aligned, exchangeable, log_order

MOST_MODES = 16
FAR_BELOW = 20.0
NEGLIGIBLE = 1e-3
EQUAL = 1e-6
TAILS = 5.0


class ModeShare(NamedTuple):
    """One mode of the mixture: its number in EM's atlas and what it holds of the posterior.

    log_evidence : Laplace's approximation with all renamed copies, nats. condition : of its
    Hessian. share : of the mixture that was drawn from, by Laplace's evidence. corrected : the same
    by the importance weights.
    """

    mode: int
    log_evidence: float
    condition: float
    share: float
    corrected: float


@dataclass(frozen=True, eq=False, repr=False)
class LaplaceResult(Shown):
    """Draws from the Laplace approximation: ``params`` {site: (draw, *shape)}, NumPy, float64.

    ``log_weights`` (draw,) are smoothed importance weights, normalised, to be used with ``params``
    (equal where the draws were resampled); ``k_hat`` judges them, in words ``verdict``, and ``ess``
    is how many independent draws of the posterior they are worth. ``log_evidence`` (nats, all
    renamed copies counted) and its standard error come from importance sampling with as many draws
    again whose tails are heavier (Student t, 5 degrees of freedom), a defence against a posterior
    wider than its Laplace approximation. ``modes`` are the modes that
    were drawn from, the heaviest first.
    """

    mixture: Mixture
    params: dict[str, np.ndarray]
    log_weights: np.ndarray
    log_evidence: float
    log_evidence_error: float
    k_hat: float
    ess: float
    modes: tuple[ModeShare, ...]
    sample_stats: dict[str, np.ndarray]
    start: EMResult
    notes: tuple[str, ...]
    seconds: float
    seed: str
    settings: dict[str, Any]

    __getstate__ = own_fields

    @property
    def trusted(self) -> bool:
        """Whether k-hat is below the bound of Vehtari et al. (2024) for this many draws."""
        return self.k_hat < bound(len(self.log_weights))

    @property
    def verdict(self) -> str:
        """Whether the weighted draws may be trusted, in words."""
        limit = bound(len(self.log_weights))
        if not np.isfinite(self.k_hat):
            return f"fewer than {FEWEST} draws have any weight, too few for k-hat: do not trust"
        if not self.trusted:
            return (
                f"k-hat {self.k_hat:.2f} is above {limit:.2f}: the posterior is not like its "
                "Laplace approximation, do not trust these draws, run NUTS"
            )
        return (
            f"k-hat {self.k_hat:.2f} is below {limit:.2f}: the weights carry these draws to the "
            f"posterior around the modes that EM found (worth {self.ess:.0f} of its draws)"
        )

    @property
    def start_policy(self) -> str:
        count = len(self.modes)
        where = "EM's best mode" if count == 1 else f"{count} of EM's modes, by their masses"
        return f"independent draws around {where}; modes that EM never saw are not represented"

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree of one chain; see ``bayesmix.posterior.independent_tree``."""
        from bayesmix.posterior import independent_tree

        facts = {
            "k_hat": self.k_hat,
            "log_evidence": self.log_evidence,
            "log_evidence_error": self.log_evidence_error,
            "verdict": self.verdict,
        }
        return independent_tree(self, "laplace", facts, **kwargs)

    @cached_property
    def _relabelled(self) -> Any:
        from bayesmix.relabel import relabel

        return relabel(self.to_datatree(), mixture=self.mixture)

    def summary(self) -> Any:
        """ArviZ's mean, sd and interval of the relabelled draws, as they are: a DataFrame."""
        import arviz_stats

        return arviz_stats.summary(self._relabelled, kind="stats", round_to="none")

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """{site: array} as EM's params: standard deviations of the weighted draws."""
        weights, found = np.exp(self.log_weights), {}
        for name, value in self.params.items():
            deviation = value - np.tensordot(weights, value, 1)
            found[name] = np.sqrt(np.tensordot(weights, deviation**2, 1))
        return found

    @property
    def _sheet(self) -> Sheet:
        tables, left = portrait(self.mixture, self.standard_errors, self.start.modes[0].counts)
        lines: list[str | Table] = [
            f"Laplace approximation of {self.mixture.name!r}: {self.mixture.K} "
            f"{self.mixture.family}, {self.mixture.N} rows",
            f"{len(self.log_weights)} draws in {self.seconds:.2f} s",
            self.verdict,
            f"log evidence {self.log_evidence:.3f} +- {self.log_evidence_error:.3f} (nats)",
            *(
                f"  mode {each.mode}: log evidence {each.log_evidence:.3f} by Laplace, share "
                f"{each.share:.3f}, corrected {each.corrected:.3f}"
                for each in self.modes
            ),
            "standard errors:",
            *tables,
            *left,
            *(f"note: {note}" for note in self.notes),
        ]
        return Sheet(tuple(lines))


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
    if not isinstance(draws, int | np.integer) or isinstance(draws, bool) or draws < 1:
        raise ValueError(f"draws must be a positive whole number, not {draws!r}")
    refuse_improper(em.mixture, "a Laplace approximation")
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        known, notes = _known(em, mode)
        pool = _pool(rng, em, [geometry for _, geometry in known], int(draws))
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


# ------------------------------------------------------------------------------------- the modes


def _known(em: EMResult, mode: int | None) -> tuple[list[tuple[int, Geometry]], list[str]]:
    """(number in the atlas, Gaussian) of the modes to draw from, heaviest first; and notes."""
    tried = _candidates(em, mode)
    found: dict[int, Geometry] = {}
    notes = []
    for number in tried:
        named = aligned(em.mixture, em.modes[number].params, em.params) if number else em.params
        geometry, reason = climb(em.mixture, named)
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


# ----------------------------------------------------------------------------- draws and weights


class Pool(NamedTuple):
    """Draws (2 S) from the modes: S Normal ones, then S of the same shapes with Student t tails.

    ``params`` are constrained, ``height`` (2 S,) is the log density with its Jacobian.
    ``log_ratio`` (2 S,) is the log of the posterior, times the order of the group, over the density
    of all that was drawn, -inf outside the cell; ``log_ratio_normal`` (S,) over that of the Normal
    ones alone.
    ``member`` (mode, 2 S) is p(mode | draw), ``share`` (mode,) the modes' masses.
    """

    params: dict[str, np.ndarray]
    height: np.ndarray
    log_ratio: np.ndarray
    log_ratio_normal: np.ndarray
    member: np.ndarray
    share: np.ndarray
    log_copies: float


def _pool(
    rng: np.random.Generator, em: EMResult, geometries: Sequence[Geometry], draws: int
) -> Pool:
    classes = exchangeable(em.mixture, em.params)
    log_mass = np.array([geometry.log_evidence for geometry in geometries])
    log_share = log_mass - logsumexp(log_mass)
    z = _draw(rng, geometries, rng.choice(len(geometries), 2 * draws, p=np.exp(log_share)))
    height, _, params = evaluate(em.mixture, z)
    used = np.isfinite(height)
    alive = {name: value[used] for name, value in params.items()}
    used[used] = in_cell(em.mixture, alive, geometries, log_share, classes)
    if not used.any():
        raise ValueError(
            "no draw from the Laplace approximation has any posterior density: run NUTS instead"
        )
    parts = np.stack([_log_densities(each, z) for each in geometries], 1)
    normal, wide = logsumexp(log_share[:, None] + parts, axis=1)
    target = np.full(2 * draws, -np.inf)
    target[used] = height[used] + log_order(classes)
    return Pool(
        params=params,
        height=height,
        log_ratio=target - np.logaddexp(normal, wide) + np.log(2),
        log_ratio_normal=(target - normal)[:draws],
        member=np.exp(log_share[:, None] + parts[1] - wide),
        share=np.exp(log_share),
        log_copies=log_order(classes),
    )


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


def _draw(
    rng: np.random.Generator, geometries: Sequence[Geometry], component: np.ndarray
) -> np.ndarray:
    """One unconstrained draw (n,) around each component's mode; the second half has t tails."""
    unit = rng.standard_normal((len(component), geometries[0].z.size))
    half = len(component) // 2
    unit[half:] /= np.sqrt(rng.chisquare(TAILS, half) / TAILS)[:, None]
    z = np.empty_like(unit)
    for number, geometry in enumerate(geometries):
        own = component == number
        z[own] = geometry.z + unit[own] @ geometry.factor.T
    return z


def _log_densities(geometry: Geometry, z: np.ndarray) -> np.ndarray:
    """Log density at ``z`` (draws, n) of the mode's Normal and of its Student t, (2, draws)."""
    n, nu = z.shape[1], TAILS
    square = np.sum(np.linalg.solve(geometry.factor, (z - geometry.z).T) ** 2, axis=0)
    log_volume = np.linalg.slogdet(geometry.factor)[1]
    normal = -0.5 * square - 0.5 * n * np.log(2 * np.pi)
    wide = gammaln((nu + n) / 2) - gammaln(nu / 2) - 0.5 * n * np.log(nu * np.pi)
    return np.stack([normal, wide - 0.5 * (nu + n) * np.log1p(square / nu)]) - log_volume
