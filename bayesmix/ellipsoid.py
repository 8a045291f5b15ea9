"""Normal components by volume, shape and orientation of their ellipsoids: Sigma = lambda D A D'.

Banfield & Raftery (1993) and Celeux & Govaert (1995, Gaussian parsimonious clustering models,
Pattern Recognition 28) take a covariance matrix apart into lambda = det(Sigma)^(1/d), its volume,
A, the diagonal matrix of its eigenvalues divided by lambda, its shape, and the orthogonal D of its
eigenvectors, its orientation. Here are the distributions with these parameters, and orthogonal
matrices as a support that NumPyro can sample on.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.transforms import ParameterFreeTransform, biject_to

Array = jax.Array


class _Rotation(constraints.ParameterFreeConstraint):
    """Orthogonal matrices of determinant 1, (D, D)."""

    event_dim = 2

    def __call__(self, x: Any) -> Any:
        square = jnp.matmul(x, jnp.swapaxes(x, -1, -2))
        near = jnp.abs(square - jnp.eye(x.shape[-1])) < math.sqrt(jnp.finfo(square.dtype).eps)
        return near.all((-2, -1)) & (jnp.linalg.det(x) > 0)

    def feasible_like(self, prototype: Any) -> Any:
        return jnp.broadcast_to(jnp.eye(prototype.shape[-1]), prototype.shape)


rotation = _Rotation()


class CayleyTransform(ParameterFreeTransform):
    """From the D (D - 1) / 2 entries below the diagonal of a skew matrix S to (I - S)(I + S)^-1.

    One to one onto the rotations that turn no direction by half a turn, that is onto all but a set
    of measure 0; in a plane t goes to the rotation by 2 atan(t). 0 goes to the identity.
    """

    domain = constraints.real_vector
    codomain = rotation

    def __call__(self, x: Any) -> Array:
        skew = _skew(x)
        identity = jnp.eye(skew.shape[-1], dtype=skew.dtype)
        # (I - S) and (I + S)^-1 commute.
        return jnp.linalg.solve(identity + skew, identity - skew)

    def _inverse(self, y: Any) -> Array:
        identity = jnp.eye(y.shape[-1], dtype=y.dtype)
        skew = jnp.linalg.solve(identity + y, identity - y)
        i, j = np.tril_indices(y.shape[-1], -1)
        return skew[..., i, j]

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        """Against the uniform (Haar) probability on rotations, the measure of `HaarRotation`.

        D' dD = -2 (I - S)^-1 dS (I + S)^-1, so a volume of S is multiplied by
        2^(D (D - 1) / 2) det(I + S)^(1 - D); all rotations have the volume of the spheres S^1 to
        S^(D - 1), one after the other.
        """
        skew = _skew(x)
        D = skew.shape[-1]
        spheres = [
            math.log(2) + (k + 1) / 2 * math.log(math.pi) - math.lgamma((k + 1) / 2)
            for k in range(1, D)
        ]
        log_det = jnp.linalg.slogdet(jnp.eye(D, dtype=skew.dtype) + skew)[1]
        return x.shape[-1] * math.log(2) - sum(spheres) - (D - 1) * log_det

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        D = _columns(shape[-1])
        return (*shape[:-1], D, D)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        D = shape[-1]
        return (*shape[:-2], D * (D - 1) // 2)


def _columns(entries: int) -> int:
    """D with D (D - 1) / 2 = entries."""
    return (1 + math.isqrt(1 + 8 * entries)) // 2


def _skew(x: Any) -> Array:
    D = _columns(x.shape[-1])
    i, j = np.tril_indices(D, -1)
    place = np.zeros((D, D), int)
    place[i, j] = place[j, i] = np.arange(len(i))
    sign = np.tril(np.ones((D, D)), -1) - np.triu(np.ones((D, D)), 1)
    if D == 1:
        return jnp.zeros((*x.shape[:-1], 1, 1), x.dtype)
    return x[..., place] * sign.astype(x.dtype)


@biject_to.register(_Rotation)
def _to_rotation(constraint: _Rotation) -> CayleyTransform:
    return CayleyTransform()


class HaarRotation(dist.Distribution):
    """The uniform distribution of rotations of ``size`` dimensions: log density 0 (Haar measure).

    Draws are the orthogonal factors of Gaussian matrices (Mezzadri 2007, How to generate random
    matrices from the classical compact groups, Notices of the AMS 54).
    """

    support = rotation

    def __init__(self, size: int, *, validate_args: bool | None = None) -> None:
        super().__init__((), (size, size), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        normal = jax.random.normal(key, self.shape(sample_shape))
        q, r = jnp.linalg.qr(normal)
        q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
        return q.at[..., 0].multiply(jnp.linalg.det(q)[..., None])

    def log_prob(self, value: Any) -> Array:
        return jnp.zeros(value.shape[:-2], value.dtype)


def unit_volume(axes: Array) -> Array:
    """Squared lengths of axes, (..., D), divided by their geometric mean."""
    log = jnp.log(axes)
    return jnp.exp(log - log.mean(-1, keepdims=True))


class EllipsoidalNormal(dist.MultivariateNormal):
    """MultivariateNormal(loc, volume * orientation diag(axes) orientation').

    volume : det(covariance)^(1/D), in squared data units.
    axes : (D,), the squared lengths of the axes up to a factor: they are divided by their geometric
        mean.
    orientation : (D, D), orthogonal; column d is the direction of axis d.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "volume": constraints.positive,
        "axes": constraints.independent(constraints.positive, 1),
        "orientation": rotation,
        "scale_tril": constraints.lower_cholesky,
    }
    reparametrized_params: ClassVar[list[str]] = list(arg_constraints)

    def __init__(
        self,
        loc: ArrayLike,
        volume: ArrayLike,
        axes: ArrayLike,
        orientation: ArrayLike,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.volume = jnp.asarray(volume)
        self.axes = jnp.asarray(axes)
        self.orientation = jnp.asarray(orientation)
        root = self.orientation * jnp.sqrt(unit_volume(self.axes))[..., None, :]
        factor = jnp.linalg.cholesky(jnp.matmul(root, jnp.swapaxes(root, -1, -2)))
        scale_tril = jnp.sqrt(self.volume)[..., None, None] * factor
        super().__init__(loc, scale_tril=scale_tril, validate_args=validate_args)


class AlignedNormal(dist.Normal):
    """Normal columns with variances volume * axes: an ellipsoid whose axes are those of the data.

    volume : (..., 1), the geometric mean of the variances, in squared data units.
    axes : (..., D), the variances up to a factor: they are divided by their geometric mean.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "volume": constraints.positive,
        "axes": constraints.positive,
        "scale": constraints.positive,
    }
    reparametrized_params: ClassVar[list[str]] = list(arg_constraints)

    def __init__(
        self,
        loc: ArrayLike,
        volume: ArrayLike,
        axes: ArrayLike,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.volume = jnp.asarray(volume)
        self.axes = jnp.asarray(axes)
        scale = jnp.sqrt(self.volume * unit_volume(self.axes))
        super().__init__(loc, scale, validate_args=validate_args)
