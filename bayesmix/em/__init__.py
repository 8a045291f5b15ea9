"""EM: the maximum a posteriori estimate of any traced mixture, in constrained space.

Runs from several starts become an atlas of modes, of which the best regular one is the result. What
is maximised is the density over the constrained sites, without a Jacobian.

Lives here: `EM`, and `step`, one plain step. `refusals` has what they refuse. The loop is in
`engine`, its runs in `climb`, the search for modes in `search`, what comes out in `estimate`.
"""

import os
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.arguments import check_counts, check_dtype, check_optional_counts, seed_of
from bayesmix.checkpoint import Checkpoint, File
from bayesmix.checks import check_gaps, check_idle_rows
from bayesmix.climb import Climber, work_of
from bayesmix.density import Data, check_bins, data_of, density_of, has_family
from bayesmix.device import arithmetic, placed
from bayesmix.em.refusals import check_size, check_supports, checked_params, checked_resp, nowhere
from bayesmix.engine import (
    CONVERGED,
    DEGENERATE,
    FELL,
    INTERRUPTED,
    MAX_STEPS,
    Engine,
    entered,
    one_step,
)
from bayesmix.estimate import EMResult
from bayesmix.modes import atlas, is_possible, passed_over
from bayesmix.mstep import left_at_kinks, may_stall, plan_for
from bayesmix.mstep.bounds import boundedness
from bayesmix.program import Mixture, Params, trace
from bayesmix.saved import digest, outline
from bayesmix.search import Found, run_from, search

__all__ = ["EM", "step"]

SENTENCES = {
    CONVERGED: "converged: what remains to be gained is estimated to be below {tol:.1g} nats",
    MAX_STEPS: "not converged: stopped after {max_steps} steps; raise max_steps",
    DEGENERATE: "stopped: the log joint is no longer finite, a cluster has become singular",
    INTERRUPTED: "interrupted: the best params so far; give them as init_params to go on",
    FELL: "stopped: the log joint fell by more than rounding; the params are the last good ones",
}
AT_A_KINK = (
    "not converged: stopped at a kink or an edge of the log density, where slopes lead no further; "
    "up to about {left:.1g} nats may remain"
)
MUCH = 0.1  # nats of a row that rounding may hide before a note says so
COARSE = (
    "float32 may get the log density of a row wrong by up to {nats:.1g} nats: a cluster is far "
    'narrower in some direction than the data are wide; use dtype="float64"'
)


def step(mixture: Mixture, params: Params) -> dict[str, np.ndarray]:
    """The params after one plain EM step from ``params``; the log joint does not fall."""
    with jax.enable_x64(True):
        engine = Engine(density_of(mixture), plan_for(mixture))
        after = one_step(engine, _as_arrays(params), data_of(mixture))
        return {name: np.asarray(after[name]) for name in mixture.sites}


def _as_arrays(params: Params) -> Params:
    return {name: jnp.asarray(value, float) for name, value in params.items()}


@dataclass(frozen=True)
class EM:
    """Maximum a posteriori estimation by EM; ``EM(program).run(key, *data)`` returns an EMResult.

    restarts : number of starts (k-means++, random rows, random responsibilities); the moves that
        are tried from the best of them, one cluster taken away and another grown, grow with it.
    max_steps : E-steps per run at most.
    tol : stop when the estimated remaining gain of the log joint is below this, in nats.
    accelerate : follow slow EM steps by quasi-Newton moves; the log joint still never falls.
    dtype : "float64", or "float32": then the data and the scores of the rows are float32, half the
        memory; params, sums over chunks and M-step stay float64. Components without a sweep of
        their own are computed in float32 throughout. A row's log density is then wrong by about
        1e-7 of the condition number of its cluster's covariance (docs/choosing.md); where that may
        be more than 0.1 nats a note says so.
    bins : search on so many cells of univariate continuous data, each with its exact mean and
        weight, in place of a sample of the rows; the modes found are carried on with every row, so
        that no result is approximate. Worth it where a sample misses small clusters. A run from
        ``init_params`` likewise goes to its mode on the cells before it goes on with every row.
    checkpoint : a file that keeps the search as it goes. The same call goes on where a run was
        killed, was interrupted or found the disk full, and ends at the same modes.
    progress_bar : show the starts as they finish.
    """

    program: Any
    restarts: int = 16
    max_steps: int = 1000
    tol: float = 1e-9
    accelerate: bool = True
    dtype: str = "float64"
    bins: int | None = None
    checkpoint: str | os.PathLike[str] | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        check_counts(restarts=self.restarts, max_steps=self.max_steps)
        check_optional_counts(bins=self.bins)
        check_dtype(self.dtype)
        if not self.tol > 0:
            raise ValueError(f"tol must be a positive number of nats, not {self.tol!r}")

    def run(
        self,
        key: Any,
        *args: Any,
        init_params: Params | None = None,
        init_resp: Any = None,
        **kwargs: Any,
    ) -> EMResult:
        """Fit the program to data, given as the program's own arguments.

        init_params : {site: array} for every latent site; one run that begins at the E-step.
        init_resp : responsibilities (N, K); one run that begins at the M-step.

        Raises ValueError for data or starts that do not fit the program, in one sentence.
        """
        began = time.perf_counter()
        seed = seed_of(key)
        mixture = trace(self.program, *args, **kwargs)
        check_gaps(mixture)
        if init_params is not None and init_resp is not None:
            raise ValueError("give init_params or init_resp, not both")
        work = work_of(mixture, mixture.N)
        with jax.enable_x64(True):  # as it was traced: elsewhere it would be read once more
            wide = has_family(mixture)
            if not wide and mixture.weights is not None:
                check_idle_rows(mixture)
        with placed(work), arithmetic(self.dtype, wide=wide):
            check_size(mixture)
            if self.bins is not None:
                check_bins(mixture)
            engine = Engine(density_of(mixture), plan_for(mixture))
            data = data_of(mixture, self.dtype)
            saved = self._saved(engine, mixture, data, key, (init_params, init_resp))
            climber = Climber(
                engine, mixture, data, self.tol, self.max_steps, self.accelerate, saved
            )
            try:
                found = self._found(climber, seed, init_params, init_resp)
            except KeyboardInterrupt:
                saved.write()
                raise
            saved.write() if found.interrupted else saved.close()
        given = init_params is not None or init_resp is not None
        return self._result(mixture, found, given, seed, began)

    def _saved(
        self, engine: Engine, mixture: Mixture, data: Data, key: Any, start: Any
    ) -> Checkpoint:
        """Where the search is kept, labelled with all that decides how it goes."""
        if self.checkpoint is None:
            return Checkpoint()
        arrays = [a for a in mixture.arguments.arrays if isinstance(a, np.ndarray)]
        centre = engine.density.centre(data)
        log_joint = engine.e_step(centre, data)[0]
        label = {
            "program": outline(mixture),
            "data": digest(*arrays),
            "numbers in the program or captured data": f"{float(log_joint):.9g}",
            "key": str(seed_of(key).entropy),
            "start": digest(*jax.tree.leaves(start)),
        }
        names = ("restarts", "max_steps", "tol", "accelerate", "dtype", "bins")
        return File(self.checkpoint, label | {name: str(getattr(self, name)) for name in names})

    def _found(
        self,
        climber: Climber,
        seed: np.random.SeedSequence,
        init_params: Params | None,
        init_resp: Any,
    ) -> Found:
        """One run from where it was told to begin, or the search."""
        if init_params is not None:
            params = checked_params(climber.mixture, init_params)
            state, inside = entered(climber.engine, params, climber.data)
            check_supports(climber, inside)
            run = run_from(climber, params, state, self.bins)
        elif init_resp is not None:
            run = climber.climb(climber.begin(checked_resp(climber.mixture, init_resp)))
        else:
            rng = np.random.default_rng(seed)
            return search(climber, self.restarts, rng, self._progress, self.bins)
        return Found([run], run.stop == INTERRUPTED)

    def _progress(self, items: Any, unit: str) -> Any:
        if not self.progress_bar:
            return items
        from tqdm.auto import tqdm

        return tqdm(items, desc="EM", unit=unit, leave=False)

    def _result(
        self,
        mixture: Mixture,
        outcome: Found,
        given: bool,
        seed: np.random.SeedSequence,
        began: float,
    ) -> EMResult:
        finite = [each for each in outcome.runs if is_possible(each.mode.log_joint)]
        if not finite:
            raise ValueError(nowhere(mixture))
        modes = atlas([each.mode for each in finite], mixture)
        best = modes[0]
        found = next(each for each in finite if each.mode.params is best.params)
        notes = [*boundedness(mixture), *passed_over(modes)]
        notes += [mixture.gaps] if mixture.partial else []
        if not best.regular:
            notes.append(f"no start reached a regular mode; of the one returned, {best.reason}")
        rows = mixture.N if mixture.weights is None else max(float(mixture.weights.sum()), 1.0)
        if self.dtype == "float32" and MUCH * rows < found.noise < np.inf:
            notes.append(COARSE.format(nats=found.noise / rows))
        tol = max(self.tol, found.noise)
        left = self._left(mixture, best.params) if found.stop == CONVERGED else 0.0
        stalled = not left <= tol
        if outcome.interrupted and not given:
            notes.append("the search was interrupted: other modes may be higher")
        return EMResult(
            mixture=mixture,
            params=best.params,
            log_joint=best.log_joint,
            log_likelihood=best.log_likelihood,
            history=found.history,
            converged=found.stop == CONVERGED and not stalled,
            stop=(AT_A_KINK if stalled else SENTENCES[found.stop]).format(
                tol=tol, max_steps=self.max_steps, left=left
            ),
            steps=len(found.history),
            accelerated=found.accelerated,
            modes=modes,
            notes=tuple(notes),
            seconds=time.perf_counter() - began,
            seed=str(seed.entropy),
            settings={
                "restarts": 1 if given else self.restarts,
                "max_steps": self.max_steps,
                "tol": self.tol,
                "accelerate": self.accelerate,
                "dtype": self.dtype,
                "bins": self.bins,
            },
        )

    def _left(self, mixture: Mixture, params: Params) -> float:
        """What a kink may have kept a run from, in nats."""
        if not may_stall(mixture):
            return 0.0
        work = work_of(mixture, mixture.N)
        with placed(work), arithmetic(self.dtype, wide=False):
            return left_at_kinks(mixture, params)
