"""Mixtures of counts whose zeros have a rule of their own, as plain NumPyro programs.

A zero-inflated count has more zeros than its cluster's distribution explains; a hurdle's zeros are
none of that distribution's, so that there may be fewer of them, too. In a single column all
clusters share one `gate`, () or (1,): a zero does not say from which cluster it came, so gates of
their own could not be told from other weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from bayesmix.carry import once
from bayesmix.models.columns import Form, Prior, event_rate
from bayesmix.models.inputs import Program, by_column, cluster_count, rows
from bayesmix.models.moments import CONCENTRATION, share
from bayesmix.models.summaries import MISSING, size


def zero_inflated_poisson(K: int) -> Program:
    """A mixture of K zero-inflated Poissons: the program `program(x)`, counts x, (N,) or (N, D).

    A count of cluster k is 0 with probability `gate`, whatever its rate, and else Poisson.

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `rate` (K,) or (K, D) ~ Gamma(2, 2 / s) as for
    `poisson`; `gate` (K, D) ~ Beta(1 + m, 2 - m) with m = (zeros + 1/2) / (N + 1), the column's
    share of zeros: one added row per cluster and column; in a single column one for all clusters.
    Both densities are bounded and vanish at the ends, so that modes lie inside. A cluster of small
    rate has zeros of its own, and then the prior decides how many of them count as extra.

    The same K gives the same program object, so that nothing compiles twice.
    Source: Lambert (1992), Zero-inflated Poisson regression, Technometrics 34; the priors are ours.
    """
    return _program("zero_inflated_poisson", cluster_count(K))


def zero_inflated_negative_binomial(K: int) -> Program:
    """A mixture of K zero-inflated negative binomials: `program(x)`, counts x, (N,) or (N, D).

    A count of cluster k is 0 with probability `gate`, and else negative binomial, of variance
    mean + mean² / concentration. (Written by logits, as `bm.models.negative_binomial` is.)

    Sites: `weights`, `gate` as for `zero_inflated_poisson`; `mean` with the prior of its `rate`;
    `concentration` ~ Gamma(3/2, K^(-2/D) v / 2), (K,) or (K, D), with v = (variance + 1) /
    (mean + 1)² of the counts above 0. A negative binomial of small concentration has many zeros
    without any inflation: `gate` and `concentration` are then told apart by the priors.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("zero_inflated_negative_binomial", cluster_count(K))


def hurdle_poisson(K: int) -> Program:
    """A mixture of K hurdle Poissons: the program `program(x)`, counts x, (N,) or (N, D).

    A count of cluster k is 0 with probability `gate`, and else Poisson given that it is not 0.
    `rate` is that of the Poisson before truncation: the mean of the counts above 0 is
    rate / (1 - exp(-rate)).

    Sites and priors as for `zero_inflated_poisson`.

    The same K gives the same program object, so that nothing compiles twice.
    Source: Mullahy (1986), Specification and testing of some modified count data models, Journal of
    Econometrics 33; the priors are ours.
    """
    return _program("hurdle_poisson", cluster_count(K))


def hurdle_negative_binomial(K: int) -> Program:
    """A mixture of K hurdle negative binomials: `program(x)`, counts x, (N,) or (N, D).

    A count of cluster k is 0 with probability `gate`, and else negative binomial given that it is
    not 0; `mean` and `concentration` are those before truncation.

    Sites and priors as for `zero_inflated_negative_binomial`.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("hurdle_negative_binomial", cluster_count(K))


def _poisson(rate: jax.Array) -> dist.Distribution:
    return dist.Poisson(rate)


def _negative_binomial(mean: jax.Array, concentration: jax.Array) -> dist.Distribution:
    return dist.NegativeBinomialLogits(concentration, jnp.log(mean / concentration))


@once
def _program(name: str, K: int) -> Program:
    def program(x: ArrayLike) -> None:
        x, form = rows(x), FORMS[name]
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION["default"])))
        priors = {site: by_column(prior(x, K), x) for site, prior in form.sites.items()}
        single = x.ndim == 1 or x.shape[1] == 1
        own = {"gate": numpyro.sample("gate", priors.pop("gate"))} if single else {}
        with numpyro.plate("cluster", K):
            own |= {site: numpyro.sample(site, prior) for site, prior in priors.items()}
        with numpyro.plate("obs_id", len(x)):
            components = by_column(form.component(**own), x)
            mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = name
    program.__doc__ = globals()[name].__doc__
    return program


def _share_of_zeros(x: jax.Array, K: int) -> dist.Distribution:
    """Beta(1 + m, 2 - m), m the column's share of zeros, one half of a zero added."""
    m = (jnp.sum(x == 0, 0) + 0.5) / (size(x) + 1)
    return dist.Beta(1 + m, 2 - m)


def _variance_above_zero(x: jax.Array) -> jax.Array:
    """(variance + 1) / (mean + 1)^2 of the counts above 0; missing cells are not above it."""
    above = x > 0
    number = jnp.maximum(above.sum(0), 1)
    mean = jnp.where(above, x, 0).sum(0) / number
    variance = jnp.where(above, (x - mean) ** 2, 0).sum(0) / number
    return (variance + 1) / (mean + 1) ** 2


def _dispersion(x: jax.Array, K: int) -> dist.Distribution:
    return dist.Gamma(1.5, share(x, K) * _variance_above_zero(x) / 2)


def _form(gated: Any, counts: Callable[..., dist.Distribution], **sites: Prior) -> Form:
    """How zeros come about, the counts, and the sites of these with their priors."""
    return Form(
        {"gate": _share_of_zeros, **sites},
        lambda gate, **own: gated(counts(**own), gate=gate),
    )


FORMS = {
    "zero_inflated_poisson": _form(dist.ZeroInflatedDistribution, _poisson, rate=event_rate),
    "zero_inflated_negative_binomial": _form(
        dist.ZeroInflatedDistribution,
        _negative_binomial,
        mean=event_rate,
        concentration=_dispersion,
    ),
    "hurdle_poisson": _form(dist.HurdleDistribution, _poisson, rate=event_rate),
    "hurdle_negative_binomial": _form(
        dist.HurdleDistribution, _negative_binomial, mean=event_rate, concentration=_dispersion
    ),
}
