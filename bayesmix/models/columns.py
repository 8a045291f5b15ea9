"""Mixtures of positive numbers, shares, angles and counts as plain NumPyro programs.

One program serves every family: columns are independent within a cluster, and each has its own
parameters. What differs stands in the table `FORMS`: the sites with their priors, made from the
data, and the distribution of a column. `bm.models.mixed` takes its columns from the same table.

The priors follow those of `bm.models.gaussian`. A location lies within about three standard
deviations of the data's centre, on the scale on which the family is most like a Normal: the log for
positive numbers. A concentration, which is about one over a squared relative spread, is given the
prior of one over a Gaussian's variance, Gamma(3/2, K^(-2/D) v / 2), v the data's own squared spread
on that scale and D the number of columns. Its mode gives each cluster 1/K of the data's volume; its
exponential tail outweighs every power, so no cluster can win by collapsing onto a value, and the
log joint is bounded.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from bayesmix.carry import once
from bayesmix.models.inputs import Program, by_column, cluster_count, rows
from bayesmix.models.moments import CONCENTRATION, REACH, share
from bayesmix.models.summaries import MISSING, mean, size, total
from bayesmix.models.summaries import variance as sample_variance

HARMONICS = 3  # waves per turn that say where angles are few
GRID = 360

Prior = Callable[[jax.Array, int], dist.Distribution]  # (x, K) -> one distribution per column


class Form(NamedTuple):
    """How one family is written down: ``sites`` with their priors, and what they make."""

    sites: dict[str, Prior]
    component: Callable[..., dist.Distribution]


# ------------------------------------------------------------------------------------- the models


def log_normal(K: int) -> Program:
    """A mixture of K log-normals: the NumPyro program `program(x)`, x > 0, (N,) or (N, D).

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `loc` and `var`, (K,) or (K, D), the mean and the
    variance of log x, with the priors that `bm.models.gaussian(K, covariance="diag")` gives log x.
    The median of a cluster is exp(loc). A factor on x moves `loc` by its logarithm, no more.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("log_normal", cluster_count(K))


def gamma(K: int) -> Program:
    """A mixture of K gamma distributions: the NumPyro program `program(x)`, x > 0, (N,) or (N, D).

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `mean` ~ LogNormal(m, 3 s) and `concentration` ~
    Gamma(3/2, K^(-2/D) s² / 2), (K,) or (K, D), with m and s the mean and standard deviation of
    log x. The components are Gamma(concentration, concentration / mean): mean in data units, and
    one over concentration is the squared coefficient of variation. The two are orthogonal where
    concentration and rate are nearly collinear, which serves both EM and NUTS.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("gamma", cluster_count(K))


def inverse_gamma(K: int) -> Program:
    """A mixture of K inverse gammas: the NumPyro program `program(x)`, x > 0, (N,) or (N, D).

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `harmonic_mean` ~ LogNormal(m, 3 s), data units, and
    `concentration` ~ Gamma(3/2, K^(-2/D) s² / 2), (K,) or (K, D), with m and s the mean and
    standard deviation of log x. The components are InverseGamma(concentration, concentration x
    harmonic_mean): 1/x is the Gamma of mean 1 / harmonic_mean of `bm.models.gamma`.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("inverse_gamma", cluster_count(K))


def weibull(K: int) -> Program:
    """A mixture of K Weibulls: the NumPyro program `program(x)`, x > 0, (N,) or (N, D).

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `scale` ~ LogNormal(m, 3 s), data units, and
    `concentration`, the shape, ~ Gamma(2, K^(-1/D) s), (K,) or (K, D), with m and s the mean and
    standard deviation of log x. (One over the shape is 0.78 standard deviations of log x.) A shape
    of 1 is the Exponential.

    Not an exponential family: EM climbs on the density of every row.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("weibull", cluster_count(K))


def exponential(K: int) -> Program:
    """A mixture of K exponentials: the NumPyro program `program(x)`, waiting times, (N,) or (N, D).

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `rate`, (K,) or (K, D), events per unit of x, ~
    Gamma(2, 2 m), m the mean of x: its mean is 1 / m, and it is worth two events in a time of 2 m.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("exponential", cluster_count(K))


def beta(K: int) -> Program:
    """A mixture of K betas: the NumPyro program `program(x)`, shares 0 < x < 1, (N,) or (N, D).

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `mean` ~ Beta(1 + m, 2 - m) and `concentration` ~
    Gamma(3/2, K^(-2/D) v / 2), (K,) or (K, D), with m the mean of x and v its variance divided by
    m (1 - m), the variance of 0s and 1s. The components are BetaProportion(mean, concentration),
    which is Beta(mean x concentration, (1 - mean) x concentration).

    Shares of exactly 0 and 1 are refused: no Beta density gives them weight.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("beta", cluster_count(K))


def von_mises(K: int) -> Program:
    """A mixture of K von Mises distributions: `program(x)`, angles x in radians, (N,) or (N, D).

    Angles lie in [-π, π]; wrap others by (x + π) mod 2π - π.

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `loc`, (K,) or (K, D), uniform on the circle, and
    `concentration` ~ Gamma(3/2, K^(-2/D) v / 2), v = 2 (1 - R), R the length of the data's mean
    vector. The circle has to be cut somewhere, since a sampler cannot cross the end of an interval:
    `loc` runs from where the data are fewest once around, so it may exceed π; angles that differ
    by 2π are the same.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("von_mises", cluster_count(K))


def geometric(K: int) -> Program:
    """A mixture of K geometrics: `program(x)`, x failures before the first success, (N,) or (N, D).

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `probs` ~ Beta(1 + m, 2 - m), (K,) or (K, D), with
    m = (N + 1/2) / (N + Σ x + 1) the data's share of successes among all trials: one added trial
    per cluster and column. The mode lies strictly between 0 and 1.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("geometric", cluster_count(K))


def negative_binomial(K: int) -> Program:
    """A mixture of K negative binomials: `program(x)`, counts that vary more than a Poisson's.

    x : (N,) or (N, D). The variance of a cluster is mean + mean² / concentration. The components
        are those of NumPyro's NegativeBinomial2, written by logits, log(mean / concentration): its
        own log_prob is wrong in the seventh digit and takes longer.

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `mean`, (K,) or (K, D), with the prior of
    `bm.models.poisson`'s rate; `concentration` ~ Gamma(3/2, K^(-2/D) v / 2), with
    v = (variance + 1) / (mean + 1)² of the data. Where a cluster is no more variable than a
    Poisson, the likelihood does not fall as the concentration grows; the prior does.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _program("negative_binomial", cluster_count(K))


def dirichlet(K: int) -> Program:
    """A mixture of K Dirichlets: `program(x)`, rows of C positive shares that sum to 1, (N, C).

    Sites: `weights` (K,) ~ Dirichlet(2, ...); `mean` (K, C) ~ Dirichlet(1 + m), m the mean of the
    rows, and `concentration` (K,) ~ Gamma(3/2, K^(-2/(C-1)) v / 2), v the sum of the columns'
    variances divided by the sum of m (1 - m). The components are Dirichlet(concentration x mean).

    Shares of exactly 0 are refused: no Dirichlet density gives them weight.

    The same K gives the same program object, so that nothing compiles twice.
    """
    return _dirichlet(cluster_count(K))


@once
def _dirichlet(K: int) -> Program:
    def program(x: ArrayLike) -> None:
        """A mixture of Dirichlets; mean ~ Dirichlet(1 + m), concentration ~ Gamma(3/2, ...)."""
        x = rows(x)
        if x.ndim != 2 or x.shape[1] < 2:
            raise ValueError(f"x must have shape (N, C) with 2 shares or more, got {x.shape}")
        m = x.mean(0)
        spread = variance(x).sum() / (m * (1 - m)).sum()
        part = float(K) ** (-2 / (x.shape[1] - 1))
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION["default"])))
        with numpyro.plate("cluster", K):
            mean = numpyro.sample("mean", dist.Dirichlet(1 + m))
            concentration = numpyro.sample("concentration", dist.Gamma(1.5, part * spread / 2))
        with numpyro.plate("obs_id", len(x)):
            components = dist.Dirichlet(concentration[:, None] * mean)
            mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=x)

    program.__name__ = program.__qualname__ = "dirichlet"
    return program


@once
def _program(name: str, K: int) -> Program:
    def program(x: ArrayLike) -> None:
        x, form = rows(x), FORMS[name]
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION["default"])))
        with numpyro.plate("cluster", K):
            own = {
                site: numpyro.sample(site, by_column(prior(x, K), x))
                for site, prior in form.sites.items()
            }
        with numpyro.plate("obs_id", len(x)):
            components = by_column(form.component(**own), x)
            mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = name
    program.__doc__ = globals()[name].__doc__
    return program


# ------------------------------------------------------------------------------------- the priors


def variance(x: jax.Array) -> jax.Array:
    """Sample variance of each column; exactly 0 for a constant one, whose mean is rounded."""
    found = sample_variance(x)
    return jnp.where(found > (64 * jnp.finfo(x.dtype).eps * mean(x)) ** 2, found, 0.0)


def _log_location(x: jax.Array, K: int) -> dist.Distribution:
    y = jnp.log(x)
    return dist.LogNormal(mean(y), REACH * jnp.sqrt(variance(y)))


def _narrowness(spread: Callable[[jax.Array], jax.Array]) -> Prior:
    """The prior of a concentration, given the data's squared spread on its scale."""
    return lambda x, K: dist.Gamma(1.5, share(x, K) * spread(x) / 2)


def _log_variance(x: jax.Array) -> jax.Array:
    return variance(jnp.log(x))


def _part_of_binary_variance(x: jax.Array) -> jax.Array:
    m = mean(x)
    return variance(x) / (m * (1 - m))


def _circular_variance(x: jax.Array) -> jax.Array:
    """2 (1 - R), which is the variance of narrow data in radians squared."""
    found = 2 * (1 - jnp.hypot(mean(jnp.cos(x)), mean(jnp.sin(x))))
    return jnp.where(found > 64 * jnp.finfo(x.dtype).eps, found, 0.0)


def _count_variance(x: jax.Array) -> jax.Array:
    return (sample_variance(x, 0) + 1) / (mean(x) + 1) ** 2


def _once_around(x: jax.Array, K: int) -> dist.Distribution:
    """Uniform on the circle, cut where the first waves of the angles' density are lowest."""
    waves = np.arange(1, HARMONICS + 1)[:, None]
    angles = np.linspace(-np.pi, np.pi, GRID, endpoint=False)
    columns = x.reshape(len(x), -1)
    cosine = jnp.stack([mean(jnp.cos(m * columns)) for m in range(1, HARMONICS + 1)])
    sine = jnp.stack([mean(jnp.sin(m * columns)) for m in range(1, HARMONICS + 1)])
    density = cosine.T @ np.cos(waves * angles) + sine.T @ np.sin(waves * angles)
    cut = jnp.asarray(angles)[jnp.argmin(density, axis=1)].reshape(x.shape[1:])
    return dist.Uniform(cut, cut + 2 * np.pi)


def event_rate(x: jax.Array, K: int) -> dist.Distribution:
    """Gamma(2, 2 / s), s the mean count of the row in which a random event falls."""
    return dist.Gamma(2.0, 2.0 * (total(x) + 1) / (total(x**2) + 1))


def _success(x: jax.Array, K: int) -> dist.Distribution:
    share = (size(x) + 0.5) / (size(x) + total(x) + 1)
    return dist.Beta(1 + share, 2 - share)


FORMS = {
    "log_normal": Form(
        {
            "loc": lambda x, K: dist.Normal(mean(jnp.log(x)), REACH * jnp.sqrt(_log_variance(x))),
            "var": lambda x, K: dist.InverseGamma(1.5, share(x, K) * _log_variance(x) / 2),
        },
        lambda loc, var: dist.LogNormal(loc, jnp.sqrt(var)),
    ),
    "gamma": Form(
        {"mean": _log_location, "concentration": _narrowness(_log_variance)},
        lambda mean, concentration: dist.Gamma(concentration, concentration / mean),
    ),
    "inverse_gamma": Form(
        {"harmonic_mean": _log_location, "concentration": _narrowness(_log_variance)},
        lambda harmonic_mean, concentration: dist.InverseGamma(
            concentration, concentration * harmonic_mean
        ),
    ),
    "weibull": Form(
        {
            "scale": _log_location,
            "concentration": lambda x, K: dist.Gamma(2.0, jnp.sqrt(share(x, K) * _log_variance(x))),
        },
        dist.Weibull,
    ),
    "exponential": Form({"rate": lambda x, K: dist.Gamma(2.0, 2.0 * mean(x))}, dist.Exponential),
    "beta": Form(
        {
            "mean": lambda x, K: dist.Beta(1 + mean(x), 2 - mean(x)),
            "concentration": _narrowness(_part_of_binary_variance),
        },
        dist.BetaProportion,
    ),
    "von_mises": Form(
        {"loc": _once_around, "concentration": _narrowness(_circular_variance)}, dist.VonMises
    ),
    "geometric": Form({"probs": _success}, lambda probs: dist.Geometric(probs=probs)),
    "negative_binomial": Form(
        {"mean": event_rate, "concentration": _narrowness(_count_variance)},
        lambda mean, concentration: dist.NegativeBinomialLogits(
            concentration, jnp.log(mean / concentration)
        ),
    ),
}
