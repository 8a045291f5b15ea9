"""Quasi-Newton moves around the EM step, where plain steps are slow to converge.

One pass over the data per move, in unconstrained coordinates; what the E-step gave at a point
already costs no pass again. The moves run in compiled code, as the plain steps do: on few rows a
pass ends sooner than the host has read what it found.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayesmix.accelerate import (
    LONGEST,
    Memory,
    bounded,
    direction,
    empty,
    expected,
    farther,
    prolonged,
    remaining,
    remembered,
)
from bayesmix.coordinates import constrain, free, to_free
from bayesmix.density import Data
from bayesmix.effort import cells_of, compiled
from bayesmix.engine import BLOCK, CONVERGED, RUNNING, SAFETY, EMState, Engine, unvisited
from bayesmix.program import Params

LOST = -1  # a stop that is none for EM: neither the move nor the EM step leads on from here


class Here(NamedTuple):
    """A ``point`` (flat params), in unconstrained coordinates ``z`` (n,), and what the pass told.

    ``noise`` is what rounding hides of the log joint, in nats; ``gradient`` (n,) that of the log
    joint, by Fisher's identity; ``em_step`` (n,) the move that an EM step would make, and
    ``inverse`` the ascent's inverse Hessian after it.
    """

    z: Any
    point: Any
    log_joint: Any
    log_likelihood: Any
    statistics: Any
    noise: Any
    gradient: Any
    em_step: Any
    inverse: Any

    @property
    def finite(self) -> Any:
        """Whether a move can start or end here; it cannot on the boundary of a support."""
        return (
            jnp.isfinite(self.log_joint)
            & jnp.all(jnp.isfinite(self.gradient))
            & jnp.all(jnp.isfinite(self.em_step))
        )


class Ascent(NamedTuple):
    """Moves under way: where they are, and the ``move`` (n,) that is tried next.

    ``fresh`` : nothing but the values of an EMState is known here yet, and the move is 0.
    ``fell`` : the quasi-Newton move fell, the EM step is tried. ``reach`` : EM steps that a move
    may span. ``top`` is the highest log joint so far and ``rise`` what the last pass added to it;
    ``left`` and ``promise`` are the upper and the likely estimate of what there is yet to gain, all
    in nats; ``calm`` counts the points in a row that promise less than the tolerance.
    """

    here: Here
    memory: Memory
    move: Any
    fresh: Any
    fell: Any
    reach: Any
    top: Any
    rise: Any
    left: Any
    promise: Any
    calm: Any
    steps: Any
    stop: Any


def ascent_at(engine: Engine, state: EMState, data: Data, memory: Memory | None) -> Ascent:
    """The ascent that begins at a state, with what is known of the curvature, if anything."""
    params = engine.unflatten(np.asarray(state.point))
    z = np.asarray(to_free(engine.density, params, data))
    zero, inf = np.zeros_like(z), np.full((), np.inf, z.dtype)
    here = Here(
        z,
        state.point,
        state.log_joint,
        state.log_likelihood,
        state.statistics,
        noise=inf,
        gradient=zero,
        em_step=zero,
        inverse=state.inverse,
    )
    return Ascent(
        here,
        empty(z.size, z.dtype) if memory is None else memory,
        move=zero,
        fresh=np.bool_(True),
        fell=np.bool_(False),
        reach=np.full_like(inf, LONGEST),
        top=state.log_joint,
        rise=inf,
        left=inf,
        promise=inf,
        calm=np.int32(0),
        steps=state.steps,
        stop=np.int32(RUNNING),
    )


def arrived(
    engine: Engine, params: Params, data: Data, memory: Memory | None, work: float
) -> Ascent:
    """The ascent that begins at ``params``, after the pass there; still ``fresh`` where none can.

    ``work`` : of all passes to come, see ``compiled``.
    """
    start = ascent_at(engine, unvisited(engine, params, data), data, memory)
    return hasten(engine, start, data, 0.0, 1, work=work)[0]


def state_of(ascent: Ascent) -> EMState:
    """The state from which plain steps go on."""
    here, inf = ascent.here, np.full((), np.inf, ascent.here.log_joint.dtype)
    return EMState(
        here.point,
        here.log_joint,
        here.log_likelihood,
        here.noise,
        here.statistics,
        here.inverse,
        gain=inf,
        move=np.full(here.point.shape, inf),
        left=inf,
        calm=np.int32(0),
        steps=ascent.steps,
        stop=np.int32(RUNNING if ascent.stop == LOST else ascent.stop),
    )


@compiled(lambda engine, ascent, data, tol, until: cells_of(data))
def hasten(engine: Engine, ascent: Ascent, data: Data, tol: Any, until: Any) -> Any:
    """Quasi-Newton moves until a stop or until ``until`` steps were taken, at most BLOCK of them.

    Returns the ascent and the log joint after each pass, (BLOCK,). A pass that the ascent began
    with is not made again.
    """
    began = ascent.steps
    last = jnp.minimum(until, began + BLOCK)

    def body(carry: Any) -> Any:
        ascent, history = carry
        new = _moved(engine, ascent, data, tol)
        return new, history.at[ascent.steps - began].set(new.top)

    history = jnp.zeros(BLOCK, ascent.here.z.dtype)
    return jax.lax.while_loop(
        lambda carry: (carry[0].stop == RUNNING) & (carry[0].fresh | (carry[0].steps < last)),
        body,
        (ascent, history),
    )


def _moved(engine: Engine, ascent: Ascent, data: Data, tol: Any) -> Ascent:
    """The pass where the move leads, the choice between there and here, and the next move."""
    before, fresh = ascent.here, ascent.fresh
    known = fresh & ~jnp.isneginf(before.log_joint)
    there = _visited(engine, before, ascent.move, known, data)
    kept = there.finite & (fresh | (there.log_joint >= before.log_joint - before.noise))
    here = jax.tree.map(lambda a, b: jnp.where(kept, a, b), there, before)

    took = before.gradient - there.gradient
    memory = remembered(
        ascent.memory, ascent.move, took, before.em_step - there.em_step, kept & ~fresh
    )
    memory = memory._replace(count=jnp.where(kept, memory.count, 0))
    reach = farther(ascent.reach, ascent.move, before.em_step, before.gradient, took)
    reach = jnp.where(kept & ~fresh, reach, jnp.where(kept, ascent.reach, LONGEST))

    top = jnp.where(there.finite, jnp.fmax(ascent.top, there.log_joint), ascent.top)
    rise = jnp.where(fresh, jnp.inf, top - ascent.top)
    left = jnp.where(kept, remaining(memory, here.gradient, here.em_step), ascent.left)
    soon = prolonged(here.gradient, here.em_step)
    calm = jnp.where(kept, _calm(ascent, here.noise, rise, left, soon, tol), ascent.calm)
    way = direction(memory, here.gradient, here.em_step)
    stop = jnp.select(
        [kept & (calm >= 2), ~kept & (fresh | ascent.fell)], [CONVERGED, LOST], RUNNING
    )
    return Ascent(
        here,
        memory,
        jnp.where(kept, bounded(way, here.em_step, reach), here.em_step),
        fresh & ~kept,
        ~kept,
        reach,
        top,
        rise,
        left,
        expected(here.gradient, way),
        calm,
        ascent.steps + ~known,
        stop.astype(jnp.int32),
    )


def _visited(engine: Engine, before: Here, move: Any, known: Any, data: Data) -> Here:
    """What a pass at the end of the move tells.

    ``known`` : the move is 0, and what the E-step gives is known.
    """
    density, z = engine.density, before.z + move
    params, pull = jax.vjp(lambda z: constrain(density, z, data), z)
    log_joint, log_likelihood, statistics = jax.lax.cond(
        known,
        lambda: (before.log_joint, before.log_likelihood, before.statistics),
        lambda: engine.e_step(params, data),
    )
    gradient = pull(jax.grad(density.rising)(params, statistics, data))[0]
    after, inverse = engine.m_step(params, statistics, before.inverse, data, False)
    em_step = free(density, after, data) - z
    noise = density.noise(params, statistics, log_joint, data)
    point = ravel_pytree(params)[0]
    return Here(z, point, log_joint, log_likelihood, statistics, noise, gradient, em_step, inverse)


def _calm(ascent: Ascent, noise: Any, rise: Any, left: Any, soon: Any, tol: Any) -> Any:
    """Points in a row that promise less than ``tol``; where rises are lost in rounding, also those
    whose promise is and does not shrink.
    """
    lost = rise <= noise
    little = jnp.maximum(left * SAFETY, soon) < tol
    stuck = lost & (ascent.left <= left) & (left <= noise)
    return jnp.where(little | stuck, ascent.calm + 1, jnp.where(lost, ascent.calm, 0))
