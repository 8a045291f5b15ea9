"""What SMC leaves in the user's hands."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from bayesmix.carry import own_fields
from bayesmix.program import Mixture
from bayesmix.sampled import PosteriorDraws
from bayesmix.sheet import Sheet
from bayesmix.smc.climb import ROUNDS
from bayesmix.smc.kernel import STEPS

START_POLICY = (
    "particles followed from the prior to the posterior; every mode that the prior reaches is "
    "represented in proportion to its mass"
)
ALIKE = 0.5  # relative standard error of the evidence above which the islands disagree
APART = 4.0  # standard errors between two ways to the evidence


class Estimate(NamedTuple):
    """A posterior expectation and its standard error, from the spread of the islands' answers."""

    mean: Any
    error: Any


class Evidence(NamedTuple):
    """Log of the mean of islands' evidences, and its standard error, in nats.

    The mean is unbiased for particles alone (given the temperatures); by a bridge its bias is of a
    smaller order than the error.
    """

    log: float
    error: float


def evidence(log_evidences: np.ndarray) -> Evidence:
    """Of islands (J,), by the delta method from their spread."""
    count = len(log_evidences)
    share = np.exp(log_evidences - logsumexp(log_evidences))
    error = np.sqrt(count / (count - 1) * np.sum((share - 1 / count) ** 2))
    return Evidence(float(logsumexp(log_evidences) - np.log(count)), float(error))


@dataclass(frozen=True, eq=False, repr=False)
class SMCResult(PosteriorDraws):
    """Draws of the posterior that count alike: ``params`` {site: (draw, *shape)}, float64.

    ``sample_stats``: "lp" (log density over unconstrained coordinates, Jacobian included, nats)
    and "island" (on which the draw came about), each (draw,). ``log_evidences`` (island,) are the
    islands' own log evidences, by a bridge from the particles to a density fitted to them where
    that has the smaller error; ``climbed`` (island,) are those of the way from the prior alone.
    ``temperatures`` (T + 1,) are the powers of the likelihood from 0 to
    1; ``acceptance`` (T,) and ``rounds`` (T,) of moves say how the particles moved at each.
    ``factor`` (n, n): coordinates in which the particles are round, for a sampler that goes on.
    """

    mixture: Mixture
    params: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    log_evidences: np.ndarray
    climbed: np.ndarray
    temperatures: np.ndarray
    acceptance: np.ndarray
    rounds: np.ndarray
    factor: np.ndarray
    seconds: float
    seed: str
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    start: None = None
    start_policy: str = START_POLICY

    __getstate__ = own_fields

    @property
    def log_evidence(self) -> float:
        """Log of p(data) of the whole model, all renamed copies included, in nats."""
        return evidence(self.log_evidences).log

    @property
    def log_evidence_error(self) -> float:
        """Standard error of the log evidence, from the spread of the islands' answers, nats."""
        return evidence(self.log_evidences).error

    def estimate(self, values: np.ndarray) -> Estimate:
        """Posterior mean of something of every draw, (draw, ...), with its standard error.

        As in ``smc.estimate(smc.params["loc"].min(-1) < 12)`` for a probability. Islands never
        mix, so the error counts all that went wrong on the way, not only the last moves.
        """
        values, island = np.asarray(values, float), self.sample_stats["island"]
        present, counts = np.unique(island, return_counts=True)
        means = np.stack([values[island == number].mean(0) for number in present])
        share = counts.reshape(-1, *[1] * (values.ndim - 1)) / len(values)
        mean = values.mean(0)
        square = np.sum((share * (means - mean)) ** 2, axis=0)
        return Estimate(mean, np.sqrt(square * len(present) / max(len(present) - 1, 1)))

    @cached_property
    def ess(self) -> float:
        """Independent draws that the posterior mean of the log density is worth."""
        lp = self.sample_stats["lp"]
        found = self.estimate(lp)
        return float(min(lp.var() / max(found.error**2, np.finfo(float).tiny), len(lp)))

    @property
    def trusted(self) -> bool:
        """Whether the islands agree on the evidence and the particles moved at every step."""
        return not (self._divided or self._contradicted or self._stuck)

    @property
    def _divided(self) -> bool:
        """Whether islands arrived with evidences too different to have seen the same posterior."""
        return max(evidence(self.climbed).error, self.log_evidence_error) > ALIKE

    @property
    def _contradicted(self) -> bool:
        """Whether the bridge's evidence is another than that of the way from the prior."""
        climbed = evidence(self.climbed)
        gap = abs(climbed.log - self.log_evidence)
        return gap > APART * np.hypot(climbed.error, self.log_evidence_error)

    @cached_property
    def _stuck(self) -> int:
        """At how many temperatures the particles had not forgotten where they began."""
        return int(np.sum(self.rounds >= ROUNDS))

    @property
    def verdict(self) -> str:
        """Whether the draws may be trusted, in words."""
        islands, climbed = len(self.log_evidences), evidence(self.climbed)
        if self._divided:
            return (
                f"the {islands} islands disagree about the evidence (standard error "
                f"{max(climbed.error, self.log_evidence_error):.2f} nats): do not trust these "
                "draws, give more particles"
            )
        if self._contradicted:
            return (
                f"the way from the prior gives the log evidence {climbed.log:.3f} +- "
                f"{climbed.error:.3f} and the bridge at its end {self.log_evidence:.3f} +- "
                f"{self.log_evidence_error:.3f}: do not trust these draws, give more particles"
            )
        if self._stuck:
            return (
                f"the particles moved slowly at {self._stuck} of {len(self.rounds)} temperatures: "
                f"the {islands} islands agree, but compare with another run or NUTS"
            )
        return (
            f"the {islands} islands agree on the evidence to {self.log_evidence_error:.3f} nats, "
            f"and the particles moved freely at each of {len(self.rounds)} temperatures"
        )

    def report(self) -> str:
        """How the particles came from the prior to the posterior, in words."""
        climbed = evidence(self.climbed)
        lines = [
            f"SMC: {self.verdict}.",
            f"- Log evidence {self.log_evidence:.3f} +- {self.log_evidence_error:.3f} nats, of the "
            "whole model: nothing is to be added for renamed clusters (by the way from the prior "
            f"alone {climbed.log:.3f} +- {climbed.error:.3f}).",
            f"- {len(self.sample_stats['lp'])} draws that count alike, about {self.ess:.0f} "
            "independent ones for the mean log density.",
            f"- {self.settings['particles']} particles at {len(self.rounds)} temperatures, "
            f"{self.acceptance.min():.0%} to {self.acceptance.max():.0%} of the moves accepted, "
            f"{int(self.rounds.sum())} rounds of {STEPS} moves.",
        ]
        return "\n".join(lines)

    def get_samples(self) -> dict[str, np.ndarray]:
        """{site: (draw, *shape)}."""
        return dict(self.params)

    @property
    def _by_chain(self) -> dict[str, np.ndarray]:
        return {name: value[None] for name, value in self.params.items()}

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree of one chain; see ``bayesmix.posterior.independent_tree``."""
        from bayesmix.posterior import independent_tree

        facts = {
            "log_evidence": self.log_evidence,
            "log_evidence_error": self.log_evidence_error,
            "verdict": self.verdict,
        }
        return independent_tree(self, "smc", facts, **kwargs)

    def summary(self) -> Any:
        """ArviZ's mean, sd and interval of the relabelled draws: a DataFrame."""
        from bayesmix.diagnose.numbers import summary

        return summary(self._relabelled, kind="stats")

    @property
    def _sheet(self) -> Sheet:
        lines = [
            f"SMC of {self.mixture.name!r}: {self.mixture.K} {self.mixture.family}, "
            f"{self.mixture.N} rows",
            f"{len(self.sample_stats['lp'])} draws in {self.seconds:.1f} s, by "
            f"{self.settings['particles']} particles at {len(self.rounds)} temperatures",
            f"log evidence {self.log_evidence:.3f} +- {self.log_evidence_error:.3f} (nats)",
            self.verdict,
            "summary() for the relabelled posterior, estimate() for any expectation with its "
            "error, to_datatree() for ArviZ",
        ]
        return Sheet(tuple(lines))
