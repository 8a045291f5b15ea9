"""A mixture of components of one family whose support depends on their parameters.

NumPyro's ``MixtureSameFamily`` wants components with a fixed support, so it refuses Categorical,
Binomial, Multinomial, Uniform, BetaBinomial and truncated ones. ``VectorMixture`` takes them all
and is otherwise the same: components along the last batch axis, sums by vectorised arithmetic.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample


class VectorMixture(dist.Distribution):
    """sum_k w_k f(x | k): a NumPyro distribution for components of any one family.

    mixing : ``dist.Categorical`` with K categories.
    components : a distribution whose last batch axis is the K clusters, as in
        ``dist.MixtureSameFamily``; its support may depend on its parameters.

    Samples, ``log_prob``, ``mean`` and ``variance`` are those of the mixture. A value is inside
    the support if it is inside the support of any component, and has density 0 under the others.
    Works under jit, vmap, ``expand``, ``to_event`` and ``mask``, like every NumPyro distribution.

    Raises ValueError where ``mixing`` is not Categorical or the two disagree on K.
    """

    pytree_data_fields = ("_mixing", "_components")

    def __init__(
        self,
        mixing: dist.Distribution,
        components: dist.Distribution,
        *,
        validate_args: bool | None = None,
    ) -> None:
        K = _mixture_size(mixing)
        if not components.batch_shape or components.batch_shape[-1] != K:
            raise ValueError(
                f"the components have batch shape {components.batch_shape}, whose last axis must "
                f"be the {K} clusters of the mixing distribution"
            )
        self._mixing, self._components = mixing, components
        batch = jnp.broadcast_shapes(mixing.batch_shape, components.batch_shape[:-1])
        super().__init__(batch, components.event_shape, validate_args=validate_args)

    @property
    def mixing_distribution(self) -> dist.Distribution:
        """The Categorical distribution of the assignment."""
        return self._mixing

    @property
    def component_distribution(self) -> dist.Distribution:
        """The components, along the last batch axis."""
        return self._components

    @property
    def mixture_size(self) -> int:
        """The number of components, K."""
        return _mixture_size(self._mixing)

    @property
    def is_discrete(self) -> bool:
        return self._components.is_discrete

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return _AnyComponent(self._components.support)

    def component_log_probs(self, value: Any) -> jax.Array:
        """log w_k + log f(value | k), (*batch, K), in nats; -inf outside a component's support."""
        value = jnp.expand_dims(value, -self.event_dim - 1)
        support = self._components.support
        inside = support(value)
        shape = jnp.broadcast_shapes(jnp.shape(value), self._components.shape())
        legal = support.feasible_like(jnp.zeros(shape, jnp.result_type(value)))
        held = inside.reshape(*inside.shape, *(1,) * self.event_dim)
        value = jnp.where(held, value, legal)
        if self._components.is_discrete:
            value = value.astype(int)  # NumPyro's Categorical indexes by codes; some come as floats
        log_prob = self._components.log_prob(value)
        log_weights = jax.nn.log_softmax(self._mixing.logits)
        return log_weights + jnp.where(inside, log_prob, -jnp.inf)

    @validate_sample
    def log_prob(self, value: Any) -> jax.Array:
        terms = self.component_log_probs(value)
        # a value-preserving where keeps gradients out of impossible components
        return jax.nn.logsumexp(jnp.where(jnp.isneginf(terms), -jnp.inf, terms), -1)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        choose, draw = jax.random.split(key)
        lead = (*sample_shape, *self.batch_shape)
        chosen = self._mixing.expand(lead).sample(choose)
        values = self._components.expand((*lead, self.mixture_size)).sample(draw)
        index = chosen.reshape(*chosen.shape, *(1,) * (self.event_dim + 1))
        axis = -self.event_dim - 1
        return jnp.take_along_axis(values, index, axis).squeeze(axis)

    @property
    def mean(self) -> jax.Array:
        return self._average(self._components.mean)

    @property
    def variance(self) -> jax.Array:
        mean = self._components.mean
        return self._average(self._components.variance + mean**2) - self._average(mean) ** 2

    def _average(self, values: jax.Array) -> jax.Array:
        """Mean over clusters of (*batch, K, *event)."""
        probs = self._mixing.probs
        probs = probs.reshape(*probs.shape, *(1,) * self.event_dim)
        shape = (*self.batch_shape, *self.event_shape)
        return jnp.broadcast_to((probs * values).sum(-self.event_dim - 1), shape)


class _AnyComponent(constraints.Constraint):
    """Values that at least one component can take."""

    def __init__(self, components: Any) -> None:
        self.components = components
        self.is_discrete = components.is_discrete
        self.event_dim = components.event_dim

    def __call__(self, value: Any) -> jax.Array:
        return self.components(jnp.expand_dims(value, -self.event_dim - 1)).any(-1)

    def feasible_like(self, prototype: Any) -> jax.Array:
        raise NotImplementedError("a latent site cannot be a VectorMixture")

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.components,), (("components",), {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _AnyComponent) and self.components == other.components

    def __hash__(self) -> int:
        return hash((type(self), self.is_discrete, self.event_dim))


def _mixture_size(mixing: dist.Distribution) -> int:
    base = mixing
    while isinstance(base, dist.ExpandedDistribution):
        base = base.base_dist
    if not isinstance(base, dist.CategoricalProbs | dist.CategoricalLogits):
        raise ValueError(f"mixing must be dist.Categorical, not {type(mixing).__name__}")
    own = base.probs if isinstance(base, dist.CategoricalProbs) else base.logits
    return int(jnp.shape(own)[-1])
