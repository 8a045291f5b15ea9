"""Gaussian mixtures of factor analysers: Sigma_k = L_k L_k' + diag(noise_k).

Few factors stand for the correlations of many columns (Ghahramani & Hinton 1996; McLachlan & Peel
2000, Mixtures of factor analyzers): D (q + 2) - q (q - 1) / 2 numbers per cluster where a matrix of
its own takes D (D + 3) / 2, means included.
"""

import operator

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from bayesmix.carry import once
from bayesmix.factors import Lower, LowerNormal
from bayesmix.models.forms import FORMS, Program
from bayesmix.models.inputs import rows
from bayesmix.models.moments import CONCENTRATION, columns, improper, share
from bayesmix.models.summaries import MISSING, variance


def factor_count(factors: object) -> int:
    """Number of factors as an int of at least 1."""
    try:
        if isinstance(factors, bool):
            raise TypeError
        count = operator.index(factors)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(
            f"covariance 'factor' needs factors, a positive integer (factors=1), got {factors!r}"
        )
    return count


@once
def factored(K: int, factors: int, prior: str) -> Program:
    """The program with ``factors`` factors, the same object for the same arguments."""

    def program(x: ArrayLike) -> None:
        x = rows(x)
        D = x.shape[1] if x.ndim == 2 else 1
        if factors >= D:
            raise ValueError(
                f"factors must be less than the number of columns, got factors={factors} for {D}"
            )
        loadings_prior, noise_prior = (PRIORS[prior](x, K, factors)[name] for name in SITES)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        with numpyro.plate("cluster", K):
            noise = numpyro.sample("noise", noise_prior)
            loadings = numpyro.sample("loadings", loadings_prior)
            loc = numpyro.sample("loc", FORMS["full"].loc[prior](x, noise))
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=weights)
            components = dist.LowRankMultivariateNormal(loc, loadings, noise)
            mixture = dist.MixtureSameFamily(mixing, components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = f"gaussian_factor{factors}_{prior}"
    program.__doc__ = _TEXT[prior].format(K=K, q=factors, prior=prior)
    return program


SITES = ("loadings", "noise")


def _unit(x: jax.Array, K: int, q: int) -> jax.Array:
    """Standard deviations (D, q) with which the factors explain a cluster's share of the data."""
    sd = jnp.sqrt(share(x, K) * variance(x) / q)
    return jnp.broadcast_to(sd[:, None], (x.shape[1], q))


PRIORS = {
    "default": lambda x, K, q: {
        "loadings": LowerNormal(_unit(x, K, q)),
        "noise": dist.InverseGamma(1.5, share(x, K) * variance(x) / 2).to_event(1),
    },
    "flat": lambda x, K, q: {
        "loadings": improper(Lower(_unit(x, K, q)), x.shape[1], q),
        "noise": improper(constraints.positive, *columns(x)),
    },
}

_TEXT = {
    "default": """A mixture of {K} Gaussians with {q} factors, {prior} prior.

weights ~ Dirichlet(2, ...)
loadings ~ Normal(0, K^(-1/D) s / sqrt({q})) on and below the diagonal, s the data's deviations
noise ~ InverseGamma(3/2, K^(-2/D) v / 2), v the data's variances
loc ~ Normal with the data's mean and 3 times its spread
""",
    "flat": """A mixture of {K} Gaussians with {q} factors, {prior} prior.

weights ~ Dirichlet(1, ...)
loadings flat on and below the diagonal, noise flat over positive numbers, loc flat
""",
}
