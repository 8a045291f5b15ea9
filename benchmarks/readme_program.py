"""The README's program, at module level as a notebook would have it."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def program(x, K=2):
    D = x.shape[-1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        cov = numpyro.sample("cov", dist.InverseWishart(D + 2, scale_matrix=jnp.cov(x.T) / K))
        loc = numpyro.sample("loc", dist.MultivariateNormal(x.mean(0), 10 * jnp.cov(x.T)))
    with numpyro.plate("obs_id", len(x)):
        parts = dist.MultivariateNormal(loc, covariance_matrix=cov)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=weights), parts), obs=x)
