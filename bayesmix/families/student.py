"""Student-t components as scale mixtures of Normals, univariate and multivariate.

x | u ~ Normal(loc, scale matrix / u) with u ~ Gamma(df / 2, df / 2) makes x Student-t (McLachlan &
Peel 2000, Finite mixture models, section 7.2). The pair (x, u) is an exponential family with

    features (log u, u, u T(x)), T(x) the Normal's,    log h = 0,

and u given x is Gamma with shape (df + D) / 2 and rate (df + delta) / 2, delta the squared
Mahalanobis distance. So the pass sums u out of the scores in closed form and collects its moments,
and the M-step needs nothing else of the data, the degrees of freedom included.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import digamma, gammaln
from scipy.special import psi

from bayesmix.families import Collect, Leaves, family, flat
from bayesmix.families.mvn import MultivariateNormal
from bayesmix.families.normal import Normal

BEGIN = 4.0  # half the degrees of freedom with which a start is scored


class ScaleMixture:
    """What the univariate and the multivariate family share; ``normal`` is the Normal given u."""

    location_scale = True
    robust = True
    normal: Any

    def features(self, z: jax.Array) -> jax.Array:
        """1 and T(x): the features that u multiplies."""
        return self.normal.features(z)

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        eta, normaliser = self.normal.natural(leaves)
        loc, half = flat(leaves["loc"]), leaves["df"].reshape(-1) / 2
        D = loc.shape[1]
        distance = 0.5 * (loc * eta[:, :D]).sum(1)  # half the one of 0 from loc
        own = jnp.stack([half + (D / 2 - 1), -(half + distance)], axis=1)
        shape = gammaln(half) - half * jnp.log(half)
        return jnp.concatenate([own, eta], axis=1), normaliser - distance + shape

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        return leaves | self.normal.standardise(leaves, shift, scale)

    def scores(self, full: jax.Array, z: jax.Array) -> tuple[jax.Array, Collect]:
        """log of the integral over u, and the moments of u given x; see ``families.Linear``.

        With a the shape of u given x and h = df / 2, the integral of u^(a - 1) exp(-(h + delta / 2)
        u) is Gamma(a) (h + delta / 2)^-a.
        """
        D, T = z.shape[0], self.features(z)
        a = full[:, 1] + 1
        h = a - D / 2
        distance = jnp.concatenate([(full[:, 2] + h)[:, None], full[:, 3:]], axis=1)
        constant = full[:, 0] + gammaln(a) - a * jnp.log(h)
        log_shape = digamma(a) - jnp.log(h)
        # In the precision of the pass from here on.
        a, h, constant = (each.astype(z.dtype)[:, None] for each in (a, h, constant))
        half = jnp.maximum(-(distance.astype(z.dtype) @ T), 0.0)  # delta / 2
        stretch = jnp.log1p(half / h)

        def collect(resp: jax.Array) -> jax.Array:
            mass = resp.sum(1)
            log_u = log_shape * mass - (resp * stretch).sum(1)
            weighted = (resp * (a / (h + half))) @ T.T
            return jnp.concatenate([mass[:, None], log_u[:, None], weighted], axis=1)

        return constant - a * stretch, collect

    def complete(self, resp: jax.Array, z: jax.Array) -> jax.Array:
        """Statistics with u = 1, and log u such that the degrees of freedom come out as 2 BEGIN."""
        total = resp @ self.features(z).T.astype(resp.dtype)
        log_u = (psi(BEGIN) - np.log(BEGIN)) * total[:, :1]
        return jnp.concatenate([total[:, :1], log_u, total], axis=1)


@family(dist.StudentT)
class StudentT(ScaleMixture):
    name = "StudentT"
    normal = Normal()

    def shaped(self, shapes: dict[str, tuple[int, ...]]) -> "StudentT | None":
        """One column: several have a scale u each, which no single u stands for."""
        return self if int(np.prod(shapes["loc"][1:])) == 1 else None


@family(dist.MultivariateStudentT)
class MultivariateStudentT(ScaleMixture):
    name = "MultivariateStudentT"
    normal = MultivariateNormal()
