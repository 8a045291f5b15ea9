"""Gaussian mixtures by volume, shape and orientation: Sigma_k = lambda_k D_k A_k D_k'.

The structures of Celeux & Govaert (1995) that need more than a covariance matrix or variances. Each
is a name of three letters, for volume lambda, shape A and orientation D: Equal in all clusters,
Variable, or I, no orientation: the axes are the columns'.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from bayesmix.carry import once
from bayesmix.ellipsoid import AlignedNormal, EllipsoidalNormal, HaarRotation
from bayesmix.models.forms import FORMS, Program, formed
from bayesmix.models.inputs import rows
from bayesmix.models.moments import CONCENTRATION, damped_volume, improper, share
from bayesmix.models.summaries import MISSING, variance

STRUCTURES = ("VEI", "EVI", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV")

EVENNESS = 2.0  # default: of the Dirichlet on the shape; its density is 0 where an axis is 0


@once
def ellipsoidal(K: int, structure: str, prior: str) -> Program:
    """The program with one of `STRUCTURES`, the same object for the same arguments.

    One column has a volume only, and is left to the univariate program.
    """
    own_volume, own_shape, own_axes = (letter == "V" for letter in structure)
    aligned = structure[2] == "I"

    def program(x: ArrayLike) -> None:
        x = rows(x)
        if x.ndim == 1 or x.shape[1] == 1:
            return formed(K, "spherical" if own_volume else "EII", prior)(x)
        cluster = numpyro.plate("cluster", K)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        if not aligned:
            with _each(cluster, own_axes):
                orientation = numpyro.sample("orientation", HaarRotation(x.shape[1]))
        with _each(cluster, own_shape):
            shape = numpyro.sample("shape", SHAPE[prior](x))
        with _each(cluster, own_volume):
            volume = numpyro.sample("volume", VOLUME[prior](x, K, aligned))
        with cluster:
            loc = numpyro.sample("loc", FORMS["diag" if aligned else "full"].loc[prior](x, volume))
        if aligned:
            components = AlignedNormal(loc, volume[..., None], shape).to_event(1)
        else:
            components = EllipsoidalNormal(loc, volume, shape, orientation)
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=weights)
            mixture = dist.MixtureSameFamily(mixing, components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = f"gaussian_{structure}_{prior}"
    program.__doc__ = _describe(K, structure, prior)
    return program


def _each(cluster: numpyro.plate, own: bool) -> AbstractContextManager:
    """Inside the plate of the clusters, or outside for what they share."""
    return cluster if own else nullcontext()


def _volume(x: jax.Array, aligned: bool) -> jax.Array:
    return jnp.exp(jnp.log(variance(x)).mean()) if aligned else damped_volume(x)


VOLUME: dict[str, Callable[[jax.Array, int, bool], dist.Distribution]] = {
    "default": lambda x, K, aligned: dist.InverseGamma(1.5, share(x, K) * _volume(x, aligned) / 2),
    "flat": lambda x, K, aligned: improper(constraints.positive),
}
SHAPE: dict[str, Callable[[jax.Array], dist.Distribution]] = {
    "default": lambda x: dist.Dirichlet(jnp.full(x.shape[1], EVENNESS)),
    "flat": lambda x: improper(constraints.simplex, x.shape[1]),
}

_WHOSE = {"E": "one for all clusters", "V": "one for each cluster"}
_VOLUME_TEXT = {
    "default": "volume ~ InverseGamma(3/2, K^(-2/D) v / 2), v the data's volume",
    "flat": "volume flat over positive numbers",
}
_SHAPE_TEXT = {"default": "shape ~ Dirichlet(2, ...)", "flat": "shape flat over shares"}
_LOC_TEXT = {"default": "loc ~ Normal with the data's mean and 3 times its spread"}


def _describe(K: int, structure: str, prior: str) -> str:
    volume, shape, axes = tuple(structure)
    turned = "the columns'" if axes == "I" else f"uniform, {_WHOSE[axes]}"
    return (
        f"A mixture of {K} Gaussians, {structure} covariance, {prior} prior.\n\n"
        f"weights ~ Dirichlet({CONCENTRATION[prior]:g}, ...)\n"
        f"orientation {turned}\n"
        f"{_SHAPE_TEXT[prior]}, {_WHOSE[shape]}\n"
        f"{_VOLUME_TEXT[prior]}, {_WHOSE[volume]}\n"
        f"{_LOC_TEXT.get(prior, 'loc flat')}\n"
    )
