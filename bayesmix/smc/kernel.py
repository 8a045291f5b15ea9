"""Hamiltonian transitions of many particles at one temperature, in compiled code."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.coordinates import constrain, constrain_with_jacobian, free
from bayesmix.density import Data, Density, density_of
from bayesmix.device import platform
from bayesmix.effort import SAMPLE, cells_of, compiled
from bayesmix.program import Mixture, Params
from bayesmix.smc.naming import Places, Symmetry, features, log_chance, renamed, scores

STEPS = 8  # recorded transitions of each survivor
CELLS = 2**16  # rows x clusters x particles side by side
MANY = 2**26  # the same on an accelerator
AT_ONCE = 1024
JITTER = (0.6, 1.2)  # of the step size, anew for each transition of each particle


class Heights(NamedTuple):
    """Log densities in nats: of the prior over unconstrained coordinates, and what is tempered.

    ``rest`` is the log likelihood, with any other factor or observed site of the program.
    """

    prior: Any
    rest: Any


class Moved(NamedTuple):
    """What M particles did: ``start`` (M, n) under their new names, z (M, STEPS, n), heights
    (M, STEPS), acceptance probabilities (M,).
    """

    start: Any
    z: Any
    heights: Heights
    acceptance: Any


def heights(density: Density, z: jax.Array, data: Data) -> tuple[Params, Heights]:
    """Constrained values at unconstrained ``z`` (n,) and the two parts of the log density there."""
    params, jacobian = constrain_with_jacobian(density, z, data)
    terms = density.terms(params, data)
    prior = sum((terms[name] for name in density.sites), jacobian)
    others = (value for name, value in terms.items() if name not in density.sites)
    return params, Heights(prior, sum(others, density.log_likelihood(params, data)))


@compiled(lambda density, lanes, params, data: cells_of(data), static=(0, 1))
def begin(density: Density, lanes: int, params: Params, data: Data) -> tuple[Any, Heights]:
    """Unconstrained coordinates (count, n) of prior draws, and their heights (count,)."""

    def one(params: Params) -> tuple[Any, Heights]:
        z = free(density, params, data)
        return z, heights(density, z, data)[1]

    return jax.lax.map(one, params, batch_size=lanes)


@compiled(lambda *given: cells_of(given[-1]), static=(0, 1, 2), effort=SAMPLE)
def move(
    density: Density,
    lanes: int,
    symmetry: Symmetry,
    key: Any,
    z: Any,
    places: Places,
    temperature: Any,
    factor: Any,
    step: Any,
    leaps: Any,
    data: Data,
) -> Moved:
    """STEPS Hamiltonian transitions of each particle (M, n), all of them recorded.

    Clusters are named at the start; then all leave prior * exp(temperature * rest) * p(names | z)
    invariant. The kinetic energy has covariance
    (factor factor')^-1; each transition has ``leaps`` leapfrog steps of jittered size.
    Source: Neal (2011), Handbook of MCMC, ch. 5.
    """

    def height(z: jax.Array) -> tuple[jax.Array, Heights]:
        params, parts = heights(density, z, data)
        value = parts.prior + temperature * parts.rest
        if not symmetry.trivial:
            found = features(density, symmetry, z, params, data)
            value += log_chance(symmetry, scores(found, places))
        return value, parts

    slope = jax.value_and_grad(height, has_aux=True)

    def leap(z: Any, gradient: Any, momentum: Any, size: Any) -> Any:
        momentum = momentum + 0.5 * size * (factor.T @ gradient)
        z = z + size * (factor @ momentum)
        (value, parts), gradient = slope(z)
        return z, value, parts, gradient, momentum + 0.5 * size * (factor.T @ gradient)

    def transition(state: Any, key: Any) -> Any:
        for_momentum, for_size, for_choice = jax.random.split(key, 3)
        momentum = jax.random.normal(for_momentum, state[0].shape, state[0].dtype)
        size = step * jax.random.uniform(for_size, minval=JITTER[0], maxval=JITTER[1])
        there = jax.lax.fori_loop(
            0, leaps, lambda _, at: leap(at[0], at[3], at[4], size), (*state, momentum)
        )
        gain = there[1] - state[1] + 0.5 * (momentum @ momentum - there[4] @ there[4])
        chance = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0.0)), 0.0)
        accept = jax.random.uniform(for_choice) < chance
        state = jax.tree.map(lambda new, old: jnp.where(accept, new, old), there[:4], state)
        return state, (state[0], state[2], chance)

    def walk(start: Any) -> Moved:
        key, z = start
        for_names, key = jax.random.split(key)
        if not symmetry.trivial:
            z = renamed(density, symmetry, for_names, z, places, data)
        (value, parts), gradient = slope(z)
        state = (z, value, parts, gradient)
        _, (path, parts, chance) = jax.lax.scan(transition, state, jax.random.split(key, STEPS))
        return Moved(z, path, parts, chance.mean())

    return jax.lax.map(walk, (jax.random.split(key, len(z)), z), batch_size=lanes)


@compiled(lambda density, lanes, symmetry, z, places, data: cells_of(data), static=(0, 1, 2))
def weigh(
    density: Density, lanes: int, symmetry: Symmetry, z: Any, places: Places, data: Data
) -> tuple[Any, Any]:
    """Of points (S, n) with their names: log posterior, not normalised, and p(names | z), (S,)."""

    def one(z: Any) -> tuple[Any, Any]:
        params, parts = heights(density, z, data)
        if symmetry.trivial:
            return sum(parts), jnp.zeros((), z.dtype)
        found = features(density, symmetry, z, params, data)
        return sum(parts), log_chance(symmetry, scores(found, places))

    return jax.lax.map(one, z, batch_size=lanes)


@compiled(lambda density, symmetry, z, data: cells_of(data), static=(0, 1))
def looked_at(density: Density, symmetry: Symmetry, z: Any, data: Data) -> tuple[Params, Any]:
    """{site: (S, *shape)} of unconstrained particles (S, n), and their features (S, K, P)."""

    def one(z: Any) -> tuple[Params, Any]:
        params = constrain(density, z, data)
        return params, features(density, symmetry, z, params, data) if symmetry.axes else None

    return jax.lax.map(one, z, batch_size=AT_ONCE)


@compiled(lambda density, symmetry, key, z, places, data: cells_of(data), static=(0, 1))
def named(
    density: Density, symmetry: Symmetry, key: Any, z: Any, places: Places, data: Data
) -> Any:
    """The particles (S, n) under names drawn from p(names | particle)."""

    def one(given: Any) -> Any:
        return renamed(density, symmetry, given[0], given[1], places, data)

    return jax.lax.map(one, (jax.random.split(key, len(z)), z), batch_size=AT_ONCE)


def lanes_of(mixture: Mixture, data: Data, particles: int) -> int:
    """How many particles are moved side by side: a power of 2 that divides their number."""
    rows = density_of(mixture).at_once(data) or mixture.N
    cells = CELLS if platform() == "cpu" else MANY
    most = int(np.clip(cells // (rows * mixture.K), 1, particles))
    return int(np.gcd(1 << (most.bit_length() - 1), particles))
