"""One EM step and the compiled loop around it, for any program.

The state carries what the E-step gave at the current params; a step is M, perhaps a leap beyond it,
then E there. A start is responsibilities, so its statistics enter the loop as any others do.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bayesmix.accelerate import extrapolate
from bayesmix.coordinates import constrain, free, free_size
from bayesmix.density import Data, Density
from bayesmix.mstep import Plan, m_step
from bayesmix.program import Params
from bayesmix.sweep import statistics_of

ROUNDING = 64
EVALUATIONS = 12
FIRST_EVALUATIONS = 200

RUNNING, CONVERGED, MAX_STEPS, DEGENERATE, FELL = range(5)


class EMState(NamedTuple):
    """What the next step needs: the current params, flat, with what the E-step gave there.

    ``phase`` 0 begins a cycle of two plain steps, 1 takes the second and leaps (``base`` is where
    the cycle began, in free coordinates), 2 takes a plain step after a leap that was refused.
    """

    point: jax.Array
    log_joint: jax.Array
    log_likelihood: jax.Array
    statistics: Any
    gain: jax.Array
    rate: jax.Array
    calm: jax.Array
    phase: jax.Array
    base: jax.Array
    inverse: jax.Array
    steps: jax.Array
    stop: jax.Array
    history: jax.Array


@dataclass(frozen=True)
class Engine:
    """One program's EM step as pure functions; hashable, so static under jit."""

    density: Density
    plan: Plan
    accelerate: bool
    max_steps: int

    def init(self, params: Params, statistics: Any, data: Data) -> EMState:
        """The state before the first M-step, which takes ``statistics`` from wherever they came.

        ``params`` need only be legal: they are the start of updates that depend on other sites.
        """
        flat = ravel_pytree(params)[0]
        minus, zero = jnp.array(-jnp.inf, flat.dtype), jnp.zeros((), flat.dtype)
        count = jnp.zeros((), jnp.int32)
        base = jnp.zeros(free_size(self.density, data) if self.accelerate else 0, flat.dtype)
        ascent = free_size(self.density, data, self.plan.ascent)
        inverse = jnp.zeros((ascent, ascent), flat.dtype)
        history = jnp.full(self.max_steps, jnp.nan, flat.dtype)
        return EMState(
            flat, minus, minus, statistics, zero, zero, count, count + 2, base, inverse, count,
            count, history,
        )  # fmt: skip

    def params(self, flat: jax.Array) -> Params:
        """{site: value} of a flat vector."""
        like = {name: jnp.zeros(shape) for name, shape in self.density.sites.items()}
        return ravel_pytree(like)[1](flat)

    def e_step(self, params: Params, data: Data) -> tuple[Any, Any, Any]:
        """Log joint, log likelihood and statistics at ``params``."""
        log_likelihood, statistics = self.density.e_step(params, data)
        log_joint = log_likelihood + self.density.log_prior(params, data)
        return log_joint, log_likelihood, statistics

    def m_step(self, params: Params, statistics: Any, inverse: Any, data: Data, first: Any) -> Any:
        """Params after one M-step, and the ascent's inverse Hessian."""
        evaluations = jnp.where(first, FIRST_EVALUATIONS, EVALUATIONS)
        return m_step(self.density, self.plan, params, inverse, statistics, data, evaluations)

    def step(self, state: EMState, data: Data, tol: Any) -> EMState:
        """M-step, perhaps a leap beyond it, E-step there; kept unless the log joint falls."""
        here, first = self.params(state.point), jnp.isneginf(state.log_joint)
        after, inverse = self.m_step(here, state.statistics, state.inverse, data, first)
        flat, base, rate, leaps = self._propose(state, here, after, data)
        value, log_likelihood, statistics = self.e_step(self.params(flat), data)
        noise = ROUNDING * self.density.rounding(data) * (1 + jnp.abs(value))
        gain, finite = value - state.log_joint, jnp.isfinite(value)
        accepted = finite & (gain >= jnp.where(leaps, 0.0, -noise))
        moved = state._replace(
            point=flat,
            log_joint=jnp.maximum(value, state.log_joint),
            log_likelihood=log_likelihood,
            statistics=statistics,
            gain=gain,
            rate=rate,
            base=base,
            inverse=inverse,
            calm=jnp.where(leaps, state.calm, self._calm(state, gain, rate, tol, noise)),
            phase=jnp.where((state.phase == 0) & self.accelerate, 1, 0).astype(state.phase.dtype),
        )
        refused = state._replace(phase=jnp.full_like(state.phase, 2))
        new = jax.tree.map(partial(jnp.where, accepted), moved, refused)
        stop = jnp.select(
            [
                (new.calm >= 3) | (~accepted & ~leaps & (gain >= -tol)),
                ~accepted & ~leaps & finite,
                ~finite & ~leaps,
                state.steps + 1 >= self.max_steps,
            ],
            [CONVERGED, FELL, DEGENERATE, MAX_STEPS],
            RUNNING,
        )
        history = state.history.at[state.steps].set(new.log_joint)
        return new._replace(stop=stop.astype(jnp.int32), steps=state.steps + 1, history=history)

    def _propose(
        self, state: EMState, here: Params, after: Params, data: Data
    ) -> tuple[Any, Any, Any, Any]:
        """The next point to evaluate, the cycle's base and rate, and whether it is a leap."""
        flat = ravel_pytree(after)[0]
        if not self.accelerate:
            return flat, state.base, state.rate, jnp.array(False)
        z, z2 = (free(self.density, params, data) for params in (here, after))
        second = state.phase == 1
        jump, rate = extrapolate(state.base, z, z2)
        far = ravel_pytree(constrain(self.density, jump, data))[0]
        leaps = second & jnp.all(jnp.isfinite(far))
        return (
            jnp.where(leaps, far, flat),
            jnp.where(second, state.base, z),
            jnp.where(second, rate, state.rate),
            leaps,
        )

    def _calm(self, state: EMState, gain: Any, rate: Any, tol: Any, noise: Any) -> Any:
        """How many plain steps in a row promise less than ``tol`` nats in all that remains.

        With geometric convergence at rate c gains shrink by c^2 and sum to gain / (1 - c^2)
        (Aitken). The rate is read off the path when accelerated, off the last two gains otherwise.
        """
        ratio = jnp.clip(gain / jnp.where(state.gain > 0, state.gain, jnp.inf), 0.0, 1.0)
        shrink = rate**2 if self.accelerate else ratio
        remaining = gain / jnp.maximum(1 - shrink, 1e-6)
        small = (remaining < tol) | (gain <= noise)
        return jnp.where(small & jnp.isfinite(gain), state.calm + 1, 0)


@partial(jax.jit, static_argnums=0)
def run(engine: Engine, state: EMState, data: Data, tol: Any, until: Any) -> Any:
    """Steps until a stop, or until ``until`` steps have been taken; and the components there."""
    last = jax.lax.while_loop(
        lambda s: (s.stop == RUNNING) & (s.steps < until),
        lambda s: engine.step(s, data, tol),
        state,
    )
    density = engine.density
    leaves = density.leaves(engine.params(last.point), data) if density.family else {}
    return last, leaves


@partial(jax.jit, static_argnums=0)
def from_resp(engine: Engine, resp: Any, data: Data) -> EMState:
    """The state before the first M-step, from responsibilities: (N, K), or weighted and by row."""
    density = engine.density
    statistics = statistics_of(density.family, resp, data.rows) if density.family else resp
    return engine.init(density.centre(data), statistics, data)


@partial(jax.jit, static_argnums=0)
def from_params(engine: Engine, params: Params, data: Data) -> EMState:
    """The state after an E-step at ``params``."""
    log_joint, log_likelihood, statistics = engine.e_step(params, data)
    state = engine.init(params, statistics, data)
    return state._replace(
        log_joint=log_joint,
        log_likelihood=log_likelihood,
        phase=jnp.zeros_like(state.phase),
        steps=jnp.ones_like(state.steps),
        stop=jnp.where(jnp.isfinite(log_joint), RUNNING, DEGENERATE).astype(jnp.int32),
        history=state.history.at[0].set(log_joint),
    )


@partial(jax.jit, static_argnums=0)
def one_step(engine: Engine, params: Params, data: Data) -> Params:
    """One plain EM step from ``params``."""
    state = engine.init(params, None, data)
    statistics = engine.e_step(params, data)[2]
    return engine.m_step(params, statistics, state.inverse, data, False)[0]
