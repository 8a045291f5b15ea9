"""What NUTS leaves in the user's hands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayesmix.carry import own_fields
from bayesmix.estimate import EMResult
from bayesmix.program import Mixture
from bayesmix.sampled import PosteriorDraws
from bayesmix.sheet import Sheet


@dataclass(frozen=True, eq=False, repr=False)
class NUTSResult(PosteriorDraws):
    """Posterior draws: ``samples`` {site: (chain, draw, *shape)}, NumPy, float64.

    ``sample_stats`` holds "lp" (the log density the sampler saw, Jacobian included, nats),
    "diverging", "energy", "n_steps", "acceptance_rate", "step_size", each (chain, draw). Where
    ``settings["moves"]`` are orbits, n_steps and step_size are the turns of a move and the angle of
    each, and a move diverges whose end is 1000 nats higher or not a number: a few turns get there
    less often than NUTS' trees, so look at acceptance_rate, too.
    Where the draws were written to a folder, both read from it each time they are asked for.
    ``start_policy`` says how the chains began, which is what R-hat must be read with; ``smc`` is
    the SMCResult that they started from, or None.
    """

    mixture: Mixture
    samples: Mapping[str, np.ndarray]
    sample_stats: Mapping[str, np.ndarray]
    start: EMResult | None
    start_policy: str
    notes: tuple[str, ...]
    seconds: float
    seed: str
    settings: dict[str, Any]
    smc: Any = None

    __getstate__ = own_fields

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """{site: (chain * draw, *shape)}, or (chain, draw, *shape) with ``group_by_chain``."""
        if group_by_chain:
            return dict(self.samples)
        return {name: v.reshape(-1, *v.shape[2:]) for name, v in self.samples.items()}

    @property
    def _by_chain(self) -> Mapping[str, np.ndarray]:
        return self.samples

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree with original labels; see ``bayesmix.posterior.nuts_tree``."""
        from bayesmix.posterior import nuts_tree

        return nuts_tree(self, **kwargs)

    def summary(self) -> Any:
        """ArviZ's summary of the relabelled draws: a DataFrame."""
        from bayesmix.diagnose.numbers import summary

        return summary(self._relabelled)

    def report(self, smc: Any = None) -> str:
        """Whether the draws may be trusted, in words; `bm.diagnose` gives the numbers as well.

        smc : an SMCResult of the same program and data (one that the chains started from is known
            already). It says how probable each mode is, which the chains cannot.
        """
        found, weights = self._judged(smc)
        return "\n".join([str(found), *(f"- {sentence}" for sentence in weights.sentences)])

    def mode_weights(self, smc: Any = None) -> Any:
        """How probable each mode is in which chains sit: a DataFrame, one row per mode.

        See ``bayesmix.weigh.ModeWeights.to_frame``. smc : as in ``report``.
        """
        return self._judged(smc)[1].to_frame()

    def _judged(self, smc: Any) -> tuple[Any, Any]:
        """The diagnosis of the draws, and how probable the modes of their chains are."""
        from bayesmix.diagnose import diagnose
        from bayesmix.weigh import weigh

        found = diagnose(self._relabelled, mixture=self.mixture)
        return found, weigh(self, smc or self.smc, found.chains["mode"].to_numpy())

    @property
    def _sheet(self) -> Sheet:
        chains, draws = self.sample_stats["lp"].shape
        lines = [
            f"NUTS of {self.mixture.name!r}: {self.mixture.K} {self.mixture.family}, "
            f"{self.mixture.N} rows",
            f"{chains} chains x {draws} draws in {self.seconds:.1f} s, "
            f"{int(self.sample_stats['diverging'].sum())} divergences",
            f"moves: {self.settings['moves']}",
            self.start_policy,
            *(f"note: {note}" for note in self.notes),
            "summary() for the relabelled posterior, report() for the verdict, "
            "to_datatree() for ArviZ",
        ]
        return Sheet(tuple(lines))
