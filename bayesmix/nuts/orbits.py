"""Hamiltonian moves for a posterior that is nearly Gaussian in whitened coordinates.

The potential is |u|^2 / 2 + R(u) with a small rest R. The first part alone turns position and
momentum along an exact orbit, whatever the angle; the rest kicks the momentum before and after:

    p -= tan(angle / 2) grad R(u)     (u, p) turned by the angle     p -= tan(angle / 2) grad R(u)

A move makes few such steps through a fixed total angle, so all chains go together, and then accepts
or not. Source: Shahbaba, Lan, Johnson & Neal (2014), Split Hamiltonian Monte Carlo, Statistics and
Computing 24, section 2; their kick is angle / 2. With the tangent a Gaussian around another point
(R linear) is followed exactly too, and the moves do not depend on the origin. (In u alone they are
leapfrog steps of size 2 sin(angle / 2), with the momentum's scale whose energy these conserve.)
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import ParamInfo

from bayesmix.coordinates import free_log_density
from bayesmix.density import Data, Density
from bayesmix.effort import SAMPLE, cells_of, compiled
from bayesmix.nuts.kernel import BLOCK, of_all

# The total angle of a move. At 117 degrees a mean has 2.7 effective draws for each draw (those that
# follow each other are negatively correlated), a variance 0.7; at 90 both have 1. On the posteriors
# measured, the least known quantity, a tail or a variance, is then known best.
TURN = (0.56 * np.pi, 0.74 * np.pi)
ENOUGH = 0.88  # acceptance below which effective draws are lost faster than steps are saved
ROUND = 15  # moves of all chains after which the number of steps is looked at again
MOST = 12  # steps; where more are needed the whitened posterior is no longer nearly Gaussian
WIDE = 4.0  # variance in whitened coordinates, likewise
HELD = 0.2  # acceptance of one chain below which it is held where it is
DIVERGED = 1000.0  # nats, as in NumPyro


class Walk(NamedTuple):
    """All chains: points u (chain, n), their potentials (chain,) and gradients (chain, n).

    steps : of every move, chosen in the warm-up by the ``accepted`` (chain,) of the ``moves`` since
    they were changed. sums : of u, u^2 (chain, n) and acceptance (chain,) over the ``counted``
    second half of the warm-up.
    """

    u: Any
    potential: Any
    gradient: Any
    key: Any
    made: Any
    steps: Any
    accepted: Any
    moves: Any
    sums: Any
    counted: Any


def begun(first: ParamInfo, key: Any) -> Walk:
    """The walk at its first points."""
    u = jnp.asarray(first.z)
    none, zero = np.int32(0), np.zeros(len(u), u.dtype)
    sums = (np.zeros(u.shape, u.dtype), np.zeros(u.shape, u.dtype), zero)
    return Walk(
        u, first.potential_energy, first.z_grad, key, none, np.int32(1), zero, none, sums, none
    )


def unfit(walk: Walk) -> bool:
    """Whether the warm-up says that the whitened posterior is far from a standard Gaussian.

    Also where it is so around a single chain, which then stays there.
    """
    first, second, rate = (
        np.asarray(total, np.float64) / max(int(walk.counted), 1) for total in walk.sums
    )
    variance = (second - first**2).mean(0)
    return bool(walk.steps > MOST or not variance.max() < WIDE or rate.min() < HELD)


@lru_cache(maxsize=32)
def machine(density: Density, together: bool, devices: int) -> Any:
    """Compiled advance(walk, count, warmup, target, data, centre, factor) for one program.

    It makes ``count`` (at most BLOCK) moves of every chain and returns the walk and what is noted
    of each, (BLOCK, chain, ...). together, devices : as in ``of_all``.
    """
    effort = SAMPLE if together else None  # a single chain's loop takes twice as long with it

    @compiled(lambda walk, count, warmup, target, data, *_: cells_of(data), (), SAMPLE, effort)
    def advance(
        walk: Walk, count: Any, warmup: Any, target: Any, data: Data, centre: Any, factor: Any
    ) -> Any:
        def height(u: jax.Array) -> jax.Array:
            return -free_log_density(density, centre + factor @ u, data)

        field = of_all(jax.value_and_grad(height), together, devices)

        def once(i: Any, carry: Any) -> Any:
            walk, kept = carry
            walk, noted = _move(walk, field)
            walk = _adapted(walk, noted["acceptance_rate"], warmup, target)
            return walk, jax.tree.map(lambda a, b: a.at[i].set(b), kept, noted)

        like = jax.eval_shape(lambda walk: _move(walk, _level)[1], walk)
        kept = jax.tree.map(lambda a: jnp.zeros((BLOCK, *a.shape), a.dtype), like)
        return jax.lax.fori_loop(0, count, once, (walk, kept))

    return advance


def _level(u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Potentials and gradients that are 0: what any field gives, in shape."""
    return jnp.zeros(len(u), u.dtype), jnp.zeros_like(u)


def _move(walk: Walk, field: Any) -> tuple[Walk, dict[str, jax.Array]]:
    """One move of every chain, and what is noted of it."""
    key, for_momentum, for_angle, for_choice = jax.random.split(walk.key, 4)
    dtype = walk.u.dtype
    p = jax.random.normal(for_momentum, walk.u.shape, dtype)
    angle = jax.random.uniform(for_angle, (), dtype, *TURN) / walk.steps
    kick, cos, sin = jnp.tan(angle / 2), jnp.cos(angle), jnp.sin(angle)

    def step(_: Any, at: Any) -> Any:
        u, p, _, gradient = at
        p = p - kick * (gradient - u)
        u, p = cos * u + sin * p, cos * p - sin * u
        potential, gradient = field(u)
        return u, p - kick * (gradient - u), potential, gradient

    begin = (walk.u, p, walk.potential, walk.gradient)
    u, moved, potential, gradient = jax.lax.fori_loop(0, walk.steps, step, begin)
    before, after = walk.potential + _kinetic(p), potential + _kinetic(moved)
    change = jnp.where(jnp.isnan(after - before), jnp.inf, after - before)
    accept = jnp.exp(jnp.minimum(-change, 0.0))
    taken = jax.random.uniform(for_choice, accept.shape, dtype) < accept
    walk = walk._replace(
        u=jnp.where(taken[:, None], u, walk.u),
        potential=jnp.where(taken, potential, walk.potential),
        gradient=jnp.where(taken[:, None], gradient, walk.gradient),
        key=key,
        made=walk.made + 1,
    )
    return walk, {
        "u": walk.u,
        "lp": -walk.potential,
        "energy": jnp.where(taken, after, before),
        "acceptance_rate": accept,
        "diverging": change > DIVERGED,
        "n_steps": jnp.broadcast_to(walk.steps, accept.shape),
        "step_size": jnp.broadcast_to(angle, accept.shape),
    }


def _kinetic(p: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(p * p, axis=1)


def _adapted(walk: Walk, rate: jax.Array, warmup: Any, target: Any) -> Walk:
    """In the warm-up: one more step per move, or twice as many, where too few are accepted.

    Too few of all chains together, or less than half as many of one chain, so that the others do
    not outvote it.
    """
    accepted, moves = walk.accepted + rate, walk.moves + 1
    looked_at = (moves % ROUND == 0) & (walk.made <= warmup)
    share = jnp.minimum(accepted.mean(), 2 * accepted.min()) / moves
    low, very_low = looked_at & (share < target), looked_at & (share < target / 2)
    more = jnp.where(very_low, 2 * walk.steps, walk.steps + 1)
    counts = (2 * walk.made > warmup) & (walk.made <= warmup)
    first, second, third = walk.sums
    return walk._replace(
        steps=jnp.where(low, jnp.minimum(more, MOST + 1), walk.steps),
        accepted=jnp.where(low, 0.0, accepted),
        moves=jnp.where(low, 0, moves),
        sums=(first + counts * walk.u, second + counts * walk.u**2, third + counts * rate),
        counted=walk.counted + counts,
    )
