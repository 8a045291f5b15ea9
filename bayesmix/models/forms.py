"""Gaussian mixtures whose clusters have a covariance matrix or variances, as NumPyro programs.

One program serves them all. What differs between structures stands in the table `FORMS`: the site
that holds a cluster's spread (`cov`, a matrix, or `var`, variances), the component distribution,
and the priors.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from bayesmix.carry import once
from bayesmix.models.inputs import Program, rows
from bayesmix.models.moments import (
    CONCENTRATION,
    REACH,
    SHRINKAGE,
    columns,
    damped_covariance,
    flat_loc,
    improper,
    mclust_covariance,
    share,
)
from bayesmix.models.summaries import MISSING, mean, variance

TIED = ("tied", "EEI", "EII")  # one spread for all clusters


class Form(NamedTuple):
    """How one covariance structure is written down."""

    site: str  # the site of the spread
    component: Callable[[jax.Array, jax.Array], dist.Distribution]  # (loc, spread)
    spread: dict[str, Callable[[jax.Array, int], dist.Distribution]]  # prior -> (x, K)
    loc: dict[str, Callable[[jax.Array, jax.Array], dist.Distribution]]  # prior -> (x, spread)


@once
def formed(K: int, covariance: str, prior: str) -> Program:
    """The program with a form of `FORMS`, the same object for the same arguments."""
    tied = covariance in TIED

    def program(x: ArrayLike) -> None:
        x = rows(x)
        form = FORMS[covariance if x.ndim == 2 else "univariate"]

        def spread() -> jax.Array:
            return numpyro.sample(form.site, form.spread[prior](x, K))

        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        shared = spread() if tied else None
        with numpyro.plate("cluster", K):
            scatter = spread() if shared is None else shared
            loc = numpyro.sample("loc", form.loc[prior](x, scatter))
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=weights)
            mixture = dist.MixtureSameFamily(mixing, form.component(loc, scatter))
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = f"gaussian_{covariance}_{prior}"
    program.__doc__ = _describe(K, covariance, prior)
    return program


_MATRIX = Form(
    site="cov",
    component=lambda loc, cov: dist.MultivariateNormal(loc, covariance_matrix=cov),
    spread={
        "default": lambda x, K: dist.InverseWishart(
            x.shape[1] + 2.0, scale_matrix=share(x, K) * damped_covariance(x)
        ),
        "flat": lambda x, K: improper(constraints.positive_definite, *(2 * columns(x))),
        "mclust": lambda x, K: dist.InverseWishart(
            x.shape[1] + 2.0, scale_matrix=share(x, K) * mclust_covariance(x)
        ),
    },
    loc={
        "default": lambda x, cov: dist.MultivariateNormal(
            mean(x), covariance_matrix=REACH**2 * damped_covariance(x)
        ),
        "flat": flat_loc,
        "mclust": lambda x, cov: dist.MultivariateNormal(
            mean(x), covariance_matrix=cov / SHRINKAGE
        ),
    },
)

_DIAG = Form(
    site="var",
    component=lambda loc, var: dist.Normal(loc, jnp.sqrt(var)).to_event(1),
    spread={
        "default": lambda x, K: dist.InverseGamma(1.5, share(x, K) * variance(x) / 2).to_event(1),
        "flat": lambda x, K: improper(constraints.positive, *columns(x)),
        "mclust": lambda x, K: (
            dist.InverseGamma(x.shape[1] / 2 + 1, share(x, K) * variance(x).mean() / 2)
            .expand(columns(x))
            .to_event(1)
        ),
    },
    loc={
        "default": lambda x, var: dist.Normal(mean(x), REACH * jnp.sqrt(variance(x))).to_event(1),
        "flat": flat_loc,
        "mclust": lambda x, var: dist.Normal(mean(x), jnp.sqrt(var / SHRINKAGE)).to_event(1),
    },
)

_SPHERICAL = Form(
    site="var",
    component=lambda loc, var: dist.Normal(loc, jnp.sqrt(var)[..., None]).to_event(1),
    spread={
        "default": lambda x, K: dist.InverseGamma(1.5, share(x, K) * variance(x).mean() / 2),
        "flat": lambda x, K: improper(constraints.positive),
        "mclust": lambda x, K: dist.InverseGamma(
            x.shape[1] / 2 + 1, share(x, K) * variance(x).mean() / 2
        ),
    },
    loc={
        "default": lambda x, var: dist.Normal(
            mean(x), REACH * jnp.sqrt(variance(x).mean())
        ).to_event(1),
        "flat": flat_loc,
        "mclust": lambda x, var: dist.Normal(
            mean(x), jnp.sqrt(var / SHRINKAGE)[..., None]
        ).to_event(1),
    },
)

_UNIVARIATE = Form(
    site="var",
    component=lambda loc, var: dist.Normal(loc, jnp.sqrt(var)),
    spread={
        "default": lambda x, K: dist.InverseGamma(1.5, share(x, K) * variance(x) / 2),
        "flat": lambda x, K: improper(constraints.positive),
        "mclust": lambda x, K: dist.InverseGamma(1.5, share(x, K) * variance(x) / 2),
    },
    loc={
        "default": lambda x, var: dist.Normal(mean(x), REACH * jnp.sqrt(variance(x))),
        "flat": flat_loc,
        "mclust": lambda x, var: dist.Normal(mean(x), jnp.sqrt(var / SHRINKAGE)),
    },
)

FORMS = {
    "full": _MATRIX,
    "tied": _MATRIX,
    "diag": _DIAG,
    "spherical": _SPHERICAL,
    "EEI": _DIAG,
    "EII": _SPHERICAL,
    "univariate": _UNIVARIATE,
}

_SPREAD_TEXT = {
    ("default", "cov"): "cov ~ InverseWishart(D + 2, K^(-2/D) C), C the data's damped covariance",
    ("default", "var"): "var ~ InverseGamma(3/2, K^(-2/D) v / 2), v the data's variances",
    ("flat", "cov"): "cov flat over positive definite matrices",
    ("flat", "var"): "var flat over positive numbers",
    ("mclust", "cov"): "cov ~ InverseWishart(D + 2, K^(-2/D) S), S the data's covariance",
    ("mclust", "var"): (
        "var ~ InverseGamma(D/2 + 1, K^(-2/D) v / 2), v the mean of the columns' variances"
    ),
}
_LOC_TEXT = {
    "default": "loc ~ Normal with the data's mean and 3 times its spread",
    "flat": "loc flat",
    "mclust": "loc ~ Normal with the data's mean and the cluster's own covariance / 0.01",
}


def _describe(K: int, covariance: str, prior: str) -> str:
    site = FORMS[covariance].site
    shared = ", one for all clusters" if covariance in TIED else ""
    univariate = "" if site == "var" else "\nFor x of shape (N,), var takes the place of cov."
    return (
        f"A mixture of {K} Gaussians, {covariance} covariance, {prior} prior.\n\n"
        f"weights ~ Dirichlet({CONCENTRATION[prior]:g}, ...)\n"
        f"{_SPREAD_TEXT[prior, site]}{shared}\n"
        f"{_LOC_TEXT[prior]}{univariate}\n"
    )
