"""One run of EM: from a state to its stop, and the verdict on the mode where it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bayesmix.accelerate import Memory
from bayesmix.blocks import Blocks
from bayesmix.checkpoint import Checkpoint, Record
from bayesmix.density import Data
from bayesmix.effort import account, repays
from bayesmix.engine import (
    BLOCK,
    CONVERGED,
    DEGENERATE,
    INTERRUPTED,
    MAX_STEPS,
    RUNNING,
    EMState,
    Engine,
    advance,
    entered,
    from_resp,
    leaves_at,
    resp_at,
)
from bayesmix.hasten import arrived, ascent_at, hasten, state_of
from bayesmix.modes import Mode, judge
from bayesmix.program import Mixture, Params

SHORT = 8  # EM steps after which it shows whether a start leads anywhere
PATIENT = 3_000_000  # work of the plain steps that are made before quasi-Newton moves take over,
PATIENCE = (30, 300)  # within these bounds of their number
UNHEARD = 30_000_000  # work of the passes in which an interrupt is not heard: a tenth of a second
NOWHERE = Checkpoint()


def work_of(mixture: Mixture, rows: int) -> int:
    """A measure of the cost of one pass over so many rows: rows x columns x clusters."""
    return rows * mixture.K * max(1, int(np.prod(mixture.event_shape)))


class Run(NamedTuple):
    """Where one run ended: its mode, the flat params, why, the log joint after each E-step.

    ``noise`` is what rounding hides of the log joint there, in nats, ``accelerated`` how many of
    the E-steps belong to quasi-Newton moves, ``memory`` what these learnt of the curvature, if
    there were any.
    """

    mode: Mode
    point: np.ndarray
    stop: int
    history: np.ndarray
    noise: float
    accelerated: int
    memory: Memory | None = None

    def record(self) -> Record:
        """The run as arrays, without its memory."""
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


class Outlook(NamedTuple):
    """A state, the log joints on the way to it, and what there is yet to gain, about, in nats."""

    state: EMState
    history: list[float]
    left: float


class Way:
    """A run under way: its state, the log joint after each E-step, how many were accelerated."""

    memory: Memory | None = None  # what was learnt of the curvature

    def __init__(self, state: EMState, history: Sequence[float], accelerated: int = 0) -> None:
        # A start may have taken its first step already.
        self.history = list(history) or [float(state.log_joint)] * int(state.steps)
        self.state, self.accelerated = state, accelerated
        self.leaves: Any = None  # the components at the state, where they are known

    @property
    def steps(self) -> int:
        """E-steps so far."""
        return int(self.state.steps)

    def go_on(self, state: EMState, piece: Any) -> int:
        """To a state, by steps whose log joints ``piece`` begins with; their number."""
        made = int(state.steps) - self.steps
        self.history += np.asarray(piece)[:made].tolist()
        self.state = state
        return made

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
        """Rows x clusters of all passes to come; infinite where there were many already."""
        return np.inf if repays(self._code) else self.passes * self._rows * self.mixture.K

    @property
    def _rows(self) -> int:
        held = self.engine.density.family and not isinstance(self.mixture.value, Blocks)
        return int(np.size(self.data.rows.weights)) if held else self.mixture.N

    @property
    def _code(self) -> Any:
        """What the compiled code depends on, about."""
        return self.engine, self._rows

    @property
    def patience(self) -> int:
        """Plain steps before acceleration.

        Of cheap ones there may be many, since a first quasi-Newton move has to be compiled.
        """
        if not self.accelerate:
            return self.max_steps
        return min(self.max_steps, int(np.clip(PATIENT / self.work, *PATIENCE)))

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
        self,
        state: EMState,
        history: Sequence[float] = (),
        accelerated: int = 0,
        *,
        near: bool = False,
        memory: Memory | None = None,
    ) -> Run:
        """EM to convergence: plain steps, quasi-Newton moves where those are slow.

        history : the log joint after each step that led to ``state``, ``accelerated`` of them
        quasi-Newton moves. near : a mode is, so that such moves begin at once, with the ``memory``
        of what is known of the curvature, as from a sample of the rows.
        """
        made = self.saved.finished()
        if made is not None:
            return self._made(made)
        way = self._resumed() or Way(state, history, accelerated)
        way.memory = memory if near else None
        self._to_the_end(way, 0 if near and self.accelerate else self.patience)
        run = self._run(way)
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

    def follow(self, state: EMState, history: Sequence[float], tol: float) -> Way:
        """On to where about ``tol`` nats remain: the way so far. An interrupt is passed on."""
        way = Way(state, history)
        replace(self, tol=max(tol, self.tol), saved=NOWHERE)._to_the_end(way, self.patience)
        if way.stop == INTERRUPTED:
            raise KeyboardInterrupt
        if way.stop == CONVERGED:
            way.state = way.state._replace(stop=np.int32(RUNNING), calm=np.int32(0))
        return way

    def outlook(self, params: Params, memory: Memory | None) -> Outlook:
        """From the mode of a sample: what one pass there tells, with the sample's ``memory``.

        A few plain steps, where these are all that is wanted.
        """
        if not self.accelerate:
            state, history = self.glance(self.resume(params)[0])
            return Outlook(state, history, float(state.left))
        ascent = arrived(self.engine, params, self.data, memory, self._ahead)
        if ascent.fresh:  # a weight of 0, where unconstrained coordinates end
            return Outlook(*self.resume(params), np.inf)
        state = state_of(ascent)
        return Outlook(state, [float(state.log_joint)], float(ascent.promise))

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

    def _to_the_end(self, way: Way, plain: int) -> None:
        """Plain steps up to ``plain`` of them, quasi-Newton moves, and plain steps for the rest."""
        before = way.steps
        try:
            self._plain(way, plain)
            self._fast(way)
            self._plain(way, self.max_steps)
        except KeyboardInterrupt:
            way.state = way.state._replace(stop=np.int32(INTERRUPTED))
        account(self._code, (way.steps - before) * self._rows * self.mixture.K)

    def _plain(self, way: Way, until: int) -> None:
        """Plain steps in pieces, so that an interrupt is heard."""
        while way.running and way.steps < until:
            end = min(until, way.steps + self._stride)
            state, piece, way.leaves = advance(
                self.engine, way.state, self.data, self.tol, end, work=self._ahead
            )
            way.go_on(state, piece)
            self.saved.note(way.record)

    def _fast(self, way: Way) -> None:
        """Quasi-Newton moves for as long as they lead on, in pieces likewise.

        Where unconstrained coordinates end (a weight of 0) there are none.
        """
        if not (way.running and way.steps < self.max_steps):
            return
        ascent = ascent_at(self.engine, way.state, self.data, way.memory)
        while way.running and way.steps < self.max_steps and ascent.stop == RUNNING:
            end = min(self.max_steps, way.steps + self._stride)
            ascent, piece = hasten(self.engine, ascent, self.data, self.tol, end, work=self._ahead)
            if ascent.fresh:
                return
            way.accelerated += way.go_on(state_of(ascent), piece)
            way.leaves, way.memory = None, ascent.memory
            self.saved.note(way.record)

    @property
    def _stride(self) -> int:
        """Passes between which nobody listens."""
        return int(np.clip(UNHEARD / self.work, 1, BLOCK))

    def _run(self, way: Way) -> Run:
        state, leaves = way.state, way.leaves
        if leaves is None:
            leaves = leaves_at(self.engine, state.point, self.data._replace(rows=None))
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
            way.memory,
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
