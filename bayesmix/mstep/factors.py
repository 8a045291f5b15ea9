"""Closed forms for the loadings L and the noise of Normal components, Sigma = L L' + diag(noise).

Under flat priors each has its argmax given the other (Zhao, Yu & Jiang 2008, ML estimation for
factor analysis: EM or non-EM?, Statistics and Computing 18).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.mstep import mvn
from bayesmix.mstep.rules import Context, Target, rule

SWEEPS = 100
FLOOR = 1e-10  # of a column's variance: the noise of a column that the factors explain wholly


def _covariance(context: Context) -> jax.Array:
    """Scatter about the location over mass, (K, D, D); that of mass 1 for an empty cluster."""
    mass = context.statistics.mass[:, None, None]
    return mvn._scatter(context) / jnp.where(mass > 0, mass, 1)


@rule(
    "MultivariateNormal",
    "cov_factor",
    "identity",
    "ImproperUniform",
    own=True,
    text="loadings given the noise (flat prior)",
)
def loadings_under_flat(target: Target, context: Context) -> jax.Array:
    """noise^(1/2) U (T - 1)^(1/2), turned so that nothing stands above the diagonal.

    T are the largest eigenvalues of the covariance in units of the noise, U their eigenvectors.
    """
    leaves = context.leaves()
    q = leaves["cov_factor"].shape[-1]
    sd = jnp.sqrt(leaves["cov_diag"])
    scaled = _covariance(context) / (sd[:, :, None] * sd[:, None, :])
    values, vectors = jnp.linalg.eigh((scaled + scaled.mT) / 2)
    excess = jnp.sqrt(jnp.maximum(values[:, -q:] - 1, 0))
    loadings = sd[..., None] * vectors[:, :, -q:] * excess[:, None, :]
    turn, root = jnp.linalg.qr(loadings[:, :q].mT)
    sign = jnp.where(jnp.diagonal(root, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    return jnp.tril(loadings @ turn * sign[:, None, :])


@rule(
    "MultivariateNormal",
    "cov_diag",
    "identity",
    "ImproperUniform",
    own=True,
    text="noise given the loadings (flat prior)",
)
def noise_under_flat(target: Target, context: Context) -> jax.Array:
    """One column after the other until none changes.

    With P = Sigma^-1 and w = (P S P)_dd, adding t to noise d changes -2 Q / mass by
    log(1 + t p) - t w / (1 + t p), p = P_dd, which is least at t = (w - p) / p^2, or at the end
    where the noise is 0.
    """
    leaves = context.leaves()
    S, loadings = _covariance(context), leaves["cov_factor"]
    D = S.shape[-1]
    common = loadings @ loadings.mT
    floor = FLOOR * jnp.maximum(jnp.diagonal(S, axis1=-2, axis2=-1), jnp.finfo(S.dtype).tiny)
    still = float(np.sqrt(jnp.finfo(S.dtype).eps)) / 8

    def one(d: Any, carry: Any) -> Any:
        noise, P = carry
        row = P[:, d]
        p, w = row[:, d], jnp.einsum("ki,kij,kj->k", row, S, row)
        new = jnp.maximum(noise[:, d] + (w - p) / p**2, floor[:, d])
        t = new - noise[:, d]
        P = P - (t / (1 + t * p))[:, None, None] * row[:, :, None] * row[:, None, :]
        return noise.at[:, d].set(new), P

    def sweep(carry: Any) -> Any:
        noise, count, _ = carry
        P = mvn._inverse(jnp.linalg.cholesky(common + noise[:, :, None] * jnp.eye(D)))
        new, _ = jax.lax.fori_loop(0, D, one, (noise, P))
        return new, count + 1, jnp.max(jnp.abs(new - noise) / new)

    def go_on(carry: Any) -> Any:
        return (carry[2] > still) & (carry[1] < SWEEPS)

    start = jnp.maximum(context.params[target.name], floor)
    found = jax.lax.while_loop(go_on, sweep, (start, 0, jnp.ones((), S.dtype)))[0]
    kept = context.statistics.mass[:, None] > 0
    return jnp.where(kept, found, context.params[target.name])
