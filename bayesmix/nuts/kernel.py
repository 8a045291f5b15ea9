"""The compiled transitions of all chains: NumPyro's NUTS on the sweep, in affine coordinates.

Functions are compiled once per program and shapes and hold no data: another run, or another data
set of the same shape, compiles nothing.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from bayesmix import coordinates
from bayesmix.coordinates import free_log_density
from bayesmix.density import Data, Density
from bayesmix.device import platform
from bayesmix.effort import SAMPLE, cells_of, compiled
from bayesmix.sweep import CACHED, Streamed

BLOCK = 100  # transitions that a call has room for
FIRST_STEP = 0.5
STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "n_steps": "num_steps",
    "acceptance_rate": "accept_prob",
}


@lru_cache(maxsize=32)
def machine(
    density: Density, warmup: int, target: float, whitened: bool, together: bool, devices: int
) -> Any:
    """Compiled (begin, advance) of all chains for one program; they hold no data.

    whitened : the coordinates have unit scale already, so that only the step size is adapted.
    together, devices : as in ``of_all``.
    """

    def potential(data: Data, centre: Any, factor: Any) -> Any:
        return lambda u: -free_log_density(density, centre + factor @ u, data)

    init_kernel, sample_kernel = hmc(potential_fn_gen=potential, algo="NUTS")

    @compiled(lambda keys, start, data, *_: cells_of(data), static=(), effort=SAMPLE)
    def begin(keys: Any, start: ParamInfo, data: Data, centre: Any, factor: Any) -> Any:
        def one(key: Any, start: ParamInfo) -> Any:
            return init_kernel(
                start,
                warmup,
                step_size=FIRST_STEP,
                adapt_mass_matrix=not whitened,
                target_accept_prob=target,
                model_args=(data, centre, factor),
                rng_key=key,
            )

        return jax.vmap(one)(keys, start)

    @compiled(lambda states, count, data, *_: cells_of(data), static=(), effort=SAMPLE)
    def advance(states: Any, count: Any, data: Data, centre: Any, factor: Any) -> Any:
        """``count`` (at most BLOCK) transitions of every chain; draws (BLOCK, chain, ...)."""

        def chain(state: Any) -> Any:
            def once(i: Any, carry: Any) -> Any:
                state, kept = carry
                state = sample_kernel(state, (data, centre, factor))
                return state, jax.tree.map(lambda a, b: a.at[i].set(b), kept, _noted(state))

            kept = jax.tree.map(lambda a: jnp.zeros((BLOCK, *a.shape), a.dtype), _noted(state))
            return jax.lax.fori_loop(0, count, once, (state, kept))

        every = of_all(chain, together, devices)(states)
        return every[0], jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), every[1])

    return begin, advance


def of_all(one: Callable[..., Any], together: bool, devices: int) -> Callable[..., Any]:
    """``one`` chain's function for all: side by side in every pass over the data, or, on each of
    the ``devices`` that the chains are shared out among, one after the other.
    """
    if together:
        return jax.vmap(one)
    if devices == 1:
        return lambda chains: jax.lax.map(one, chains)

    def each(chains: Any) -> Any:
        parts = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), chains)
        made = jax.vmap(lambda part: jax.lax.map(one, part))(parts)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), made)

    return each


def devices_for(data: Data, chains: int) -> Mesh | None:
    """The devices that chains are shared out among, or None for one.

    Where the rows lie on several devices these share every pass instead. A device that the user
    chose, or that was chosen for little data, does all of it.
    """
    rows = jax.tree.leaves(data.rows)
    spread = any(len(a.sharding.device_set) > 1 for a in rows if isinstance(a, jax.Array))
    streamed = isinstance(getattr(data.rows, "z", None), Streamed)
    chosen = jax.config.jax_default_device is not None  # type: ignore[attr-defined]
    if spread or streamed or chosen:
        return None
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if chains % n == 0)
    return Mesh(np.array(devices[:count]), ("chain",)) if count > 1 else None


def shared_out(states: Any, chains: int | None, mesh: Mesh | None) -> Any:
    """States with every device's own chains on it, and what all of them need on every device.

    chains : how many; None for arrays that are all of the latter kind.
    """
    if mesh is None:
        return states

    def place(leaf: Any) -> Any:
        own = np.ndim(leaf) > 0 and np.shape(leaf)[0] == chains
        spec = PartitionSpec("chain") if own else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, states)


def side_by_side(density: Density, data: Data, chains: int, waiting: bool) -> bool:
    """Whether all chains share each pass over the data, or go one after the other.

    Sharing saves the fixed cost of a pass and is compiled faster, as long as the scores of all
    chains for a chunk of rows stay in the caches; with ``waiting``, chains that share wait for the
    longest trajectory, so there the smallest cache counts. (CPU; accelerators have no such caches
    and take all at once.)
    """
    if platform() != "cpu":
        return True
    rows = density.at_once(data) or cells_of(data)
    return bool(rows * density.K * chains * 8 <= (1 if waiting else 4) * CACHED)


def _noted(state: Any) -> dict[str, Any]:
    noted = {name: getattr(state, source) for name, source in STATS.items()}
    step = state.adapt_state.step_size
    return noted | {"u": state.z, "lp": -state.potential_energy, "step_size": step}


@lru_cache(maxsize=32)
def constrainer(density: Density) -> Any:
    """Compiled map from whitened points (m, n) to {site: constrained values (m, *shape)}."""

    @compiled(lambda u, *_: 0, static=())  # rows do not enter
    def constrain(u: Any, data: Data, centre: Any, factor: Any) -> Any:
        return jax.lax.map(
            lambda one: coordinates.constrain(density, centre + factor @ one, data), u
        )

    return constrain
