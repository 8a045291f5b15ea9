"""Closed forms for rates and for probabilities of one outcome.

A rate is updated by what was seen, events and the exposure in which they came: Q in it is events
log(rate) - exposure rate. A probability is updated by successes and the trials they were among.
Families differ in what they count; under a Gamma or a Beta prior, or a flat one, the rest is alike.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bayesmix.families.zeros import HURDLES
from bayesmix.mstep.reduce import counts, to_site
from bayesmix.mstep.rules import Context, Target, rule

GAMMAS = ("Gamma", "InverseGamma")

Evidence = Callable[[Target, Context], tuple[jax.Array, jax.Array]]
Register = Callable[[Evidence], Evidence]


def rates(family: str | tuple[str, ...], text: str, **limits: Any) -> Register:
    """Register the rules for a rate, given a function of (events, exposure) at the site's shape."""

    def register(evidence: Evidence) -> Evidence:
        @rule(family, "rate", "identity", "Gamma", text=f"Gamma on {text}", by_cell=True, **limits)
        def under_gamma(target: Target, context: Context) -> jax.Array:
            """(concentration - 1 + events) / (rate + exposure); 0 where that is negative."""
            events, exposure = evidence(target, context)
            prior = context.prior(target.name)
            top, bottom = prior["concentration"] - 1 + events, prior["rate"] + exposure
            return _ratio(target, context, top, bottom)

        flat = f"flat prior on {text}"

        @rule(family, "rate", "identity", "ImproperUniform", text=flat, by_cell=True, **limits)
        def under_flat(target: Target, context: Context) -> jax.Array:
            """events / exposure."""
            return _ratio(target, context, *evidence(target, context))

        return evidence

    return register


def probabilities(family: str | tuple[str, ...], text: str, leaf: str = "probs") -> Register:
    """The same for a probability, given a function of (successes, trials)."""

    def register(evidence: Evidence) -> Evidence:
        @rule(family, leaf, "identity", "Beta", text=f"Beta on {text}", by_cell=True)
        def under_beta(target: Target, context: Context) -> jax.Array:
            """(a - 1 + successes) / (a + b - 2 + trials), from 0 to 1."""
            successes, trials = evidence(target, context)
            prior = context.prior(target.name)
            up = jnp.maximum(prior["concentration1"] - 1 + successes, 0)
            down = jnp.maximum(prior["concentration0"] - 1 + trials - successes, 0)
            return _ratio(target, context, up, up + down)

        flat = ("UnitUniform", "ImproperUniform")

        @rule(family, leaf, "identity", *flat, text=f"flat prior on {text}", by_cell=True)
        def under_flat(target: Target, context: Context) -> jax.Array:
            """successes / trials."""
            return _ratio(target, context, *evidence(target, context))

        return evidence

    return register


def _ratio(target: Target, context: Context, top: jax.Array, bottom: jax.Array) -> jax.Array:
    """top / bottom, not below 0; the current value where nothing bears on the site."""
    ratio = jnp.maximum(top, 0) / jnp.where(bottom > 0, bottom, 1)
    return jnp.where(bottom > 0, ratio, context.params[target.name])


def _sums(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Number of observations and their sum, at the shape of the site."""
    shape = next(iter(context.leaves().values())).shape
    total = context.statistics.features.reshape(shape)
    return to_site(counts(context, shape), target), to_site(total, target)


@rates("Poisson", "a Poisson rate")
def poisson_counts(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """The sum of counts in as many units of exposure as there are rows."""
    count, total = _sums(target, context)
    return total, count


@rates("Exponential", "an Exponential rate")
def waiting_times(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """One event ends every waiting time."""
    return _sums(target, context)


@rates(GAMMAS, "the rate", known=("concentration",))
def gamma_times(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """A component's shape is how many events end a time; 1 / x is one for an inverse gamma."""
    shape = context.leaves()["concentration"]
    sums = jnp.split(context.statistics.features, 2, axis=1)[1]
    events = counts(context, shape.shape) * shape
    return to_site(events, target), to_site(sums.reshape(shape.shape), target)


@probabilities("Bernoulli", "a probability")
def ones(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Every row is one trial."""
    count, total = _sums(target, context)
    return total, count


@probabilities("Binomial", "a Binomial probability")
def successes_in_trials(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """As the rows say."""
    shape = context.leaves()["probs"].shape
    successes, trials = jnp.split(context.statistics.features, 2, axis=1)
    return to_site(successes.reshape(shape), target), to_site(trials.reshape(shape), target)


@probabilities("Geometric", "a geometric probability")
def last_trials(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """One success in every row, after as many failures as it says."""
    count, failures = _sums(target, context)
    return count, count + failures


@probabilities(HURDLES, "the share of zeros", leaf="gate")
def zeros(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """The last features of a hurdle say in which rows it was passed."""
    shape = context.leaves()["gate"].shape
    count = counts(context, shape)
    passed = context.statistics.features[:, -count[0].size :].reshape(shape)
    return to_site(count - passed, target), to_site(count, target)
