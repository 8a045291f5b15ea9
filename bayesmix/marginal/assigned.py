"""The distribution of an observed site whose assignment is summed out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayesmix.groups import by_group, to_rows


class Assigned(dist.Distribution):
    """An observed site of an explicit mixture, its assignment summed out.

    log_weights : log p(z = k | what was observed before), (*rows, K).
    components : the site's distribution for every value of z, batch (K, *batch).
    rows : the axes of the batch, counted from the right, along which z varies; sums over the other
        axes of the batch are part of a row, and there ``log_prob`` has length 1.
    group : where rows are of groups that share an assignment, the group of each, (N,). Then
        log_weights, densities and responsibilities are by group, (G, K), and ``log_prob`` gives
        every row its share of its group's.
    powers, shares : what the log density of each row of a group counts within the group, (N,), and
        the part of the group's log density that the row is given; where the groups are rows and
        their own rows stand in plates inside, powers have the shape of the batch, and shares,
        (*rows,), are the part that each is given. None for 1 and for even shares.
    """

    pytree_data_fields = ("log_weights", "components", "group", "powers", "shares")
    pytree_aux_fields = ("rows",)

    def __init__(
        self,
        log_weights: jax.Array,
        components: dist.Distribution,
        rows: tuple[int, ...],
        batch_shape: tuple[int, ...],
        group: Any = None,
        powers: Any = None,
        shares: Any = None,
    ) -> None:
        self.log_weights, self.components, self.rows = log_weights, components, rows
        self.group, self.powers, self.shares = group, powers, shares
        super().__init__(batch_shape, components.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self.components.support

    @property
    def mixture_size(self) -> int:
        """The number of values of the assignment, K."""
        return self.log_weights.shape[-1]

    @property
    def spare(self) -> int:
        """Axes of the components between the values of z and the batch, all of length 1."""
        return len(self.components.batch_shape) - 1 - len(self.batch_shape)

    def densities(self, value: Any) -> jax.Array:
        """log f(value | k), (*rows, K), in nats; plates within a row, or groups, are summed."""
        log_prob = self.components.log_prob(value)
        shape = (self.mixture_size, *(1,) * self.spare, *self.batch_shape)
        log_prob = jnp.broadcast_to(log_prob, shape)
        if self.powers is not None and self.group is None:
            log_prob = jnp.where(self.powers > 0, self.powers * log_prob, 0.0)
        others = tuple(a for a in range(-log_prob.ndim + 1, 0) if a not in self.rows)
        by_row = jnp.moveaxis(log_prob.sum(others), 0, -1)
        if self.group is None:
            return by_row
        if self.powers is not None:
            powers = self.powers[:, None]
            by_row = jnp.where(powers > 0, powers * by_row, 0.0)
        return by_group(by_row, self.group, len(self.log_weights))

    def component_log_probs(self, value: Any) -> jax.Array:
        """log p(z = k | before) + log f(value | k), (*rows, K), in nats."""
        return self.log_weights + self.densities(value)

    def log_prob(self, value: Any) -> jax.Array:
        terms = self.component_log_probs(value)
        terms = jnp.where(jnp.isneginf(terms), -jnp.inf, terms)  # as in MixtureSameFamily
        shape = [n if axis in self.rows else 1 for axis, n in self._axes()]
        total = jax.nn.logsumexp(terms, -1)
        if self.group is None:
            return (total if self.shares is None else total * self.shares).reshape(shape)
        if self.shares is None:
            return to_rows(total, self.group).reshape(shape)
        return (total[self.group] * self.shares).reshape(shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        choose, draw = jax.random.split(key)
        values = self.components.sample(draw, sample_shape)
        shape = [n if axis in self.rows else 1 for axis, n in self._axes()]
        rows = [n for axis, n in self._axes() if axis in self.rows]
        lead = (*sample_shape, *(rows if self.group is None else self.log_weights.shape[:-1]))
        chosen = jax.random.categorical(choose, self.log_weights, shape=lead)
        if self.group is not None:
            chosen = chosen[..., self.group]
        index = chosen.reshape(
            *sample_shape, *(1,) * (self.spare + 1), *shape, *(1,) * self.event_dim
        )
        picked = jnp.take_along_axis(values, index, len(sample_shape))
        return picked.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def _axes(self) -> list[tuple[int, int]]:
        rank = len(self.batch_shape)
        return [(i - rank, n) for i, n in enumerate(self.batch_shape)]
