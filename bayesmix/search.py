"""The search for the best mode: runs from many starts, moves from the best of them, all the data.

On many rows the search runs on a sample of them, weighted up, with the priors of the whole data;
the best distinct modes are then carried on with every row. A move takes one cluster away and grows
a new one from a few neighbouring rows (random swap, Zhao, Hautamaki, Karkkainen & Franti 2012,
Random swap EM algorithm for Gaussian mixture models, Pattern Recognition Letters 33); a few EM
steps tell whether it leads anywhere. What counts as better is decided among regular modes only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bayesmix.density import Data, sample_of
from bayesmix.engine import (
    BLOCK,
    DEGENERATE,
    INTERRUPTED,
    MAX_STEPS,
    RUNNING,
    EMState,
    Engine,
    advance,
    from_params,
    from_resp,
    hasten,
    resp_at,
)
from bayesmix.modes import Mode, atlas, judge, rows_needed
from bayesmix.program import Mixture, Params
from bayesmix.start import Starts, coded, starts_on

SCOUT = 4096  # rows that the search looks at
ROUGH = 1e-3  # nats: where runs on a sample stop
SHORT = 8  # EM steps after which a move is judged
MARGIN = 4.0  # nats that a move may then be behind the best mode
CARRIED = 4  # distinct modes that are carried on with all rows
EFFORT = 60_000  # rows times moves without success before the search ends
MOVES = (32, 300)  # bounds of that number, for USUAL restarts
USUAL = 16
AGREED = 0.75  # share of starts at the best mode that makes the landscape an easy one
COMPILING = 3_000_000  # work of the plain steps that cost as much as compiling other moves
PATIENCE = (30, 300)  # plain steps before quasi-Newton moves take over: bounds


class Run(NamedTuple):
    """Where one run ended: its mode, the last state, the log joint after each E-step.

    ``accelerated`` is how many of the E-steps belong to quasi-Newton moves.
    """

    mode: Mode
    state: EMState
    history: np.ndarray
    accelerated: int

    @property
    def stop(self) -> int:
        return int(self.state.stop)


@dataclass(frozen=True)
class Climber:
    """EM on given data, from a state to its stop."""

    engine: Engine
    mixture: Mixture
    data: Data
    tol: float
    max_steps: int
    accelerate: bool

    @property
    def work(self) -> int:
        """A measure of the cost of one pass over the data."""
        return self.mixture.N * self.mixture.K * max(1, int(np.prod(self.mixture.event_shape)))

    @property
    def patience(self) -> int:
        """Plain steps before acceleration.

        Of cheap ones there may be many, since a first quasi-Newton move has to be compiled.
        """
        if not self.accelerate:
            return self.max_steps
        return min(self.max_steps, int(np.clip(COMPILING / self.work, *PATIENCE)))

    def begin(self, resp: np.ndarray) -> EMState:
        """The state before the first M-step, from responsibilities (n, K)."""
        if self.engine.density.family is None:
            shaped = resp.reshape(*self.mixture.rows, self.mixture.K)
            weights = self.mixture.weights
            resp = shaped if weights is None else shaped * weights[..., None]
        return from_resp(self.engine, resp, self.data)

    def resume(self, params: Params) -> tuple[EMState, list[float]]:
        """The state after an E-step at ``params``, and its log joint."""
        state = from_params(self.engine, params, self.data)
        return state, [float(state.log_joint)]

    def resp(self, run: Run, n: int) -> np.ndarray:
        """Responsibilities (n, K) where a run ended."""
        return np.asarray(resp_at(self.engine, run.state.point, self.data))[:n]

    def climb(self, state: EMState, history: Sequence[float] = ()) -> Run:
        """EM to convergence: plain steps, quasi-Newton moves where those are slow.

        history : the log joint after each step that led to ``state``.
        """
        state, plain = self._plain(state, self.patience)
        fast: list[float] = []
        if int(state.stop) == RUNNING and int(state.steps) < self.max_steps:
            state, fast = hasten(self.engine, state, self.data, self.tol, self.max_steps)
        state, last = self._plain(state, self.max_steps)
        return self._run(state, np.array([*history, *plain, *fast, *last]), len(fast))

    def glance(self, state: EMState) -> tuple[EMState, list[float]]:
        """A few plain steps, enough to tell whether a start leads anywhere; their log joints."""
        return self._plain(state, min(int(state.steps) + SHORT, self.max_steps))

    def _plain(self, state: EMState, until: int) -> tuple[EMState, list[float]]:
        """Plain steps in pieces, so that an interrupt is heard."""
        history: list[float] = []
        stride = int(np.clip(10 * COMPILING / self.work, 1, BLOCK))
        try:
            while int(state.stop) == RUNNING and int(state.steps) < until:
                before = int(state.steps)
                end = min(until, before + stride)
                state, piece, _ = advance(self.engine, state, self.data, self.tol, end)
                history += np.asarray(piece)[: int(state.steps) - before].tolist()
        except KeyboardInterrupt:
            state = state._replace(stop=np.int32(INTERRUPTED))
        return state, history

    def _run(self, state: EMState, history: np.ndarray, accelerated: int) -> Run:
        # No further step: this asks for the components at the state.
        leaves = advance(self.engine, state, self.data, self.tol, 0)[2]
        if int(state.stop) == RUNNING:
            state = state._replace(stop=np.int32(MAX_STEPS))
        mode = judge(
            self.mixture,
            self.engine.unflatten(np.asarray(state.point, np.float64)),
            log_joint=float(state.log_joint),
            log_likelihood=float(state.log_likelihood),
            counts=self.engine.counts(state),
            leaves={name: np.asarray(value, np.float64) for name, value in leaves.items()},
            degenerate=int(state.stop) == DEGENERATE,
        )
        return Run(mode, state, history, accelerated)


class Found(NamedTuple):
    """All runs of a search, and whether an interrupt ended it early."""

    runs: list[Run]
    interrupted: bool


Progress = Callable[[Iterable[Any], str], Iterable[Any]]


def search(climber: Climber, restarts: int, rng: np.random.Generator, progress: Progress) -> Found:
    """Runs from ``restarts`` starts, then from moves, finished on all rows.

    ``progress`` passes what is worked on through, and shows it by the name of its kind. An
    interrupt before anything was found is passed on.
    """
    mixture = climber.mixture
    x, data, whole = sample_of(mixture, climber.data, SCOUT, rng)
    scout = replace(climber, data=data, tol=climber.tol if whole else max(climber.tol, ROUGH))
    ordered = any("Ordered" in str(site.support) for site in mixture.sites.values())
    starts = starts_on(*coded(mixture, x), mixture.K, ordered, rng)
    runs: list[Run] = []
    interrupted = False
    try:
        for number in progress(range(restarts), "start"):
            runs.append(scout.climb(scout.begin(starts.start(number))))
            if runs[-1].stop == INTERRUPTED:
                raise KeyboardInterrupt
        for run in progress(_moves(scout, starts, runs, restarts), "move"):
            runs.append(run._replace(mode=replace(run.mode, starts=0, moves=1)))
    except KeyboardInterrupt:
        if not any(np.isfinite(run.mode.log_joint) for run in runs):
            raise
        interrupted = True
    if not whole:
        last = replace(climber, max_steps=1) if interrupted else climber
        runs = _carried(last, runs, progress)
    return Found(runs, interrupted)


def _moves(scout: Climber, starts: Starts, runs: list[Run], restarts: int) -> Iterator[Run]:
    """Runs from moves off the best regular mode, until none has been better for a while."""
    best = max(runs, key=lambda run: (run.mode.regular, run.mode.log_joint))
    if starts.K == 1 or not best.mode.regular:
        return
    n = len(starts.x)
    fewest = min(rows_needed(scout.mixture) + 1, n)
    agreed = atlas([run.mode for run in runs], scout.mixture)[0].starts >= AGREED * len(runs)
    patience = np.clip(EFFORT / n, *MOVES) * restarts / USUAL / (4 if agreed else 1)
    resp, idle = scout.resp(best, n), 0
    while idle < patience:
        most = 4 * fewest if idle % 2 else max(4 * fewest, n // starts.K)
        state, history = scout.glance(scout.begin(starts.swap(resp, fewest, min(most, n))))
        idle += 1
        if not float(state.log_joint) > best.mode.log_joint - MARGIN:
            continue
        run = scout.climb(state, history)
        yield run
        if run.mode.regular and run.mode.log_joint > best.mode.log_joint + scout.tol:
            best, idle = run, 0
            resp = scout.resp(best, n)


def _carried(climber: Climber, runs: list[Run], progress: Progress) -> list[Run]:
    """The best modes of a sample of the rows, carried on with all of them.

    All take a few steps; those that even then promise less than the best has are left there.
    """
    modes = atlas([run.mode for run in runs], climber.mixture)[:CARRIED]
    begun = []
    for mode in modes:
        state, first = climber.resume(mode.params)
        state, history = climber.glance(state)
        begun.append((state, first + history))
    reached = max(float(state.log_joint) for state, _ in begun)
    carried = []
    for mode, (state, history) in progress(list(zip(modes, begun, strict=True)), "mode"):
        if float(state.log_joint) + 4 * float(state.left) >= reached:
            run = climber.climb(state, history)
            carried.append(
                run._replace(mode=replace(run.mode, starts=mode.starts, moves=mode.moves))
            )
    return carried
