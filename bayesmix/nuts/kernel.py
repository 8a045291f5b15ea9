"""The compiled transitions of all chains, in coordinates whitened by the curvature at the mode.

Only the step size is left to adapt. All chains advance one leapfrog step at a time and begin their
next transition when their own trajectory is complete, so none waits for the longest. Functions are
compiled once per program and shapes and hold no data: another run, or another data set of the same
shape, compiles nothing.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.coordinates import free_log_density, from_free
from bayesmix.density import Data, Density
from bayesmix.effort import SAMPLE, cells_of, compiled
from bayesmix.nuts import arc, tree
from bayesmix.nuts.noise import WINDOW, Noise
from bayesmix.nuts.trajectory import Point, where
from bayesmix.sweep import CACHED

BLOCK = WINDOW  # transitions that a call has room for
FIRST_STEP = 0.5  # whitened units
KERNELS = {"nuts": tree, "hmc": arc}


class StepSize(NamedTuple):
    """Dual averaging of the log step size: its value, its average, and the average error."""

    value: Any
    average: Any
    error: Any


class Chain(NamedTuple):
    """What the next transition needs; ``number`` counts the transitions so far."""

    number: Any
    point: Point
    step: StepSize


def first_chains(u: np.ndarray, potential: np.ndarray, gradient: np.ndarray) -> Chain:
    """Chains (chain, ...) at their first points u (chain, n)."""
    step, none = np.full_like(potential, np.log(FIRST_STEP)), np.zeros_like(potential)
    chains = Chain(
        np.zeros(len(u), int), Point(u, potential, gradient, potential), StepSize(step, step, none)
    )
    return jax.tree.map(jnp.asarray, chains)


@lru_cache(maxsize=32)
def machine(density: Density, kernel: str, warmup: int, target: float, together: bool) -> Any:
    """Compiled ``advance`` of all chains for one program; it holds no data.

    together : chains side by side in every pass over the data, or one after the other.
    """
    method = KERNELS[kernel]

    def some(chains: Chain, noise: Noise, count: Any, data: Data, centre: Any, factor: Any) -> Any:
        """``count`` transitions of chains side by side."""

        def potential(u: Any) -> Any:
            return -free_log_density(density, centre + factor @ u, data)

        def once(chain: Chain, path: Any, begun: Any, noise: Noise) -> Any:
            """One leapfrog step; the draw and its place where one is complete, BLOCK elsewhere."""
            path = method.grow(potential, path)
            place = chain.number - begun
            made = path.done & (place < count)
            adapting = chain.number < warmup
            step = _adapted(chain.step, chain.number, target - path.acceptance)
            step = where(adapting, step, chain.step)
            noted = _noted(path, _length(chain, warmup))
            next_chain = Chain(chain.number + 1, path.chosen, step)
            next_path = _path(method, next_chain, warmup, noise, place + 1)
            chain, path = where(made, next_chain, chain), where(path.done, next_path, path)
            return chain, path, jnp.where(made, place, BLOCK), noted

        def again(carry: Any) -> Any:
            chains, paths, kept = carry
            chains, paths, places, noted = jax.vmap(once)(chains, paths, begun, noise)
            kept = jax.tree.map(lambda a, b: a.at[places, lanes].set(b, mode="drop"), kept, noted)
            return chains, paths, kept

        begun, lanes = chains.number, jnp.arange(len(chains.number))
        paths = jax.vmap(lambda chain, noise: _path(method, chain, warmup, noise, 0))(chains, noise)
        like = jax.eval_shape(jax.vmap(once), chains, paths, begun, noise)[-1]
        kept = jax.tree.map(lambda a: jnp.zeros((BLOCK, *a.shape), a.dtype), like)
        more = (lambda carry: jnp.any(carry[0].number - begun < count), again)
        chains, _, kept = jax.lax.while_loop(*more, (chains, paths, kept))
        return chains, kept

    @compiled(lambda chains, noise, count, data, *_: cells_of(data), static=(), effort=SAMPLE)
    def advance(
        chains: Chain, noise: Noise, count: Any, data: Data, centre: Any, factor: Any
    ) -> Any:
        """``count`` (at most BLOCK) transitions of every chain; draws (BLOCK, chain, ...)."""
        if together:
            return some(chains, noise, count, data, centre, factor)

        def one(chain_and_noise: Any) -> Any:
            chain, noise = jax.tree.map(lambda a: a[None], chain_and_noise)
            return some(chain, noise, count, data, centre, factor)

        chains, kept = jax.lax.map(one, (chains, noise))
        return (
            jax.tree.map(lambda a: a[:, 0], chains),
            jax.tree.map(lambda a: jnp.swapaxes(a[:, :, 0], 0, 1), kept),
        )

    return advance


def side_by_side(density: Density, data: Data, chains: int) -> bool:
    """Whether all chains share each pass over the data, or go one after the other.

    Sharing saves the fixed cost of a pass, but pays only where the scores of all chains for a
    chunk of rows stay in the cache. (CPU; accelerators have no such cache and take all at once.)
    """
    if jax.default_backend() != "cpu":
        return True
    rows = data.rows.z.shape[-1] if density.family else cells_of(data)
    return bool(rows * density.K * chains * 8 <= 2 * CACHED)


def _path(method: Any, chain: Chain, warmup: int, noise: Noise, place: Any) -> Any:
    """The trajectory of the transition at ``place``; of none where there is no noise for it."""
    momentum, uniforms = jax.tree.map(lambda a: a[jnp.minimum(place, BLOCK - 1)], noise)
    return method.begin(chain.point, momentum, _length(chain, warmup), uniforms)


def _length(chain: Chain, warmup: int) -> Any:
    """The step size: the newest while it is adapted, the average afterwards."""
    return jnp.exp(jnp.where(chain.number < warmup, chain.step.value, chain.step.average))


def _adapted(step: StepSize, number: Any, error: Any) -> StepSize:
    """Dual averaging towards the acceptance that is asked for.

    Source: Hoffman & Gelman (2014), JMLR 15, section 3.2, with the constants given there.
    """
    count = number + 1.0
    share = 1 / (count + 10)
    mean = (1 - share) * step.error + share * error
    value = jnp.log(10 * FIRST_STEP) - jnp.sqrt(count) / 0.05 * mean
    share = count**-0.75
    return StepSize(value, (1 - share) * step.average + share * value, mean)


def _noted(path: Any, length: Any) -> dict[str, Any]:
    return {
        "u": path.chosen.u,
        "lp": -path.chosen.potential,
        "energy": path.chosen.energy,
        "diverging": path.diverging,
        "n_steps": path.steps,
        "acceptance_rate": path.acceptance,
        "step_size": length,
    }


@lru_cache(maxsize=32)
def constrainer(density: Density) -> Any:
    """Compiled map from whitened points (m, n) to {site: constrained values (m, *shape)}."""

    @compiled(lambda u, data, *_: cells_of(data), static=())
    def constrain(u: Any, data: Data, centre: Any, factor: Any) -> Any:
        return jax.lax.map(lambda one: from_free(density, centre + factor @ one, data), u)

    return constrain
