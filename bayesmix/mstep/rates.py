"""Closed forms for rates (Poisson, Exponential, Gamma) and probabilities of one outcome."""

import jax
import jax.numpy as jnp

from bayesmix.mstep.reduce import counts, to_site
from bayesmix.mstep.rules import Context, Target, rule

GAMMAS = ("Gamma", "InverseGamma")


def _sums(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Number of observations and their sum, at the shape of the site."""
    shape = next(iter(context.leaves().values())).shape
    total = context.statistics.features.reshape(shape)
    return to_site(counts(context, shape), target), to_site(total, target)


def _ratio(target: Target, context: Context, top: jax.Array, bottom: jax.Array) -> jax.Array:
    """top / bottom, not below 0; the current value where nothing bears on the site."""
    ratio = jnp.maximum(top, 0) / jnp.where(bottom > 0, bottom, 1)
    return jnp.where(bottom > 0, ratio, context.params[target.name])


@rule("Poisson", "rate", "identity", "Gamma", text="Gamma on a Poisson rate", by_cell=True)
def poisson_rate_under_gamma(target: Target, context: Context) -> jax.Array:
    """(concentration - 1 + sum) / (rate + count); 0, the boundary, where that is negative."""
    count, total = _sums(target, context)
    prior = context.prior(target.name)
    return _ratio(target, context, prior["concentration"] - 1 + total, prior["rate"] + count)


@rule("Poisson", "rate", "identity", "ImproperUniform", text="mean (flat prior)", by_cell=True)
def poisson_rate_under_flat(target: Target, context: Context) -> jax.Array:
    """sum / count."""
    count, total = _sums(target, context)
    return _ratio(target, context, total, count)


@rule("Exponential", "rate", "identity", "Gamma", text="Gamma on an Exponential rate", by_cell=True)
def exponential_rate_under_gamma(target: Target, context: Context) -> jax.Array:
    """(concentration - 1 + count) / (rate + sum)."""
    count, total = _sums(target, context)
    prior = context.prior(target.name)
    return _ratio(target, context, prior["concentration"] - 1 + count, prior["rate"] + total)


@rule(
    "Exponential", "rate", "identity", "ImproperUniform", text="1 / mean (flat prior)", by_cell=True
)
def exponential_rate_under_flat(target: Target, context: Context) -> jax.Array:
    """count / sum."""
    count, total = _sums(target, context)
    return _ratio(target, context, count, total)


@rule(
    GAMMAS,
    "rate",
    "identity",
    "Gamma",
    known=("concentration",),
    text="Gamma on the rate",
    by_cell=True,
)
def gamma_rate_under_gamma(target: Target, context: Context) -> jax.Array:
    """(concentration - 1 + sum of shapes) / (rate + sum of x, of 1 / x for an inverse gamma)."""
    shapes, total = _shapes_and_sums(target, context)
    prior = context.prior(target.name)
    return _ratio(target, context, prior["concentration"] - 1 + shapes, prior["rate"] + total)


@rule(
    GAMMAS,
    "rate",
    "identity",
    "ImproperUniform",
    known=("concentration",),
    text="flat prior",
    by_cell=True,
)
def gamma_rate_under_flat(target: Target, context: Context) -> jax.Array:
    """(sum of shapes) / sum."""
    shapes, total = _shapes_and_sums(target, context)
    return _ratio(target, context, shapes, total)


def _shapes_and_sums(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Every observation counts as many exponential ones as its component's shape says."""
    shape = context.leaves()["concentration"]
    sums = jnp.split(context.statistics.features, 2, axis=1)[1]
    count = counts(context, shape.shape) * shape
    return to_site(count, target), to_site(sums.reshape(shape.shape), target)


@rule("Bernoulli", "probs", "identity", "Beta", text="Beta on a probability", by_cell=True)
def probability_under_beta(target: Target, context: Context) -> jax.Array:
    """(a - 1 + successes) / (a + b - 2 + count), at most 1."""
    return _share_under_beta(target, context, *_sums(target, context))


@rule(
    "Bernoulli",
    "probs",
    "identity",
    "UnitUniform",
    "ImproperUniform",
    text="share (flat prior)",
    by_cell=True,
)
def probability_under_flat(target: Target, context: Context) -> jax.Array:
    """successes / count."""
    count, total = _sums(target, context)
    return _ratio(target, context, total, count)


@rule("Binomial", "probs", "identity", "Beta", text="Beta on a Binomial probability", by_cell=True)
def binomial_probability_under_beta(target: Target, context: Context) -> jax.Array:
    """(a - 1 + successes) / (a + b - 2 + trials), at most 1."""
    return _share_under_beta(target, context, *_trials(target, context))


@rule(
    "Binomial",
    "probs",
    "identity",
    "UnitUniform",
    "ImproperUniform",
    text="share (flat prior)",
    by_cell=True,
)
def binomial_probability_under_flat(target: Target, context: Context) -> jax.Array:
    """successes / trials."""
    trials, successes = _trials(target, context)
    return _ratio(target, context, successes, trials)


def _trials(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Trials and successes, at the shape of the site."""
    shape = context.leaves()["probs"].shape
    successes, trials = jnp.split(context.statistics.features, 2, axis=1)
    return to_site(trials.reshape(shape), target), to_site(successes.reshape(shape), target)


def _share_under_beta(
    target: Target, context: Context, count: jax.Array, total: jax.Array
) -> jax.Array:
    prior = context.prior(target.name)
    a, b = prior["concentration1"], prior["concentration0"]
    successes = jnp.maximum(a - 1 + total, 0)
    failures = jnp.maximum(b - 1 + count - total, 0)
    return _ratio(target, context, successes, successes + failures)


@rule(
    "Geometric", "probs", "identity", "Beta", text="Beta on a geometric probability", by_cell=True
)
def geometric_probability_under_beta(target: Target, context: Context) -> jax.Array:
    """(a - 1 + count) / (a + b - 2 + count + sum), at most 1: one success in every row."""
    count, failures = _sums(target, context)
    return _share_under_beta(target, context, count + failures, count)


@rule(
    "Geometric",
    "probs",
    "identity",
    "UnitUniform",
    "ImproperUniform",
    text="share (flat prior)",
    by_cell=True,
)
def geometric_probability_under_flat(target: Target, context: Context) -> jax.Array:
    """count / (count + sum)."""
    count, failures = _sums(target, context)
    return _ratio(target, context, count, count + failures)
