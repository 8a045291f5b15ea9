"""The skew-normal distribution, which NumPyro does not have."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.util import promote_shapes, validate_sample


class SkewNormal(dist.Distribution):
    """The skew-normal distribution, a NumPyro distribution on the real line.

    Its density is 2 / scale phi(z) Phi(alpha z) with z = (x - loc) / scale, phi and Phi the
    standard normal density and distribution function. With alpha > 0 the long tail is on the right;
    alpha = 0 is Normal(loc, scale), alpha to infinity the half-normal. loc is not the mean.

    Source: Azzalini (1985), A class of distributions which includes the normal ones, Scandinavian
    Journal of Statistics 12, 171-178; as `scipy.stats.skewnorm(alpha, loc, scale)`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "alpha": constraints.real,
    }
    support = constraints.real
    reparametrized_params: ClassVar[list[str]] = ["loc", "scale", "alpha"]
    pytree_data_fields = ("loc", "scale", "alpha")

    def __init__(
        self,
        loc: ArrayLike = 0.0,
        scale: ArrayLike = 1.0,
        alpha: ArrayLike = 0.0,
        *,
        validate_args: bool | None = None,
    ) -> None:
        """loc and scale in data units; alpha is a pure number."""
        self.loc, self.scale, self.alpha = promote_shapes(loc, scale, alpha)
        shapes = (jnp.shape(value) for value in (loc, scale, alpha))
        super().__init__(jax.lax.broadcast_shapes(*shapes), validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """loc + scale (delta |u| + sqrt(1 - delta^2) v) with u, v standard normal."""
        shape = (*sample_shape, *self.batch_shape)
        u, v = jax.random.normal(key, (2, *shape))
        root = jnp.sqrt(1 + self.alpha**2)
        return self.loc + self.scale * (self.alpha * jnp.abs(u) + v) / root

    @validate_sample
    def log_prob(self, value: ArrayLike) -> jax.Array:
        """Log density, in nats."""
        z = (value - self.loc) / self.scale
        normal = -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi) - jnp.log(self.scale)
        return jnp.log(2.0) + normal + log_ndtr(self.alpha * z)

    @property
    def _lean(self) -> jax.Array:
        return jnp.sqrt(2 / jnp.pi) * self.alpha / jnp.sqrt(1 + self.alpha**2)

    @property
    def mean(self) -> jax.Array:
        return jnp.broadcast_to(self.loc + self.scale * self._lean, self.batch_shape)

    @property
    def variance(self) -> jax.Array:
        return jnp.broadcast_to(self.scale**2 * (1 - self._lean**2), self.batch_shape)
