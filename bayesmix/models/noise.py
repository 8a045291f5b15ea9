"""Gaussian clusters among rows that belong to none: noise, uniform in a box.

Source: Banfield & Raftery (1993), Model-based Gaussian and non-Gaussian clustering, Biometrics 49;
Fraley & Raftery (2002), JASA 97, section 5, as in mclust's `initialization = list(noise = ...)`.
"""

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from bayesmix.carry import once
from bayesmix.models.forms import FORMS
from bayesmix.models.inputs import Program, cluster_count, one_of, rows
from bayesmix.models.moments import CONCENTRATION, bulk
from bayesmix.models.summaries import MISSING

COVARIANCES = ("full", "tied", "diag", "spherical")
PRIORS = ("default", "flat")
SHARE = {"default": (2.0, 18.0), "flat": (1.0, 1.0)}  # of the Beta on the share of noise


def gaussian_noise(
    K: int, *, low: ArrayLike, high: ArrayLike, covariance: str = "full", prior: str = "default"
) -> Program:
    """K Gaussians and uniform noise: the NumPyro program `program(x)`, x of shape (N,) or (N, D).

    low, high : the corners of the box in which noise lies, a number or one for each column, as in
        `low=x.min(0), high=x.max(0)`. They are part of the program, so that new data are judged by
        the same noise. Outside the box there is no noise; such rows are the clusters' own.
    covariance, prior : as for `gaussian`; "default" takes its spreads from the bulk of the data
        (cut at three robust standard deviations, as for `student_t`).

    Sites: `noise`, the share of rows that are noise, ~ Beta(2, 18), flat Beta(1, 1); `weights`
    (K,), shares of the clusters among the other rows; `loc` and `cov` or `var` as for `gaussian`,
    for the K clusters alone. Responsibilities and predictions have K + 1 columns; the last is
    noise. The clusters are components of their own (`dist.MixtureGeneral`), which relabelling
    leaves as they are: EM's answer names them, and chains of NUTS that begin there keep the names
    as long as the clusters are apart. They go through the general sweep: every row at every step.

    The same arguments give the same program object, so that nothing compiles twice.
    """
    K = cluster_count(K)
    below, above = (_corner(name, value) for name, value in (("low", low), ("high", high)))
    if not np.all(np.asarray(below) < np.asarray(above)):
        raise ValueError(f"low must be below high in every column, got {below} and {above}")
    name = one_of("covariance", covariance, COVARIANCES)
    return _gaussian_noise(K, below, above, name, one_of("prior", prior, PRIORS))


def _corner(name: str, value: ArrayLike) -> float | tuple[float, ...]:
    found = np.asarray(value, np.float64)
    if found.ndim > 1 or not np.isfinite(found).all():
        raise ValueError(f"{name} must be a finite number, or one for each column, got {value!r}")
    return tuple(found.tolist()) if found.ndim else float(found)


@once
def _gaussian_noise(
    K: int,
    low: float | tuple[float, ...],
    high: float | tuple[float, ...],
    covariance: str,
    prior: str,
) -> Program:
    tied = covariance == "tied"

    def program(x: ArrayLike) -> None:
        """Gaussian clusters and uniform noise; see bayesmix.models.gaussian_noise."""
        x = rows(x)
        form = FORMS[covariance if x.ndim == 2 else "univariate"]
        noise = numpyro.sample("noise", dist.Beta(*SHARE[prior]))
        concentration = jnp.full(K, CONCENTRATION[prior])
        named = {"event_dims": ["gaussian"]}
        weights = numpyro.sample("weights", dist.Dirichlet(concentration), infer=named)
        spread = form.spread[prior](bulk(x), K)
        shared = numpyro.sample(form.site, spread) if tied else None
        with numpyro.plate("gaussian", K):
            scatter = numpyro.sample(form.site, spread) if shared is None else shared
            loc = numpyro.sample("loc", form.loc[prior](x, scatter))
        own = [form.component(loc[k], scatter if tied else scatter[k]) for k in range(K)]
        box = dist.Uniform(*(jnp.broadcast_to(jnp.array(c), x.shape[1:]) for c in (low, high)))
        box = box.to_event(1) if x.ndim == 2 else box
        mixing = dist.Categorical(probs=jnp.append((1 - noise) * weights, noise))
        support = constraints.real_vector if x.ndim == 2 else constraints.real
        with numpyro.plate("obs_id", len(x)):
            mixture = dist.MixtureGeneral(mixing, [*own, box], support=support)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = f"gaussian_noise_{covariance}_{prior}"
    return program
