"""Closed forms for multivariate normal components, and for Student-t ones given scales."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.families import taken
from bayesmix.mstep.reduce import normal_statistics
from bayesmix.mstep.rules import Context, Target, Update, rule

FAMILIES = ("MultivariateNormal", "MultivariateStudentT")

of_location = partial(rule, FAMILIES, "loc", "identity")


def of_covariance(prior: str, text: str) -> Callable[[Update], Update]:
    """Register a closed form for a covariance, given as it is or by its Cholesky factor."""

    def register(update: Update) -> Update:
        scaling = partial(rule, text=text, scales="MultivariateNormal")
        scaling("MultivariateNormal", "covariance_matrix", "identity", prior)(update)
        return scaling(FAMILIES, "scale_tril", "cholesky", prior)(update)

    return register


def _moments(context: Context) -> tuple[jax.Array, jax.Array]:
    """Mass (K,) and sum of r (x - loc), (K, D), in data units."""
    _, mass, features = normal_statistics(context)
    rows = context.data.rows
    D = rows.shift.shape[0]
    centred = (context.leaves()["loc"] - rows.shift) / rows.scale
    return mass, rows.scale * (features[:, :D] - mass[:, None] * centred)


def _scatter(context: Context) -> jax.Array:
    """sum of r (x - loc)(x - loc)', (K, D, D), in data units."""
    _, mass, features = normal_statistics(context)
    rows = context.data.rows
    D = rows.shift.shape[0]
    first = features[:, :D]
    pair = np.zeros((D, D), int)
    pair[np.triu_indices(D)] = D + np.arange(D * (D + 1) // 2)
    pair = np.maximum(pair, pair.T)
    second = taken(features.T, pair.ravel()).T.reshape(-1, D, D)
    m = (context.leaves()["loc"] - rows.shift) / rows.scale
    cross = jnp.einsum("ki,kj->kij", m, first)
    about = second - cross - cross.mT + jnp.einsum("k,ki,kj->kij", mass, m, m)
    return about * jnp.outer(rows.scale, rows.scale)


@of_location("ImproperUniform", text="mean (flat prior)")
def loc_under_flat(target: Target, context: Context) -> jax.Array:
    """The cluster's mean; for a location shared by clusters, weighted by their precisions."""
    mass, deviation = _moments(context)
    if None not in target.link.axes:
        step = deviation / jnp.where(mass > 0, mass, 1)[:, None]
        return context.params[target.name] + jnp.where(mass[:, None] > 0, step, 0.0)
    return _newton(target, context, 0.0, jnp.zeros_like(deviation))


@of_location("MultivariateNormal", text="multivariate normal prior on the location")
def loc_under_mvn(target: Target, context: Context) -> jax.Array:
    """The precision-weighted mean; one Newton step, exact because Q is quadratic."""
    prior = context.prior(target.name)
    tau = _inverse(prior["scale_tril"])
    return _newton(target, context, tau, prior["loc"] - context.params[target.name])


@of_location("Normal", text="independent Normal priors on the location")
def loc_under_normal(target: Target, context: Context) -> jax.Array:
    """The precision-weighted mean under independent Normal priors of the coordinates."""
    prior = context.prior(target.name)
    tau = jnp.eye(target.shape[-1]) / prior["scale"][..., None, :] ** 2
    return _newton(target, context, tau, prior["loc"] - context.params[target.name])


def _inverse(scale_tril: jax.Array) -> jax.Array:
    identity = jnp.eye(scale_tril.shape[-1], dtype=scale_tril.dtype)
    identity = jnp.broadcast_to(identity, scale_tril.shape)
    return jax.scipy.linalg.cho_solve((scale_tril, True), identity)


def _newton(target: Target, context: Context, tau: Any, pull: jax.Array) -> jax.Array:
    mass, deviation = _moments(context)
    precision = _inverse(context.leaves()["scale_tril"])
    slope = jnp.einsum("kij,kj->ki", precision, deviation)
    curvature = mass[:, None, None] * precision
    if target.link.axes[0] is None:
        slope, curvature = slope.sum(0), curvature.sum(0)
    slope = slope.reshape(target.shape) + jnp.einsum(
        "...ij,...j->...i", jnp.broadcast_to(tau, (*target.shape, target.shape[-1])), pull
    )
    curvature = curvature.reshape(*target.shape, target.shape[-1]) + tau
    return context.params[target.name] + jnp.linalg.solve(curvature, slope[..., None])[..., 0]


def _counted_scatter(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Number of terms and scatter that bear on a covariance, summed if clusters share it.

    A location whose prior covariance is cov / kappa counts as one more observation of weight kappa.
    """
    count, scatter = context.statistics.mass, _scatter(context)
    if target.child is not None:
        prior = context.prior(target.child.site)
        kappa = _leading(context.leaves()["scale_tril"]) / _leading(prior["scale_tril"])
        pull = context.params[target.child.site] - prior["loc"]
        scatter = scatter + jnp.einsum("k,ki,kj->kij", kappa, pull, pull)
        count = count + 1
    if target.link.axes[0] is None:
        count, scatter = count.sum(), scatter.sum(0)
    return count.reshape(target.shape[:-2]), scatter.reshape(target.shape)


def _leading(scale_tril: jax.Array) -> jax.Array:
    return scale_tril[:, 0, 0] ** 2


@of_covariance("InverseWishart", "InverseWishart on the covariance")
def covariance_under_inverse_wishart(target: Target, context: Context) -> jax.Array:
    """(scale matrix + scatter) / (concentration + D + 1 + count)."""
    count, scatter = _counted_scatter(target, context)
    prior = context.prior(target.name)
    divisor = prior["concentration"] + target.shape[-1] + 1 + count
    return (prior["scale_matrix"] + scatter) / divisor[..., None, None]


@of_covariance("ImproperUniform", "covariance (flat prior)")
def covariance_under_flat(target: Target, context: Context) -> jax.Array:
    """scatter / count; a cluster without mass keeps its covariance."""
    count, scatter = _counted_scatter(target, context)
    count = count[..., None, None]
    mean = scatter / jnp.where(count > 0, count, 1)
    return jnp.where(count > 0, mean, context.params[target.name])


@rule(
    "MultivariateNormal",
    "precision_matrix",
    "identity",
    "Wishart",
    text="Wishart on the precision",
)
def precision_under_wishart(target: Target, context: Context) -> jax.Array:
    """(concentration - D - 1 + count) (inverse scale matrix + scatter)^-1."""
    count, scatter = _counted_scatter(target, context)
    prior = context.prior(target.name)
    D = target.shape[-1]
    factor = (prior["concentration"] - D - 1 + count)[..., None, None]
    total = scatter + _inverse(prior["scale_tril"])
    return factor * _inverse(jnp.linalg.cholesky(total))
