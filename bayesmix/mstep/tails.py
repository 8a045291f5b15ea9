"""Degrees of freedom of Student-t components.

Given the rows' scales u, Q depends on df = 2 h through n (h log h - log Gamma(h)) + h (L - U), with
n the expected rows, U and L the expected sums of u and log u. Along log df that is concave, and so
are the priors below: Newton's method finds the one root of its slope,

    n h (log h - psi(h)) + h (n + L - U) + slope of the log prior = 0.

Source: Liu & Rubin (1995), ML estimation of the t distribution using EM and its extensions, ECM and
ECME, Statistica Sinica 5, section 3, with a prior.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma

from bayesmix.mstep.reduce import to_site
from bayesmix.mstep.rules import Context, Target, rule

FAMILIES = ("StudentT", "MultivariateStudentT")
ROUNDS = 30
LONGEST = 2.0  # of a step along the logarithm
CLOSE = 1e-13  # relative change that ends the rounds


@rule(FAMILIES, "df", "identity", "LogNormal", text="LogNormal on degrees of freedom, by Newton")
def df_under_log_normal(target: Target, context: Context) -> jax.Array:
    """The prior's slope along log df is -1 - (log df - loc) / scale^2."""
    prior = context.prior(target.name)
    weight = 1 / prior["scale"] ** 2
    return _root(target, context, lambda t: (-1 - weight * (t - prior["loc"]), -weight))


@rule(FAMILIES, "df", "identity", "Gamma", text="Gamma on degrees of freedom, by Newton")
def df_under_gamma(target: Target, context: Context) -> jax.Array:
    """The prior's slope along log df is concentration - 1 - rate df."""
    prior = context.prior(target.name)

    def slope(t: jax.Array) -> tuple[Any, Any]:
        fall = prior["rate"] * jnp.exp(t)
        return prior["concentration"] - 1 - fall, -fall

    return _root(target, context, slope)


@rule(FAMILIES, "df", "identity", "ImproperUniform", text="degrees of freedom, by Newton")
def df_under_flat(target: Target, context: Context) -> jax.Array:
    """Without a prior; it grows step by step where the rows are normal."""
    return _root(target, context, lambda t: (0.0, 0.0))


def _root(target: Target, context: Context, prior: Any) -> jax.Array:
    """Where the slope of Q along log df is zero; ``prior`` gives its part and that part's slope.

    h (log h - psi(h)) falls from 1 to 1/2; for its small slope that of 1/2 + 1 / (2 + 12 h) will
    do. A cluster without mass or prior keeps its value.
    """
    mass, features = context.statistics
    shape = context.leaves()["df"].shape
    n = to_site(mass.reshape(shape), target)
    fall = to_site((mass + features[:, 0] - features[:, 1]).reshape(shape), target)

    def slope(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.exp(t) / 2
        own, bend = prior(t)
        rise = n * h * (jnp.log(h) - digamma(h)) + h * fall + own
        return rise, n * -12 * h / (2 + 12 * h) ** 2 + h * fall + bend

    return jnp.exp(rising_root(slope, jnp.log(context.params[target.name])))


def rising_root(slope: Callable[[jax.Array], tuple[Any, Any]], start: jax.Array) -> jax.Array:
    """Where concave functions, one for each element, have no slope: Newton's method from ``start``.

    ``slope`` gives the slopes at a point and their own slopes. Where these are not negative the
    value stays.
    """

    def newton(state: Any) -> Any:
        rounds, t, _ = state
        rise, bend = slope(t)
        step = jnp.where(bend < 0, rise / jnp.where(bend < 0, -bend, 1.0), 0.0)
        step = jnp.clip(step, -LONGEST, LONGEST)
        return rounds + 1, t + step, jnp.max(jnp.abs(step))

    def go_on(state: Any) -> jax.Array:
        return (state[0] < ROUNDS) & (state[2] > CLOSE)

    first = (0, start, jnp.array(jnp.inf, start.dtype))
    return jax.lax.while_loop(go_on, newton, first)[1]
