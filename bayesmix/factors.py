"""Loadings of a factor analysis as matrices with nothing above the diagonal.

In Sigma = L L' + diag(noise) a rotation of the q factors, L R, gives the same Sigma. Of all rotated
loadings one, but for the signs of its columns, has no entry above the diagonal: L = T Q with T
triangular, Q orthogonal. So these matrices lose nothing and have as many free entries as L L' has,
D q - q (q - 1) / 2 (Anderson & Rubin 1956, Statistical inference in factor analysis; Lopes & West
2004, Statistica Sinica 14).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to

Array = jax.Array


class Lower(constraints.Constraint):
    """Matrices (D, q) whose entries above the diagonal are 0.

    unit : (D, q), the size of an entry whose unconstrained coordinate is 1.
    """

    event_dim = 2

    def __init__(self, unit: ArrayLike) -> None:
        self.unit = unit

    def __call__(self, x: Any) -> Any:
        above = np.triu(np.ones(x.shape[-2:]), 1) > 0
        return (jnp.isfinite(x) & ~(above & (x != 0))).all((-2, -1))

    def feasible_like(self, prototype: Any) -> Any:
        return jnp.zeros_like(prototype)

    def tree_flatten(self) -> Any:
        return (self.unit,), (("unit",), {})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, Lower) and (static or jnp.array_equal(self.unit, other.unit))


class LowerTransform(Transform):
    """From the entries on and below the diagonal, row by row, in units of ``unit``, to a matrix."""

    domain = constraints.real_vector

    def __init__(self, unit: ArrayLike) -> None:
        self.unit = unit
        super().__init__()

    @property
    def codomain(self) -> Lower:
        return Lower(self.unit)

    @property
    def _entries(self) -> tuple[np.ndarray, np.ndarray]:
        D, q = jnp.shape(self.unit)
        return np.tril_indices(D, 0, q)

    def __call__(self, x: Any) -> Array:
        full = jnp.zeros((*x.shape[:-1], *jnp.shape(self.unit)), x.dtype)
        i, j = self._entries
        return full.at[..., i, j].set(x) * self.unit

    def _inverse(self, y: Any) -> Array:
        i, j = self._entries
        return (y / self.unit)[..., i, j]

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        i, j = self._entries
        stretch = jnp.log(jnp.asarray(self.unit))[i, j].sum()
        return jnp.broadcast_to(stretch, x.shape[:-1])

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], *jnp.shape(self.unit))

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], len(self._entries[0]))

    def tree_flatten(self) -> Any:
        return (self.unit,), (("unit",), {})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, LowerTransform) and (
            static or jnp.array_equal(self.unit, other.unit)
        )


@biject_to.register(Lower)
def _to_lower(constraint: Lower) -> LowerTransform:
    return LowerTransform(constraint.unit)


class LowerNormal(dist.Distribution):
    """Independent Normal(0, scale) entries on and below the diagonal, 0 above; scale (D, q)."""

    arg_constraints = {"scale": constraints.independent(constraints.positive, 2)}  # noqa: RUF012

    def __init__(self, scale: ArrayLike, *, validate_args: bool | None = None) -> None:
        self.scale = scale
        super().__init__((), jnp.shape(scale), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=2)
    def support(self) -> Lower:
        return Lower(self.scale)

    @property
    def mean(self) -> Array:
        return jnp.zeros(self.event_shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        normal = jax.random.normal(key, self.shape(sample_shape))
        return jnp.asarray(self.scale) * jnp.tril(normal)

    def log_prob(self, value: Any) -> Array:
        lower = np.tril(np.ones(self.event_shape)) > 0
        each = dist.Normal(0.0, self.scale).log_prob(value)
        return jnp.where(lower, each, 0.0).sum((-2, -1))
