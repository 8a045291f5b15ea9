"""Whether a run that stands still is at a maximum: slopes that a kink or an edge leaves.

Where the log density has a kink in a site (a Laplace's location that lies on a line of covariates)
or rows fall out of the support beyond an edge (the bounds of a Uniform), the ascent on Q may find
no step upward although there is a way. Then the log joint has a slope at the end. How much it could
gain is told to second order by the information that the rows hold, the sum of their squared scores
(Berndt, Hall, Hall & Hausman 1974, Estimation and inference in nonlinear structural models, Annals
of Economic and Social Measurement 3): slope^2 / (2 information), coordinate by coordinate.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bayesmix.coordinates import constrain, free
from bayesmix.density import Data, Density, data_of, density_of
from bayesmix.density.layout import KINKS, movers
from bayesmix.mstep.rules import plan_for
from bayesmix.program import Mixture, Params

# The parameters beyond which the log density ends.
EDGES = {
    dist.Uniform: ("low", "high"),
    dist.Pareto: ("scale",),
    dist.LeftTruncatedDistribution: ("low",),
    dist.RightTruncatedDistribution: ("high",),
    dist.TwoSidedTruncatedDistribution: ("low", "high"),
}


def may_stall(mixture: Mixture) -> bool:
    """Whether the ascent moves a parameter in which the log density has a kink or an edge."""
    with jax.enable_x64(True):
        return bool(movers(mixture, KINKS | EDGES) & set(plan_for(mixture).ascent))


def left_at_kinks(mixture: Mixture, params: Params) -> float:
    """What the log joint may have yet to gain where it has a slope at ``params``, in nats.

    Along the sites of the ascent: others are at their argmax, also where that is a kink.
    """
    density, data = density_of(mixture), data_of(mixture)
    values = {name: jnp.asarray(value, float) for name, value in params.items()}
    return float(_left(density, plan_for(mixture).ascent, values, data))


@partial(jax.jit, static_argnums=(0, 1))
def _left(density: Density, sites: tuple[str, ...], params: Params, data: Data) -> jax.Array:
    z = free(density, params, data, sites)

    def joint(z: jax.Array) -> jax.Array:
        return density.log_joint(params | constrain(density, z, data, sites), data)

    def rows(z: jax.Array) -> jax.Array:
        return density.by_rows(params | constrain(density, z, data, sites), data)

    def information(direction: jax.Array) -> Any:
        return jnp.sum(jax.jvp(rows, (z,), (direction,))[1] ** 2)

    slope = jax.grad(joint)(z)
    known = jax.lax.map(information, jnp.eye(z.size, dtype=z.dtype))
    return jnp.sum(jnp.where(known > 0, slope**2 / (2 * jnp.where(known > 0, known, 1.0)), 0.0))
