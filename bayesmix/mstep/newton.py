"""Newton's M-step for components without statistics of their own, as in generalised linear models.

The E-step's pass brings Q's slope and Hessian along, so that the M-step takes no pass: it maximises
the quadratic that they make of Q, together with the prior, once. As a generalised EM that has the
rate of a full M-step near a mode (Lange 1995, A gradient algorithm locally equivalent to the EM
algorithm, section 2); for a GLM with its canonical link it is a step of iteratively reweighted
least squares (McCullagh & Nelder 1989, section 2.5). A step that is too long is shortened by the
engine, which sees the log joint.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import biject_to
from numpyro.distributions.transforms import (
    IdentityTransform,
    IndependentTransform,
    ZeroSumTransform,
)

from bayesmix.coordinates import constrain, free
from bayesmix.density import Bent, Data, Density, Turn, count_directions, density_of
from bayesmix.graph import carried
from bayesmix.program import Mixture, Params

MOST = 16  # directions that a pass may take; beyond, Q is climbed by its slope alone
# Responses with a smooth log density: of a Laplace, say, Q has no bend in the location.
RESPONSES = {
    dist.Poisson,
    dist.BernoulliProbs,
    dist.BernoulliLogits,
    dist.BinomialProbs,
    dist.BinomialLogits,
    dist.CategoricalProbs,
    dist.CategoricalLogits,
    dist.GeometricProbs,
    dist.GeometricLogits,
    dist.Exponential,
}


def turns_of(mixture: Mixture, sites: tuple[str, ...]) -> tuple[Turn, ...]:
    """How the Hessian of Q in these sites is to be taken; () where it would not pay.

    It does for generalised linear models, and weights that depend on covariates, whose rows come in
    chunks, so that each value of Q costs a pass that makes the responsibilities anew. On fewer rows
    these are held, and Newton takes longer to compile.
    """
    responses = {kind for site in mixture.observed for kind in site.components}
    fits = responses <= RESPONSES and all(_is_real(mixture.sites[name].support) for name in sites)
    if density_of(mixture).portion is None or not fits:
        return ()
    turns = turns_in(mixture, sites)
    return turns if count_directions(turns) <= MOST else ()


def turns_in(mixture: Mixture, sites: tuple[str, ...]) -> tuple[Turn, ...]:
    """The Hessian's directions, as few as the components' arithmetic allows."""
    components = mixture.reading.components
    return tuple(
        Turn(name, site.shape, _apart(components, name, site.cluster_axis))
        for name, site in mixture.sites.items()
        if name in sites
    )


def _is_real(support: Any) -> bool:
    """Whether unconstrained coordinates are the values themselves, or linear in them."""
    transform = biject_to(jax.tree.unflatten(support, [1.0] * support.num_leaves))
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, IdentityTransform | ZeroSumTransform)


def _apart(components: Any, name: str, axis: int | None) -> int | None:
    """The clusters' axis of a site, where cluster k's component sees slice k of it alone."""
    if axis is None or carried(components, name, axis) != len(components.shape) - 1:
        return None
    return axis


def newton(
    density: Density, turns: tuple[Turn, ...], params: Params, statistics: Bent, data: Data
) -> Params:
    """Params with the sites of ``turns`` moved to the maximum of Q's quadratic and the prior.

    Where Q does not bend down in some direction, the move goes up it by the size of the bend; where
    it has no second derivatives, up the slope.
    """
    sites = tuple(turn.site for turn in turns)
    here = jnp.concatenate([statistics.at[name].reshape(-1) for name in sites])
    slope = jnp.concatenate([statistics.slope[name].reshape(-1) for name in sites])
    known = jnp.all(jnp.isfinite(statistics.bend))
    bend = jnp.where(known, statistics.bend, -jnp.eye(len(here)) * jnp.linalg.norm(slope))
    z = free(density, params, data, sites)

    def model(z: jax.Array) -> jax.Array:
        values = constrain(density, z, data, sites)
        move = jnp.concatenate([values[name].reshape(-1) for name in sites]) - here
        fit = slope @ move + move @ bend @ move / 2
        return fit + density.log_prior(params | values, data)

    move = uphill(jax.grad(model)(z), -jax.hessian(model)(z))
    after = constrain(density, z + move, data, sites)
    finite = jnp.all(jnp.isfinite(move))
    return params | {name: jnp.where(finite, after[name], params[name]) for name in sites}


def uphill(gradient: jax.Array, curvature: jax.Array) -> jax.Array:
    """Newton's move; directions of wrong curvature are turned uphill, flat ones left."""
    diagonal = jnp.abs(jnp.diagonal(curvature))
    unit = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0)), 0.0)
    scaled, slope = curvature * unit[:, None] * unit, unit * gradient
    factor = jnp.linalg.cholesky(scaled)

    def by_factor() -> jax.Array:
        return jax.scipy.linalg.cho_solve((factor, True), slope)

    def by_axes() -> jax.Array:
        values, vectors = jnp.linalg.eigh(scaled)
        size = jnp.abs(values)
        kept = size > len(slope) * jnp.finfo(size.dtype).eps * size.max()
        along = (vectors.T @ slope) / jnp.where(kept, size, 1.0)
        return vectors @ jnp.where(kept, along, 0.0)

    return unit * jax.lax.cond(jnp.all(jnp.isfinite(factor)), by_factor, by_axes)
