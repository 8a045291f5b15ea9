"""Weighted least squares: coefficients of a linear predictor under Normal or flat priors.

Q is a quadratic function of them, jointly with whatever shifts their priors, so that one Newton
step is its argmax: the normal equations X'R_k X / var_k + prior precision, whose left side comes
from the N-free statistics. All clusters and all shared coefficients move together.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from numpyro.distributions import constraints

from bayesmix.density import Data, Density, density_of
from bayesmix.density.layout import line_of
from bayesmix.families.lines import Lines
from bayesmix.linear import affine
from bayesmix.program import Mixture, Params, Site


def line_sites(mixture: Mixture) -> tuple[str, ...]:
    """The sites in which Q is quadratic, where the mixture is one of lines."""
    if not isinstance(density_of(mixture).family, Lines):
        return ()
    names = [name for name, site in mixture.sites.items() if _is_coefficient(site)]
    while names and (left := _not_quadratic(mixture, frozenset(names))):
        names = [name for name in names if name not in left]
    return tuple(names)


def _is_coefficient(site: Site) -> bool:
    """Whether a site enters the location alone, and has a Normal or a flat prior on all numbers."""
    if {link.leaf for link in site.links} != {"loc"}:
        return False
    if site.prior == "Normal":
        return True
    real = {jax.tree.structure(constraints.independent(constraints.real, n)) for n in range(4)}
    real |= {jax.tree.structure(constraints.real)}
    return site.improper and site.support in real


def _not_quadratic(mixture: Mixture, names: frozenset[str]) -> set[str]:
    """Those of the sites that enter the location or another prior in some other way."""
    reading, line = mixture.reading, line_of(mixture)
    assert line is not None
    bounds = [node for nodes in reading.supports.values() for node in nodes]
    left = set().union(*(node.depends & names for node in bounds), *())
    for node in line[0].coefficients:
        if not affine(node, names):
            left |= node.depends & names
    for other, term in reading.terms.items():
        entering = term.depends & names - {other}
        prior = reading.priors.get(other, {})
        quadratic = (
            other in names
            and mixture.sites[other].prior == "Normal"
            and not prior["scale"].depends & names
            and affine(prior["loc"], names)
        )
        left |= set() if quadratic else set(entering)
    return left


def least_squares(
    density: Density, sites: tuple[str, ...], params: Params, statistics: Any, data: Data
) -> Params:
    """The argmax of Q over coefficients, by one Newton step on the quadratic that Q is.

    Coefficients that neither rows nor priors determine stay where they are.
    """
    start, restore = ravel_pytree({name: params[name] for name in sites})

    def objective(flat: jax.Array) -> jax.Array:
        return density.expected(params | restore(flat), statistics, data)

    gradient, curvature = jax.grad(objective)(start), -jax.hessian(objective)(start)
    diagonal = jnp.diagonal(curvature)
    unit = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0)), 0.0)
    values, vectors = jnp.linalg.eigh(curvature * unit[:, None] * unit)
    kept = values > len(start) * jnp.finfo(start.dtype).eps * values[-1]
    along = (vectors.T @ (unit * gradient)) / jnp.where(kept, values, 1.0)
    step = unit * (vectors @ jnp.where(kept, along, 0.0))
    return params | restore(jnp.where(jnp.all(jnp.isfinite(step)), start + step, start))
