"""Mixtures of Gaussians as plain NumPyro programs, with priors scaled from the data.

One program serves every covariance structure. What differs between structures stands in the
table `FORMS`: the site that holds a cluster's spread (`cov`, a matrix, or `var`, variances), the
component distribution, and the priors. Nothing of bayesmix's inference is used here; the programs
run under any NumPyro algorithm.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from bayesmix.models.inputs import cluster_count, one_of, rows

COVARIANCES = ("full", "tied", "diag", "spherical")
PRIORS = ("default", "flat", "mclust")

CONCENTRATION = {"default": 2.0, "flat": 1.0, "mclust": 1.0}  # of the Dirichlet on the weights
REACH = 3.0  # default: locations lie within about three standard deviations of the data's mean
SHRUNK = 0.1  # default: share of the prior matrix that knows no correlation; keeps it definite
SHRINKAGE = 0.01  # mclust: rows that the prior on a location counts for

Program = Callable[..., None]


class Form(NamedTuple):
    """How one covariance structure is written down."""

    site: str  # the site of the spread
    component: Callable[[jax.Array, jax.Array], dist.Distribution]  # (loc, spread)
    spread: dict[str, Callable[[jax.Array, int], dist.Distribution]]  # prior -> (x, K)
    loc: dict[str, Callable[[jax.Array, jax.Array], dist.Distribution]]  # prior -> (x, spread)


def gaussian(K: int, *, covariance: str = "full", prior: str = "default") -> Program:
    """A mixture of K Gaussians: the NumPyro program `program(x)`, x of shape (N,) or (N, D).

    covariance : "full" (a matrix per cluster), "tied" (one matrix, shared), "diag" (a variance
        per cluster and column) or "spherical" (a variance per cluster). For x of shape (N,) the
        components are univariate: one variance, shared if "tied", else one per cluster.
    prior : "default", "flat" or "mclust", see `bayesmix.models`.

    Sites: `weights` (K,), `loc` (K, D) and `cov` (K, D, D), tied (D, D); or `var` (K, D),
    spherical (K,). For x of shape (N,): `loc` (K,) and `var` (K,), tied (). `cov` and `var` are in
    squared data units. The priors are made from x: "default" and "mclust" need 2 rows or more
    and no constant column.

    The same arguments give the same program object, so that nothing compiles twice.
    """
    return _gaussian(
        cluster_count(K),
        one_of("covariance", covariance, COVARIANCES),
        one_of("prior", prior, PRIORS),
    )


@cache
def _gaussian(K: int, covariance: str, prior: str) -> Program:
    tied = covariance == "tied"

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
            numpyro.sample("x", mixture, obs=x)

    program.__name__ = program.__qualname__ = f"gaussian_{covariance}_{prior}"
    program.__doc__ = _describe(K, covariance, prior)
    return program


# What the priors are made of. Everything is computed from centred data, so that adding a large
# offset to x moves the locations and nothing else.


def _covariance(x: jax.Array) -> jax.Array:
    """Sample covariance (D, D), divisor N - 1."""
    return jnp.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1])


def _variance(x: jax.Array) -> jax.Array:
    """Sample variance of each column, (D,) or () for x of shape (N,); divisor N - 1."""
    return jnp.var(x, axis=0, ddof=1)


def _share(x: jax.Array, K: int) -> float:
    """K^(-2/D): the factor on variances that gives each cluster 1/K of the data's volume.

    Source: Fraley & Raftery (2007), Bayesian regularization for normal mixture estimation and
    model-based clustering, Journal of Classification 24, section 3.1.
    """
    D = x.shape[1] if x.ndim == 2 else 1
    return float(K) ** (-2.0 / D)


def _damped_covariance(x: jax.Array) -> jax.Array:
    """Sample covariance with its correlations damped by 10 %.

    Collinear columns, or more columns than rows, still give a positive definite prior; rescaling
    a column of x rescales this matrix alike.
    """
    return (1 - SHRUNK) * _covariance(x) + SHRUNK * jnp.diag(_variance(x))


def _mclust_covariance(x: jax.Array) -> jax.Array:
    """Sample covariance; only its diagonal where there are no more rows than columns."""
    N, D = x.shape
    return _covariance(x) if N > D else jnp.diag(_variance(x))


def _improper(support: constraints.Constraint, *event: int) -> dist.Distribution:
    return dist.ImproperUniform(support, (), event)


def _columns(x: jax.Array) -> tuple[int, ...]:
    return x.shape[1:]


def _flat_loc(x: jax.Array, spread: jax.Array) -> dist.Distribution:
    return _improper(constraints.real, *_columns(x))


_MATRIX = Form(
    site="cov",
    component=lambda loc, cov: dist.MultivariateNormal(loc, covariance_matrix=cov),
    spread={
        "default": lambda x, K: dist.InverseWishart(
            x.shape[1] + 2.0, scale_matrix=_share(x, K) * _damped_covariance(x)
        ),
        "flat": lambda x, K: _improper(constraints.positive_definite, *(2 * _columns(x))),
        "mclust": lambda x, K: dist.InverseWishart(
            x.shape[1] + 2.0, scale_matrix=_share(x, K) * _mclust_covariance(x)
        ),
    },
    loc={
        "default": lambda x, cov: dist.MultivariateNormal(
            x.mean(0), covariance_matrix=REACH**2 * _damped_covariance(x)
        ),
        "flat": _flat_loc,
        "mclust": lambda x, cov: dist.MultivariateNormal(
            x.mean(0), covariance_matrix=cov / SHRINKAGE
        ),
    },
)

_DIAG = Form(
    site="var",
    component=lambda loc, var: dist.Normal(loc, jnp.sqrt(var)).to_event(1),
    spread={
        "default": lambda x, K: dist.InverseGamma(1.5, _share(x, K) * _variance(x) / 2).to_event(1),
        "flat": lambda x, K: _improper(constraints.positive, *_columns(x)),
        "mclust": lambda x, K: (
            dist.InverseGamma(x.shape[1] / 2 + 1, _share(x, K) * _variance(x).mean() / 2)
            .expand(_columns(x))
            .to_event(1)
        ),
    },
    loc={
        "default": lambda x, var: dist.Normal(x.mean(0), REACH * jnp.sqrt(_variance(x))).to_event(
            1
        ),
        "flat": _flat_loc,
        "mclust": lambda x, var: dist.Normal(x.mean(0), jnp.sqrt(var / SHRINKAGE)).to_event(1),
    },
)

_SPHERICAL = Form(
    site="var",
    component=lambda loc, var: dist.Normal(loc, jnp.sqrt(var)[..., None]).to_event(1),
    spread={
        "default": lambda x, K: dist.InverseGamma(1.5, _share(x, K) * _variance(x).mean() / 2),
        "flat": lambda x, K: _improper(constraints.positive),
        "mclust": lambda x, K: dist.InverseGamma(
            x.shape[1] / 2 + 1, _share(x, K) * _variance(x).mean() / 2
        ),
    },
    loc={
        "default": lambda x, var: dist.Normal(
            x.mean(0), REACH * jnp.sqrt(_variance(x).mean())
        ).to_event(1),
        "flat": _flat_loc,
        "mclust": lambda x, var: dist.Normal(
            x.mean(0), jnp.sqrt(var / SHRINKAGE)[..., None]
        ).to_event(1),
    },
)

_UNIVARIATE = Form(
    site="var",
    component=lambda loc, var: dist.Normal(loc, jnp.sqrt(var)),
    spread={
        "default": lambda x, K: dist.InverseGamma(1.5, _share(x, K) * _variance(x) / 2),
        "flat": lambda x, K: _improper(constraints.positive),
        "mclust": lambda x, K: dist.InverseGamma(1.5, _share(x, K) * _variance(x) / 2),
    },
    loc={
        "default": lambda x, var: dist.Normal(x.mean(0), REACH * jnp.sqrt(_variance(x))),
        "flat": _flat_loc,
        "mclust": lambda x, var: dist.Normal(x.mean(0), jnp.sqrt(var / SHRINKAGE)),
    },
)

FORMS = {
    "full": _MATRIX,
    "tied": _MATRIX,
    "diag": _DIAG,
    "spherical": _SPHERICAL,
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
    shared = ", one for all clusters" if covariance == "tied" else ""
    univariate = "" if site == "var" else "\nFor x of shape (N,), var takes the place of cov."
    return (
        f"A mixture of {K} Gaussians, {covariance} covariance, {prior} prior.\n\n"
        f"weights ~ Dirichlet({CONCENTRATION[prior]:g}, ...)\n"
        f"{_SPREAD_TEXT[prior, site]}{shared}\n"
        f"{_LOC_TEXT[prior]}{univariate}\n"
    )
