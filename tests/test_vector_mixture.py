"""VectorMixture: NumPyro's ways with a distribution, for components that NumPyro refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pytest
from numpyro.infer import Predictive
from scipy.special import logsumexp

import bayesmix as bm
from bayesmix import VectorMixture

WEIGHTS = jnp.array([0.3, 0.7])
TABLE = jnp.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
LOW, HIGH = jnp.array([0.0, 1.0]), jnp.array([2.0, 5.0])
COMPONENTS = {
    "Categorical": dist.Categorical(TABLE),
    "CategoricalLogits": dist.Categorical(logits=jnp.log(TABLE)),
    "answers": dist.Categorical(jnp.stack([TABLE, TABLE[::-1]], 1)).to_event(1),
    "Binomial": dist.Binomial(5, jnp.array([0.2, 0.8])),
    "BetaBinomial": dist.BetaBinomial(jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0]), 5),
    "Multinomial": dist.Multinomial(4, TABLE),
    "Uniform": dist.Uniform(LOW, HIGH),
    "Truncated": dist.TruncatedNormal(LOW, 1.0, low=LOW - 1.0, high=3.0),
    "Normal": dist.Normal(LOW, 1.0),
}


@pytest.fixture(params=COMPONENTS)
def components(request):
    return COMPONENTS[request.param]


@pytest.fixture
def mixture(components):
    return VectorMixture(dist.Categorical(WEIGHTS), components)


def one_by_one(mixture, x):
    """log sum_k w_k f(x | k) with a value outside a component's support having density 0."""
    terms = []
    every = mixture.component_distribution
    for k in range(2):
        part = jax.tree.map(lambda leaf: leaf, every)
        log_prob = np.asarray(part.log_prob(np.expand_dims(x, -1 - every.event_dim)))[..., k]
        inside = np.asarray(part.support(np.expand_dims(x, -1 - every.event_dim)))
        inside = np.broadcast_to(inside, (*log_prob.shape, 2))[..., k]
        terms.append(np.where(inside, log_prob, -np.inf) + np.log(WEIGHTS[k]))
    return logsumexp(np.stack(terms, -1), -1)


def test_log_prob_sums_over_the_components(mixture):
    x = np.asarray(mixture.sample(jax.random.key(0), (50,)))
    np.testing.assert_allclose(mixture.log_prob(x), one_by_one(mixture, x), rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(mixture.support(x)))


def test_samples_follow_the_density(mixture):
    """The mean of a bounded test function, exp(log_prob) compared through sampling both ways."""
    n = 20_000
    x = np.asarray(mixture.sample(jax.random.key(1), (n,)), float)
    parts = np.asarray(mixture.component_distribution.sample(jax.random.key(2), (n,)), float)
    weights = np.asarray(WEIGHTS).reshape(2, *(1,) * mixture.event_dim)
    expected = (weights * parts).sum(1)
    error = np.hypot(x.std(0), expected.std(0)) / np.sqrt(n)
    assert np.all(abs(x.mean(0) - expected.mean(0)) <= oracles.Z * error)
    if np.all(np.isfinite(mixture.component_distribution.mean)):
        assert np.all(abs(x.mean(0) - mixture.mean) <= oracles.Z * error + 1e-5)
        fourth = ((x - x.mean(0)) ** 4).mean(0)
        spread = np.sqrt(fourth / n)
        assert np.all(abs(x.var(0) - mixture.variance) <= oracles.Z * spread + 1e-5)


def test_is_a_pytree(mixture):
    """jit and vmap over the distribution itself."""
    x = mixture.sample(jax.random.key(0), (3,))
    jitted = jax.jit(lambda d, v: d.log_prob(v))(mixture, x)
    np.testing.assert_allclose(jitted, mixture.log_prob(x), rtol=1e-5)
    weights = jnp.array([[0.3, 0.7], [0.5, 0.5]])
    many = jax.vmap(lambda w: VectorMixture(dist.Categorical(w), mixture.component_distribution))
    found = jax.vmap(lambda d: d.log_prob(x))(many(weights))
    np.testing.assert_allclose(found[0], mixture.log_prob(x), rtol=1e-5)
    leaves, tree = jax.tree.flatten(mixture)
    again = jax.tree.unflatten(tree, leaves)
    np.testing.assert_array_equal(again.log_prob(x), mixture.log_prob(x))


def test_expand_to_event_and_mask(mixture):
    wide = mixture.expand([4]).to_event(1)
    x = wide.sample(jax.random.key(0), (2,))
    assert x.shape == (2, 4, *mixture.event_shape)
    np.testing.assert_allclose(wide.log_prob(x), mixture.log_prob(x).sum(-1), rtol=1e-5)
    assert np.all(np.asarray(mixture.mask(False).log_prob(x)) == 0)


def test_in_a_program(mixture):
    def program(x=None):
        with numpyro.plate("rows", 5):
            numpyro.sample("x", mixture, obs=x)

    drawn = Predictive(program, num_samples=3)(jax.random.key(0))["x"]
    assert drawn.shape == (3, 5, *mixture.event_shape)
    with numpyro.validation_enabled():
        value = numpyro.infer.util.log_density(program, (drawn[0],), {}, {})[0]
    np.testing.assert_allclose(value, mixture.log_prob(drawn[0]).sum(), rtol=1e-5)


def test_gradients_are_finite_at_the_edge_of_a_component():
    """A value that one component cannot take: density 0 there, and no NaN in the gradient."""

    def value(high):
        parts = dist.Uniform(0.0, high)
        return VectorMixture(dist.Categorical(WEIGHTS), parts).log_prob(3.0)

    grad = np.asarray(jax.grad(value)(HIGH))
    np.testing.assert_allclose(grad, [0.0, -1 / 5.0], rtol=1e-6)


def test_refuses_in_words():
    with pytest.raises(ValueError, match=r"mixing must be dist\.Categorical, not Normal"):
        VectorMixture(dist.Normal(0.0, 1.0), COMPONENTS["Normal"])
    with pytest.raises(ValueError, match="2 clusters"):
        VectorMixture(dist.Categorical(WEIGHTS), dist.Normal(jnp.zeros(3), 1.0))
    with pytest.raises(ValueError, match="last axis"):
        VectorMixture(dist.Categorical(WEIGHTS), dist.Normal(0.0, 1.0))


def test_codes_may_come_as_floats():
    """As in a ready-made program that NumPyro compiles, where nobody knows that none is missing."""
    x = np.array([[0, 1], [2, 0], [1, 1], [0, 0], [2, 1]])
    mixture = bm.trace(bm.models.categorical(2), x)
    assert bm.certify(jax.random.key(0), mixture, points=1).passed
