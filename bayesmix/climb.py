"""One run of EM: from a state to its stop, and the verdict on the mode where it ended."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bayesmix.accelerate import MEMORY, Pair
from bayesmix.blocks import Blocks
from bayesmix.checkpoint import Checkpoint, Record
from bayesmix.density import Data
from bayesmix.engine import (
    BLOCK,
    DEGENERATE,
    INTERRUPTED,
    MAX_STEPS,
    RUNNING,
    EMState,
    Engine,
    Pace,
    advance,
    entered,
    from_resp,
    hasten,
    promise,
    resp_at,
)
from bayesmix.modes import Mode, judge
from bayesmix.program import Mixture, Params

SHORT = 8  # EM steps after which it shows whether a start leads anywhere
COMPILING = 3_000_000  # work of the plain steps that cost as much as compiling other moves
PATIENCE = (30, 300)  # plain steps before quasi-Newton moves take over: bounds
NOWHERE = Checkpoint()
NOTED = 16  # quasi-Newton moves between two notes in a checkpoint; each break costs a pass


def work_of(mixture: Mixture, rows: int) -> int:
    """A measure of the cost of one pass over so many rows: rows x columns x clusters."""
    return rows * mixture.K * max(1, int(np.prod(mixture.event_shape)))


class Run(NamedTuple):
    """Where one run ended: its mode, the flat params, why, the log joint after each E-step.

    ``noise`` is what rounding hides of the log joint there, in nats, ``accelerated`` how many of
    the E-steps belong to quasi-Newton moves, ``pairs`` what these learnt of the curvature.
    """

    mode: Mode
    point: np.ndarray
    stop: int
    history: np.ndarray
    noise: float
    accelerated: int
    pairs: tuple[Pair, ...] = ()

    def record(self) -> Record:
        """The run as arrays, without its pairs."""
        mode = {name: np.asarray(getattr(self.mode, name)) for name in JUDGED}
        own = (self.point, self.stop, self.history, self.noise, self.accelerated)
        names = ("point", "stop", "history", "noise", "accelerated")
        return mode | {name: np.asarray(value) for name, value in zip(names, own, strict=True)}


JUDGED = (
    "log_joint",
    "log_likelihood",
    "starts",
    "moves",
    "smallest",
    "regular",
    "reason",
    "counts",
)


class Way:
    """A run under way: its state, the log joint after each E-step, how many were accelerated."""

    def __init__(self, state: EMState, history: Sequence[float], accelerated: int = 0) -> None:
        # A start may have taken its first step already.
        self.history = list(history) or [float(state.log_joint)] * int(state.steps)
        self.state, self.accelerated = state, accelerated
        self.leaves: Any = None  # the components at the state, where they are known

    @property
    def steps(self) -> int:
        """E-steps so far."""
        return int(self.state.steps)

    @property
    def running(self) -> bool:
        """Whether no reason to stop was met."""
        return self.stop == RUNNING

    @property
    def stop(self) -> int:
        """Why it stopped, or RUNNING."""
        return int(self.state.stop)

    def record(self) -> Record:
        """The way so far as arrays."""
        return {
            "point": np.asarray(self.state.point),
            "history": np.asarray(self.history),
            "accelerated": np.asarray(self.accelerated),
        }


@dataclass(frozen=True)
class Climber:
    """EM on given data, from a state to its stop; ``saved`` is told of it.

    passes : about how many there will be over the data by all runs; infinite where nobody knows.
    """

    engine: Engine
    mixture: Mixture
    data: Data
    tol: float
    max_steps: int
    accelerate: bool
    saved: Checkpoint = NOWHERE
    passes: float = np.inf

    @property
    def work(self) -> int:
        """A measure of the cost of one pass over the data."""
        return work_of(self.mixture, self.mixture.N)

    @property
    def _ahead(self) -> float:
        """Rows x clusters of all passes to come."""
        held = self.engine.density.family and not isinstance(self.mixture.value, Blocks)
        n = np.size(self.data.rows.weights) if held else self.mixture.N
        return self.passes * n * self.mixture.K

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
        density = self.engine.density
        if density.family is None and density.portion is None:
            shaped = resp.reshape(*self.mixture.rows, self.mixture.K)
            weights = self.mixture.weights
            resp = shaped if weights is None else shaped * weights[..., None]
        return from_resp(self.engine, resp, self.data)

    def resume(self, params: Params) -> tuple[EMState, list[float]]:
        """The state after an E-step at ``params``, and its log joint."""
        state = entered(self.engine, params, self.data)[0]
        return state, [float(state.log_joint)]

    def resp(self, run: Run, n: int) -> np.ndarray:
        """Responsibilities (n, K) where a run ended."""
        return np.asarray(resp_at(self.engine, run.point, self.data))[:n]

    def climb(
        self, state: EMState, history: Sequence[float] = (), pairs: Iterable[Pair] | None = None
    ) -> Run:
        """EM to convergence: plain steps, quasi-Newton moves where those are slow.

        history : the log joint after each step that led to ``state``. pairs : near a mode, what is
        known of the curvature from a sample of the rows; quasi-Newton moves then begin at once.
        """
        made = self.saved.finished()
        if made is not None:
            return self._made(made)
        known = deque(pairs or (), maxlen=MEMORY)
        way = self._resumed() or Way(state, history)
        self._plain(way, self.patience if pairs is None or not self.accelerate else 0)
        self._fast(way, known)
        self._plain(way, self.max_steps)
        run = self._run(way, known)
        if run.stop == INTERRUPTED:
            self.saved.close(way.record)
        else:
            self.saved.add(run.record)
        return run

    def glance(self, state: EMState) -> tuple[EMState, list[float]]:
        """A few plain steps, enough to tell whether a start leads anywhere; their log joints.

        An interrupt is passed on.
        """
        way = Way(state, ())
        replace(self, saved=NOWHERE)._plain(way, min(way.steps + SHORT, self.max_steps))
        if way.stop == INTERRUPTED:
            raise KeyboardInterrupt
        return way.state, way.history

    def outlook(self, params: Params, pairs: Iterable[Pair]) -> tuple[EMState, list[float], float]:
        """From the mode of a sample: the state there, its log joint, and what is yet to gain.

        What is to gain is an estimate in nats, from one pass and the sample's ``pairs``; from a few
        plain steps where these are all that is wanted.
        """
        state, history = self.resume(params)
        if self.accelerate:
            return state, history, promise(self.engine, state, self.data, pairs, self._ahead)
        state, history = self.glance(state)
        return state, history, float(state.left)

    def _resumed(self) -> Way | None:
        """The run that an earlier process was in."""
        found = self.saved.unfinished()
        if found is None:
            return None
        state, _ = self.resume(self.engine.unflatten(found["point"]))
        steps = np.int32(len(found["history"]))
        return Way(
            state._replace(steps=steps), found["history"].tolist(), int(found["accelerated"])
        )

    def _plain(self, way: Way, until: int) -> None:
        """Plain steps in pieces, so that an interrupt is heard."""
        stride = int(np.clip(10 * COMPILING / self.work, 1, BLOCK))
        try:
            while way.running and way.steps < until:
                before, end = way.steps, min(until, way.steps + stride)
                way.state, piece, way.leaves = advance(
                    self.engine, way.state, self.data, self.tol, end, work=self._ahead
                )
                way.history += np.asarray(piece)[: way.steps - before].tolist()
                self.saved.note(way.record)
        except KeyboardInterrupt:
            way.state = way.state._replace(stop=np.int32(INTERRUPTED))

    def _fast(self, way: Way, pairs: deque[Pair]) -> None:
        """Quasi-Newton moves for as long as they lead on; in pieces where these are kept."""
        stride = NOTED if self.saved.kept else self.max_steps
        while way.running and way.steps < self.max_steps:
            until = min(self.max_steps, way.steps + stride)
            pace = Pace(self.tol, until, self._ahead)
            way.state, passes, way.leaves = hasten(self.engine, way.state, self.data, pace, pairs)
            way.history += passes
            way.accelerated += len(passes)
            self.saved.note(way.record)
            if way.steps < until:
                break

    def _run(self, way: Way, pairs: Iterable[Pair]) -> Run:
        state, leaves = way.state, way.leaves
        if leaves is None:  # no further step: this asks for the components at the state
            state, _, leaves = advance(self.engine, state, self.data, self.tol, 0, work=self._ahead)
        stop = MAX_STEPS if way.running else way.stop
        point = np.asarray(state.point, np.float64)
        mode = judge(
            self.mixture,
            self.engine.unflatten(point),
            log_joint=float(state.log_joint),
            log_likelihood=float(state.log_likelihood),
            counts=self.engine.counts(state),
            leaves={name: np.asarray(value, np.float64) for name, value in leaves.items()},
            degenerate=stop == DEGENERATE,
        )
        return Run(
            mode,
            point,
            stop,
            np.array(way.history),
            float(state.noise),
            way.accelerated,
            tuple(pairs),
        )

    def _made(self, record: Record) -> Run:
        """A run that an earlier process came to the end of."""
        facts: dict[str, Any] = {name: record[name].tolist() for name in JUDGED}
        facts["counts"] = record["counts"]
        mode = Mode(params=self.engine.unflatten(record["point"]), **facts)
        return Run(
            mode,
            record["point"],
            int(record["stop"]),
            record["history"],
            float(record["noise"]),
            int(record["accelerated"]),
        )
