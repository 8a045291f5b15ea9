"""Laplace components, also asymmetric ones: weighted medians and mean absolute deviations.

The log density has a kink at the location, so Q has one at every row, where a climb by slopes
stalls. Over one location Q is concave and, beside the prior, linear between neighbouring rows:

    Q(m) = log prior(m) - sum_{x_n > m} r_n (x_n - m) / right - sum_{x_n < m} r_n (m - x_n) / left.

Its slope falls from row to row, by what cumulative sums over the rows in ascending order tell. So
the argmax is the row where the slope changes its sign, the weighted median where both sides count
alike, or lies before it, where a Normal prior takes the slope to 0. The rows themselves are looked
at, with one array (rows, K) of responsibilities: no fixed number of statistics tells a median.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bayesmix.density import Ordered
from bayesmix.mstep.reduce import to_site
from bayesmix.mstep.rules import Context, Target, rule
from bayesmix.mstep.tails import rising_root

FAMILIES = ("Laplace", "AsymmetricLaplace")

of_location = partial(rule, FAMILIES, "loc", "identity", own=True)
of_scale = partial(rule, FAMILIES, "scale", "identity")


def _own(target: Target, context: Context) -> dict[str, jax.Array]:
    """The components' parameters of the target's observed site."""
    part = f"[{target.site}]"
    return {name.removesuffix(part): value for name, value in context.leaves().items()}


def _sides(own: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """What distances below and above the location are multiplied by, before the scale divides."""
    lean = own.get("asymmetry", jnp.ones_like(own["loc"]))
    return 1 / lean, lean


def _by_column(value: Any, target: Target, shape: tuple[int, ...]) -> jax.Array:
    """A value that broadcasts to the site, by the columns of the parameter (K, *event): (D, K)."""
    along = [axis for axis in target.link.axes if axis is not None]
    rest = [axis for axis in range(len(target.shape)) if axis not in along]
    full = jnp.transpose(jnp.broadcast_to(value, target.shape), (*along, *rest))
    return full.reshape(shape[0], -1).T


@of_location("Normal", text="weighted median with a Normal prior")
def loc_under_normal(target: Target, context: Context) -> jax.Array:
    """The row where Q's slope, with the prior's share, changes its sign, or its zero before it."""
    prior = context.prior(target.name)
    return _loc_step(target, context, 1 / prior["scale"] ** 2, prior["loc"])


@of_location("ImproperUniform", text="weighted median (flat prior)")
def loc_under_flat(target: Target, context: Context) -> jax.Array:
    """The weighted median; a cluster without mass keeps its location."""
    return _loc_step(target, context, 0.0, 0.0)


def _loc_step(target: Target, context: Context, tau: Any, mean: Any) -> jax.Array:
    """The argmax of Q over the location; a cluster without mass or prior keeps its own."""
    own = _own(target, context)
    loc, shape = own["loc"], own["loc"].shape
    resp = context.density.weighted_resp(context.statistics, context.data)
    sides = ((side / own["scale"]).reshape(shape[0], -1).T for side in _sides(own))
    prior = _by_column(tau, target, shape), _by_column(mean, target, shape)
    current = loc.reshape(shape[0], -1).T

    def column(given: Any) -> jax.Array:
        return _argmax(resp, *given)

    rows = context.data.ordered[target.site]
    found = jax.lax.map(column, (rows, *sides, *prior, current))
    return to_site(found.T.reshape(shape), target)


def _argmax(
    resp: jax.Array,
    rows: Ordered,
    below: jax.Array,
    above: jax.Array,
    tau: jax.Array,
    mean: jax.Array,
    current: jax.Array,
) -> jax.Array:
    """The location (K,) of one column, whose ``rows`` are (N,); all else is (K,).

    ``below`` and ``above`` are the slopes that a row of mass 1 has on either side.
    """
    values, mass = rows.values[:, None], jnp.cumsum(resp[rows.order], axis=0)
    total = mass[-1]
    slope = above * (total - mass) - below * mass  # to the right of every row, of the rows alone
    first = jnp.sum(slope > tau * (values - mean), axis=0)  # row where Q ceases to rise
    padded = jnp.concatenate([(above * total)[None], slope])
    before = jnp.take_along_axis(padded, first[None], axis=0)[0]
    edges = jnp.pad(rows.values, 1, constant_values=(-jnp.inf, jnp.inf))
    low, high = edges[first], edges[first + 1]
    between = jnp.where(tau > 0, mean + before / jnp.where(tau > 0, tau, 1.0), high)
    told = (total > 0) | (tau > 0)
    return jnp.where(told, jnp.clip(between, low, high), current)


def _deviations(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Expected number of terms, and sum of absolute deviations, at the shape of the site."""
    own = _own(target, context)
    loc, shape = own["loc"], own["loc"].shape
    resp = context.density.weighted_resp(context.statistics, context.data)
    sides = (side.reshape(shape[0], -1).T for side in _sides(own))

    def column(given: Any) -> jax.Array:
        rows, loc, below, above = given
        apart = rows.values[:, None] - loc
        return jnp.sum(resp[rows.order] * jnp.where(apart > 0, above, -below) * apart, axis=0)

    rows = context.data.ordered[target.site]
    found = jax.lax.map(column, (rows, loc.reshape(shape[0], -1).T, *sides))
    mass = resp.sum(0).reshape(-1, *(1,) * (len(shape) - 1))
    count = jnp.broadcast_to(mass, shape)
    return to_site(count, target), to_site(found.T.reshape(shape), target)


@of_scale("ImproperUniform", text="mean absolute deviation (flat prior)")
def scale_under_flat(target: Target, context: Context) -> jax.Array:
    """A cluster without mass keeps its scale."""
    count, apart = _deviations(target, context)
    value = apart / jnp.where(count > 0, count, 1.0)
    return jnp.where(count > 0, value, context.params[target.name])


@of_scale("InverseGamma", text="InverseGamma on the scale")
def scale_under_inverse_gamma(target: Target, context: Context) -> jax.Array:
    """(rate + deviations) / (concentration + 1 + count)."""
    count, apart = _deviations(target, context)
    prior = context.prior(target.name)
    return (prior["rate"] + apart) / (prior["concentration"] + 1 + count)


@of_scale("LogNormal", text="LogNormal on the scale, by Newton")
def scale_under_log_normal(target: Target, context: Context) -> jax.Array:
    """The prior's slope along log scale is -1 - (log scale - loc) / s^2."""
    prior = context.prior(target.name)
    weight = 1 / prior["scale"] ** 2
    return _scale_root(target, context, lambda t: (-1 - weight * (t - prior["loc"]), -weight))


@of_scale("HalfNormal", text="HalfNormal on the scale, by Newton")
def scale_under_half_normal(target: Target, context: Context) -> jax.Array:
    """The prior's slope along log scale is -scale^2 / s^2."""
    weight = 1 / context.prior(target.name)["scale"] ** 2

    def slope(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        fall = weight * jnp.exp(2 * t)
        return -fall, -2 * fall

    return _scale_root(target, context, slope)


@of_scale("Gamma", text="Gamma on the scale, by Newton")
def scale_under_gamma(target: Target, context: Context) -> jax.Array:
    """The prior's slope along log scale is concentration - 1 - rate scale."""
    prior = context.prior(target.name)

    def slope(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        fall = prior["rate"] * jnp.exp(t)
        return prior["concentration"] - 1 - fall, -fall

    return _scale_root(target, context, slope)


def _scale_root(target: Target, context: Context, prior: Callable[..., Any]) -> jax.Array:
    """Where the slope of Q along t = log scale is zero: -count + deviations e^-t + the prior's.

    Q is concave along t, and so are the priors.
    """
    count, apart = _deviations(target, context)

    def slope(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        pull, (own, bend) = apart * jnp.exp(-t), prior(t)
        return pull - count + own, bend - pull

    current = context.params[target.name]
    return jnp.where(count > 0, jnp.exp(rising_root(slope, jnp.log(current))), current)
