"""Closed forms for Normal and log-normal components, alone or in products, and for Student-t.

Given the scales of its rows a Student-t is Normal.

The features of log-normal components are a Normal's of log x, and so are their closed forms.
Everything is written in deviations from the current location, which the centred statistics give
without cancellation even for data far from the origin.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bayesmix.families.lines import Lines
from bayesmix.mstep.reduce import counts, normal_counts, normal_statistics, to_site
from bayesmix.mstep.rules import Context, Target, rule

FAMILIES = ("Normal", "LogNormal", "StudentT")

of_location = partial(rule, FAMILIES, "loc", "identity", by_cell=True)
of_scale = partial(rule, FAMILIES, "scale", scales="Normal", by_cell=True)


def _moments(context: Context) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mass, sum of r (x - loc) and sum of r (x - loc)^2, each (K, *event), in data units."""
    family = context.density.family
    if isinstance(family, Lines):  # (1, K), as the parameter is (N, K)
        mass, features = context.statistics
        square = family.squares(context.leaves(), features)[None]
        return mass[None], jnp.zeros_like(square), square
    features = normal_statistics(context)[2]
    rows = context.data.rows
    loc = context.leaves()["loc"]
    D = rows.shift.shape[0]
    mass = normal_counts(context, loc.shape).reshape(-1, D)
    first, second = features[:, :D], features[:, D:]
    centred = (loc.reshape(-1, D) - rows.shift) / rows.scale
    deviation = rows.scale * (first - mass * centred)
    square = rows.scale**2 * (second - 2 * centred * first + mass * centred**2)
    shape = loc.shape
    return mass.reshape(shape), deviation.reshape(shape), square.reshape(shape)


@of_location("Normal", text="Normal prior on the location")
def loc_under_normal(target: Target, context: Context) -> jax.Array:
    """The precision-weighted mean: one Newton step, exact because Q is quadratic in loc."""
    prior = context.prior(target.name)
    tau = 1 / prior["scale"] ** 2
    return _loc_step(target, context, tau, prior["loc"])


@of_location("ImproperUniform", text="mean (flat prior)")
def loc_under_flat(target: Target, context: Context) -> jax.Array:
    """The (precision-weighted) mean; a cluster without mass keeps its location."""
    return _loc_step(target, context, 0.0, 0.0)


def _loc_step(target: Target, context: Context, tau: Any, mean: Any) -> jax.Array:
    mass, deviation, _ = _moments(context)
    precision = 1 / context.leaves()["scale"] ** 2
    current = context.params[target.name]
    slope = to_site(precision * deviation, target) + tau * (mean - current)
    curvature = to_site(precision * mass, target) + tau
    return current + jnp.where(curvature > 0, slope / curvature, 0.0)


def _squares(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Number of terms and sum of squares that bear on a scale, at the shape of its site.

    A location whose prior this scale multiplies counts as one more observation of weight kappa.
    """
    square = _moments(context)[2]
    if isinstance(context.density.family, Lines):
        count = jnp.broadcast_to(context.statistics.mass, square.shape)
    else:
        count = counts(context, square.shape)
    if target.child is not None:
        prior = context.prior(target.child.site)
        kappa = (context.leaves()["scale"] / prior["scale"]) ** 2
        square = square + kappa * (context.params[target.child.site] - prior["loc"]) ** 2
        count = count + 1
    return to_site(count, target), jnp.maximum(to_site(square, target), 0)


def _kept(target: Target, context: Context, count: jax.Array, value: jax.Array) -> jax.Array:
    """Keep the current value where a cluster has no mass to tell it otherwise."""
    return jnp.where(count > 0, value, context.params[target.name])


@of_scale("sqrt", "InverseGamma", text="InverseGamma on the variance")
def variance_under_inverse_gamma(target: Target, context: Context) -> jax.Array:
    """(rate + squares / 2) / (concentration + 1 + count / 2)."""
    count, square = _squares(target, context)
    prior = context.prior(target.name)
    return (prior["rate"] + square / 2) / (prior["concentration"] + 1 + count / 2)


@of_scale("sqrt", "ImproperUniform", text="variance (flat prior)")
def variance_under_flat(target: Target, context: Context) -> jax.Array:
    """The mean square about the location."""
    count, square = _squares(target, context)
    return _kept(target, context, count, square / jnp.where(count > 0, count, 1))


@of_scale("identity", "ImproperUniform", text="standard deviation (flat prior)")
def scale_under_flat(target: Target, context: Context) -> jax.Array:
    """The root mean square about the location."""
    count, square = _squares(target, context)
    return _kept(target, context, count, jnp.sqrt(square / jnp.where(count > 0, count, 1)))


@of_scale("identity", "HalfNormal", text="HalfNormal on the scale")
def scale_under_half_normal(target: Target, context: Context) -> jax.Array:
    """The root of u^2 / s^2 + n u - S = 0 in u = scale^2; 0 for a cluster on a single value.

    Stationarity of -n log scale - S / (2 scale^2) - scale^2 / (2 s^2); the root is written without
    the cancellation of the schoolbook formula.
    """
    count, square = _squares(target, context)
    s2 = context.prior(target.name)["scale"] ** 2
    root = count + jnp.sqrt(count**2 + 4 * square / s2)
    return _kept(target, context, count, jnp.sqrt(2 * square / jnp.where(root > 0, root, 1)))


@of_scale("rsqrt", "Gamma", text="Gamma on the precision")
def precision_under_gamma(target: Target, context: Context) -> jax.Array:
    """(concentration - 1 + count / 2) / (rate + squares / 2)."""
    count, square = _squares(target, context)
    prior = context.prior(target.name)
    shape = jnp.maximum(prior["concentration"] - 1 + count / 2, 0)
    return shape / (prior["rate"] + square / 2)
