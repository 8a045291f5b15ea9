"""Expected values of rows: E[x_n | k], the mean of each component, and their weighted sum E[x_n].

Both are read off the distributions that the program makes with the parameters put in: in a
regression they are the clusters' lines at the covariates of each row. What is observed is not
looked at, so that new rows need no response.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger

from bayesmix.arguments import Arguments
from bayesmix.marginal import is_assignment, row_axes
from bayesmix.parameters import peel
from bayesmix.predict import new_arguments, with_data
from bayesmix.program import Mixture, Params

CATEGORIES = (dist.CategoricalProbs, dist.CategoricalLogits)


class Expected(NamedTuple):
    """Of each observed site: ``mean`` (*rows, *event), ``by_cluster`` (*rows, K, *event), and
    ``weights`` (*rows, K). A categorical value counts as (0, ..., 1, ..., 0), so that its mean are
    its probabilities, along an axis more.
    """

    mean: dict[str, Any]
    by_cluster: dict[str, Any]
    weights: dict[str, Any]


def expected_draws(
    mixture: Mixture, draws: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Expected:
    """At each of the draws {site: (draw, *shape)}; a leading axis (draw,) on everything."""
    return _over(mixture, draws, args, kwargs, lambda one, held: jax.lax.map(one, held))


def expected_at(
    mixture: Mixture, arguments: Arguments, groups: Any, draws: Mapping[str, Any]
) -> Expected:
    """As ``expected_draws``, for arguments that are numbers already, and the rows' groups or None.

    They are not checked against those of the fit.
    """
    return _at(mixture, arguments, groups, draws, lambda one, held: jax.lax.map(one, held))


def expected_mean(
    mixture: Mixture, draws: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """E[x_n] averaged over the draws {site: (draw, *shape)}, (*rows, *event).

    {site: array} where several sites share an assignment. Rows of groups have the weights of their
    group. Raises ValueError where components have no mean.
    """

    def average(one: Any, held: Params) -> Any:
        first = jax.tree.map(lambda value: value[0], held)
        start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, first).mean)

        def add(total: Any, params: Params) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, one(params).mean), None

        return jax.lax.scan(add, start, held)[0]

    total = _over(mixture, draws, args, kwargs, average)
    count = len(next(iter(draws.values())))
    found = {name: value / count for name, value in total.items()}
    return found if len(found) > 1 else found[mixture.observed[0].name]


def _over(
    mixture: Mixture,
    draws: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    go: Any,
) -> Any:
    """What ``go`` makes of the function of params, and the draws; as NumPy arrays."""
    groups = _groups(mixture, args, kwargs)
    return _at(mixture, new_arguments(mixture, args, kwargs), groups, draws, go)


def _at(
    mixture: Mixture, arguments: Arguments, groups: Any, draws: Mapping[str, Any], go: Any
) -> Any:
    def one(params: Params) -> Expected:
        return _expected(mixture, arguments, groups, params)

    with jax.enable_x64(True):
        held = {name: jnp.asarray(np.asarray(value, float)) for name, value in draws.items()}
        return jax.tree.map(np.asarray, jax.jit(lambda held: go(one, held))(held))


def _groups(mixture: Mixture, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The group of each row, where rows are of groups that share an assignment; else None."""
    if mixture.observed[0].group is None:
        return None
    return with_data(mixture, args, kwargs).observed[0].group


def _expected(mixture: Mixture, arguments: Arguments, groups: Any, params: Params) -> Expected:
    if mixture.assignment is None:
        found = {mixture.name: _of_mixture(_run(mixture, arguments, params)[mixture.name])}
    else:
        found = _of_assigned(mixture, arguments, groups, params)
    mean = {}
    for name, (by_cluster, weights) in found.items():
        event = by_cluster.ndim - weights.ndim
        mean[name] = jnp.sum(
            weights.reshape(weights.shape + (1,) * event) * by_cluster, axis=weights.ndim - 1
        )
    means = {name: pair[0] for name, pair in found.items()}
    return Expected(mean, means, {name: pair[1] for name, pair in found.items()})


def _of_mixture(message: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """Means (*rows, K, *event) and weights (*rows, K) of a site with a mixture distribution."""
    shape, fn = message["fn"].shape(), peel(message["fn"])
    rows = shape[: len(shape) - fn.event_dim]
    weights = _probs(fn.mixing_distribution)
    if isinstance(fn, dist.MixtureGeneral):
        each = [_mean(message["name"], part) for part in fn.component_distributions]
        each = [jnp.broadcast_to(mean, (*rows, *fn.event_shape)) for mean in each]
        means, event = jnp.stack(each, len(rows)), fn.event_shape
    else:
        means = _mean(message["name"], fn.component_distribution)
        event = means.shape[len(fn.component_distribution.batch_shape) :]
    own = (*rows, weights.shape[-1])
    return jnp.broadcast_to(means, (*own, *event)), jnp.broadcast_to(weights, own)


def _of_assigned(
    mixture: Mixture, arguments: Arguments, groups: Any, params: Params
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The same of each site that uses an assignment: the program with all rows in each cluster."""
    runs = [_run(mixture, arguments, params, k) for k in range(mixture.K)]
    z = runs[0][str(mixture.assignment)]
    axes = row_axes(z)
    rows = tuple(z["fn"].batch_shape[axis] for axis in axes)
    probs = jnp.broadcast_to(_probs(z["fn"]), (*z["fn"].batch_shape, mixture.K))
    probs = jnp.moveaxis(probs, [axis - 1 for axis in axes], range(len(axes)))
    probs = probs.reshape(*rows, mixture.K)
    found = {}
    for site in mixture.observed:
        messages = [run[site.name] for run in runs]
        if groups is None:
            first, own = axes, probs
        else:
            first, own = (-len(messages[0]["fn"].batch_shape),), probs[groups]
        each = [_rows_first(site.name, message["fn"], first) for message in messages]
        found[site.name] = jnp.stack(each, own.ndim - 1), own
    return found


def _rows_first(name: str, fn: Any, axes: tuple[int, ...]) -> jax.Array:
    mean = _mean(name, fn)
    event = mean.ndim - len(fn.batch_shape)
    return jnp.moveaxis(mean, [axis - event for axis in axes], range(len(axes)))


def _mean(name: str, fn: Any) -> jax.Array:
    """The mean of a distribution, (*batch, *event); of categories their probabilities."""
    base = peel(fn)
    if isinstance(base, CATEGORIES):
        return jnp.broadcast_to(base.probs, (*fn.shape(), base.probs.shape[-1]))
    try:
        if isinstance(base, dist.VonMises):  # angles: what lies between 359 and 1 degree?
            raise NotImplementedError
        mean = fn.mean
    except (NotImplementedError, AttributeError):
        raise ValueError(
            f"site {name!r} has {type(base).__name__} components, which have no mean that could be "
            "averaged: use sample(key, n) and summarise the draws"
        ) from None
    return jnp.broadcast_to(mean, fn.shape())


def _probs(fn: Any) -> jax.Array:
    return jax.nn.softmax(peel(fn).logits)


def _run(
    mixture: Mixture, arguments: Arguments, params: Params, k: int = 0
) -> dict[str, dict[str, Any]]:
    """The program's messages at these params, with all rows in cluster k."""
    args, kwargs = arguments.rebuild(arguments.arrays)
    if not mixture.static_data:
        args, kwargs = jax.tree.map(
            lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, (args, kwargs)
        )
    put_in = _PutIn(mixture, k)
    with validation_enabled(is_validate=False), handlers.block(), put_in:
        handlers.substitute(mixture.program, data=params)(*args, **kwargs)
    return put_in.messages


class _PutIn(Messenger):
    """Puts every row into one cluster and a stand-in for what is not observed; keeps messages."""

    def __init__(self, mixture: Mixture, k: int) -> None:
        super().__init__()
        self.assignment, self.k = mixture.assignment, k
        self.names = {site.name for site in mixture.observed}
        self.messages: dict[str, dict[str, Any]] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "deterministic" and msg["name"] == self.assignment:
            msg["value"] = jnp.full(jnp.shape(msg["value"]), self.k)
        if msg["type"] != "sample":
            return
        if self.assignment is not None and msg["value"] is None and is_assignment(msg):
            msg["value"] = jnp.full(msg["fn"].shape(), self.k)
            self.messages[str(self.assignment)] = msg
        elif msg["name"] in self.names:
            self.messages[msg["name"]] = msg
            if msg["value"] is None:
                msg["value"] = jnp.zeros(msg["fn"].shape())
