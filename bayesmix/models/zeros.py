"""Mixtures of counts with more zeros than their rates explain, as plain NumPyro programs."""

from collections.abc import Callable
from functools import cache

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from bayesmix.models.inputs import by_column, cluster_count, rows
from bayesmix.models.summaries import MISSING, size, total

CONCENTRATION = 2.0  # of the Dirichlet on the weights: no weight is 0 at the mode

Program = Callable[..., None]


def zero_inflated_poisson(K: int) -> Program:
    """A mixture of K zero-inflated Poissons: the program `program(x)`, counts x, (N,) or (N, D).

    A count of cluster k is 0 with probability `gate`, whatever its rate, and else Poisson.

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `rate` (K,) or (K, D) ~ Gamma(2, 2 / s) as for
    `poisson`; `gate` (K, D) ~ Beta(1 + m, 2 - m) with m = (zeros + 1/2) / (N + 1), the column's
    share of zeros: one added row per cluster and column. Both densities are bounded and vanish at
    the ends, so that modes lie inside. A cluster of small rate has zeros of its own, and then the
    prior decides how many of them count as extra.

    In a single column all clusters share one `gate`, () or (1,): a zero does not say from which
    cluster it came, so gates of their own could not be told from other weights.

    The same K gives the same program object, so that nothing compiles twice.
    Source: Lambert (1992), Zero-inflated Poisson regression, Technometrics 34; the priors are ours.
    """
    return _zero_inflated_poisson(cluster_count(K))


@cache
def _zero_inflated_poisson(K: int) -> Program:
    def program(x: ArrayLike) -> None:
        """Zero-inflated Poissons; see bayesmix.models.zero_inflated_poisson."""
        x = rows(x)
        scale = (total(x**2) + 1) / (total(x) + 1)
        share = (jnp.sum(x == 0, 0) + 0.5) / (size(x) + 1)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION)))
        extra = by_column(dist.Beta(1 + share, 2 - share), x)
        single = x.ndim == 1 or x.shape[1] == 1
        gate = numpyro.sample("gate", extra) if single else None
        with numpyro.plate("cluster", K):
            gate = numpyro.sample("gate", extra) if gate is None else gate
            rate = numpyro.sample("rate", by_column(dist.Gamma(2.0, 2.0 / scale), x))
        with numpyro.plate("obs_id", len(x)):
            components = by_column(dist.ZeroInflatedPoisson(gate, rate), x)
            mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = "zero_inflated_poisson"
    return program
