"""Summaries of data over their rows, of the observed cells alone where some are missing (NaN).

Complete data are summarised by plain arithmetic. A column without any value has the mean NaN.
"""

import jax
import jax.numpy as jnp

from bayesmix.missing import may_have_holes

MISSING = {"missing": "marginal"}  # infer= of the observed sites: NaN cells are integrated out


def size(x: jax.Array) -> int | jax.Array:
    """Number of observed values of each column; the number of rows where none is missing."""
    return (~jnp.isnan(x)).sum(0) if may_have_holes(x) else len(x)


def total(x: jax.Array) -> jax.Array:
    """Sum of each column."""
    return jnp.nansum(x, 0) if may_have_holes(x) else jnp.sum(x, 0)


def mean(x: jax.Array) -> jax.Array:
    """Mean of each column."""
    return jnp.nanmean(x, 0) if may_have_holes(x) else x.mean(0)


def median(x: jax.Array) -> jax.Array:
    """Median of each column."""
    return jnp.nanmedian(x, 0) if may_have_holes(x) else jnp.median(x, 0)


def variance(x: jax.Array, ddof: int = 1) -> jax.Array:
    """Variance of each column, (D,) or () for x of shape (N,); divisor N - ddof."""
    spread = jnp.nanvar if may_have_holes(x) else jnp.var
    return spread(x, axis=0, ddof=ddof)


def covariance(x: jax.Array) -> jax.Array:
    """Sample covariance (D, D), divisor N - 1; never indefinite.

    With missing cells: the variances of the observed cells, and the `correlation` of available
    pairs. Where that is indefinite, all correlations are divided by the same number, the smallest
    that makes the matrix semidefinite; variances stay.
    """
    if not may_have_holes(x):
        return jnp.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1])
    found = correlation(x)
    lack = jnp.maximum(0.0, -jnp.linalg.eigvalsh(found)[0])
    damped = (found + lack * jnp.eye(x.shape[1])) / (1 + lack)
    scale = jnp.sqrt(variance(x))
    return scale[:, None] * damped * scale


def correlation(x: jax.Array) -> jax.Array:
    """Correlation (D, D) of each two columns in the rows that have both; 0 where none is known."""
    seen = ~jnp.isnan(x)
    count = seen.astype(x.dtype)
    z = jnp.where(seen, (x - mean(x)) / jnp.sqrt(variance(x)), 0.0)
    both = jnp.maximum(count.T @ count, 1.0)
    sums = z.T @ count  # of column i in the rows that have column j
    products = z.T @ z - sums * sums.T / both
    squares = (z**2).T @ count - sums**2 / both
    product = squares * squares.T
    known = product > (64 * jnp.finfo(x.dtype).eps * both) ** 2
    found = products / jnp.sqrt(jnp.where(known, product, 1.0))
    found = jnp.clip(jnp.where(known, found, 0.0), -1.0, 1.0)
    return jnp.where(jnp.eye(x.shape[1], dtype=bool), 1.0, found)
