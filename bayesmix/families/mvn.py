"""Multivariate normal components: T(x) = (x, x_i x_j for i <= j)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayesmix.ellipsoid import EllipsoidalNormal
from bayesmix.families import Leaves, family, linear, taken


@family(dist.MultivariateNormal, EllipsoidalNormal, dist.LowRankMultivariateNormal)
@dataclass(frozen=True)
class MultivariateNormal:
    """With ``patterned``, cells are missing and rows are grouped by which (families.partial)."""

    patterned: bool = False
    name = "MultivariateNormal"
    location_scale = True
    isotropic = False
    spread = "scale_tril"

    def features(self, z: jax.Array) -> jax.Array:
        """Products of the pairs of (1, x): one gather, which the compiler fuses with them."""
        one_and_z = linear(z)
        i, j = np.triu_indices(len(one_and_z))
        return taken(one_and_z, i) * taken(one_and_z, j)

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        loc, scale_tril = leaves["loc"], leaves["scale_tril"]
        D = loc.shape[-1]
        i, j = np.triu_indices(D)
        half = np.where(i == j, 0.5, 1.0)
        whiten = jax.scipy.linalg.solve_triangular(
            scale_tril, jnp.broadcast_to(jnp.eye(D, dtype=loc.dtype), scale_tril.shape), lower=True
        )
        precision = jnp.einsum("kai,kaj->kij", whiten, whiten)
        white_loc = jnp.einsum("kai,ki->ka", whiten, loc)
        linear = jnp.einsum("kai,ka->ki", whiten, white_loc)
        log_det = jnp.log((scale_tril * np.eye(D)).sum(-1)).sum(-1)
        normaliser = 0.5 * (white_loc**2).sum(-1) + log_det + 0.5 * D * np.log(2 * np.pi)
        pairs = taken(precision.reshape(-1, D * D).T, i * D + j).T
        return jnp.concatenate([linear, -half * pairs], axis=1), normaliser

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        return {
            "loc": (leaves["loc"] - shift) / scale,
            "scale_tril": leaves["scale_tril"] / scale[:, None],
        }
