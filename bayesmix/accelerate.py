"""Extrapolation around an EM step, never inside it.

SQUAREM, step length S3 (Varadhan & Roland 2008, eq. 8 and section 3): from three successive points
z0, z1 = M(z0), z2 = M(z1) the next one is z0 - 2 a r + a^2 v with r = z1 - z0, v = z2 - 2 z1 + z0
and a = -|r| / |v|. It is taken in unconstrained coordinates, so every point is a legal one, and the
log joint of the next E-step, which EM computes anyway, decides whether it is kept.
"""

import jax
import jax.numpy as jnp

LONGEST = 64.0


def extrapolate(z0: jax.Array, z1: jax.Array, z2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The extrapolated point, and the rate 1 - |v| / |r| at which plain EM converges here.

    Where nothing is to be gained (the steps do not shrink, or are 0) the point is z2.
    """
    r, v = z1 - z0, z2 - 2 * z1 + z0
    length, change = jnp.linalg.norm(r), jnp.linalg.norm(v)
    a = -jnp.clip(length / jnp.where(change > 0, change, 1.0), 1.0, LONGEST)
    point = z0 - 2 * a * r + a**2 * v
    usable = (change > 0) & jnp.all(jnp.isfinite(point))
    rate = 1 - change / jnp.where(length > 0, length, 1.0)
    return jnp.where(usable, point, z2), jnp.clip(jnp.where(length > 0, rate, 0.0), 0.0, 1.0)
