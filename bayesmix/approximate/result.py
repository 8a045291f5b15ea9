"""What a Laplace approximation leaves in the user's hands."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bayesmix.carry import own_fields
from bayesmix.estimate import EMResult
from bayesmix.importance import FEWEST, bound
from bayesmix.portrait import portrait
from bayesmix.program import Mixture
from bayesmix.sheet import Sheet, Shown, Table


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
    wider than its Laplace approximation. ``modes`` are the modes that were drawn from, the heaviest
    first.
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
