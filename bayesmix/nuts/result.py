"""What NUTS leaves in the user's hands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bayesmix.carry import own_fields
from bayesmix.draws import evaluate_draws
from bayesmix.estimate import EMResult
from bayesmix.expected import expected_mean
from bayesmix.predict import Simulated, brought_near, simulate_posterior, with_data
from bayesmix.program import Mixture
from bayesmix.sheet import Sheet
from bayesmix.symmetry import permute_draws


@dataclass(frozen=True, eq=False)
class NUTSResult:
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
    settings: dict[str, Any] = field(repr=False)
    smc: Any = field(default=None, repr=False)

    __getstate__ = own_fields

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """{site: (chain * draw, *shape)}, or (chain, draw, *shape) with ``group_by_chain``."""
        if group_by_chain:
            return dict(self.samples)
        return {name: v.reshape(-1, *v.shape[2:]) for name, v in self.samples.items()}

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree with original labels; see ``bayesmix.posterior.nuts_tree``."""
        from bayesmix.posterior import nuts_tree

        return nuts_tree(self, **kwargs)

    @cached_property
    def _relabelled(self) -> Any:
        """The DataTree with every draw's clusters named as the pivot's."""
        from bayesmix.relabel import relabel

        return relabel(self.to_datatree(), mixture=self.mixture)

    def summary(self) -> Any:
        """ArviZ's summary of the relabelled draws: a DataFrame."""
        from bayesmix.diagnose.numbers import summary

        return summary(self._relabelled)

    def report(self, smc: Any = None) -> str:
        """Whether the draws may be trusted, in words; `bm.diagnose` gives the numbers as well.

        smc : an SMCResult of the same program and data (one that the chains started from is known
            already). It says how probable each mode is, which the chains cannot.
        """
        from bayesmix.diagnose import diagnose
        from bayesmix.weigh import weigh

        found = diagnose(self._relabelled, mixture=self.mixture)
        weights = weigh(self, smc or self.smc, found.chains["mode"].to_numpy())
        return "\n".join([str(found), *(f"- {sentence}" for sentence in weights.sentences)])

    def mode_weights(self, smc: Any = None) -> Any:
        """How probable each mode is in which chains sit: a DataFrame, one row per mode.

        See ``bayesmix.weigh.ModeWeights.to_frame``. smc : as in ``report``.
        """
        from bayesmix.diagnose import diagnose
        from bayesmix.weigh import weigh

        found = diagnose(self._relabelled, mixture=self.mixture)
        return weigh(self, smc or self.smc, found.chains["mode"].to_numpy()).to_frame()

    def predict_proba(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Responsibilities averaged over the relabelled posterior, (*rows, K); new data as args."""
        new = brought_near(with_data(self.mixture, args, kwargs))
        return evaluate_draws(new, self._aligned())["mean_responsibilities"]

    def _aligned(self) -> dict[str, np.ndarray]:
        """The samples with every draw's clusters named as the pivot's."""
        perm = np.asarray(self._relabelled["relabelling"]["permutation"])
        return permute_draws(self.mixture, self.samples, perm)

    def predict_mean(self, *args: Any, **kwargs: Any) -> Any:
        """Posterior mean of E[x_n] of each row of new data, (*rows, *event), in data units.

        Of a regression the expected response at new covariates, before it is seen:
        ``predict_mean(X)``; a program of your own is called with what it needs (``y=None``, or any
        numbers in y's place). {observed site: array} where several share an assignment.
        ``expected`` has the parts, by cluster and by draw.
        """
        return expected_mean(self.mixture, self.get_samples(), args, kwargs)

    def expected(self, *args: Any, **kwargs: Any) -> Any:
        """E[x_n], E[x_n | k] and the weights of each row of new data: an xarray.Dataset.

        See ``bayesmix.posterior.expected_dataset``.
        """
        from bayesmix.posterior import expected_dataset

        return expected_dataset(self.mixture, self._aligned(), args, kwargs)

    def log_density(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Log posterior predictive density of each row of new data, (*rows), in nats."""
        new = with_data(self.mixture, args, kwargs)
        pointwise = evaluate_draws(new, self.samples)["log_likelihood"]
        return np.logaddexp.reduce(pointwise, axis=(0, 1)) - np.log(np.prod(pointwise.shape[:2]))

    def sample(self, key: Any, n: int) -> Simulated:
        """``n`` new observations from the posterior predictive, (n, *event), in data units.

        {observed site: array} where several share an assignment.
        """
        return simulate_posterior(key, self.mixture, self.samples, n)

    def _sheet(self) -> Sheet:
        lines = [
            f"NUTS of {self.mixture.name!r}: {self.mixture.K} {self.mixture.family}, "
            f"{self.mixture.N} rows",
            f"{_shape(self)} draws in {self.seconds:.1f} s, "
            f"{int(self.sample_stats['diverging'].sum())} divergences",
            f"moves: {self.settings['moves']}",
            self.start_policy,
            *(f"note: {note}" for note in self.notes),
            "summary() for the relabelled posterior, report() for the verdict, "
            "to_datatree() for ArviZ",
        ]
        return Sheet(tuple(lines))

    def __repr__(self) -> str:
        return self._sheet().lines

    def _repr_html_(self) -> str:
        return self._sheet().markup()


def _shape(result: NUTSResult) -> str:
    chains, draws = result.sample_stats["lp"].shape
    return f"{chains} chains x {draws}"
