"""Skew-normal components as Normals that lean on a hidden half-normal, alone or in products.

With u half-normal, x | u ~ Normal(loc + Delta u, Gamma) makes x skew-normal, where Delta = scale
delta, Gamma = scale^2 (1 - delta^2) and delta = alpha / sqrt(1 + alpha^2) (Henze 1986, A
probabilistic representation of the skew-normal distribution, Scandinavian Journal of Statistics 13;
Lin, Lee & Yen 2007, Finite mixture modelling using the skew normal distribution, Statistica Sinica
17). The pair (x, u) is an exponential family with features (x, x^2, u, u x, u^2), and u given x is
a Normal cut at 0: the pass sums u out of the scores and collects its moments, and the M-step needs
nothing else of the data.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.families import Collect, Leaves, family, flat
from bayesmix.skew_normal import SkewNormal as Distribution

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
MEAN = math.sqrt(2 / math.pi)  # of u
STEEPEST = 0.9  # skewness at which a start is cut; the family's own limit is 0.995
TERMS = 20  # of the continued fraction
FAR = -6.0  # where it begins: right to rounding from there on


@family(Distribution)
class SkewNormal:
    name = "SkewNormal"
    location_scale = True

    def features(self, z: jax.Array) -> jax.Array:
        """1 and what is seen of the features: x and x^2."""
        return jnp.concatenate([jnp.ones_like(z[:1]), z, z * z])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        loc, scale, alpha = (flat(leaves[name]) for name in ("loc", "scale", "alpha"))
        gamma = scale**2 / (1 + alpha**2)
        lean = alpha / jnp.sqrt(gamma)  # Delta / Gamma
        own = (loc / gamma, -0.5 / gamma, -loc * lean, lean, -0.5 * (1 + alpha**2))
        return jnp.concatenate(own, axis=1), _normaliser(loc, gamma).sum(1)

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        return {
            "loc": (flat(leaves["loc"]) - shift) / scale,
            "scale": flat(leaves["scale"]) / scale,
            "alpha": flat(leaves["alpha"]),
        }

    def scores(self, full: jax.Array, z: jax.Array) -> tuple[jax.Array, Collect]:
        """Scores with u summed out, and the moments of u given x; see ``families.Linear``.

        The parameters are taken back from eta, so that the large terms of a strongly skewed
        density do not cancel.
        """
        linear, square, _, lean, _ = jnp.split(full[:, 1:], 5, axis=1)
        gamma = -0.5 / square
        alpha, loc = lean * jnp.sqrt(gamma), linear * gamma
        scale = jnp.sqrt(gamma * (1 + alpha**2))
        constant = full[:, 0] + (_normaliser(loc, gamma) - jnp.log(scale)).sum(1)
        constant = constant + z.shape[0] * (math.log(2) - HALF_LOG_2PI)
        return _scored(constant, loc, scale, alpha, z)

    def complete(self, resp: jax.Array, z: jax.Array) -> jax.Array:
        """Statistics at the skew-normals that have the moments of the weighted rows.

        Without skewness Q would have no slope in alpha to leave alpha = 0 by.
        """
        loc, scale, alpha = _matched(resp, z)
        return _scored(jnp.zeros_like(loc[:, 0]), loc, scale, alpha, z)[1](resp)


def _normaliser(loc: jax.Array, gamma: jax.Array) -> jax.Array:
    """A of the pair (x, u) in every column, (K, D)."""
    return loc**2 / (2 * gamma) + 0.5 * jnp.log(gamma) + 2 * HALF_LOG_2PI - math.log(2)


def _scored(
    constant: jax.Array, loc: jax.Array, scale: jax.Array, alpha: jax.Array, z: jax.Array
) -> tuple[jax.Array, Collect]:
    """``SkewNormal.scores`` from parameters (K, D).

    Given x, u is Normal(a s, s^2) above 0, with a = alpha (x - loc) / scale and s^2 = 1 / (1 +
    alpha^2): E u = s (a + h) and E u^2 = s^2 (1 + a (a + h)), h(a) = phi(a) / Phi(a).
    """
    spread = (1 / jnp.sqrt(1 + alpha**2)).astype(z.dtype)
    loc, scale, alpha = (each.astype(z.dtype)[..., None] for each in (loc, scale, alpha))
    t = (z - loc) / scale
    a = alpha * t
    log_cdf, excess = _below(a)

    def collect(resp: jax.Array) -> jax.Array:
        def total(value: jax.Array) -> jax.Array:
            return jnp.einsum("kn,kdn->kd", resp, value)

        seen = resp @ jnp.concatenate([jnp.ones_like(z[:1]), z, z * z]).T
        hidden = (total(excess), total(excess * z), total(1 + a * excess))
        powers = (spread, spread, spread**2)
        return jnp.concatenate(
            [seen, *(s * moment for s, moment in zip(powers, hidden, strict=True))], axis=1
        )

    score = (log_cdf - 0.5 * t * t).sum(1)
    return constant.astype(z.dtype)[:, None] + score, collect


def _below(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log Phi(a), and a + phi(a) / Phi(a), to rounding for every a.

    Far below 0 by Laplace's continued fraction, phi(x) / Phi(-x) = x + 1/(x + 2/(x + 3/(x + ...))).
    """
    x = jnp.maximum(-a, -FAR)
    excess = jnp.zeros_like(x)
    for term in range(TERMS, 0, -1):
        excess = term / (x + excess)
    log_far = -0.5 * x * x - HALF_LOG_2PI - jnp.log(x + excess)
    near = jnp.maximum(a, FAR)
    cdf = 0.5 * jax.lax.erfc(-near * math.sqrt(0.5))
    hazard = jnp.exp(-0.5 * near * near - HALF_LOG_2PI) / cdf
    far = a < FAR
    return jnp.where(far, log_far, jnp.log(cdf)), jnp.where(far, excess, near + hazard)


def _matched(resp: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """loc, scale and alpha (K, D) by the weighted mean, variance and skewness of each column.

    Source: Azzalini (1985), section 2.3, for the moments.
    """
    mass = jnp.maximum(resp.sum(1), jnp.finfo(resp.dtype).tiny)[:, None]
    mean = resp @ z.T / mass
    away = z - mean[..., None]
    second, third = (jnp.einsum("kn,kdn->kd", resp, away**p) / mass for p in (2, 3))
    variance = jnp.where(second > 0, second, 1.0)
    skewness = jnp.clip(third / variance**1.5, -STEEPEST, STEEPEST)
    # skewness = (4 - pi) / 2 r^3 with r = lean / sqrt(1 - lean^2), lean = MEAN delta
    r = jnp.cbrt(2 * skewness / (4 - np.pi))
    lean = r / jnp.sqrt(1 + r**2)
    scale = jnp.sqrt(variance / (1 - lean**2))
    delta = lean / MEAN
    return mean - scale * lean, scale, delta / jnp.sqrt(1 - delta**2)
