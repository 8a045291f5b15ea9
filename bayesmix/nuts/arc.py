"""One transition of Hamiltonian Monte Carlo along a short arc of random length, step by step.

In whitened coordinates every direction oscillates with a period of about 2 pi, so one length suits
all. It is drawn anew for each transition, as a fixed one resonates (Neal 2011, MCMC using
Hamiltonian dynamics, section 5.4.3.2).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from bayesmix.nuts.trajectory import End, Point, acceptance, kinetic, leapfrog, where

LENGTH = 2.0  # whitened units; lengths are uniform between half and one and a half times that


class Arc(NamedTuple):
    """The trajectory so far: where it stands, the draw if it ended here, steps made and to make."""

    uniform: Any
    step: Any
    energy: Any
    end: End
    chosen: Point
    steps: Any
    wanted: Any
    acceptance: Any
    done: Any
    diverging: Any


def begin(point: Point, momentum: Any, step: Any, uniforms: Any) -> Arc:
    """The trajectory of one point, with the length that it is to have."""
    energy = point.potential + kinetic(momentum)
    length = LENGTH * (0.5 + uniforms[0, 0])
    wanted = jnp.clip(jnp.ceil(length / step), 1, 1024).astype(int)
    end = End(point.u, momentum, point.gradient)
    start, none, no = point._replace(energy=energy), jnp.zeros((), int), jnp.array(False)
    step, nil = length / wanted, jnp.zeros_like(energy)
    return Arc(uniforms[0, 1], step, energy, end, start, none, wanted, nil, no, no)


def grow(potential: Any, arc: Arc) -> Arc:
    """The trajectory one step on; at its end, or where it diverges, the draw is made."""
    leap = leapfrog(potential, arc.end, arc.step, arc.energy)
    steps = arc.steps + 1
    done = leap.diverging | (steps == arc.wanted)
    moves = arc.uniform < acceptance(leap.change)
    return arc._replace(
        end=leap.end,
        chosen=where(done & moves, leap.point, arc.chosen),
        steps=steps,
        acceptance=acceptance(leap.change),
        done=done,
        diverging=leap.diverging,
    )
