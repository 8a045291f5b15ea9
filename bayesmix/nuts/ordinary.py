"""NumPyro's NUTS with its ordinary adaptation of step sizes and scales.

Used where nothing is known of the posterior's shape beforehand, or where what was known is wrong.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from bayesmix.coordinates import free_log_density
from bayesmix.density import Data, Density
from bayesmix.effort import SAMPLE, cells_of, compiled
from bayesmix.nuts.kernel import BLOCK

STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "n_steps": "num_steps",
    "acceptance_rate": "accept_prob",
}


@lru_cache(maxsize=32)
def machine(density: Density, warmup: int, target: float) -> tuple[Any, Any]:
    """Compiled (begin, advance) of all chains for one program; they hold no data."""

    def potential(data: Data, centre: Any, factor: Any) -> Any:
        return lambda u: -free_log_density(density, centre + factor @ u, data)

    init_kernel, sample_kernel = hmc(potential_fn_gen=potential, algo="NUTS")

    @compiled(lambda keys, start, data, *_: cells_of(data), static=(), effort=SAMPLE)
    def begin(keys: Any, start: ParamInfo, data: Data, centre: Any, factor: Any) -> Any:
        def one(key: Any, start: ParamInfo) -> Any:
            return init_kernel(
                start,
                warmup,
                step_size=0.5,
                target_accept_prob=target,
                model_args=(data, centre, factor),
                rng_key=key,
            )

        return jax.vmap(one)(keys, start)

    @compiled(lambda states, count, data, *_: cells_of(data), static=(), effort=SAMPLE)
    def advance(states: Any, count: Any, data: Data, centre: Any, factor: Any) -> Any:
        """``count`` (at most BLOCK) transitions of every chain; draws (BLOCK, chain, ...)."""

        def once(i: Any, carry: Any) -> Any:
            states, kept = carry
            states = jax.vmap(lambda s: sample_kernel(s, (data, centre, factor)))(states)
            return states, jax.tree.map(lambda a, b: a.at[i].set(b), kept, _noted(states))

        like = jax.tree.map(lambda a: jnp.zeros((BLOCK, *a.shape), a.dtype), _noted(states))
        return jax.lax.fori_loop(0, count, once, (states, like))

    return begin, advance


def _noted(states: Any) -> dict[str, Any]:
    noted = {name: getattr(states, source) for name, source in STATS.items()}
    step = states.adapt_state.step_size
    return noted | {"u": states.z, "lp": -states.potential_energy, "step_size": step}
