"""Mixtures of Student-t distributions: robust clustering, as plain NumPyro programs.

A t component is a Gaussian whose rows have scales of their own, so that a row far from every
cluster bends none of them. The priors are scaled from the bulk of the data: outliers, however far,
do not move them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from bayesmix.carry import once
from bayesmix.models.columns import Form as Column
from bayesmix.models.inputs import Program, cluster_count, one_of, rows
from bayesmix.models.moments import (
    CONCENTRATION,
    REACH,
    bulk,
    damped_covariance,
    flat_loc,
    improper,
    share,
)
from bayesmix.models.summaries import MISSING, median, variance

COVARIANCES = ("full", "tied", "diag", "spherical")
PRIORS = ("default", "flat")
TAILS = (2.7, 0.8)  # LogNormal on df: 5 %, 50 % and 95 % at 4, 15 and 55


class Form(NamedTuple):
    """How one structure of the scale matrices is written down."""

    site: str
    component: Callable[[jax.Array, jax.Array, jax.Array], dist.Distribution]  # df, loc, spread
    default: Callable[[jax.Array, int], dist.Distribution]
    flat: Callable[[jax.Array], dist.Distribution]


def student_t(
    K: int, *, covariance: str = "full", df: str | float = "cluster", prior: str = "default"
) -> Program:
    """A mixture of K Student-t distributions: the program `program(x)`, x (N,) or (N, D).

    covariance : of the scale matrices: "full", "tied" (one, shared), "diag" or "spherical". For x
        of shape (N,) the components are univariate: one squared scale, shared if "tied".
    df : degrees of freedom: "cluster" (one for each cluster), "shared" (one for all), or a positive
        number if they are known. Small ones mean heavy tails: 1 is Cauchy, from 30 nearly normal.
    prior : "default", see below, or "flat" for EM only: weights ~ Dirichlet(1, ...), loc and scales
        flat. With df a number this is maximum likelihood; otherwise df keeps its prior, since the
        likelihood often has no maximum in df (it rises towards the normal distribution's).

    Sites: `weights` (K,), `df` (K,) or () or none, `loc` (K, D), and `scale_matrix` (K, D, D), tied
    (D, D), or `squared_scale` (K, D), spherical (K,). For x of shape (N,): `loc` (K,) and
    `squared_scale` (K,), tied (). A component's covariance is df / (df - 2) times its scale matrix
    where df > 2, and infinite otherwise.

    Default priors: weights ~ Dirichlet(2, ...); df ~ LogNormal(2.7, 0.8); loc ~ Normal around the
    medians with 3 times the data's standard deviations; scale_matrix ~ InverseWishart(D + 2,
    K^(-2/D) C) or squared_scale ~ InverseGamma(3/2, K^(-2/D) c / 2). C is the covariance, its
    correlations damped by 10 %, of the data cut at 3 robust standard deviations (1.4826 times the
    median absolute deviation) from the medians, c its diagonal: outliers do not widen it. The log
    joint is bounded. Gamma(2, 0.1) on df (Juarez & Steel 2010, Model-based clustering of
    non-Gaussian panel data based on skew-t distributions, JBES 28), of about the same quantiles
    (4, 17 and 47), would not do in 3 or more columns: at a row that is a cluster's loc the density
    grows like df^(1 - D/2) as df goes to 0.

    The same arguments give the same program object, so that nothing compiles twice.
    """
    if isinstance(df, str):
        df = one_of("df", df, ("cluster", "shared"))
    elif isinstance(df, bool) or not (isinstance(df, int | float) and 0 < df < float("inf")):
        raise ValueError(f'df must be "cluster", "shared" or a positive number, got {df!r}')
    return _student_t(
        cluster_count(K),
        one_of("covariance", covariance, COVARIANCES),
        df,
        one_of("prior", prior, PRIORS),
    )


@once
def _student_t(K: int, covariance: str, df: str | float, prior: str) -> Program:
    tied = covariance == "tied"

    def program(x: ArrayLike) -> None:
        """A mixture of Student-t distributions; see bayesmix.models.student_t."""
        x = rows(x)
        form = FORMS[covariance if x.ndim == 2 else "univariate"]

        def spread() -> jax.Array:
            own = form.default(x, K) if prior == "default" else form.flat(x)
            return numpyro.sample(form.site, own)

        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        shared = spread() if tied else None
        tails: Any = numpyro.sample("df", dist.LogNormal(*TAILS)) if df == "shared" else df
        with numpyro.plate("cluster", K):
            if df == "cluster":
                tails = numpyro.sample("df", dist.LogNormal(*TAILS))
            scatter = spread() if shared is None else shared
            loc = numpyro.sample("loc", _loc(x, prior))
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=weights)
            mixture = dist.MixtureSameFamily(mixing, form.component(tails, loc, scatter))
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = f"student_t_{covariance}_{prior}"
    return program


def _loc(x: jax.Array, prior: str) -> dist.Distribution:
    if prior == "flat":
        return flat_loc(x, x)
    own = dist.Normal(median(x), REACH * jnp.sqrt(variance(x)))
    return own.to_event(1) if x.ndim == 2 else own


def _variance(x: jax.Array, K: int) -> jax.Array:
    return share(x, K) * variance(bulk(x))


def _of_matrix(df: jax.Array, loc: jax.Array, matrix: jax.Array) -> dist.Distribution:
    return dist.MultivariateStudentT(df, loc, jnp.linalg.cholesky(matrix))


def _of_squares(df: jax.Array, loc: jax.Array, squares: jax.Array) -> dist.Distribution:
    """Squared scales (..., D), or (..., 1) for all columns, on the diagonal."""
    D = loc.shape[-1]
    scale = jnp.broadcast_to(jnp.sqrt(squares), (*squares.shape[:-1], D))
    return dist.MultivariateStudentT(df, loc, scale[..., None] * jnp.eye(D))


_MATRIX = Form(
    site="scale_matrix",
    component=_of_matrix,
    default=lambda x, K: dist.InverseWishart(
        x.shape[1] + 2.0, scale_matrix=share(x, K) * damped_covariance(bulk(x))
    ),
    flat=lambda x: improper(constraints.positive_definite, x.shape[1], x.shape[1]),
)

FORMS = {
    "full": _MATRIX,
    "tied": _MATRIX,
    "diag": Form(
        site="squared_scale",
        component=_of_squares,
        default=lambda x, K: dist.InverseGamma(1.5, _variance(x, K) / 2).to_event(1),
        flat=lambda x: improper(constraints.positive, x.shape[1]),
    ),
    "spherical": Form(
        site="squared_scale",
        component=lambda df, loc, square: _of_squares(df, loc, square[..., None]),
        default=lambda x, K: dist.InverseGamma(1.5, _variance(x, K).mean() / 2),
        flat=lambda x: improper(constraints.positive),
    ),
    "univariate": Form(
        site="squared_scale",
        component=lambda df, loc, square: dist.StudentT(df, loc, jnp.sqrt(square)),
        default=lambda x, K: dist.InverseGamma(1.5, _variance(x, K) / 2),
        flat=lambda x: improper(constraints.positive),
    ),
}

# One column of several, with degrees of freedom of its own by cluster.
COLUMN = Column(
    {
        "df": lambda x, K: dist.LogNormal(*TAILS),
        "squared_scale": FORMS["univariate"].default,
        "loc": lambda x, K: _loc(x, "default"),
    },
    lambda df, squared_scale, loc: FORMS["univariate"].component(df, loc, squared_scale),
)
