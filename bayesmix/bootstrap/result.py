"""What a bootstrap leaves in the user's hands."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bayesmix.carry import own_fields
from bayesmix.estimate import EMResult
from bayesmix.portrait import portrait
from bayesmix.program import Mixture
from bayesmix.sheet import Sheet, Shown, Table


@dataclass(frozen=True, eq=False, repr=False)
class BootstrapResult(Shown):
    """Replicates of EM's estimate: ``params`` {site: (draw, *shape)}, NumPy, float64.

    Clusters carry the names of EM's MAP in every replicate. ``sample_stats`` holds "converged" and
    "n_steps", each (draw,). Replicates that ended at a mode that is not regular are left out, and
    ``notes`` say so.
    """

    mixture: Mixture
    params: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    start: EMResult
    notes: tuple[str, ...]
    seconds: float
    seed: str
    settings: dict[str, Any]

    __getstate__ = own_fields

    @property
    def start_policy(self) -> str:
        return (
            f"replicates of EM on {self.settings['weights']} row weights, each from EM's best mode;"
            " other modes are not represented"
        )

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree of one chain; see ``bayesmix.posterior.independent_tree``."""
        from bayesmix.posterior import independent_tree

        facts = {"row_weights": self.settings["weights"]}
        return independent_tree(self, "bootstrap", facts, **kwargs)

    @cached_property
    def _tree(self) -> Any:
        return self.to_datatree()

    def summary(self) -> Any:
        """ArviZ's mean, sd and interval of the replicates: a DataFrame."""
        import arviz_stats

        return arviz_stats.summary(self._tree, kind="stats", round_to="none")

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """{site: array} as EM's params: standard deviations of the replicates."""
        return {name: value.std(0, ddof=1) for name, value in self.params.items()}

    @property
    def _sheet(self) -> Sheet:
        draws = len(self.sample_stats["converged"])
        tables, left = portrait(self.mixture, self.standard_errors, self.start.modes[0].counts)
        lines: list[str | Table] = [
            f"Bootstrap of {self.mixture.name!r}: {self.mixture.K} {self.mixture.family}, "
            f"{self.mixture.N} rows",
            f"{draws} replicates in {self.seconds:.2f} s, row weights {self.settings['weights']}",
            "standard errors:",
            *tables,
            *left,
            *(f"note: {note}" for note in self.notes),
        ]
        return Sheet(tuple(lines))
