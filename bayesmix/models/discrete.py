"""Mixtures of counts and of yes/no answers as plain NumPyro programs.

Columns are independent within a cluster. The priors keep every rate positive and every probability
strictly between 0 and 1, with the weight of about one observation.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from bayesmix.carry import once
from bayesmix.models.inputs import Program, by_column, cluster_count, rows
from bayesmix.models.moments import CONCENTRATION
from bayesmix.models.summaries import MISSING, size, total


def poisson(K: int) -> Program:
    """A mixture of K Poissons: the NumPyro program `program(x)`, counts x, (N,) or (N, D).

    Sites: `weights` (K,) ~ Dirichlet(2, ...), and `rate` (K,) or (K, D), events per row, with
    rate ~ Gamma(2, 2 / s). Here s = (Σ x² + 1) / (Σ x + 1), column by column, is the mean count of
    the row in which a random event falls: the scale of the larger rates, and 1 where no event was
    seen. The prior is worth one event in 2/s rows; its density is 0 at rate 0 and bounded, so the
    mode has positive rates, on all-zero counts too.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _poisson(cluster_count(K))


def bernoulli(K: int) -> Program:
    """A mixture of K Bernoullis: the NumPyro program `program(x)`, x of 0 and 1, (N,) or (N, D).

    With D columns this is latent class analysis of yes/no items. A single column holds no
    information on clusters beyond its mean; it is accepted and its clusters are all alike.

    Sites: `weights` (K,) ~ Dirichlet(2, ...), and `probs` (K,) or (K, D) with
    probs ~ Beta(1 + m, 2 - m), m = (Σ x + 1/2) / (N + 1) the column's share of ones: one added
    observation per cluster and column, answered like the column as a whole. The density is bounded
    and vanishes at 0 and 1, so the mode lies strictly between.

    Source of the prior: Galindo Garre & Vermunt (2006), Avoiding boundary estimates in latent class
    analysis by Bayesian posterior mode estimation, Behaviormetrika 33, 43-59; here m is kept off 0
    and 1 by the added half.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _bernoulli(cluster_count(K))


@once
def _poisson(K: int) -> Program:
    def program(x: ArrayLike) -> None:
        """A mixture of Poissons; weights ~ Dirichlet(2, ...), rate ~ Gamma(2, 2 / s)."""
        x = rows(x)
        scale = (total(x**2) + 1) / (total(x) + 1)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION["default"])))
        with numpyro.plate("cluster", K):
            rate = numpyro.sample("rate", by_column(dist.Gamma(2.0, 2.0 / scale), x))
        with numpyro.plate("obs_id", len(x)):
            components = by_column(dist.Poisson(rate), x)
            mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = "poisson"
    return program


@once
def _bernoulli(K: int) -> Program:
    def program(x: ArrayLike) -> None:
        """A mixture of Bernoullis; weights ~ Dirichlet(2, ...), probs ~ Beta(1 + m, 2 - m)."""
        x = rows(x)
        share = (total(x) + 0.5) / (size(x) + 1)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION["default"])))
        with numpyro.plate("cluster", K):
            probs = numpyro.sample("probs", by_column(dist.Beta(1 + share, 2 - share), x))
        with numpyro.plate("obs_id", len(x)):
            components = by_column(dist.Bernoulli(probs=probs), x)
            mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = "bernoulli"
    return program
