"""The sampler: from a program and data to posterior draws."""

import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import ParamInfo

from bayesmix.arguments import check_counts, check_dtype, check_optional_counts
from bayesmix.checks import check_gaps, check_idle_rows
from bayesmix.climb import work_of
from bayesmix.curvature import evaluate, seconds_of
from bayesmix.density import check_bins, data_of, density_of, has_family, on_bins
from bayesmix.device import arithmetic, placed
from bayesmix.em import EM
from bayesmix.estimate import EMResult
from bayesmix.laplace import refuse_improper
from bayesmix.nuts.cells import agreement
from bayesmix.nuts.divergences import divergences, stays
from bayesmix.nuts.kernel import devices_for, shared_out
from bayesmix.nuts.record import Folder, Memory, Record
from bayesmix.nuts.result import NUTSResult
from bayesmix.nuts.schedule import PATIENCE, outlook, tell, watched
from bayesmix.nuts.session import KERNELS, MOVES, WARMUP, Session
from bayesmix.nuts.starts import Starts, starts_of, words_of
from bayesmix.program import Mixture, trace
from bayesmix.saved import another_run, digest, outline
from bayesmix.smc import SMCResult

# Relative difference of log densities that rounding may make.
SAME = {"float64": 1e-9, "float32": 1e-3}


@dataclass(frozen=True)
class NUTS:
    """Posterior sampling; ``NUTS(program).run(key, *data, start=em)`` returns a NUTSResult.

    chains, draws : chains run side by side (vectorised), shared out among several devices if there
        are and the rows are not; draws kept per chain.
    warmup : transitions per chain to adapt in; by default 150 (of the step size) when a mode's
        curvature is known beforehand and 1000 when not.
    metric : "curvature", that of the log joint at the mode where a chain begins, or "adapted", by
        NumPyro's ordinary warm-up of step size and scales.
    kernel : "auto" moves along Hamiltonian orbits of one length, which takes a third of the
        gradients, where the mode's curvature describes the posterior, and by NUTS where it does
        not; "nuts" always by NUTS.
    target_accept : acceptance rate that the step size is adapted to; of orbits at least 0.88.
    dtype : "float64" or "float32".
    bins : put one column of continuous values into so many cells, each as two points with its exact
        weight, mean, variance and third moment; a note says how much that changes the log density
        of all rows at some of the draws. For 1e5 rows and more; 1024 serve most data.
    path : a folder to write the draws to, block by block, instead of holding them in memory. The
        same call goes on where a run stopped (killed, interrupted, disk full) and ends with the
        same draws; with a larger ``draws`` it goes on from where a finished run ended.

    Ctrl-C ends sampling; the result then has the draws made so far, and a note that says so.
    """

    program: Any
    chains: int = 4
    warmup: int | None = None
    draws: int = 1000
    metric: str = "curvature"
    kernel: str = "auto"
    target_accept: float = 0.8
    dtype: str = "float64"
    progress_bar: bool = True
    bins: int | None = None
    path: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_counts(chains=self.chains, draws=self.draws)
        check_optional_counts(warmup=self.warmup, bins=self.bins)
        check_dtype(self.dtype)
        if not 0 < self.target_accept < 1:
            raise ValueError(f"target_accept must lie between 0 and 1, not {self.target_accept!r}")
        if self.metric not in ("curvature", "adapted"):
            raise ValueError(f'metric must be "curvature" or "adapted", not {self.metric!r}')
        if self.kernel not in KERNELS:
            raise ValueError(f'kernel must be "auto" or "nuts", not {self.kernel!r}')

    def run(
        self, key: Any, *args: Any, start: EMResult | SMCResult | str | None = None, **kwargs: Any
    ) -> NUTSResult:
        """Sample the posterior of the program given data (the program's own arguments).

        start : an EMResult of the same program and data; None runs EM first; an SMCResult starts
            the chains at its particles, in modes by their probability; "prior" starts them at draws
            from the prior, with NumPyro's ordinary adaptation.

        Raises ValueError for improper priors, naming the site, for a start that does not fit, and
        for a ``path`` that holds another run; OSError where ``path`` cannot be written.
        """
        began = time.perf_counter()
        mixture = _begun_with(_checked(trace(self.program, *args, **kwargs)), start)
        with placed(work_of(mixture, mixture.N)):
            seen = mixture if self.bins is None else _in_cells(mixture, self.bins, self.dtype)
            record = self._record(mixture, key, start)
            if start is None:
                em = EM(self.program, bins=self.bins, progress_bar=self.progress_bar)
                start = em.run(jax.random.fold_in(key, 0), *args, **kwargs)
            known = start if isinstance(start, EMResult | SMCResult) else None
            progress = partial(watched, shown=self.progress_bar)
            begin = partial(starts_of, seen, known, key, self.chains, progress)
            starts = Starts.of(record.once("start", lambda: begin().arrays()))
            with arithmetic(self.dtype):
                draws, moves, said = self._sample(key, seen, starts, record)
        samples, stats = (record.draws(kind, draws) for kind in ("sites", "stats"))
        said += divergences(mixture, samples, stats["diverging"])
        said += stays(stats["lp"])
        if self.bins is not None:
            said.append(agreement(mixture, seen, samples, self.bins))
        return NUTSResult(
            mixture=mixture,
            samples=samples,
            sample_stats=stats,
            start=known if isinstance(known, EMResult) else None,
            smc=known if isinstance(known, SMCResult) else None,
            start_policy=starts.policy,
            notes=(*starts.notes, *said, *filter(None, [mixture.gaps])),
            seconds=time.perf_counter() - began,
            seed=str(words_of(key)),
            settings={
                "chains": self.chains,
                "warmup": record.done["warmup"],
                "metric": self.metric,
                "kernel": self.kernel,
                "moves": MOVES[moves],
                "draws": draws,
                "target_accept": self.target_accept,
                "dtype": self.dtype,
                "bins": self.bins,
            },
        )

    def _record(self, mixture: Mixture, key: Any, start: Any) -> Record:
        if self.path is None:
            return Memory()
        result = start if isinstance(start, EMResult | SMCResult) else None
        run = {
            "program": outline(mixture),
            "data": digest(*(a for a in mixture.arguments.arrays if isinstance(a, np.ndarray))),
            "key": str(words_of(key)),
            "start": digest(*result.params.values()) if result else str(start),
        }
        settings = ("chains", "warmup", "metric", "kernel", "target_accept", "dtype", "bins")
        return Folder(self.path, run | {name: str(getattr(self, name)) for name in settings})

    def _sample(
        self, key: Any, mixture: Mixture, starts: Starts, record: Record
    ) -> tuple[int, str, list[str]]:
        """Fill the record; the draws of each chain then, the kernel, and what there is to say."""
        whitened = starts.whitened and self.metric == "curvature"
        kernels = KERNELS[self.kernel] if whitened else ("ordinary",)
        first = self._first(mixture, starts, kernels[0])
        self._check_same(record, first)
        mesh = devices_for(data_of(mixture), self.chains)
        everywhere = partial(shared_out, chains=None, mesh=mesh)
        session = Session(
            density=density_of(mixture),
            data=everywhere(data_of(mixture)),
            centre=everywhere(jnp.asarray(starts.frame.centre, float)),
            factor=everywhere(jnp.asarray(starts.frame.factor, float)),
            key=key,
            chains=self.chains,
            mesh=mesh,
            record=record,
            warmup=self.warmup,
            draws=self.draws,
            target_accept=self.target_accept,
            progress_bar=self.progress_bar,
        )
        notes: list[str] = []
        interrupted = False
        try:
            session.sample(first, kernels, notes.append)
        except KeyboardInterrupt:
            if not record.done["draws"]:
                raise
            interrupted = True
        moves = kernels[len(notes)]  # each kernel that did not fit left a note
        if interrupted:
            notes.append(self._interrupted(record.done["draws"]))
        return min(record.done["draws"], self.draws), moves, notes

    def _first(self, mixture: Mixture, starts: Starts, kernel: str) -> ParamInfo:
        """The chains' first points with potential and gradient there, in the ambient precision.

        Where that takes a while, what the run will cost is told.
        """
        (centre, factor), points = starts.frame, starts.points
        z = centre + points @ factor.T
        began = time.perf_counter()
        values, gradients, _ = evaluate(mixture, z)
        if self.progress_bar and time.perf_counter() - began > PATIENCE:
            transitions = (self.warmup or WARMUP[kernel]) + self.draws
            tell(outlook(seconds_of(mixture, z), kernel, self.chains, transitions))
        dtype = values.dtype
        return ParamInfo(points.astype(dtype), -values, (-gradients @ factor).astype(dtype))

    def _interrupted(self, done: int) -> str:
        further = "" if self.path is None else "; the same call goes on from there"
        return f"interrupted: each chain has {done} of the {self.draws} draws asked for{further}"

    def _check_same(self, record: Record, first: ParamInfo) -> None:
        """A program or data that differ where nothing else tells give another log density."""
        ours = np.asarray(first.potential_energy, np.float64)
        theirs = record.once("density", lambda: {"potential": ours})["potential"]
        if not np.allclose(ours, theirs, rtol=SAME[self.dtype], atol=0, equal_nan=True):
            raise another_run(
                "path", self.path or "", ["numbers in the program, or data that it captures,"]
            )


def _checked(mixture: Mixture) -> Mixture:
    """The mixture; refuses one whose posterior is improper, and data without a density or slope."""
    refuse_improper(mixture, "NUTS")
    check_gaps(mixture)
    with jax.enable_x64(True):
        if mixture.weights is not None and not has_family(mixture):
            check_idle_rows(mixture)
    return mixture


def _begun_with(mixture: Mixture, start: EMResult | SMCResult | str | None) -> Mixture:
    """The mixture, or the start's own where it is the same: there its rows are laid out, and the
    shapes of its modes may be known. Refuses a start that does not fit.
    """
    if not isinstance(start, EMResult | SMCResult):
        if start is not None and start != "prior":
            raise ValueError(
                f'start must be an EMResult, an SMCResult, "prior" or None, not {start!r}'
            )
        return mixture
    _check_start(mixture, start)
    return start.mixture if _is_the_same(mixture, start.mixture) else mixture


def _in_cells(mixture: Mixture, bins: int, dtype: str) -> Mixture:
    with jax.enable_x64(True):
        check_bins(mixture)
    return on_bins(mixture, bins, dtype)


def _check_start(mixture: Mixture, start: EMResult | SMCResult) -> None:
    with jax.enable_x64(True):
        same = density_of(mixture) == density_of(start.mixture)
    if not same or not _same_data(mixture, start.mixture):
        raise ValueError(
            f"start is the {type(start).__name__} of another program or other data: run it on the "
            "same program and data first"
        )


def _is_the_same(a: Mixture, b: Mixture) -> bool:
    """Whether both are of one reading, so of a program that has not changed, and of one call."""
    with jax.enable_x64(True):
        read_once = a.reading.components is b.reading.components
    return read_once and a.arguments.same_as(b.arguments)


def _same_data(a: Mixture, b: Mixture) -> bool:
    pairs: list[Any] = [(a.value, b.value), (a.weights, b.weights), (a.labels, b.labels)]
    return all(x is y is None or np.array_equal(x, y, equal_nan=True) for x, y in pairs)
