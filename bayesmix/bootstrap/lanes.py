"""The replicates: EM again and again on reweighted rows, as lanes of one compiled loop.

A lane is brought close by quasi-Newton steps that begin with the inverse information at the mode,
and finished by EM itself, whose stop decides; lanes that need longer are gathered and go on
together, so that few wait for the slowest.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.coordinates import constrain, free
from bayesmix.curvature import SMALLEST, bend_at, free_vector
from bayesmix.density import Data, Density, data_of, density_of, row_weights
from bayesmix.engine import RUNNING, Engine, from_params
from bayesmix.estimate import EMResult
from bayesmix.mstep import plan_for
from bayesmix.mstep.ascent import climb
from bayesmix.program import Mixture, Params

LANES = 32
CELLS = 2**22
TRIES = 150
FIRST_STEPS = 16
TOL = 1e-6


class Ended(NamedTuple):
    """Where each replicate ended, by draw: ``params`` {site: (draw, *shape)}, and the rest."""

    params: Params
    log_joint: Any
    log_likelihood: Any
    counts: Any
    leaves: Params
    stop: Any
    steps: Any


def replicates(em: EMResult, seeds: Sequence[Any], weights: str) -> Ended:
    """Every replicate from EM's mode to its stop, in batches of lanes.

    A batch runs a few steps; the lanes that need more are gathered and go on together.
    """
    mixture, most = em.mixture, int(em.settings["max_steps"])
    density, data = density_of(mixture), data_of(mixture)
    engine = Engine(density, plan_for(mixture))
    base = row_weights(mixture)
    size = int(np.clip(CELLS // base.size, 1, LANES))
    near, tries = _inverse_information(mixture, em.params)
    ended: dict[int, Any] = {}
    begin = dict.fromkeys(range(len(seeds)), em.params)
    until, taken = FIRST_STEPS, 0
    while begin:
        for batch in _batches(sorted(begin), size):
            params = {n: np.stack([begin[i][n] for i in batch]) for n in mixture.sites}
            factors = np.stack([row_factors(seeds[i], base, weights) for i in batch])
            found = _lanes(engine, params, factors, data, near, tries, until)
            found = jax.tree.map(np.asarray, found)
            for lane, number in enumerate(batch):
                ended[number] = jax.tree.map(lambda value: value[lane], found)  # noqa: B023
        taken += until
        begin = {
            number: ended[number].params
            for number in begin
            if ended[number].stop == RUNNING and taken < most
        }
        until, tries = 4 * until, 0
    return jax.tree.map(lambda *values: np.stack(values), *(ended[i] for i in sorted(ended)))


@partial(jax.jit, static_argnums=0)
def _lanes(
    engine: Engine, params: Params, factors: Any, data: Data, near: Any, tries: Any, until: Any
) -> Ended:
    """EM on every lane's own row weights, at most ``until`` steps from its own params."""

    def one(params: Params, factor: jax.Array) -> Ended:
        density = engine.density
        own = density.reweighted(data, factor)
        begin = _approach(density, params, own, near, tries)
        state = jax.lax.while_loop(
            lambda state: (state.stop == RUNNING) & (state.steps < until),
            lambda state: engine.step(state, own, TOL),
            from_params(engine, begin, own),
        )
        there = engine.params(state.point)
        return Ended(
            there,
            state.log_joint,
            state.log_likelihood,
            density.counts(state.statistics),
            density.leaves(there, own) if density.family else {},
            state.stop,
            state.steps,
        )

    return jax.vmap(one)(params, factors)


def _approach(density: Density, params: Params, data: Data, near: Any, tries: Any) -> Params:
    """Quasi-Newton steps on the log joint, begun with the inverse information at the mode."""

    def height(z: jax.Array) -> jax.Array:
        return density.log_joint(constrain(density, z, data), data)

    z = free(density, params, data)
    last = climb(jax.value_and_grad(height), z, near, tries)
    moved, stayed = constrain(density, last.z, data), jnp.all(last.z == z)
    return {name: jnp.where(stayed, value, moved[name]) for name, value in params.items()}


def _batches(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of one size; the last is filled up with its own last number."""
    for start in range(0, len(numbers), size):
        batch = list(numbers[start : start + size])
        yield batch + batch[-1:] * (size - len(batch))


def row_factors(seed: np.random.SeedSequence, base: np.ndarray, weights: str) -> np.ndarray:
    """What each row's weight is multiplied by in one replicate; their sum keeps its value."""
    rng, total = np.random.default_rng(seed), base.sum()
    drawn = (
        rng.standard_gamma(base)
        if weights == "dirichlet"
        else rng.multinomial(round(total), (base / total).ravel()).reshape(base.shape)
    )
    scaled = drawn * (total / drawn.sum())
    return np.divide(scaled, base, out=np.zeros(base.shape), where=base > 0)


def _inverse_information(mixture: Mixture, params: Params) -> tuple[np.ndarray, int]:
    """Inverse information in unconstrained coordinates, and how many points to try with it.

    None where it is not positive definite or the mode lies on the boundary of a support.
    """
    z = free_vector(mixture, params)
    if np.isfinite(z).all():
        found = bend_at(mixture, z, jacobian=False)
        if found.finite and not found.flat.any():
            curvature, axes, units = found.principal()
            if curvature.min() > SMALLEST:
                factor = units[:, None] * axes / np.sqrt(curvature)
                return factor @ factor.T, TRIES
    return np.zeros((z.size, z.size)), 0
