"""The table of NumPyro programs that every conformance test runs over.

One row is a program, its data, and what a careful reader expects to be found in it: which sites
have a closed-form update, where the cluster axis is, which clusters may be swapped. Nothing here
uses bayesmix but its distribution VectorMixture: the table is the outside view. A new family or
prior adds one row and inherits all properties.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.transforms import OrderedTransform
from scipy import stats

from bayesmix import SkewNormal, VectorMixture  # distributions, part of the programs
from bayesmix.ellipsoid import AlignedNormal, EllipsoidalNormal, HaarRotation
from bayesmix.factors import Lower, LowerNormal

CLUSTER = {"event_dims": ["cluster"]}

# --------------------------------------------------------------------------------------------- data
# Small, on a scale of about one, and with clusters that overlap enough for responsibilities to
# matter.

_rng = np.random.default_rng(20)
Y = np.concatenate([_rng.normal(-1.2, 0.7, 22), _rng.normal(1.1, 0.9, 18)])
Y3 = np.concatenate(
    [_rng.normal(-2.0, 0.6, 14), _rng.normal(0.3, 0.5, 13), _rng.normal(2.2, 0.8, 13)]
)
X = np.concatenate(
    [
        _rng.multivariate_normal([-1.0, 0.5], [[0.6, 0.3], [0.3, 0.5]], 20),
        _rng.multivariate_normal([1.2, -0.4], [[0.5, -0.2], [-0.2, 0.9]], 16),
    ]
)
COUNTS = np.concatenate([_rng.poisson(1.5, 20), _rng.poisson(6.0, 16)])
BITS = np.concatenate([_rng.random(18) < 0.25, _rng.random(14) < 0.8]).astype(int)
ITEMS = np.concatenate(
    [_rng.random((16, 3)) < [0.2, 0.3, 0.7], _rng.random((14, 3)) < [0.8, 0.7, 0.2]]
).astype(int)
TIMES = np.concatenate([_rng.exponential(0.4, 20), _rng.exponential(3.0, 16)])
SKEWED = np.concatenate([_rng.gamma(4.0, 0.3, 18), _rng.gamma(9.0, 0.5, 16)])
ANGLES = np.concatenate([_rng.vonmises(-1.5, 3.0, 18), _rng.vonmises(1.0, 2.0, 16)])
ZEROS = np.where(np.arange(36) % 4 == 0, 0, COUNTS)
BURSTS = np.where(np.arange(34) % 5 == 0, 0.0, SKEWED)
COVARIATE = np.linspace(-1.5, 1.5, 34)
RESPONSE = np.where(_rng.random(34) < 0.5, 1.0 + 0.8 * COVARIATE, -1.0 - 0.5 * COVARIATE)
RESPONSE = RESPONSE + _rng.normal(0.0, 0.4, 34)
EXPOSURE = 1.0 + np.arange(34) % 3
EVENTS = np.random.default_rng(21).poisson(EXPOSURE * np.exp(0.8 + 0.5 * RESPONSE))
WHOLE = np.rint(4.0 * Y).astype(np.int64)
GRID = Y[:36].reshape(9, 4)
VISITS = np.where(Y < 0, _rng.poisson(1.0, Y.size), _rng.poisson(4.0, Y.size))
ANSWERS = np.where((_rng.random((Y.size, 2)) < 0.7) == (Y < 0)[:, None], 0, 1)
ANSWERS[_rng.random((Y.size, 2)) < 0.25] = 2
LABELS = np.where(_rng.random(Y.size) < 0.3, (Y > 0).astype(int), -1)
TREATED = _rng.integers(4, 30, 24)
DEATHS = _rng.binomial(TREATED, np.where(np.arange(24) % 2, 0.15, 0.6))
SOLID = np.column_stack([X, 0.6 * X[:, 0] + np.random.default_rng(21).normal(0.0, 0.5, len(X))])
PANEL = np.concatenate([_rng.normal(-0.8, 1.0, (7, 3)), _rng.normal(0.9, 0.8, (6, 3))])
WEIGHTS = _rng.integers(1, 4, Y.size).astype(float)
KEEP = _rng.random(Y.size) < 0.8
SIZES = np.exp(0.5 * X)
SHARES = 1.0 / (1.0 + np.exp(-Y))
BEARINGS = np.column_stack([ANGLES, np.roll(ANGLES, 3) / 2])
TRIPLES = np.concatenate([_rng.dirichlet([2.0, 3.0, 5.0], 14), _rng.dirichlet([6.0, 3.0, 1.0], 12)])
KINDS = np.concatenate(
    [_rng.multinomial(n, p, 13) for n, p in ((5, [0.6, 0.3, 0.1]), (9, [0.2, 0.3, 0.5]))]
)


def with_gaps(x, seed):
    """A quarter of the cells missing; the fifth row has none left."""
    x, rng = np.array(x, float), np.random.default_rng(seed)
    x[rng.random(x.shape) < 0.25] = np.nan
    x[4] = np.nan
    return x


X_GAPS, ITEMS_GAPS = with_gaps(X, 1), with_gaps(ITEMS, 2)
PAIR_GAPS, VISITS_GAPS = with_gaps(X[:34], 3), with_gaps(VISITS[:34], 4)
ANSWERS_GAPS, LABELS_GAPS = with_gaps(ANSWERS[:34], 5), LABELS[:34]
MISSING = {"missing": "marginal"}


# ----------------------------------------------------------------------------------------- programs
# Helpers stay tiny so that each program still reads as what a user would write.


def _weights(K, alpha=1.0):
    return numpyro.sample("weights", dist.Dirichlet(jnp.full(K, alpha)), infer=CLUSTER)


def _observe(weights, components, x, rows=None, infer=None):
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
    with numpyro.plate("obs_id", x.shape[0] if rows is None else rows):
        numpyro.sample("x", mixture, obs=x, infer=infer)


def _flat(support, event_shape=()):
    return dist.ImproperUniform(support, (), event_shape)


def normal_inverse_gamma_variance(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_flat(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", _flat(constraints.real))
        scale = numpyro.sample("scale", _flat(constraints.positive))
    _observe(weights, dist.Normal(loc, scale), x)


def normal_flat_variance(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", _flat(constraints.real))
        var = numpyro.sample("var", _flat(constraints.positive))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_half_normal(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0))
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    _observe(weights, dist.Normal(loc, scale), x)


def normal_log_normal_scale(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.7))
    _observe(weights, dist.Normal(loc, scale), x)


def normal_gamma_scale(x, K=2):
    weights = _weights(K, 2.0)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.StudentT(4.0, 0.0, 2.0))
        scale = numpyro.sample("scale", dist.Gamma(3.0, 3.0))
    _observe(weights, dist.Normal(loc, scale), x)


def normal_nig(x, K=2):
    weights = _weights(K, 2.0)
    with numpyro.plate("cluster", K):
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
        loc = numpyro.sample("loc", dist.Normal(0.3, jnp.sqrt(var / 0.2)))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_tied_variance(x, K=3):
    weights = _weights(K)
    var = numpyro.sample("var", dist.InverseGamma(2.0, 1.0))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_tied_half_normal(x, K=2):
    weights = _weights(K)
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0))
    _observe(weights, dist.Normal(loc, scale), x)


def normal_known_scales(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    _observe(weights, dist.Normal(loc, jnp.array([1.0, 0.6])), x)


def normal_shared_loc(x, K=2):
    weights = _weights(K)
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    with numpyro.plate("cluster", K):
        var = numpyro.sample("var", dist.InverseGamma(3.0, jnp.array([0.5, 6.0])))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_hierarchical(x, K=3):
    weights = _weights(K)
    mu0 = numpyro.sample("mu0", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.LogNormal(0.5, 0.5))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(mu0, tau))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 1.0))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_ordered_loc(x, K=2):
    weights = _weights(K)
    base = dist.Normal(0.0, 1.5).expand([K]).to_event(1)
    loc = numpyro.sample(
        "loc", dist.TransformedDistribution(base, OrderedTransform()), infer=CLUSTER
    )
    with numpyro.plate("cluster", K):
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_asymmetric_prior(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(jnp.array([-1.0, 1.0]), 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_asymmetric_dirichlet(x, K=3):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 3.0, 2.0])), infer=CLUSTER)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_fixed_weights(x, K=2):
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    _observe(jnp.array([0.3, 0.7]), dist.Normal(loc, jnp.sqrt(var)), x)


def normal_softmax_weights(x, K=2):
    with numpyro.plate("cluster", K):
        logits = numpyro.sample("logits", dist.Normal(0.0, 1.0))
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=logits), dist.Normal(loc, jnp.sqrt(var))
    )
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


def normal_log_weights(x, K=2):
    weights = _weights(K, 1.5)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=jnp.log(weights)), dist.Normal(loc, jnp.sqrt(var))
    )
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


def normal_beta_weight(x):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    _observe(jnp.stack([p, 1.0 - p]), dist.Normal(loc, jnp.sqrt(var)), x)


def normal_scaled_rows(x, w, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    with handlers.scale(scale=w):
        _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_masked_rows(x, keep, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    with handlers.mask(mask=keep):
        _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def normal_distribution_mask(x, keep, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.Normal(loc, jnp.sqrt(var))
    )
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture.mask(keep), obs=x)


def normal_unobserved(N, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.Normal(loc, jnp.sqrt(var))
    )
    with numpyro.plate("obs_id", N):
        numpyro.sample("x", mixture)


normal_conditioned = handlers.condition(normal_unobserved, data={"x": Y})


def normal_two_plates(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.Normal(loc, jnp.sqrt(var))
    )
    with numpyro.plate("day", x.shape[0], dim=-2), numpyro.plate("shift", x.shape[1], dim=-1):
        numpyro.sample("x", mixture, obs=x)


def normal_without_plate(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.Normal(loc, jnp.sqrt(var))
    )
    numpyro.sample("x", mixture.expand([x.shape[0]]), obs=x)


def normal_rows_as_event(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.Normal(loc, jnp.sqrt(var))
    )
    numpyro.sample("x", mixture.expand([x.shape[0]]).to_event(1), obs=x)


def normal_extra_terms(x, K=2):
    """A factor and a second observed site that share a latent site with the mixture."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    numpyro.factor("repulsion", -0.5 * jnp.exp(-((loc[0] - loc[1]) ** 2)))
    numpyro.sample("assay", dist.Normal(loc.mean(), 0.5), obs=0.2)
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)), x)


def mvn_niw(x, K=2, infer=None):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        cov = numpyro.sample("cov", dist.InverseWishart(D + 3.0, scale_matrix=1.5 * jnp.eye(D)))
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.array([0.2, -0.1]), cov / 0.3))
    _observe(weights, dist.MultivariateNormal(loc, covariance_matrix=cov), x, infer=infer)


def mvn_missing(x, K=2):
    mvn_niw(x, K, MISSING)


def bernoulli_missing(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Beta(2.0, 2.0).expand([D]).to_event(1))
    _observe(weights, dist.Bernoulli(probs=probs).to_event(1), x, infer=MISSING)


def product_missing(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0).expand([D]).to_event(1))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0).expand([D]).to_event(1))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)).to_event(1), x, infer=MISSING)


def explicit_missing(pair, visits, answers, labels, K=2):
    weights = _weights(K, 2.0)
    with numpyro.plate("cluster", K):
        cov = numpyro.sample("cov", dist.InverseWishart(5.0, scale_matrix=1.5 * jnp.eye(2)))
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(2), 4.0 * jnp.eye(2)))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
        probs = numpyro.sample("probs", dist.Dirichlet(jnp.full(3, 2.0)).expand([2]).to_event(1))
    with numpyro.plate("obs_id", len(pair)):
        z = numpyro.sample(
            "z",
            dist.Categorical(weights),
            obs=labels,
            obs_mask=labels >= 0,
            infer={"enumerate": "parallel"},
        )
        numpyro.sample("pair", dist.MultivariateNormal(loc[z], cov[z]), obs=pair, infer=MISSING)
        numpyro.sample("visits", dist.Poisson(rate[z]), obs=visits, infer=MISSING)
        numpyro.sample(
            "answers", dist.Categorical(probs[z]).to_event(1), obs=answers, infer=MISSING
        )


def mvn_independent_prior(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        cov = numpyro.sample("cov", dist.InverseWishart(D + 3.0, scale_matrix=1.5 * jnp.eye(D)))
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(D), 4.0 * jnp.eye(D)))
    _observe(weights, dist.MultivariateNormal(loc, covariance_matrix=cov), x)


def mvn_flat(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", _flat(constraints.real_vector, (D,)))
        cov = numpyro.sample("cov", _flat(constraints.positive_definite, (D, D)))
    _observe(weights, dist.MultivariateNormal(loc, covariance_matrix=cov), x)


def mvn_tied(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    cov = numpyro.sample("cov", dist.InverseWishart(D + 3.0, scale_matrix=1.5 * jnp.eye(D)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(D), 4.0 * jnp.eye(D)))
    _observe(weights, dist.MultivariateNormal(loc, covariance_matrix=cov), x)


def mvn_cholesky_of_covariance(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        cov = numpyro.sample("cov", dist.InverseWishart(D + 3.0, scale_matrix=1.5 * jnp.eye(D)))
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
    _observe(weights, dist.MultivariateNormal(loc, scale_tril=jnp.linalg.cholesky(cov)), x)


def mvn_scale_tril(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
        tril = numpyro.sample("tril", _flat(constraints.lower_cholesky, (D, D)))
    _observe(weights, dist.MultivariateNormal(loc, scale_tril=tril), x)


def mvn_precision(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        precision = numpyro.sample(
            "precision", dist.Wishart(D + 2.0, scale_matrix=0.5 * jnp.eye(D))
        )
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(D), 4.0 * jnp.eye(D)))
    _observe(weights, dist.MultivariateNormal(loc, precision_matrix=precision), x)


def mvn_lkj(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([D]).to_event(1))
        corr = numpyro.sample("corr", dist.LKJCholesky(D, 2.0))
    _observe(weights, dist.MultivariateNormal(loc, scale_tril=sigma[..., None] * corr), x)


def _ellipsoid_sites(x, K, volumes, shapes):
    """Loc, volume and shape, the last two of all clusters or of each; the shape is not even."""
    D = x.shape[1]
    cluster = numpyro.plate("cluster", K)
    shape_prior = dist.Dirichlet(1.5 + jnp.arange(D))
    with cluster if shapes == "V" else nullcontext():
        shape = numpyro.sample("shape", shape_prior)
    with cluster if volumes == "V" else nullcontext():
        volume = numpyro.sample("volume", dist.InverseGamma(2.0, 1.0))
    with cluster:
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
    return loc, volume, shape


def aligned_vei(x, K=2):
    weights = _weights(K)
    loc, volume, shape = _ellipsoid_sites(x, K, "V", "E")
    _observe(weights, AlignedNormal(loc, volume[:, None], shape).to_event(1), x)


def ellipsoid_vev(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        orientation = numpyro.sample("orientation", HaarRotation(x.shape[1]))
    loc, volume, shape = _ellipsoid_sites(x, K, "V", "E")
    _observe(weights, EllipsoidalNormal(loc, volume, shape, orientation), x)


def ellipsoid_eve_flat(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    volume = numpyro.sample("volume", _flat(constraints.positive))
    orientation = numpyro.sample("orientation", HaarRotation(D))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", _flat(constraints.real_vector, (D,)))
        shape = numpyro.sample("shape", _flat(constraints.simplex, (D,)))
    _observe(weights, EllipsoidalNormal(loc, volume, shape, orientation), x)


def factor_normal(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        noise = numpyro.sample("noise", dist.InverseGamma(3.0, 2.0).expand([D]).to_event(1))
        loadings = numpyro.sample("loadings", LowerNormal(np.full((D, 2), 0.8)))
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
    _observe(weights, dist.LowRankMultivariateNormal(loc, loadings, noise), x)


def factor_flat(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        noise = numpyro.sample("noise", _flat(constraints.positive, (D,)))
        loadings = numpyro.sample("loadings", _flat(Lower(np.ones((D, 1))), (D, 1)))
        loc = numpyro.sample("loc", _flat(constraints.real_vector, (D,)))
    _observe(weights, dist.LowRankMultivariateNormal(loc, loadings, noise), x)


def product_diagonal(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0).expand([D]).to_event(1))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)).to_event(1), x)


def product_column_plate(x, K=2):
    weights = _weights(K)
    with (
        numpyro.plate("cluster", K, dim=-2),
        numpyro.plate("column", x.shape[1], dim=-1),
    ):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    _observe(weights, dist.Normal(loc, scale).to_event(1), x)


def product_spherical(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)[:, None]).to_event(1), x)


def product_tied_diagonal(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("column", D):
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
    _observe(weights, dist.Normal(loc, jnp.sqrt(var)).to_event(1), x)


def product_flat(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", _flat(constraints.real_vector, (D,)))
        scale = numpyro.sample("scale", dist.ImproperUniform(constraints.positive, (), (D,)))
    _observe(weights, dist.Normal(loc, scale).to_event(1), x)


def poisson_gamma(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    _observe(weights, dist.Poisson(rate), x)


def poisson_flat(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        rate = numpyro.sample("rate", _flat(constraints.positive))
    _observe(weights, dist.Poisson(rate), x)


def poisson_log_rate(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        log_rate = numpyro.sample("log_rate", dist.Normal(1.0, 1.0))
    _observe(weights, dist.Poisson(jnp.exp(log_rate)), x)


def bernoulli_beta(x, K=2):
    weights = _weights(K, 2.0)
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Beta(jnp.array([2.0, 4.0]), jnp.array([4.0, 2.0])))
    _observe(weights, dist.Bernoulli(probs=probs), x)


def bernoulli_product(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Beta(2.0, 2.0).expand([D]).to_event(1))
    _observe(weights, dist.Bernoulli(probs=probs).to_event(1), x)


def bernoulli_logits(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        logits = numpyro.sample("logits", dist.Normal(0.0, 1.5).expand([D]).to_event(1))
    _observe(weights, dist.Bernoulli(logits=logits).to_event(1), x)


def exponential_gamma(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    _observe(weights, dist.Exponential(rate), x)


def student_t(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    _observe(weights, dist.StudentT(5.0, loc, scale), x)


def student_tails(x, K=2):
    """Degrees of freedom of every cluster's own."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        df = numpyro.sample("df", dist.Gamma(2.0, 0.1))
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    _observe(weights, dist.StudentT(df, loc, jnp.sqrt(var)), x)


def student_matrix(x, K=2):
    """Multivariate components; one number of degrees of freedom."""
    D = x.shape[1]
    weights = _weights(K)
    df = numpyro.sample("df", dist.LogNormal(2.0, 0.8))
    with numpyro.plate("cluster", K):
        cov = numpyro.sample("cov", dist.InverseWishart(D + 3.0, scale_matrix=1.5 * jnp.eye(D)))
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.zeros(D), 4.0 * jnp.eye(D)))
    _observe(weights, dist.MultivariateStudentT(df, loc, jnp.linalg.cholesky(cov)), x)


def student_columns(x, K=2):
    """Independent columns, each with scales of its own."""
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    _observe(weights, dist.StudentT(4.0, loc, scale[:, None]).to_event(1), x)


def laplace_columns(x, K=2):
    """The log density has a kink at every location."""
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
        scale = numpyro.sample("scale", dist.InverseGamma(3.0, 2.0))
    _observe(weights, dist.Laplace(loc, scale[:, None]).to_event(1), x)


def leaning_laplace(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        lean = numpyro.sample("lean", dist.LogNormal(0.0, 0.5))
    _observe(weights, dist.AsymmetricLaplace(loc, scale, lean), x)


def zero_inflated(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        gate = numpyro.sample("gate", dist.Beta(1.5, 3.0))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    _observe(weights, dist.ZeroInflatedPoisson(gate, rate), x)


def zero_inflated_product(x, K=2):
    """Columns of negative binomials, the extra zeros by logit."""
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        gate = numpyro.sample("gate", dist.Normal(-1.0, 1.0).expand([D]).to_event(1))
        size = numpyro.sample("size", dist.LogNormal(1.0, 0.5))
        logits = numpyro.sample("logits", dist.Normal(0.0, 1.5).expand([D]).to_event(1))
    counts = dist.NegativeBinomialLogits(size[:, None], logits)
    _observe(weights, dist.ZeroInflatedDistribution(counts, gate_logits=gate).to_event(1), x)


def hurdle_poisson(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        gate = numpyro.sample("gate", dist.Beta(1.5, 3.0))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    _observe(weights, dist.HurdlePoisson(gate, rate), x)


def hurdle_product(x, K=2):
    """Columns of truncated negative binomials; a share of zeros for each column, not cluster."""
    D = x.shape[1]
    weights = _weights(K)
    gate = numpyro.sample("gate", dist.Uniform(0.0, 1.0).expand([D]).to_event(1))
    with numpyro.plate("cluster", K):
        mean = numpyro.sample("mean", dist.Gamma(2.0, 0.5).expand([D]).to_event(1))
        concentration = numpyro.sample("concentration", dist.LogNormal(1.5, 0.5))
    parts = dist.HurdleNegativeBinomial2(gate, mean, concentration[:, None])
    _observe(weights, parts.to_event(1), x)


def hurdle_gamma(x, K=2):
    """Positive numbers, and zeros that no density explains."""
    weights = _weights(K)
    gate = numpyro.sample("gate", dist.Beta(1.5, 3.0))
    with numpyro.plate("cluster", K):
        shape = numpyro.sample("shape", dist.Gamma(3.0, 0.5))
        rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
    _observe(weights, dist.HurdleGamma(gate, shape, rate), x)


def zeros_and_poisson(x):
    """A point at 0 and a Poisson, as clusters of their own."""
    weights = _weights(2, 2.0)
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    parts = [dist.Delta(0.0), dist.Poisson(rate)]
    mixture = dist.MixtureGeneral(
        dist.Categorical(probs=weights), parts, support=constraints.nonnegative_integer
    )
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


def skew_components(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        alpha = numpyro.sample("alpha", dist.Normal(0.0, 2.0))
    _observe(weights, SkewNormal(loc, scale, alpha), x)


def gamma_components(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        shape = numpyro.sample("shape", dist.LogNormal(1.5, 0.5))
        rate = numpyro.sample("rate", dist.LogNormal(0.5, 0.5))
    _observe(weights, dist.Gamma(shape, rate), x)


def log_normal_components(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
        scale = numpyro.sample("scale", dist.LogNormal(-0.5, 0.5))
    _observe(weights, dist.LogNormal(loc, scale), x)


def log_normal_product(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([D]).to_event(1))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 1.0).expand([D]).to_event(1))
    _observe(weights, dist.LogNormal(loc, jnp.sqrt(var)).to_event(1), x)


def gamma_known_shape(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    _observe(weights, dist.Gamma(jnp.array([3.0, 5.0]), rate), x)


def inverse_gamma_product(x, K=2):
    """A shape of its own for every column, a rate that the columns share."""
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        shape = numpyro.sample("shape", dist.LogNormal(1.0, 0.5).expand([D]).to_event(1))
        rate = numpyro.sample("rate", dist.LogNormal(0.5, 0.5))
    _observe(weights, dist.InverseGamma(shape, rate[:, None]).to_event(1), x)


def weibull(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        scale = numpyro.sample("scale", dist.LogNormal(0.5, 1.0))
        shape = numpyro.sample("shape", dist.LogNormal(0.5, 0.5))
    _observe(weights, dist.Weibull(scale, shape), x)


def beta_components(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        a = numpyro.sample("a", dist.Gamma(3.0, 1.0))
        b = numpyro.sample("b", dist.Gamma(3.0, 1.0))
    _observe(weights, dist.Beta(a, b), x)


def beta_proportions(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        mean = numpyro.sample("mean", dist.Beta(1.5, 1.5))
        total = numpyro.sample("total", dist.Gamma(2.0, 0.3))
    _observe(weights, dist.BetaProportion(mean, total), x)


def dirichlet_components(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        alpha = numpyro.sample("alpha", dist.Gamma(2.0, 0.5).expand([D]).to_event(1))
    _observe(weights, dist.Dirichlet(alpha), x)


def geometric_beta(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Beta(2.0, 3.0))
    _observe(weights, dist.Geometric(probs=probs), x)


def geometric_logits(x, K=2):
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        logits = numpyro.sample("logits", dist.Normal(0.0, 1.5).expand([D]).to_event(1))
    _observe(weights, dist.Geometric(logits=logits).to_event(1), x)


def von_mises(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.VonMises(0.0, 0.5))
        kappa = numpyro.sample("kappa", dist.Gamma(3.0, 1.0))
    _observe(weights, dist.VonMises(loc, kappa), x)


def von_mises_product(x, K=2):
    """Directions uniform on an interval of a whole turn that is not NumPyro's."""
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Uniform(-1.0, 2 * np.pi - 1.0).expand([D]).to_event(1))
        kappa = numpyro.sample("kappa", dist.Gamma(3.0, 1.0).expand([D]).to_event(1))
    _observe(weights, dist.VonMises(loc, kappa).to_event(1), x)


def negative_binomial_logits(x, K=2):
    """Columns of counts; one concentration for all."""
    D = x.shape[1]
    weights = _weights(K)
    size = numpyro.sample("size", dist.LogNormal(1.0, 0.5))
    with numpyro.plate("cluster", K):
        logits = numpyro.sample("logits", dist.Normal(0.0, 1.5).expand([D]).to_event(1))
    _observe(weights, dist.NegativeBinomialLogits(size, logits).to_event(1), x)


def negative_binomial(x, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        mean = numpyro.sample("mean", dist.Gamma(2.0, 0.5))
        concentration = numpyro.sample("concentration", dist.LogNormal(1.5, 0.5))
    _observe(weights, dist.NegativeBinomial2(mean, concentration), x)


def regression(t, y, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(-0.7, 0.5))
    mean = beta[:, 0] + beta[:, 1] * t[:, None]
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Normal(mean, sigma))
    with numpyro.plate("obs_id", y.shape[0]):
        numpyro.sample("x", mixture, obs=y)


def poisson_regression(t, y, exposure, K=2):
    """Counts on lines of their own, with an exposure as an offset."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    log_rate = beta[:, 0] + beta[:, 1] * t[:, None] + jnp.log(exposure)[:, None]
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=weights), dist.Poisson(jnp.exp(log_rate))
    )
    with numpyro.plate("obs_id", y.shape[0]):
        numpyro.sample("x", mixture, obs=y)


def gated_regression(t, y, K=2):
    """Lines whose weights depend on the covariate, too; gates sum to 0 over the clusters."""
    gate = numpyro.sample("gate", dist.ZeroSumNormal(1.5, (K,)), infer=CLUSTER)
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 1.0))
    mean = beta[:, 0] + beta[:, 1] * t[:, None]
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=gate * t[:, None]), dist.Normal(mean, jnp.sqrt(var))
    )
    with numpyro.plate("obs_id", y.shape[0]):
        numpyro.sample("x", mixture, obs=y)


def two_named_normals(x):
    weights = _weights(2)
    loc0 = numpyro.sample("loc0", dist.Normal(0.0, 2.0))
    loc1 = numpyro.sample("loc1", dist.Normal(0.0, 2.0))
    var0 = numpyro.sample("var0", dist.InverseGamma(3.0, 2.0))
    var1 = numpyro.sample("var1", dist.InverseGamma(3.0, 2.0))
    mixture = dist.MixtureGeneral(
        dist.Categorical(probs=weights),
        [dist.Normal(loc0, jnp.sqrt(var0)), dist.Normal(loc1, jnp.sqrt(var1))],
    )
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


def normal_and_cauchy(x):
    weights = _weights(2, 2.0)
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    mixture = dist.MixtureGeneral(
        dist.Categorical(probs=weights), [dist.Normal(loc, scale), dist.Cauchy(0.0, 2.0)]
    )
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


def normal_and_uniform(x):
    weights = _weights(2, 2.0)
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    mixture = dist.MixtureGeneral(
        dist.Categorical(probs=weights),
        [dist.Normal(loc, scale), dist.Uniform(-6.0, 6.0)],
        support=constraints.real,
    )
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


ENUMERATE = {"enumerate": "parallel"}


def explicit_normal(x, K=2):
    """The same density as normal_inverse_gamma_variance, with its assignment written out."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("obs_id", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        numpyro.sample("x", dist.Normal(loc[z], jnp.sqrt(var[z])), obs=x)


def explicit_nig_matrix(x, K=2):
    """Multivariate components: location and covariance share a prior."""
    D = x.shape[1]
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        cov = numpyro.sample("cov", dist.InverseWishart(D + 3.0, scale_matrix=1.5 * jnp.eye(D)))
        loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.array([0.2, -0.1]), cov / 0.3))
    with numpyro.plate("obs_id", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        numpyro.sample("x", dist.MultivariateNormal(loc[z], covariance_matrix=cov[z]), obs=x)


def explicit_mixed(x, visits, answers, K=2):
    """One cluster, three kinds of columns: a Gaussian, a count, two categorical answers."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
        loc = numpyro.sample("loc", dist.Normal(0.3, jnp.sqrt(var / 0.2)))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
        probs = numpyro.sample("probs", dist.Dirichlet(2.0 * jnp.ones((2, 3))).to_event(1))
    with numpyro.plate("obs_id", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        numpyro.sample("x", dist.Normal(loc[z], jnp.sqrt(var[z])), obs=x)
        numpyro.sample("visits", dist.Poisson(rate[z]), obs=visits)
        numpyro.sample("answers", dist.Categorical(probs[z]).to_event(1), obs=answers)


def explicit_where(x):
    """Clusters told apart by jnp.where, with sites of their own."""
    weights = _weights(2, 2.0)
    low = numpyro.sample("low", dist.Normal(-1.0, 1.0))
    gap = numpyro.sample("gap", dist.LogNormal(0.5, 0.5))
    with numpyro.plate("obs_id", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        numpyro.sample("x", dist.Normal(jnp.where(z == 0, low, low + gap), 0.8), obs=x)


def explicit_regression(t, y, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(-0.7, 0.5))
    with numpyro.plate("obs_id", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        numpyro.sample("x", dist.Normal(beta[z, 0] + beta[z, 1] * t, sigma[z]), obs=y)


def explicit_groups(x, K=2):
    """One assignment for each group; the observations stand in a plate inside the groups'."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("person", x.shape[0], dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        with numpyro.plate("visit", x.shape[1], dim=-1):
            numpyro.sample("x", dist.Normal(loc[z], jnp.sqrt(var[z])), obs=x)


def explicit_labelled(x, visits, labels, K=2):
    """Some assignments are known (partial labels); two sites."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    with numpyro.plate("obs_id", x.shape[0]):
        z = numpyro.sample(
            "z", dist.Categorical(weights), obs=labels, obs_mask=labels >= 0, infer=ENUMERATE
        )
        numpyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
        numpyro.sample("visits", dist.Poisson(rate[z]), obs=visits)


def explicit_scaled(x, w, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(0.5, 2.0))
        var = numpyro.sample("var", dist.InverseGamma(3.0, 2.0))
    with handlers.scale(scale=w), numpyro.plate("obs_id", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        numpyro.sample("x", dist.Normal(loc[z], jnp.sqrt(var[z])), obs=x)


def explicit_gated(t, y, K=2):
    """Weights that depend on a covariate, as in a mixture of experts."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(jnp.array([-1.0, 1.0]), 1.0))
    with numpyro.plate("obs_id", y.shape[0]):
        gate = jnp.stack([jnp.zeros_like(t), slope * t], -1)
        z = numpyro.sample("z", dist.Categorical(logits=gate), infer=ENUMERATE)
        numpyro.sample("x", dist.Normal(loc[z], 0.7), obs=y)


def vector_latent_classes(x, K=2):
    """Categorical answers: latent class analysis, without an assignment site."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Dirichlet(1.5 * jnp.ones((2, 3))).to_event(1))
    mixture = VectorMixture(dist.Categorical(probs=weights), dist.Categorical(probs).to_event(1))
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


def vector_multinomial(x, totals, K=2):
    """Totals that differ by row."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Dirichlet(1.5 * jnp.ones(3)))
    components = dist.Multinomial(totals[:, None], probs)
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", VectorMixture(dist.Categorical(probs=weights), components), obs=x)


def explicit_multinomial_logits(x, totals, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        logits = numpyro.sample("logits", dist.Normal(0.0, 1.5).expand([3]).to_event(1))
    with numpyro.plate("obs_id", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        numpyro.sample("x", dist.Multinomial(totals, logits=logits[z]), obs=x)


def explicit_binomial(deaths, treated, K=2):
    """Successes out of numbers of trials that differ by row."""
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Beta(1.5, 2.0))
    with numpyro.plate("obs_id", deaths.shape[0]):
        z = numpyro.sample("z", dist.Categorical(weights), infer=ENUMERATE)
        numpyro.sample("x", dist.Binomial(treated, probs[z]), obs=deaths)


def vector_binomial_logits(deaths, treated, K=2):
    weights = _weights(K)
    with numpyro.plate("cluster", K):
        logits = numpyro.sample("logits", dist.Normal(0.0, 1.5))
    mixture = VectorMixture(
        dist.Categorical(probs=weights), dist.Binomial(treated[:, None], logits=logits)
    )
    with numpyro.plate("obs_id", deaths.shape[0]):
        numpyro.sample("x", mixture, obs=deaths)


# ------------------------------------------------------------------ component densities, from SciPy
# params -> log w_k + log f(x_n | phi_k), shape (N, K): the only input of the enumeration oracle.


def _scipy_normal(p, x):
    scale = p["scale"] if "scale" in p else np.sqrt(p["var"])
    return np.log(p["weights"]) + stats.norm.logpdf(x[:, None], p["loc"], scale)


def _scipy_mvn(p, x):
    loc, K = p["loc"], len(p["weights"])
    if "volume" in p:
        D = x.shape[1]
        axes = p["shape"] / stats.gmean(p["shape"], axis=-1)[..., None]
        turn = p.get("orientation", np.eye(D))
        matrix = (turn * axes[..., None, :]) @ np.swapaxes(turn, -1, -2)
        cov = np.broadcast_to(p["volume"][..., None, None] * matrix, (K, D, D))
    elif "loadings" in p:
        cov = p["loadings"] @ p["loadings"].swapaxes(-1, -2) + p["noise"][..., None] * np.eye(
            x.shape[1]
        )
    elif "cov" in p:
        cov = np.broadcast_to(p["cov"], (K, *p["cov"].shape[-2:]))
    elif "precision" in p:
        cov = np.linalg.inv(p["precision"])
    else:
        tril = p["tril"] if "tril" in p else p["sigma"][..., None] * p["corr"]
        cov = tril @ np.swapaxes(tril, -1, -2)
    terms = [stats.multivariate_normal.logpdf(x, loc[k], cov[k]) for k in range(K)]
    return np.log(p["weights"]) + np.stack(terms, -1)


def _scipy_product(p, x):
    scale = p["scale"] if "scale" in p else np.sqrt(p["var"])
    if p.get("_spherical", False):
        scale = scale[:, None]
    terms = stats.norm.logpdf(x[:, None, :], p["loc"], scale).sum(-1)
    return np.log(p["weights"]) + terms


def _scipy_spherical(p, x):
    return _scipy_product({**p, "_spherical": True}, x)


def _scipy_poisson(p, x):
    rate = p["rate"] if "rate" in p else np.exp(p["log_rate"])
    return np.log(p["weights"]) + stats.poisson.logpmf(x[:, None], rate)


def _scipy_bernoulli(p, x):
    return np.log(p["weights"]) + stats.bernoulli.logpmf(x[:, None], p["probs"])


def _scipy_items(p, x):
    probs = p["probs"] if "probs" in p else 1.0 / (1.0 + np.exp(-p["logits"]))
    return np.log(p["weights"]) + stats.bernoulli.logpmf(x[:, None, :], probs).sum(-1)


def _scipy_exponential(p, x):
    return np.log(p["weights"]) + stats.expon.logpdf(x[:, None], scale=1.0 / p["rate"])


def _scipy_student(p, x):
    return np.log(p["weights"]) + stats.t.logpdf(x[:, None], 5.0, p["loc"], p["scale"])


def _scipy_tails(p, x):
    terms = stats.t.logpdf(x[:, None], p["df"], p["loc"], np.sqrt(p["var"]))
    return np.log(p["weights"]) + terms


def _scipy_student_matrix(p, x):
    terms = [stats.multivariate_t.logpdf(x, p["loc"][k], p["cov"][k], p["df"]) for k in range(2)]
    return np.log(p["weights"]) + np.stack(terms, -1)


def _scipy_student_columns(p, x):
    terms = stats.t.logpdf(x[:, None, :], 4.0, p["loc"], p["scale"][:, None]).sum(-1)
    return np.log(p["weights"]) + terms


def _scipy_laplace_columns(p, x):
    cells = stats.laplace.logpdf(x[:, None], p["loc"], p["scale"][:, None])
    return np.log(p["weights"]) + cells.sum(-1)


def _scipy_leaning_laplace(p, x):
    terms = stats.laplace_asymmetric.logpdf(x[:, None], p["lean"], p["loc"], p["scale"])
    return np.log(p["weights"]) + terms


def _scipy_zero_inflated(p, x):
    counts = np.log1p(-p["gate"]) + stats.poisson.logpmf(x[:, None], p["rate"])
    extra = np.where(x[:, None] == 0, np.log(p["gate"]), -np.inf)
    return np.log(p["weights"]) + np.logaddexp(counts, extra)


def _scipy_zero_inflated_product(p, x):
    chance = 1.0 / (1.0 + np.exp(p["logits"]))
    counts = stats.nbinom.logpmf(x[:, None, :], p["size"][:, None], chance)
    gate = 1.0 / (1.0 + np.exp(-p["gate"]))
    extra = np.where(x[:, None, :] == 0, np.log(gate), -np.inf)
    return np.log(p["weights"]) + np.logaddexp(np.log1p(-gate) + counts, extra).sum(-1)


def _scipy_hurdle(p, x):
    counts = stats.poisson.logpmf(x[:, None], p["rate"]) - np.log(-np.expm1(-p["rate"]))
    passed = np.log1p(-p["gate"]) + counts
    return np.log(p["weights"]) + np.where(x[:, None] == 0, np.log(p["gate"]), passed)


def _scipy_hurdle_gamma(p, x):
    one = np.where(x == 0, 1.0, x)[:, None]
    passed = np.log1p(-p["gate"]) + stats.gamma.logpdf(one, p["shape"], scale=1.0 / p["rate"])
    return np.log(p["weights"]) + np.where(x[:, None] == 0, np.log(p["gate"]), passed)


def _scipy_zeros(p, x):
    terms = [np.where(x == 0, 0.0, -np.inf), stats.poisson.logpmf(x, p["rate"])]
    return np.log(p["weights"]) + np.stack(terms, -1)


def _scipy_skew(p, x):
    terms = stats.skewnorm.logpdf(x[:, None], p["alpha"], p["loc"], p["scale"])
    return np.log(p["weights"]) + terms


def _scipy_gamma(p, x):
    terms = stats.gamma.logpdf(x[:, None], p["shape"], scale=1.0 / p["rate"])
    return np.log(p["weights"]) + terms


def _scipy_log_normal(p, x):
    terms = stats.lognorm.logpdf(x[:, None], p["scale"], scale=np.exp(p["loc"]))
    return np.log(p["weights"]) + terms


def _scipy_von_mises(p, x):
    return np.log(p["weights"]) + stats.vonmises.logpdf(x[:, None], p["kappa"], loc=p["loc"])


def _scipy_log_normal_product(p, x):
    terms = stats.lognorm.logpdf(x[:, None], np.sqrt(p["var"]), scale=np.exp(p["loc"]))
    return np.log(p["weights"]) + terms.sum(-1)


def _scipy_gamma_known_shape(p, x):
    return _scipy_gamma({**p, "shape": np.array([3.0, 5.0])}, x)


def _scipy_inverse_gamma_product(p, x):
    terms = stats.invgamma.logpdf(x[:, None], p["shape"], scale=p["rate"][:, None])
    return np.log(p["weights"]) + terms.sum(-1)


def _scipy_weibull(p, x):
    terms = stats.weibull_min.logpdf(x[:, None], p["shape"], scale=p["scale"])
    return np.log(p["weights"]) + terms


def _scipy_beta(p, x):
    a = p["a"] if "a" in p else p["mean"] * p["total"]
    b = p["b"] if "b" in p else (1 - p["mean"]) * p["total"]
    return np.log(p["weights"]) + stats.beta.logpdf(x[:, None], a, b)


def _scipy_dirichlet(p, x):
    rows = (x / x.sum(1, keepdims=True)).T
    return np.log(p["weights"]) + np.stack([stats.dirichlet.logpdf(rows, a) for a in p["alpha"]], 1)


def _scipy_geometric(p, x):
    probs = p["probs"] if "probs" in p else 1.0 / (1.0 + np.exp(-p["logits"]))
    terms = stats.geom.logpmf(x.reshape(len(x), 1, -1) + 1, probs.reshape(len(probs), -1))
    return np.log(p["weights"]) + terms.sum(-1)


def _scipy_von_mises_product(p, x):
    terms = stats.vonmises.logpdf(x[:, None], p["kappa"], loc=p["loc"])
    return np.log(p["weights"]) + terms.sum(-1)


def _scipy_multinomial(p, x):
    logits = np.log(p["probs"]) if "probs" in p else p["logits"]
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    terms = [stats.multinomial.logpmf(x, x.sum(1), own) for own in probs]
    return np.log(p["weights"]) + np.stack(terms, -1)


def _scipy_fixed_weights(p, x):
    return _scipy_normal({**p, "weights": np.array([0.3, 0.7])}, x)


def _scipy_softmax_weights(p, x):
    weights = np.exp(p["logits"]) / np.exp(p["logits"]).sum()
    return _scipy_normal({**p, "weights": weights}, x)


def _scipy_beta_weight(p, x):
    return _scipy_normal({**p, "weights": np.array([p["p"], 1.0 - p["p"]])}, x)


def _scipy_known_scales(p, x):
    return _scipy_normal({**p, "scale": np.array([1.0, 0.6])}, x)


def _scipy_named(p, x):
    loc, var = np.stack([p["loc0"], p["loc1"]]), np.stack([p["var0"], p["var1"]])
    return _scipy_normal({"weights": p["weights"], "loc": loc, "var": var}, x)


def _scipy_cauchy(p, x):
    terms = [stats.norm.logpdf(x, p["loc"], p["scale"]), stats.cauchy.logpdf(x, 0.0, 2.0)]
    return np.log(p["weights"]) + np.stack(terms, -1)


def _scipy_uniform(p, x):
    terms = [stats.norm.logpdf(x, p["loc"], p["scale"]), stats.uniform.logpdf(x, -6.0, 12.0)]
    return np.log(p["weights"]) + np.stack(terms, -1)


def _log_categories(probs, x):
    """(N, K) log probabilities of answers (N, D) with probabilities (K, D, C)."""
    picked = np.take_along_axis(np.log(probs)[None], x[:, None, :, None].astype(int), -1)
    return picked[..., 0].sum(-1)


def _scipy_mixed(p, x):
    height, visits, answers = x[:, 0], x[:, 1], x[:, 2:]
    counts = stats.poisson.logpmf(visits[:, None], p["rate"])
    return _scipy_normal(p, height) + counts + _log_categories(p["probs"], answers)


def _scipy_latent_classes(p, x):
    return np.log(p["weights"]) + _log_categories(p["probs"], x)


def _scipy_binomial(p, x):
    probs = p["probs"] if "probs" in p else 1.0 / (1.0 + np.exp(-p["logits"]))
    return np.log(p["weights"]) + stats.binom.logpmf(x[:, None], TREATED[:, None], probs)


def _scipy_where(p, x):
    loc = np.array([p["low"], p["low"] + p["gap"]])
    return np.log(p["weights"]) + stats.norm.logpdf(x[:, None], loc, 0.8)


def _scipy_regression(p, x):
    mean = p["beta"][:, 0] + p["beta"][:, 1] * COVARIATE[:, None]
    return np.log(p["weights"]) + stats.norm.logpdf(x[:, None], mean, p["sigma"])


def _scipy_poisson_regression(p, x):
    log_rate = p["beta"][:, 0] + p["beta"][:, 1] * COVARIATE[:, None] + np.log(EXPOSURE)[:, None]
    return np.log(p["weights"]) + stats.poisson.logpmf(x[:, None], np.exp(log_rate))


def _scipy_gated_regression(p, x):
    logits = p["gate"] * COVARIATE[:, None]
    log_weights = logits - np.logaddexp(logits[:, :1], logits[:, 1:])
    mean = p["beta"][:, 0] + p["beta"][:, 1] * COVARIATE[:, None]
    return log_weights + stats.norm.logpdf(x[:, None], mean, np.sqrt(p["var"]))


def _scipy_groups(p, x):
    terms = stats.norm.logpdf(x[:, :, None], p["loc"], np.sqrt(p["var"])).sum(1)
    return np.log(p["weights"]) + terms


def _scipy_labelled(p, x):
    terms = np.log(p["weights"]) + stats.norm.logpdf(x[:, :1], p["loc"], 1.0)
    terms = terms + stats.poisson.logpmf(x[:, 1:], p["rate"])
    other = (LABELS >= 0)[:, None] & (LABELS[:, None] != np.arange(2))
    return np.where(other, -np.inf, terms)


def _scipy_gated(p, x):
    logits = np.stack([np.zeros_like(COVARIATE), p["slope"] * COVARIATE], -1)
    log_weights = logits - np.logaddexp(logits[:, :1], logits[:, 1:])
    return log_weights + stats.norm.logpdf(x[:, None], p["loc"], 0.7)


# Missing cells, row by row, from distributions of the observed cells alone.


def _scipy_mvn_missing(p, x):
    terms = np.tile(np.log(p["weights"]), (len(x), 1))
    for n, row in enumerate(x):
        seen = ~np.isnan(row)
        for k in range(len(p["weights"]) if seen.any() else 0):
            own = p["cov"][k][np.ix_(seen, seen)]
            terms[n, k] += stats.multivariate_normal.logpdf(row[seen], p["loc"][k][seen], own)
    return terms


def _scipy_product_missing(p, x):
    cells = stats.norm.logpdf(x[:, None], p["loc"], np.sqrt(p["var"]))
    return np.log(p["weights"]) + np.nansum(cells, -1)


def _scipy_items_missing(p, x):
    cells = np.where(x[:, None] == 1, np.log(p["probs"]), np.log1p(-p["probs"]))
    return np.log(p["weights"]) + np.where(np.isnan(x[:, None]), 0.0, cells).sum(-1)


def _scipy_explicit_missing(p, x):
    terms = _scipy_mvn_missing(p, x[:, :2])
    terms += np.nan_to_num(stats.poisson.logpmf(x[:, 2:3], p["rate"]))
    for column in (0, 1):
        answer = x[:, 3 + column]
        seen = ~np.isnan(answer)
        terms[seen] += np.log(p["probs"][:, column, answer[seen].astype(int)]).T
    other = (LABELS_GAPS >= 0)[:, None] & (LABELS_GAPS[:, None] != np.arange(2))
    return np.where(other, -np.inf, terms)


# ---------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """One program and what a careful reader finds in it.

    plan : latent site -> "closed" | "ascent" | "any" (the issue does not promise one).
    axes : latent site -> position of the cluster axis, None where all clusters share the site.
    classes : sets of clusters that may be swapped without changing the log joint.
    proper : every prior integrates.
    bounded : the log joint has a supremum for any data (None: depends on the data).
    terms : (params, x) -> log w_k + log f(x_n | phi_k) from SciPy, (N, K).
    data : which argument is the data, or which are the columns side by side.
    z : the assignment of an explicit program. observed : the sites that are the mixture's.
    """

    id: str
    program: Callable[..., Any]
    args: tuple
    K: int
    family: str
    plan: dict[str, str]
    axes: dict[str, int | None]
    classes: tuple[tuple[int, ...], ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    proper: bool = True
    bounded: bool | None = True
    terms: Callable | None = None
    data: int | tuple[int, ...] | None = 0
    z: str | None = None
    observed: tuple[str, ...] = ("x",)

    def __str__(self):
        return self.id

    def small(self, n):
        """The same program on n rows of its data (every row argument is cut)."""
        step = max(1, self.x.shape[0] // n)
        cut = tuple(a[::step][:n] if isinstance(a, np.ndarray) else a for a in self.args)
        return cut

    @property
    def x(self):
        """The observed values."""
        if isinstance(self.data, tuple):
            return np.column_stack([self.args[number] for number in self.data])
        return Y if self.data is None else self.args[self.data]


def _row(id, program, args, K, family, plan, *, axes=None, swap=True, **kw):
    """A row whose sites all carry the cluster axis first, unless told otherwise."""
    axes = dict.fromkeys(plan, 0) | (axes or {})
    classes = (tuple(range(K)),) if swap else tuple((k,) for k in range(K))
    return Row(id, program, args, K, family, plan, axes, classes, **kw)


C, A, ANY = "closed", "ascent", "any"
NIG_PLAN = {"weights": C, "loc": C, "var": C}
ELLIPSOID_PLAN = {"weights": C, "loc": C, "orientation": C, "shape": C, "volume": C}
FREE = {"proper": False, "bounded": False}

PROGRAMS = [
    _row("normal_inverse_gamma_variance", normal_inverse_gamma_variance, (Y,), 2, "Normal",
         NIG_PLAN, terms=_scipy_normal),
    _row("normal_three", normal_inverse_gamma_variance, (Y3,), 3, "Normal", NIG_PLAN,
         kwargs={"K": 3}, terms=_scipy_normal),
    _row("normal_one", normal_inverse_gamma_variance, (Y,), 1, "Normal", NIG_PLAN,
         kwargs={"K": 1}, terms=_scipy_normal),
    _row("normal_flat", normal_flat, (Y,), 2, "Normal", {"weights": C, "loc": C, "scale": C},
         **FREE, terms=_scipy_normal),
    _row("normal_flat_variance", normal_flat_variance, (Y,), 2, "Normal", NIG_PLAN,
         **FREE, terms=_scipy_normal),
    _row("normal_half_normal", normal_half_normal, (Y,), 2, "Normal",
         {"weights": C, "loc": C, "scale": C}, bounded=False, terms=_scipy_normal),
    _row("normal_log_normal_scale", normal_log_normal_scale, (Y,), 2, "Normal",
         {"weights": C, "loc": C, "scale": A}, terms=_scipy_normal),
    _row("normal_gamma_scale", normal_gamma_scale, (Y,), 2, "Normal",
         {"weights": C, "loc": A, "scale": A}, bounded=None, terms=_scipy_normal),
    _row("normal_nig", normal_nig, (Y,), 2, "Normal", NIG_PLAN, terms=_scipy_normal),
    _row("normal_tied_variance", normal_tied_variance, (Y3,), 3, "Normal", NIG_PLAN,
         axes={"var": None}, terms=_scipy_normal),
    _row("normal_tied_half_normal", normal_tied_half_normal, (Y,), 2, "Normal",
         {"weights": C, "loc": C, "scale": C}, axes={"scale": None}, bounded=None,
         terms=_scipy_normal),
    _row("normal_known_scales", normal_known_scales, (Y,), 2, "Normal", {"weights": C, "loc": C},
         swap=False, terms=_scipy_known_scales),
    _row("normal_shared_loc", normal_shared_loc, (Y,), 2, "Normal", NIG_PLAN,
         axes={"loc": None}, swap=False, terms=_scipy_normal),
    _row("normal_hierarchical", normal_hierarchical, (Y3,), 3, "Normal",
         {"weights": C, "mu0": A, "tau": A, "loc": ANY, "var": C},
         axes={"mu0": None, "tau": None}, terms=_scipy_normal),
    _row("normal_ordered_loc", normal_ordered_loc, (Y,), 2, "Normal",
         {"weights": C, "loc": A, "var": C}, swap=False, terms=_scipy_normal),
    _row("normal_asymmetric_prior", normal_asymmetric_prior, (Y,), 2, "Normal", NIG_PLAN,
         swap=False, terms=_scipy_normal),
    Row("normal_asymmetric_dirichlet", normal_asymmetric_dirichlet, (Y3,), 3, "Normal", NIG_PLAN,
        {"weights": 0, "loc": 0, "var": 0}, ((0, 2), (1,)), terms=_scipy_normal),
    _row("normal_fixed_weights", normal_fixed_weights, (Y,), 2, "Normal", {"loc": C, "var": C},
         swap=False, terms=_scipy_fixed_weights),
    _row("normal_softmax_weights", normal_softmax_weights, (Y,), 2, "Normal",
         {"logits": A, "loc": C, "var": C}, terms=_scipy_softmax_weights),
    _row("normal_log_weights", normal_log_weights, (Y,), 2, "Normal",
         {"weights": ANY, "loc": C, "var": C}, terms=_scipy_normal),
    _row("normal_beta_weight", normal_beta_weight, (Y,), 2, "Normal",
         {"p": ANY, "loc": C, "var": C}, axes={"p": None}, swap=False, terms=_scipy_beta_weight),
    _row("normal_scaled_rows", normal_scaled_rows, (Y, WEIGHTS), 2, "Normal", NIG_PLAN),
    _row("normal_masked_rows", normal_masked_rows, (Y, KEEP), 2, "Normal", NIG_PLAN),
    _row("normal_distribution_mask", normal_distribution_mask, (Y, KEEP), 2, "Normal", NIG_PLAN),
    _row("normal_conditioned", normal_conditioned, (Y.size,), 2, "Normal", NIG_PLAN, data=None),
    _row("normal_two_plates", normal_two_plates, (GRID,), 2, "Normal", NIG_PLAN),
    _row("normal_without_plate", normal_without_plate, (Y,), 2, "Normal", NIG_PLAN,
         terms=_scipy_normal),
    _row("normal_rows_as_event", normal_rows_as_event, (Y,), 2, "Normal", NIG_PLAN,
         terms=_scipy_normal),
    _row("normal_extra_terms", normal_extra_terms, (Y,), 2, "Normal",
         {"weights": C, "loc": A, "var": C}, terms=_scipy_normal),
    _row("normal_whole_numbers", normal_half_normal, (WHOLE,), 2, "Normal",
         {"weights": C, "loc": C, "scale": C}, bounded=False, terms=_scipy_normal),
    _row("mvn_niw", mvn_niw, (X,), 2, "MultivariateNormal", {"weights": C, "cov": C, "loc": C},
         terms=_scipy_mvn),
    _row("mvn_independent_prior", mvn_independent_prior, (X,), 2, "MultivariateNormal",
         {"weights": C, "cov": C, "loc": C}, terms=_scipy_mvn),
    _row("mvn_flat", mvn_flat, (X,), 2, "MultivariateNormal", {"weights": C, "loc": C, "cov": C},
         **FREE, terms=_scipy_mvn),
    _row("mvn_tied", mvn_tied, (X,), 2, "MultivariateNormal", {"weights": C, "cov": C, "loc": C},
         axes={"cov": None}, terms=_scipy_mvn),
    _row("mvn_cholesky_of_covariance", mvn_cholesky_of_covariance, (X,), 2, "MultivariateNormal",
         {"weights": C, "cov": ANY, "loc": ANY}, terms=_scipy_mvn),
    _row("mvn_scale_tril", mvn_scale_tril, (X,), 2, "MultivariateNormal",
         {"weights": C, "loc": ANY, "tril": ANY}, **FREE, terms=_scipy_mvn),
    _row("mvn_precision", mvn_precision, (X,), 2, "MultivariateNormal",
         {"weights": C, "precision": ANY, "loc": ANY}, terms=_scipy_mvn),
    _row("mvn_lkj", mvn_lkj, (X,), 2, "MultivariateNormal",
         {"weights": C, "loc": ANY, "sigma": A, "corr": A}, bounded=False, terms=_scipy_mvn),
    _row("aligned_vei", aligned_vei, (SOLID,), 2, "AlignedNormal",
         {"weights": C, "loc": C, "shape": C, "volume": C}, axes={"shape": None},
         terms=_scipy_mvn),
    _row("ellipsoid_vev", ellipsoid_vev, (X,), 2, "EllipsoidalNormal", ELLIPSOID_PLAN,
         axes={"shape": None}, terms=_scipy_mvn),
    _row("ellipsoid_eve_flat", ellipsoid_eve_flat, (SOLID,), 2, "EllipsoidalNormal",
         ELLIPSOID_PLAN, axes={"volume": None, "orientation": None}, proper=False, bounded=None,
         terms=_scipy_mvn),
    _row("factor_normal", factor_normal, (SOLID,), 2, "LowRankMultivariateNormal",
         {"weights": C, "loc": C, "noise": A, "loadings": A}, terms=_scipy_mvn),
    _row("factor_flat", factor_flat, (SOLID,), 2, "LowRankMultivariateNormal",
         {"weights": C, "loc": C, "noise": C, "loadings": C}, **FREE, terms=_scipy_mvn),
    _row("product_diagonal", product_diagonal, (X,), 2, "Normal", NIG_PLAN, terms=_scipy_product),
    _row("product_column_plate", product_column_plate, (X,), 2, "Normal",
         {"weights": C, "loc": C, "scale": C}, bounded=False, terms=_scipy_product),
    _row("product_spherical", product_spherical, (X,), 2, "Normal", NIG_PLAN,
         terms=_scipy_spherical),
    _row("product_tied_diagonal", product_tied_diagonal, (X,), 2, "Normal", NIG_PLAN,
         axes={"var": None}, terms=_scipy_product),
    _row("product_flat", product_flat, (X,), 2, "Normal", {"weights": C, "loc": C, "scale": C},
         **FREE, terms=_scipy_product),
    _row("poisson_gamma", poisson_gamma, (COUNTS,), 2, "Poisson", {"weights": C, "rate": C},
         terms=_scipy_poisson),
    _row("poisson_flat", poisson_flat, (COUNTS,), 2, "Poisson", {"weights": C, "rate": C},
         proper=False, bounded=None, terms=_scipy_poisson),
    _row("poisson_log_rate", poisson_log_rate, (COUNTS,), 2, "Poisson",
         {"weights": C, "log_rate": A}, terms=_scipy_poisson),
    _row("bernoulli_beta", bernoulli_beta, (BITS,), 2, "Bernoulli", {"weights": C, "probs": C},
         swap=False, terms=_scipy_bernoulli),
    _row("bernoulli_product", bernoulli_product, (ITEMS,), 2, "Bernoulli",
         {"weights": C, "probs": C}, terms=_scipy_items),
    _row("bernoulli_logits", bernoulli_logits, (ITEMS,), 2, "Bernoulli",
         {"weights": C, "logits": A}, terms=_scipy_items),
    _row("exponential_gamma", exponential_gamma, (TIMES,), 2, "Exponential",
         {"weights": C, "rate": C}, terms=_scipy_exponential),
    _row("student_t", student_t, (Y,), 2, "StudentT", {"weights": C, "loc": C, "scale": A},
         terms=_scipy_student),
    _row("student_tails", student_tails, (Y,), 2, "StudentT", NIG_PLAN | {"df": C},
         terms=_scipy_tails),
    _row("student_matrix", student_matrix, (X,), 2, "MultivariateStudentT",
         {"weights": C, "loc": C, "cov": C, "df": C}, axes={"df": None},
         terms=_scipy_student_matrix),
    _row("student_columns", student_columns, (X,), 2, "StudentT",
         {"weights": C, "loc": A, "scale": A}, terms=_scipy_student_columns),
    _row("laplace_columns", laplace_columns, (X,), 2, "Laplace",
         {"weights": C, "loc": C, "scale": C}, terms=_scipy_laplace_columns),
    _row("leaning_laplace", leaning_laplace, (Y,), 2, "AsymmetricLaplace",
         {"weights": C, "loc": C, "scale": C, "lean": A}, terms=_scipy_leaning_laplace),
    _row("zero_inflated", zero_inflated, (ZEROS,), 2, "ZeroInflatedPoisson",
         {"weights": C, "gate": A, "rate": A}, terms=_scipy_zero_inflated),
    _row("zero_inflated_product", zero_inflated_product, (KINDS,), 2,
         "ZeroInflatedNegativeBinomial", {"weights": C, "gate": A, "size": A, "logits": A},
         terms=_scipy_zero_inflated_product),
    _row("hurdle_poisson", hurdle_poisson, (ZEROS,), 2, "HurdlePoisson",
         {"weights": C, "gate": C, "rate": A}, terms=_scipy_hurdle),
    _row("hurdle_product", hurdle_product, (KINDS,), 2, "HurdleNegativeBinomial2",
         {"weights": C, "gate": C, "mean": A, "concentration": A},
         axes={"gate": None}),  # JAX's betaln is right to 1e-7 only
    _row("hurdle_gamma", hurdle_gamma, (BURSTS,), 2, "HurdleGamma",
         {"weights": C, "gate": C, "shape": A, "rate": A}, axes={"gate": None},
         terms=_scipy_hurdle_gamma),
    _row("zeros_and_poisson", zeros_and_poisson, (ZEROS,), 2, "", {"weights": C, "rate": A},
         axes={"rate": None}, swap=False, terms=_scipy_zeros),
    _row("skew_components", skew_components, (Y,), 2, "SkewNormal",
         {"weights": C, "loc": A, "scale": A, "alpha": A}, terms=_scipy_skew),
    _row("gamma_components", gamma_components, (SKEWED,), 2, "Gamma",
         {"weights": C, "shape": A, "rate": A}, terms=_scipy_gamma),
    _row("log_normal_components", log_normal_components, (SKEWED,), 2, "LogNormal",
         {"weights": C, "loc": C, "scale": A}, terms=_scipy_log_normal),
    _row("log_normal_product", log_normal_product, (SIZES,), 2, "LogNormal", NIG_PLAN,
         terms=_scipy_log_normal_product),
    _row("gamma_known_shape", gamma_known_shape, (SKEWED,), 2, "Gamma",
         {"weights": C, "rate": C}, swap=False, terms=_scipy_gamma_known_shape),
    _row("inverse_gamma_product", inverse_gamma_product, (SIZES,), 2, "InverseGamma",
         {"weights": C, "shape": A, "rate": A}, terms=_scipy_inverse_gamma_product),
    _row("weibull", weibull, (SKEWED,), 2, "Weibull", {"weights": C, "scale": A, "shape": A},
         terms=_scipy_weibull),
    _row("beta_components", beta_components, (SHARES,), 2, "Beta",
         {"weights": C, "a": A, "b": A}, terms=_scipy_beta),
    _row("beta_proportions", beta_proportions, (SHARES,), 2, "BetaProportion",
         {"weights": C, "mean": A, "total": A}, terms=_scipy_beta),
    _row("dirichlet_components", dirichlet_components, (TRIPLES,), 2, "Dirichlet",
         {"weights": C, "alpha": A}, terms=_scipy_dirichlet),
    _row("geometric_beta", geometric_beta, (COUNTS,), 2, "Geometric",
         {"weights": C, "probs": C}, terms=_scipy_geometric),
    _row("geometric_logits", geometric_logits, (KINDS,), 2, "Geometric",
         {"weights": C, "logits": A}, terms=_scipy_geometric),
    _row("von_mises", von_mises, (ANGLES,), 2, "VonMises", {"weights": C, "loc": C, "kappa": A},
         terms=_scipy_von_mises),
    _row("von_mises_product", von_mises_product, (BEARINGS,), 2, "VonMises",
         {"weights": C, "loc": C, "kappa": A}, terms=_scipy_von_mises_product),
    _row("negative_binomial", negative_binomial, (COUNTS,), 2, "NegativeBinomial2",
         {"weights": C, "mean": A, "concentration": A}),  # JAX's betaln is right to 1e-7 only
    _row("negative_binomial_logits", negative_binomial_logits, (KINDS,), 2, "NegativeBinomial",
         {"weights": C, "size": A, "logits": A}, axes={"size": None}),
    _row("regression", regression, (COVARIATE, RESPONSE), 2, "Normal",
         {"weights": C, "beta": C, "sigma": A}, data=1),
    _row("poisson_regression", poisson_regression, (COVARIATE, EVENTS, EXPOSURE), 2, "Poisson",
         {"weights": C, "beta": A}, data=1, terms=_scipy_poisson_regression),
    _row("gated_regression", gated_regression, (COVARIATE, RESPONSE), 2, "Normal",
         {"gate": A, "beta": A, "var": A}, data=1, terms=_scipy_gated_regression),
    _row("two_named_normals", two_named_normals, (Y,), 2, "Normal",
         {"weights": C, "loc0": ANY, "loc1": ANY, "var0": ANY, "var1": ANY},
         axes={"loc0": None, "loc1": None, "var0": None, "var1": None}, swap=False,
         terms=_scipy_named),
    _row("normal_and_cauchy", normal_and_cauchy, (Y,), 2, "",
         {"weights": C, "loc": ANY, "scale": ANY}, axes={"loc": None, "scale": None}, swap=False,
         terms=_scipy_cauchy),
    _row("normal_and_uniform", normal_and_uniform, (Y,), 2, "",
         {"weights": C, "loc": ANY, "scale": ANY}, axes={"loc": None, "scale": None}, swap=False,
         terms=_scipy_uniform),
    _row("explicit_normal", explicit_normal, (Y,), 2, "Normal", NIG_PLAN, z="z",
         terms=_scipy_normal),
    _row("explicit_nig_matrix", explicit_nig_matrix, (X,), 2, "MultivariateNormal",
         {"weights": C, "cov": C, "loc": C}, z="z", terms=_scipy_mvn),
    _row("explicit_mixed", explicit_mixed, (Y, VISITS, ANSWERS), 2, "Poisson",
         NIG_PLAN | {"rate": C, "probs": C}, z="z", observed=("x", "visits", "answers"),
         data=(0, 1, 2), terms=_scipy_mixed),
    _row("explicit_where", explicit_where, (Y,), 2, "Normal",
         {"weights": C, "low": A, "gap": A}, axes={"low": None, "gap": None}, swap=False, z="z",
         terms=_scipy_where),
    _row("explicit_regression", explicit_regression, (COVARIATE, RESPONSE), 2, "Normal",
         {"weights": C, "beta": C, "sigma": A}, data=1, z="z", terms=_scipy_regression),
    _row("explicit_groups", explicit_groups, (PANEL,), 2, "Normal", NIG_PLAN, z="z",
         terms=_scipy_groups),
    _row("explicit_labelled", explicit_labelled, (Y, VISITS, LABELS), 2, "Poisson",
         {"weights": C, "loc": C, "rate": C}, swap=False, z="z", observed=("x", "visits"),
         data=(0, 1), terms=_scipy_labelled),
    _row("explicit_scaled", explicit_scaled, (Y, WEIGHTS), 2, "Normal", NIG_PLAN, z="z"),
    _row("explicit_gated", explicit_gated, (COVARIATE, RESPONSE), 2, "Normal",
         {"slope": A, "loc": A}, axes={"slope": None}, swap=False, data=1, z="z",
         terms=_scipy_gated),
    _row("explicit_binomial", explicit_binomial, (DEATHS, TREATED), 2, "Binomial",
         {"weights": C, "probs": C}, z="z", terms=_scipy_binomial),
    _row("vector_binomial_logits", vector_binomial_logits, (DEATHS, TREATED), 2, "Binomial",
         {"weights": C, "logits": A}, terms=_scipy_binomial),
    _row("vector_multinomial", vector_multinomial, (KINDS, KINDS.sum(1)), 2, "Multinomial",
         {"weights": C, "probs": C}, terms=_scipy_multinomial),
    _row("explicit_multinomial_logits", explicit_multinomial_logits, (KINDS, KINDS.sum(1)), 2,
         "Multinomial", {"weights": C, "logits": A}, z="z", terms=_scipy_multinomial),
    _row("mvn_missing", mvn_missing, (X_GAPS,), 2, "MultivariateNormal",
         {"weights": C, "cov": C, "loc": C}, terms=_scipy_mvn_missing),
    _row("product_missing", product_missing, (X_GAPS,), 2, "Normal", NIG_PLAN,
         terms=_scipy_product_missing),
    _row("bernoulli_missing", bernoulli_missing, (ITEMS_GAPS,), 2, "Bernoulli",
         {"weights": C, "probs": C}, terms=_scipy_items_missing),
    _row("explicit_missing", explicit_missing,
         (PAIR_GAPS, VISITS_GAPS, ANSWERS_GAPS, LABELS_GAPS), 2, "MultivariateNormal",
         {"weights": C, "cov": C, "loc": C, "rate": C, "probs": C}, swap=False, z="z",
         observed=("pair", "visits", "answers"), data=(0, 1, 2), terms=_scipy_explicit_missing),
    _row("vector_latent_classes", vector_latent_classes, (ANSWERS,), 2, "Categorical",
         {"weights": C, "probs": C}, terms=_scipy_latent_classes),
]  # fmt: skip

BY_ID = {row.id: row for row in PROGRAMS}
assert len(BY_ID) == len(PROGRAMS)
