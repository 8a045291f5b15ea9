"""The models and data sets of the NUTS benchmark, as NumPyro programs."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayesmix as bm

OURS = ("bayesmix", "bayesmix-nuts", "bayesmix-bins", "bayesmix-smc")
THEIRS = ("pymc", "nutpie", "stan")  # in another interpreter
SAMPLERS = (*OURS, "numpyro", *THEIRS)
CHAINS, DRAWS = 4, 1000


def observe(weights, components, x):
    with numpyro.plate("obs_id", x.shape[0]):
        mixture = dist.MixtureSameFamily(dist.Categorical(weights), components)
        numpyro.sample("x", mixture, obs=x)


def normals(x, K, centre, spread, middle):
    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(centre, spread))
        scale = numpyro.sample("scale", dist.LogNormal(jnp.log(middle), 1.0))
    observe(weights, dist.Normal(loc, scale), x)


def multivariate(x, K, centre, spread):
    D = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(centre, spread).expand([D]).to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([D]).to_event(1))
        corr = numpyro.sample("corr", dist.LKJCholesky(D, 2.0))
    observe(weights, dist.MultivariateNormal(loc, scale_tril=scale[..., None] * corr), x)


def counts(x, K):
    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2))
    observe(weights, dist.Poisson(rate), x)


def items(x, K):
    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Beta(1.5, 1.5).expand([x.shape[1]]).to_event(1))
    observe(weights, dist.Bernoulli(probs).to_event(1), x)


PROGRAMS = {"normals": normals, "multivariate": multivariate, "counts": counts, "items": items}

# ----------------------------------------------------------------- the sets: kind, rows, constants


def univariate(N):
    rng = np.random.default_rng(0)
    loc, scale = np.array([-6.0, -2, 1, 4, 9]), np.array([0.8, 0.6, 1.0, 0.9, 1.5])
    z = rng.choice(5, N, p=[0.15, 0.25, 0.2, 0.25, 0.15])
    constants = {"K": 5, "centre": 0.0, "spread": 10.0, "middle": 1.0}
    return "normals", rng.normal(loc[z], scale[z]), constants


def galaxies():
    x = bm.datasets.load_galaxies()["velocity_corrected"].to_numpy(float)
    return "normals", x, {"K": 3, "centre": 20.0, "spread": 10.0, "middle": 2.0}


def faithful():
    x = bm.datasets.load_faithful().to_numpy(float)
    constants = {"K": 2, "centre": 0.0, "spread": 10.0}
    return "multivariate", (x - x.mean(0)) / x.std(0), constants


def eight(N):
    rng = np.random.default_rng(0)
    K, D = 5, 8
    loc, z = rng.normal(0, 3, (K, D)), rng.choice(K, N)
    factor = 0.4 * rng.normal(size=(K, D, D)) + np.eye(D)
    x = loc[z] + np.einsum("nij,nj->ni", factor[z], rng.normal(size=(N, D)))
    return "multivariate", x, {"K": K, "centre": 0.0, "spread": 10.0}


def poisson():
    rng = np.random.default_rng(0)
    z = rng.choice(3, 10_000, p=[0.4, 0.35, 0.25])
    return "counts", rng.poisson(np.array([2.0, 9, 20])[z]), {"K": 3}


def latent_class():
    rng = np.random.default_rng(0)
    probs, z = rng.beta(1, 1, (4, 20)), rng.choice(4, 2000, p=[0.4, 0.3, 0.2, 0.1])
    return "items", (rng.random((2000, 20)) < probs[z]).astype(int), {"K": 4}


SETS = {
    "galaxies K=3": galaxies,
    "faithful 2-D K=2": faithful,
    "univariate K=5 N=1e4": partial(univariate, 10_000),
    "univariate K=5 N=1e5": partial(univariate, 100_000),
    "8-D K=5 N=1e4": partial(eight, 10_000),
    "Poisson K=3 N=1e4": poisson,
    "latent class K=4 N=2000": latent_class,
    "univariate K=5 N=1e6": partial(univariate, 1_000_000),  # beyond the seven: ours alone
    "8-D K=5 N=1e6": partial(eight, 1_000_000),
}
FEW = {"8-D K=5 N=1e6": 10}  # draws of each chain, where a pass takes a second
BINS = 1024


def program_of(name):
    kind, x, constants = SETS[name]()
    return partial(PROGRAMS[kind], **constants), x


def fits(name, sampler):
    """Whether a sampler is for a set: cells are for one column, SMC for several modes."""
    return {
        "bayesmix-bins": name.startswith("univariate"),
        "bayesmix-smc": name.startswith("galaxies"),
    }.get(sampler, True)
