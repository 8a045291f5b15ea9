"""Normal responses on a line for each cluster: T(x, y) = the products of y and the covariates.

The sweep's columns are e, the residual of one least-squares line through all rows, and q, the
covariates made orthonormal: X = q R, y = offset + X b0 + e. In these coordinates a cluster's
coefficients are R (b - b0), and its log density is a quadratic form of (e, q) without constant:

    -(e - q'R(b - b0))^2 / (2 var) - log scale - log(2 pi) / 2.

So the expected squares and products of (e, q), N-free, are all that the M-step needs, columns of
any units do not cancel, and an offset of y costs nothing.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.families import Leaves, taken
from bayesmix.linear import side_by_side


class Frame(NamedTuple):
    """The coordinates of the sweep: coefficients b become ``upper`` (b - ``pooled``)."""

    upper: Any  # R, (r, P)
    pooled: Any  # b0, (P,)


@dataclass(frozen=True)
class Lines:
    """``axes``: the cluster's axis of each coefficient; ``own``: coefficients of one cluster."""

    axes: tuple[int | None, ...]
    own: int
    name = "Normal"
    location_scale = False
    isotropic = False
    spread = ""
    robust = False

    def features(self, z: jax.Array) -> jax.Array:
        """1 and the products z_i z_j for i <= j, (1 + F, n)."""
        left, right = np.triu_indices(z.shape[0])
        return jnp.concatenate([jnp.ones_like(z[:1]), taken(z, left) * taken(z, right)])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        scale = leaves["scale"]
        ones = jnp.ones((len(scale), 1), scale.dtype)
        direction = jnp.concatenate([ones, -leaves["coef"]], axis=1) / scale[:, None]
        left, right = np.triu_indices(direction.shape[1])
        share = np.where(left == right, -0.5, -1.0)
        eta = jnp.asarray(share) * direction[:, left] * direction[:, right]
        return eta, jnp.log(scale) + 0.5 * np.log(2 * np.pi)

    def base(self, z: jax.Array) -> jax.Array:
        return jnp.zeros(z.shape[1:], z.dtype)

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        return leaves

    def in_frame(self, nodes: Any, frame: Frame, K: int) -> Leaves:
        """``coef`` (K, r) in the sweep's coordinates and ``scale`` (K,), from the values read."""
        coef = side_by_side(nodes["coef"], self.axes, K)
        scale = jnp.broadcast_to(nodes["scale"].reshape(-1), (K,))
        return {"coef": (coef - frame.pooled) @ frame.upper.T, "scale": scale}

    def squares(self, leaves: Leaves, features: jax.Array) -> jax.Array:
        """Expected sums of squared residuals, (K,), from the expected products (K, F)."""
        ones = jnp.ones((len(features), 1), features.dtype)
        direction = jnp.concatenate([ones, -leaves["coef"]], axis=1)
        left, right = np.triu_indices(direction.shape[1])
        share = np.where(left == right, 1.0, 2.0)
        return (share * direction[:, left] * direction[:, right] * features).sum(1)


def frame_of(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, Frame]:
    """The sweep's columns (e, q), (N, 1 + r), and their frame; q has mean square 1."""
    size = np.abs(X).max(0)
    size = np.where(size > 0, size, 1.0)
    q, upper = np.linalg.qr(X / size)
    pooled = np.linalg.lstsq(X / size, y, rcond=None)[0] / size
    root = np.sqrt(len(X))
    return np.column_stack([y - X @ pooled, q * root]), Frame(upper * size / root, pooled)
