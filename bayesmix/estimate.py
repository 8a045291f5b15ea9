"""What EM found: the MAP, the atlas of modes, and what follows from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from bayesmix.carry import own_fields
from bayesmix.coordinates import free_size
from bayesmix.curvature import standard_errors
from bayesmix.density import data_of, density_of, log_density, responsibilities
from bayesmix.expected import expected_mean
from bayesmix.modes import Modes
from bayesmix.mstep import plan_for
from bayesmix.portrait import named_elements, portrait
from bayesmix.predict import Simulated, brought_near, simulate, with_data, with_observed
from bayesmix.program import Mixture
from bayesmix.sheet import Sheet, Shown


@dataclass(frozen=True, eq=False, repr=False)
class EMResult(Shown):
    """The MAP estimate and everything EM found on the way.

    ``params`` {site: array} maximise the log joint over the constrained sites (no Jacobian);
    ``log_joint`` and ``log_likelihood`` (nats) belong to them. ``history`` is the log joint after
    each of the ``steps`` of the run that found them, ``accelerated`` of which were quasi-Newton
    moves. ``modes`` lists every distinct optimum. ``aic``, ``bic`` and ``icl`` are to be minimised.
    Arrays are NumPy, float64.
    """

    mixture: Mixture
    params: dict[str, np.ndarray]
    log_joint: float
    log_likelihood: float
    history: np.ndarray
    converged: bool
    stop: str
    steps: int
    accelerated: int
    modes: Modes
    notes: tuple[str, ...]
    seconds: float
    seed: str
    settings: dict[str, Any]

    __getstate__ = own_fields

    @property
    def plan(self) -> str:
        """Which update EM used for each site."""
        return str(plan_for(self.mixture))

    @cached_property
    def responsibilities(self) -> np.ndarray:
        """p(z_n = k | x_n) at the MAP, (*rows, K)."""
        with jax.enable_x64(True):
            return np.asarray(responsibilities(self.mixture, self.params))

    @cached_property
    def n_parameters(self) -> int:
        """Number of free parameters of the mixture: unconstrained coordinates of linked sites."""
        linked = tuple(name for name, site in self.mixture.sites.items() if site.links)
        with jax.enable_x64(True):
            return free_size(density_of(self.mixture), data_of(self.mixture), linked)

    @property
    def aic(self) -> float:
        """2 p - 2 log likelihood; smaller is better."""
        return 2 * self.n_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """p log N - 2 log likelihood; smaller is better (mclust reports the negative)."""
        weights = self.mixture.weights
        N = self.mixture.N if weights is None else float(weights.sum())
        return self.n_parameters * float(np.log(N)) - 2 * self.log_likelihood

    @property
    def icl(self) -> float:
        """BIC - 2 sum_n log max_k r_nk, as mclust's with the sign turned; smaller is better."""
        certain = np.log(self.responsibilities.max(-1))
        weights = 1.0 if self.mixture.weights is None else self.mixture.weights
        return self.bic - 2 * float((weights * certain).sum())

    def predict_proba(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Responsibilities of new data, given as the program's own arguments, (*rows, K)."""
        new = brought_near(with_data(self.mixture, args, kwargs))
        with jax.enable_x64(True):
            return np.asarray(responsibilities(new, self.params))

    def predict(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """The most probable cluster of each row of new data, (*rows); integers from 0."""
        return self.predict_proba(*args, **kwargs).argmax(-1)

    def predict_mean(self, *args: Any, **kwargs: Any) -> Any:
        """E[x_n] of each row of new data, (*rows, *event), in data units.

        Of a regression the expected response at new covariates, before it is seen:
        ``predict_mean(X)``; a program of your own is called with what it needs (``y=None``, or any
        numbers in y's place). {observed site: array} where several share an assignment.
        ``expected`` has the parts, by cluster too.
        """
        return expected_mean(self.mixture, self._one_draw, args, kwargs)

    def expected(self, *args: Any, **kwargs: Any) -> Any:
        """E[x_n], E[x_n | k] and the weights of each row of new data: an xarray.Dataset.

        See ``bayesmix.posterior.expected_dataset``.
        """
        from bayesmix.posterior import expected_dataset

        draws = {name: value[None] for name, value in self._one_draw.items()}
        return expected_dataset(self.mixture, draws, args, kwargs)

    def log_density(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """log sum_k w_k f(x_n | k) of new data, (*rows), in nats.

        Of a row's observed cells: 0 for a row without any. Raises ValueError where no row has one.
        """
        new = with_observed(self.mixture, args, kwargs)
        with jax.enable_x64(True):
            return np.asarray(log_density(new, self.params))

    def sample(self, key: Any, n: int) -> Simulated:
        """``n`` new observations simulated at the MAP, (n, *event), in data units.

        A DataFrame where the data were one, with its columns, and text as pandas Categoricals; else
        {observed site: array} where several share an assignment.
        """
        return simulate(key, self.mixture, self.params, n)

    def standard_errors(self) -> dict[str, np.ndarray]:
        """Standard errors from the observed information at the MAP, {site: array} as ``params``.

        See ``bayesmix.curvature.standard_errors``, also for what is raised.
        """
        return standard_errors(self.mixture, self.params)

    def laplace(
        self, key: Any, draws: int = 1000, *, mode: int | None = None, resample: bool = False
    ) -> Any:
        """Independent draws around the modes, with k-hat; see ``bayesmix.approximate.laplace``."""
        from bayesmix.approximate import laplace

        return laplace(key, self, draws, mode=mode, resample=resample)

    def bootstrap(self, key: Any, draws: int = 200, *, weights: str = "dirichlet") -> Any:
        """EM again on reweighted rows, from the MAP; see ``bayesmix.bootstrap.bootstrap``."""
        from bayesmix.bootstrap import bootstrap

        return bootstrap(key, self, draws, weights=weights)

    def summary(self) -> Any:
        """A DataFrame with one row per element of every site at the MAP."""
        import pandas as pd

        return pd.DataFrame({"map": dict(named_elements(self.mixture, self.params))})

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree of one chain and one draw; see ``bayesmix.posterior.em_tree``."""
        from bayesmix.posterior import em_tree

        return em_tree(self, **kwargs)

    @property
    def _one_draw(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value)[None] for name, value in self.params.items()}

    @property
    def _sheet(self) -> Sheet:
        tables, left = portrait(self.mixture, self.params, self.modes[0].counts)
        return Sheet(
            (
                f"EM of {self.mixture.name!r}: {self.mixture.K} {self.mixture.family}, "
                f"{self.mixture.N} rows",
                f"log joint {self.log_joint:.6f}, log likelihood {self.log_likelihood:.6f} (nats)",
                f"{self.stop} ({self._passes()}, {self.seconds:.2f} s)",
                *tables,
                *left,
                *self.modes.parts(),
                *(f"note: {note}" for note in self.notes),
            )
        )

    def _passes(self) -> str:
        plain = self.steps - self.accelerated
        fast = f", then {self.accelerated} quasi-Newton" if self.accelerated else ""
        return f"{plain} EM steps{fast}"
