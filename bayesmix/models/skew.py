"""Mixtures of skew-normal distributions as plain NumPyro programs."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from bayesmix.carry import once
from bayesmix.models.columns import Form
from bayesmix.models.inputs import Program, by_column, cluster_count, rows
from bayesmix.models.moments import CONCENTRATION, REACH, share
from bayesmix.models.summaries import MISSING, mean, variance
from bayesmix.skew_normal import SkewNormal


def skew_normal(K: int) -> Program:
    """A mixture of K skew-normals: the NumPyro program `program(x)`, x of shape (N,) or (N, D).

    Columns are independent within a cluster. Sites: `weights` (K,) ~ Dirichlet(2, ...); `loc`,
    `squared_scale` and `alpha`, (K,) or (K, D). alpha ~ Normal(0, 3): 0 is the Normal, and beyond 5
    the density is nearly half of one. loc ~ Normal with the data's mean and 3 times its standard
    deviation; squared_scale ~ InverseGamma(3/2, K^(-2/D) v / 2), v the data's variances, as for
    `gaussian`: the log joint is bounded. loc is where the density leans against, not the mean,
    which is loc + scale alpha sqrt(2 / (pi (1 + alpha^2))).

    A skewed cluster may look like two Gaussians; `em.bic` against `gaussian(K + 1)` tells.
    The same K gives the same program object, so that nothing compiles twice.
    """
    return _skew_normal(cluster_count(K))


@once
def _skew_normal(K: int) -> Program:
    def program(x: ArrayLike) -> None:
        """Skew-normals; see bayesmix.models.skew_normal."""
        x = rows(x)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION["default"])))
        with numpyro.plate("cluster", K):
            own = {
                site: numpyro.sample(site, by_column(prior(x, K), x))
                for site, prior in FORM.sites.items()
            }
        with numpyro.plate("obs_id", len(x)):
            components = by_column(FORM.component(**own), x)
            mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = "skew_normal"
    return program


FORM = Form(
    {
        "loc": lambda x, K: dist.Normal(mean(x), REACH * jnp.sqrt(variance(x))),
        "squared_scale": lambda x, K: dist.InverseGamma(1.5, share(x, K) * variance(x) / 2),
        "alpha": lambda x, K: dist.Normal(jnp.zeros_like(variance(x)), 3.0),
    },
    lambda loc, squared_scale, alpha: SkewNormal(loc, jnp.sqrt(squared_scale), alpha),
)
