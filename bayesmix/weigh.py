"""How probable the modes are in which chains sit: by SMC, by Laplace, by stacking; in words.

Chains that do not cross between modes cannot say it: how many sit in a mode is how they started.
SMC can, with an error. Laplace's evidence is a rough second opinion. Stacking asks another
question, which mixture of the chains predicts best, and is a cross-check of which modes matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from bayesmix.draws import evaluate_draws
from bayesmix.importance import by_cluster, cheapest, costs, tied_tail
from bayesmix.program import Mixture
from bayesmix.symmetry import exchangeable

if TYPE_CHECKING:
    import pandas as pd

ROWS = 2000  # rows that stacking looks at
CONCENTRATION = 1.0001  # of the Dirichlet prior on stacking's weights, as in the paper
SETTLED = 1e-10
MOST_STEPS = 10_000
CLOSE = 0.05  # difference of probabilities that does not matter
APART = 3.0  # standard errors
MISSED = 0.02
ASK = "smc = bm.SMC(program).run(key, *data) can, and nuts.report(smc) then compares"
UNKNOWN = {
    False: f"All chains sit in one mode. Whether there are others they cannot say: {ASK}.",
    True: f"How probable each mode is the chains cannot say, so do not pool them: {ASK}.",
}


@dataclass(frozen=True, eq=False)
class ModeWeights:
    """One entry per mode: ``chains`` (members), and its weight by each method that was at hand.

    smc, smc_error : posterior probability by SMC and its standard error. missed : what SMC's
    particles hold where no chain was, included in the nearest mode. laplace : by Laplace's evidence
    of EM's modes. stacking : Yao, Vehtari & Gelman's weights, summed over the mode's chains.
    doubt : why SMC itself is not to be trusted, in its words; empty where it may be.
    """

    chains: tuple[tuple[int, ...], ...]
    smc: np.ndarray | None
    smc_error: np.ndarray | None
    missed: float
    laplace: np.ndarray | None
    stacking: np.ndarray
    doubt: str = ""

    @property
    def share(self) -> np.ndarray:
        """Of the chains, which is what the pooled draws give each mode."""
        counts = np.array([len(members) for members in self.chains])
        return counts / counts.sum()

    @property
    def in_proportion(self) -> bool:
        """Whether the pooled draws hold the modes as SMC does, nearly or within its error.

        False where that is not known: without SMC, or where SMC is not to be trusted.
        """
        if self.smc is None or self.smc_error is None or self.doubt:
            return False
        gap = np.abs(self.share - self.smc)
        close = gap <= np.maximum(CLOSE, APART * self.smc_error)
        return bool(close.all()) and self.missed <= MISSED

    def to_frame(self) -> pd.DataFrame:
        """Columns chains, share (of the chains), smc, smc_error, laplace, stacking; NaN if not."""
        import pandas as pd

        unknown = np.full(len(self.chains), np.nan)
        columns = {"smc": self.smc, "smc_error": self.smc_error, "laplace": self.laplace}
        table = {"chains": [list(members) for members in self.chains], "share": self.share}
        table |= {name: unknown if v is None else v for name, v in columns.items()}
        return pd.DataFrame(table | {"stacking": self.stacking}).rename_axis("mode")

    @property
    def sentences(self) -> list[str]:
        """What it means, in words: one mode or several, how probable, and whether to pool."""
        several = len(self.chains) > 1
        lines = [self._of_mode(number) for number in range(len(self.chains))] if several else []
        if self.smc is None:
            return [*lines, UNKNOWN[several]]
        if self.doubt:
            return [*lines, f"SMC cannot decide here: {self.doubt}."]
        if self.missed > MISSED:
            lines.append(
                f"SMC holds {self.missed:.0%} of the posterior where no chain was: the pooled "
                "draws miss it; smc.to_datatree() has it."
            )
        elif not several:
            lines.append(
                f"One mode, as far as SMC can see: it finds no other than that of the "
                f"chains{self._but_for()}. A mode so narrow that none of its draws from the prior "
                "came near it, and EM did not either, both would miss."
            )
        return [*lines, *self._verdict()] if several else lines

    def _but_for(self) -> str:
        """What SMC's particles hold beyond the chains, where it can be seen."""
        return f" (all but {self.missed:.1%} of it is where they were)" if self.missed else ""

    def _of_mode(self, number: int) -> str:
        members = ", ".join(map(str, self.chains[number]))
        noun = "chain" if len(self.chains[number]) == 1 else "chains"
        said = [f"{self.share[number]:.2f} of the chains"]
        if self.smc is not None and self.smc_error is not None:
            said.append(f"{self.smc[number]:.3f} +- {self.smc_error[number]:.3f} by SMC")
        if self.laplace is not None:
            said.append(f"{self.laplace[number]:.3f} by Laplace")
        said.append(f"{self.stacking[number]:.2f} of the stacking weights (best prediction)")
        return f"Mode {number} ({noun} {members}): {'; '.join(said)}."

    def _verdict(self) -> list[str]:
        assert self.smc is not None
        assert self.smc_error is not None
        bound = np.maximum(CLOSE, APART * self.smc_error)
        lines = []
        if self.laplace is not None:
            apart = (np.abs(self.laplace - self.smc) > bound).any()
            agree = "disagree: trust SMC, Laplace sees only the curvature" if apart else "agree"
            lines.append(f"SMC and Laplace {agree}.")
        if (np.abs(self.stacking - self.smc) > bound).any():
            lines.append(
                "Stacking weighs the modes otherwise, as it may: it asks which mixture of the "
                "chains predicts best, not how probable a mode is."
            )
        if self.in_proportion:
            lines.append("The pooled draws hold the modes in their right proportion.")
        else:
            lines.append(
                "The pooled draws hold the modes by how the chains started, not by their "
                "probability: do not pool them; smc.to_datatree() has the modes in proportion."
            )
        return lines


def weigh(nuts: Any, smc: Any, mode_of_chain: np.ndarray) -> ModeWeights:
    """Weights of the modes in which the chains of ``nuts`` sit, (chain,) of mode numbers.

    smc : an SMCResult of the same program and data, or None.
    """
    chains = tuple(
        tuple(int(c) for c in np.flatnonzero(mode_of_chain == mode))
        for mode in np.unique(mode_of_chain)
    )
    places = _Places(nuts, chains)
    by_smc = error = by_laplace = None
    missed = 0.0
    if smc is not None:
        nearest, inside = places.nearest(smc.params)
        found = smc.estimate(nearest[:, None] == np.arange(len(chains)))
        by_smc, error = found.mean, found.error
        missed = float(1 - inside.mean())
    if nuts.start is not None:
        by_laplace = _laplace(nuts.start, places)
    several = len(chains) > 1
    weights = _stacked(nuts) if several else np.full(len(mode_of_chain), 1 / len(mode_of_chain))
    summed = np.array([weights[list(members)].sum() for members in chains])
    doubt = "" if smc is None or smc.trusted else smc.verdict
    return ModeWeights(chains, by_smc, error, missed, by_laplace, summed, doubt)


class _Places:
    """Where the chains of each mode are: means and spreads of their clusters' own numbers."""

    def __init__(self, nuts: Any, chains: tuple[tuple[int, ...], ...]) -> None:
        self.mixture: Mixture = nuts.mixture
        aligned = nuts._aligned()
        first = {name: value[0, 0] for name, value in aligned.items()}
        self.classes = exchangeable(self.mixture, first)
        self.parts, self.radius = [], []
        for members in chains:
            own = {n: v[list(members)].reshape(-1, *v.shape[2:]) for n, v in aligned.items()}
            found = by_cluster(self.mixture, own)
            self.parts.append((found.mean(0), found.std(0)))
            self.radius.append(self._cost(own, len(self.parts) - 1).max())

    def _cost(self, params: dict[str, np.ndarray], mode: int) -> np.ndarray:
        found = by_cluster(self.mixture, params)
        return cheapest(costs(found, *self.parts[mode]), self.classes)

    def nearest(self, params: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Of draws {site: (S, ...)}: the mode (S,), and whether a chain was as far out there."""
        cost = np.stack([self._cost(params, mode) for mode in range(len(self.parts))], 1)
        inside = (cost <= np.array(self.radius)).any(1)
        return cost.argmin(1), np.asarray(inside)


def _laplace(em: Any, places: _Places) -> np.ndarray | None:
    """The modes' shares of Laplace's evidence of EM's modes near them, or None."""
    log_evidence = em.modes.to_frame()["log_evidence"].to_numpy()
    used = np.flatnonzero(np.isfinite(log_evidence))
    if not used.size:
        return None
    params = {
        name: np.stack([np.asarray(em.modes[i].params[name]) for i in used]) for name in em.params
    }
    nearest, _ = places.nearest(params)
    mass = np.exp(log_evidence[used] - logsumexp(log_evidence[used]))
    return np.bincount(nearest, mass, len(places.parts))


def _stacked(nuts: Any) -> np.ndarray:
    """Stacking weights of the chains, (chain,), from at most ROWS rows spread over the data."""
    pointwise = evaluate_draws(nuts.mixture, nuts.samples)["log_likelihood"]
    flat = pointwise.reshape(*pointwise.shape[:2], -1)
    flat = flat[..., :: max(1, -(-flat.shape[-1] // ROWS))]
    return stack(np.stack([_left_out(draws.T) for draws in flat], axis=1))


def _left_out(log_density: np.ndarray) -> np.ndarray:
    """Log density of each row by the chain without it, (N,), of log densities (N, S), by PSIS.

    Rows whose largest ratios are one value (a chain that stood still) are left unsmoothed.
    """
    from arviz_stats.base import array_stats

    log_weights = -log_density
    varied = ~tied_tail(log_weights)
    if varied.any():
        log_weights[varied] = array_stats.psislw(log_density[varied])[0]
    return logsumexp(log_weights + log_density, axis=-1) - logsumexp(log_weights, axis=-1)


def stack(elpd: np.ndarray) -> np.ndarray:
    """Weights (C,) that maximise the mean log of the mixture's predictive densities exp(elpd).

    elpd : (N, C) log leave-one-out predictive densities of each row by each chain, nats. A
    Dirichlet prior that is nearly flat makes the answer unique.
    Source: Yao, Vehtari & Gelman (2022), JMLR 23(79), eq. 9 and section 3.1.
    """
    density = np.exp(elpd - elpd.max(1, keepdims=True))
    weights = np.full(elpd.shape[1], 1 / elpd.shape[1])
    for _ in range(MOST_STEPS):
        resp = density * weights
        resp /= resp.sum(1, keepdims=True)
        updated = resp.sum(0) + CONCENTRATION - 1
        updated /= updated.sum()
        if np.abs(updated - weights).max() < SETTLED:
            break
        weights = updated
    return np.asarray(updated)
