"""What the priors of continuous mixtures are made of.

Everything is computed from centred data, so that adding a large offset to x moves the locations
and nothing else.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayesmix.missing import may_have_holes
from bayesmix.models.summaries import correlation, covariance, median, variance

# Of the Dirichlet on the weights; of more than 1 no weight is 0 at the mode.
CONCENTRATION = {"default": 2.0, "flat": 1.0, "mclust": 1.0}
REACH = 3.0  # default: locations lie within about three standard deviations of the data's mean
SHRUNK = 0.1  # default: share of the prior matrix that knows no correlation; keeps it definite
CLIP = 3.0  # robust standard deviations at which the bulk of the data ends
SHRINKAGE = 0.01  # mclust: rows that the prior on a location counts for


def share(x: jax.Array, K: int) -> float:
    """K^(-2/D): the factor on variances that gives each cluster 1/K of the data's volume.

    Source: Fraley & Raftery (2007), Bayesian regularization for normal mixture estimation and
    model-based clustering, Journal of Classification 24, section 3.1.
    """
    D = x.shape[1] if x.ndim == 2 else 1
    return float(K) ** (-2.0 / D)


def damped_covariance(x: jax.Array) -> jax.Array:
    """Sample covariance with its correlations damped by 10 %.

    Collinear columns, or more columns than rows, still give a positive definite prior; rescaling
    a column of x rescales this matrix alike.
    """
    return (1 - SHRUNK) * covariance(x) + SHRUNK * jnp.diag(variance(x))


def damped_volume(x: jax.Array) -> jax.Array:
    """The damped covariance's determinant to the power 1/D, in squared data units."""
    factor = jnp.linalg.cholesky(damped_covariance(x))
    return jnp.exp(2 * jnp.log(jnp.diagonal(factor)).mean())


def bulk(x: jax.Array) -> jax.Array:
    """The data, from their medians, cut at CLIP robust standard deviations: no outlier counts much.

    Robust: 1.4826 times the median absolute deviation; where more than half of a column is one
    value, its standard deviation.
    """
    away = x - median(x)
    robust = 1.4826 * median(jnp.abs(away))
    limit = CLIP * jnp.where(robust > 0, robust, jnp.sqrt(variance(x)))
    return jnp.clip(away, -limit, limit)


def mclust_covariance(x: jax.Array) -> jax.Array:
    """Sample covariance; only its diagonal where there are no more rows than columns.

    With missing cells, the diagonal also where the correlations of available pairs make no positive
    definite matrix.
    """
    N, D = x.shape
    diagonal = jnp.diag(variance(x))
    if N <= D:
        return diagonal
    if not may_have_holes(x):
        return covariance(x)
    lowest = jnp.linalg.eigvalsh(correlation(x))[0]
    return jnp.where(lowest > D * jnp.finfo(x.dtype).eps, covariance(x), diagonal)


def improper(support: constraints.Constraint, *event: int) -> dist.Distribution:
    """A constant density over the support."""
    return dist.ImproperUniform(support, (), event)


def columns(x: jax.Array) -> tuple[int, ...]:
    """(D,), or () for x of shape (N,)."""
    return x.shape[1:]


def flat_loc(x: jax.Array, spread: jax.Array) -> dist.Distribution:
    """A flat prior on a location."""
    return improper(constraints.real, *columns(x))
