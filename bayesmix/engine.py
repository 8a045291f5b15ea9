"""One EM step, and the compiled loop of plain steps.

The state carries what the E-step gave at the current params; a step is M, then E there. A start is
responsibilities, so its statistics enter the loop as any others do. Where plain steps are slow to
converge, ``hasten`` takes over.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayesmix.coordinates import free_size
from bayesmix.density import Data, Density
from bayesmix.effort import FIT, cells_of, compiled
from bayesmix.mstep import Plan, m_step
from bayesmix.program import Params

EVALUATIONS = 6  # of Q in an ascent; the next EM step goes on from its inverse Hessian
FIRST_EVALUATIONS = 200
BLOCK = 128
SHORTER, SHORTEST = 0.25, 1e-9  # a Newton step that falls is cut to a quarter, down to this
ALIGNED = 0.5  # cosine of two moves in a row from which they lead somewhere
SAFETY = 10  # the estimate of what remains is trusted to this factor

RUNNING, CONVERGED, MAX_STEPS, DEGENERATE, FELL, INTERRUPTED = range(6)


class EMState(NamedTuple):
    """What the next step needs: the current params, flat, with what the E-step gave there.

    ``noise`` is what rounding hides of the log joint, in nats, infinite where nobody asked yet.
    ``gain`` (nats) and ``move`` (of the params, flat) are the last step's; ``left`` is what it
    promised for the future, in nats, and ``calm`` counts the steps in a row that promised less than
    the tolerance; ``inverse`` is the ascent's inverse Hessian.
    """

    point: Any
    log_joint: Any
    log_likelihood: Any
    noise: Any
    statistics: Any
    inverse: Any
    gain: Any
    move: Any
    left: Any
    calm: Any
    steps: Any
    stop: Any


@dataclass(frozen=True)
class Engine:
    """One program's EM step as pure functions; hashable, so static under jit."""

    density: Density
    plan: Plan

    def init(self, params: Params, statistics: Any, data: Data) -> EMState:
        """The state before the first M-step, which takes ``statistics`` from wherever they came.

        ``params`` need only be legal: they are the start of updates that depend on other sites.
        """
        flat = ravel_pytree(params)[0]
        minus, inf = jnp.array(-jnp.inf, flat.dtype), jnp.array(jnp.inf, flat.dtype)
        count, unknown = jnp.zeros((), jnp.int32), jnp.full_like(flat, jnp.inf)
        ascent = free_size(self.density, data, self.plan.ascent)
        inverse = jnp.zeros((ascent, ascent), flat.dtype)
        return EMState(
            flat, minus, minus, inf, statistics, inverse, inf, unknown, inf, count, count, count
        )

    def params(self, flat: jax.Array) -> Params:
        """{site: value} of a flat vector."""
        like = {name: jnp.zeros(shape) for name, shape in self.density.sites.items()}
        return ravel_pytree(like)[1](flat)

    def unflatten(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """{site: value} of a flat NumPy vector, in the program's order of sites."""
        shapes = self.density.sites
        names = sorted(shapes)
        ends = np.cumsum([math.prod(shapes[name]) for name in names])[:-1]
        parts = dict(zip(names, np.split(flat, ends), strict=True))
        return {name: parts[name].reshape(shape) for name, shape in shapes.items()}

    def counts(self, state: EMState) -> np.ndarray:
        """Rows (sum of weighted responsibilities) in each cluster, (K,)."""
        return np.asarray(self.density.counts(state.statistics), np.float64)

    def e_step(self, params: Params, data: Data) -> tuple[Any, Any, Any]:
        """Log joint, log likelihood and statistics at ``params``."""
        if self.plan.turns:
            log_likelihood, statistics = self.density.bent_e_step(params, data, self.plan.turns)
        else:
            log_likelihood, statistics = self.density.e_step(params, data)
        log_joint = log_likelihood + self.density.log_prior(params, data)
        return log_joint, log_likelihood, statistics

    def leaves(self, params: Params, data: Data) -> dict[str, jax.Array]:
        """The parameters of the components; none where these have no family."""
        return self.density.leaves(params, data) if self.density.family else {}

    def m_step(self, params: Params, statistics: Any, inverse: Any, data: Data, first: Any) -> Any:
        """Params after one M-step, and the ascent's inverse Hessian."""
        evaluations = jnp.where(first, FIRST_EVALUATIONS, EVALUATIONS)
        return m_step(self.density, self.plan, params, inverse, statistics, data, evaluations)

    def risen(self, here: Params, log_joint: Any, after: Params, data: Data) -> tuple[Params, Any]:
        """``after`` an M-step, and what the E-step gives there.

        Newton's M-step may be too long: then as much of its move as does not lower the log joint.
        """
        if not self.plan.turns:
            return after, self.e_step(after, data)
        moves = {name: after[name] - here[name] for name in self.plan.ascent}  # of real numbers
        least = log_joint - self.density.noise(here, None, log_joint, data)

        def shortened(carry: Any) -> Any:
            size = carry[0] * SHORTER
            part = {name: after[name] - (1 - size) * move for name, move in moves.items()}
            return size, after | part, self.e_step(after | part, data)

        def falls(carry: Any) -> Any:
            size, _, (value, *_) = carry
            return ~(value >= least) & (size > SHORTEST)

        whole = jnp.ones_like(log_joint) / SHORTER
        first = jax.tree.map(jnp.zeros_like, jax.eval_shape(shortened, (whole,)))
        begin = (whole, first[1], (jnp.full_like(log_joint, -jnp.inf), *first[2][1:]))
        return jax.lax.while_loop(falls, shortened, begin)[1:]

    def step(self, state: EMState, data: Data, tol: Any) -> EMState:
        """M-step, then E-step there; kept unless the log joint falls."""
        here, first = self.params(state.point), jnp.isneginf(state.log_joint)
        after, inverse = self.m_step(here, state.statistics, state.inverse, data, first)
        after, (value, log_likelihood, statistics) = self.risen(here, state.log_joint, after, data)
        flat = ravel_pytree(after)[0]
        rise, finite = value - state.log_joint, jnp.isfinite(value)
        noise = self.density.noise(after, statistics, value, data)
        move = flat - state.point
        gain, left = _promise(state, rise, move, noise)
        kept = finite & (rise >= -noise)
        # Where rises are lost in rounding and moves neither shrink nor lead on, they are rounding.
        stuck = jnp.linalg.norm(move) >= jnp.linalg.norm(state.move)
        astray = stuck & ~_leads_on(state.move, move)
        still = jnp.where(rise <= noise, state.calm + astray, 0)
        moved = EMState(
            flat,
            jnp.maximum(value, state.log_joint),
            log_likelihood,
            noise,
            statistics,
            inverse,
            gain,
            move,
            left,
            jnp.where(left < tol / SAFETY, state.calm + 1, still),
            state.steps,
            state.stop,
        )
        new = jax.tree.map(partial(jnp.where, kept), moved, state)
        stop = jnp.select(
            [(kept & (new.calm >= 3)) | (~kept & (rise >= -tol)), finite & ~kept, ~finite],
            [CONVERGED, FELL, DEGENERATE],
            RUNNING,
        )
        return new._replace(stop=stop.astype(jnp.int32), steps=state.steps + 1)


def _leads_on(before: Any, move: Any) -> Any:
    """Whether a move goes the way of the one before: those of slow EM do, those of rounding not."""
    sizes = jnp.linalg.norm(before) * jnp.linalg.norm(move)
    return before @ move > ALIGNED * sizes


def _promise(state: EMState, rise: Any, move: Any, noise: Any) -> tuple[Any, Any]:
    """The gain of a plain step and an estimate of all that would follow it, in nats (Aitken).

    With geometric convergence at rate c the moves shrink by c and gains by c^2, so what remains is
    gain / (1 - c^2). Moves stay accurate where differences of the log joint are lost in rounding;
    there the gain is continued from the last one that was seen.
    """
    length, before = jnp.linalg.norm(move), jnp.linalg.norm(state.move)
    shrink = jnp.where(before > 0, length / before, 0.0) ** 2
    expected = jnp.where(jnp.isfinite(state.gain), shrink * state.gain, 0.0)
    gain = jnp.where(length > 0, jnp.where(rise > noise, rise, jnp.minimum(expected, noise)), 0.0)
    return gain, gain / jnp.clip(1 - shrink, 1e-6, 1.0)


@compiled(lambda engine, state, data, tol, until: cells_of(data))
def advance(engine: Engine, state: EMState, data: Data, tol: Any, until: Any) -> Any:
    """Plain steps until a stop or until ``until`` steps were taken, at most BLOCK of them.

    Returns the state, the log joint after each step, (BLOCK,), and the components at the state.
    """
    began = state.steps
    last = jnp.minimum(until, began + BLOCK)

    def body(carry: Any) -> Any:
        state, history = carry
        new = engine.step(state, data, tol)
        return new, history.at[state.steps - began].set(new.log_joint)

    history = jnp.zeros(BLOCK, state.log_joint.dtype)
    state, history = jax.lax.while_loop(
        lambda carry: (carry[0].stop == RUNNING) & (carry[0].steps < last), body, (state, history)
    )
    return state, history, engine.leaves(engine.params(state.point), data)


# A single pass, which a search makes some dozens of times: quick to compile up to many rows.
@compiled(lambda engine, resp, data: cells_of(data), moderate=FIT)
def from_resp(engine: Engine, resp: Any, data: Data) -> EMState:
    """The state before the first M-step, from responsibilities: (N, K), or weighted and by row.

    Of the general sweep in chunks or with Newton's M-step, whose loops take no responsibilities,
    the state after the first step.
    """
    density = engine.density
    centre, statistics = density.centre(data), density.statistics_of(resp, data)
    state = engine.init(centre, statistics, data)
    if not (density.portion or engine.plan.turns):
        return state
    params, inverse = engine.m_step(centre, statistics, state.inverse, data, True)
    return from_params(engine, params, data)._replace(inverse=inverse)


@partial(jax.jit, static_argnums=0)
def from_params(engine: Engine, params: Params, data: Data) -> EMState:
    """The state after an E-step at ``params``."""
    log_joint, log_likelihood, statistics = engine.e_step(params, data)
    state = engine.init(params, statistics, data)
    return state._replace(
        log_joint=log_joint,
        log_likelihood=log_likelihood,
        steps=jnp.ones_like(state.steps),
        stop=jnp.where(jnp.isfinite(log_joint), RUNNING, DEGENERATE).astype(jnp.int32),
    )


# Rows do not enter, so this is compiled quickly whatever their number, and once.
@compiled(lambda *_: 0)
def leaves_at(engine: Engine, flat: Any, data: Data) -> dict[str, jax.Array]:
    """The parameters of the components at flat params; of ``data`` no rows are needed."""
    return engine.leaves(engine.params(flat), data)


# No pass is made here either.
@compiled(lambda *_: 0)
def unvisited(engine: Engine, params: Params, data: Data) -> EMState:
    """The state at ``params`` before the E-step there."""
    shapes = jax.eval_shape(engine.e_step, params, data)[2]
    return engine.init(params, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), data)


@compiled(lambda engine, params, data: cells_of(data), moderate=FIT)
def entered(engine: Engine, params: Params, data: Data) -> tuple[EMState, dict[str, jax.Array]]:
    """The state after an E-step at ``params``, and whether each site is in its prior's support."""
    transforms = engine.density.transforms(data)
    inside = {name: jnp.all(transforms[name].codomain(params[name])) for name in transforms}
    return from_params(engine, params, data), inside


@compiled(lambda engine, flat, data: cells_of(data), moderate=FIT)
def resp_at(engine: Engine, flat: Any, data: Data) -> jax.Array:
    """Responsibilities (n, K) at flat params; padding rows may follow."""
    return engine.density.resp(engine.params(flat), data)


@partial(jax.jit, static_argnums=0)
def one_step(engine: Engine, params: Params, data: Data) -> Params:
    """One plain EM step from ``params``."""
    state = engine.init(params, None, data)
    log_joint, _, statistics = engine.e_step(params, data)
    after = engine.m_step(params, statistics, state.inverse, data, False)[0]
    return engine.risen(params, log_joint, after, data)[0]
