"""The observed side of a mixture: values, row weights and component parameters, as arrays.

A mixture is written either as one site with a mixture distribution or as an assignment with
observed sites that use it. Both come out the same: parts (observed sites), each with its values by
row and its components' parameters by cluster.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayesmix.marginal import IMPOSSIBLE, SumOut, partial_labels
from bayesmix.missing import declared, holes_in, observed_components
from bayesmix.parameters import GIVEN, own_parameters, parameters, peel, unwrap


@dataclass(frozen=True)
class Part:
    """One observed site of a mixture.

    components : its distributions, one per family. event_dim : axes of one row's value, those of
    plates inside the row first. lead : the cluster axis of its parameters.
    """

    name: str
    site: dict[str, Any]
    components: tuple[Any, ...]
    event_dim: int
    lead: int


@dataclass
class Found:
    """Static facts noted while the program ran.

    ``assignment`` is the site that was summed out, or None; ``by_row`` says that weights, masks or
    a component's parameters differ by row, ``masked`` that a mask lies on components; ``row_dims``
    are the names of the rows' axes; ``holes`` says that some of the data are NaN.
    """

    latent: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    K: int = 0
    assignment: str | None = None
    by_row: bool = False
    masked: bool = False
    row_dims: tuple[str, ...] = ()
    holes: bool = False

    @property
    def general(self) -> bool:
        """Whether the clusters are of families of their own (MixtureGeneral)."""
        return len(self.parts[0].components) > 1


def mixture_arrays(name: str, site: dict[str, Any], found: Found) -> dict[str, Any]:
    """The arrays of one observed site that has a mixture distribution."""
    mixture, masks = unwrap(site["fn"])
    value = as_data(site["value"])
    _check_shapes(name, site, mixture.event_dim)
    rows = value.shape[: value.ndim - mixture.event_dim]
    general = isinstance(mixture, dist.MixtureGeneral)
    parts = mixture.component_distributions if general else [mixture.component_distribution]
    log_weights = jax.nn.log_softmax(mixture.mixing_distribution.logits)
    found.K = int(mixture.mixture_size)
    rank = len(parts[0].batch_shape)
    leaves = [parameters(part) for part in parts]
    given: dict[str, jax.Array] = {}
    if type(peel(parts[0])) in GIVEN and not general:
        leaves[0], given, rank = _without_given(parts[0], value.shape)
    found.parts = (Part(name, site, tuple(parts), mixture.event_dim, rank - 1),)
    found.by_row = rank != 1 or log_weights.ndim != 1
    found.masked = any(unwrap(part)[1] for part in parts)
    found.row_dims = _row_dims(site["cond_indep_stack"], range(-len(rows), 0))
    return {
        "values": [value],
        "givens": [given],
        "scales": [_row_scale(site, masks, rows)],
        "powers": (None,),
        "labels": None,
        "group": None,
        "weights": _mixing_values(mixture.mixing_distribution),
        "log_weights": log_weights,
        "leaves": leaves,
        "components": (
            observed_components(mixture, value)
            if declared(site) and (found.holes or holes_in(site["value"]))
            else mixture.component_log_probs(value)
        ),
    }


def assigned_arrays(samples: dict[str, Any], summed: SumOut, found: Found) -> dict[str, Any]:
    """The arrays of the observed sites that share an assignment, with it summed out.

    "scales" has the weight of the rows by each of the sites, which must be one and the same; rows
    of groups may have weights of their own within the group, their "powers".
    """
    z, axes = summed.site, summed.rows
    rows = tuple(z["fn"].batch_shape[axis] for axis in axes)
    mixing = peel(z["fn"])
    log_weights = _by_row(jax.nn.log_softmax(mixing.logits), axes)
    K = log_weights.shape[-1]
    masks = unwrap(z["fn"])[1]
    labels = None
    if summed.labels is not None:
        labels, known = partial_labels(summed.labels, z["fn"].batch_shape, axes)
        labels, masks = jnp.where(known, labels, -1), masks[:-1]
    if masks and not all(unwrap(samples[n]["fn"].components)[1] for n in summed.used):
        raise ValueError(
            f"handlers.mask covers {summed.name!r} but not every site that uses it: put them all "
            "inside the same handlers.mask"
        )
    members = [_member(name, samples[name], summed.used[name].rows) for name in summed.used]
    found.K, found.assignment = K, summed.name
    found.parts = tuple(member.part for member in members)
    found.masked = any(unwrap(samples[name]["fn"].components)[1] for name in summed.used)
    found.by_row = found.masked or log_weights.ndim > 1 or any(part.lead for part in found.parts)
    weighed = any(each.powers is not None for each in summed.used.values())
    found.by_row |= weighed or summed.group is not None
    found.row_dims = _row_dims(z["cond_indep_stack"], axes)
    terms = sum((member.density for member in members), log_weights)
    if labels is not None:
        terms = terms + ruled_out(labels, K)
    leaves = [member.leaves for member in members]
    plain = len(members) == 1 and labels is None
    own = [p.site for p in found.parts if summed.used[p.name].powers is None]
    sites = [z] if summed.group is not None else [z, *own]
    return {
        "values": [member.value for member in members],
        "givens": [member.given for member in members],
        "scales": [_row_scale(site, masks, rows, axes) for site in sites],
        "powers": tuple(each.powers for each in summed.used.values()),
        "labels": labels,
        "group": summed.group,
        "weights": _by_row(_mixing_values(mixing), axes),
        "log_weights": log_weights,
        "leaves": [leaves[0] if plain else named(leaves, list(summed.used))],
        "components": jnp.broadcast_to(terms, (*rows, K)),
    }


def ruled_out(labels: jax.Array, K: int) -> jax.Array:
    """0 for the clusters that a row's label allows, all of them for -1; a huge loss for others."""
    other = (labels >= 0)[..., None] & (labels[..., None] != jnp.arange(K))
    return jnp.where(other, IMPOSSIBLE, 0.0)


def named(leaves: Sequence[dict[str, Any]], sites: Sequence[str]) -> dict[str, Any]:
    """The parameters of several sites in one dict: ``loc[height]``, ``rate[visits]``."""
    return {
        f"{leaf}[{site}]": value
        for site, own in zip(sites, leaves, strict=True)
        for leaf, value in own.items()
    }


class _Member(NamedTuple):
    """One observed site: values and given parameters (*rows, ...), log densities (*rows, K)."""

    part: Part
    value: jax.Array
    given: dict[str, jax.Array]
    leaves: dict[str, jax.Array]
    density: jax.Array


def _member(name: str, site: dict[str, Any], axes: tuple[int, ...]) -> _Member:
    fn = site["fn"]
    value = as_data(site["value"])
    _check_shapes(name, site, fn.event_dim)
    lead = [axis - fn.event_dim for axis in axes]
    moved = jnp.moveaxis(value, lead, range(len(axes)))
    leaves, given, by_row = _leaves(fn, axes)
    given = {n: jnp.moveaxis(v, lead, range(len(axes))) for n, v in given.items()}
    part = Part(name, site, (fn.components,), moved.ndim - len(axes), len(axes) if by_row else 0)
    return _Member(part, moved, given, leaves, fn.densities(value))


def _leaves(
    fn: Any, axes: tuple[int, ...]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], bool]:
    """Parameters of an enumerated site, (K, *inner, *event); (*rows, K, ...) if they vary by row.

    Inner axes are those of plates within a row. Also the parameters that are data, in the shape of
    the data, and whether the others vary by row.
    """
    base = peel(fn.components)
    inside = fn.components.event_dim - base.event_dim
    rank, own = len(fn.batch_shape), tuple(fn.batch_shape)
    event = tuple(fn.event_shape[:inside])
    full = {}
    for leaf, (value, tail) in own_parameters(base).items():
        shape = (1,) * (1 + fn.spare + rank + inside + tail - value.ndim) + value.shape
        full[leaf] = value.reshape(shape[0], *shape[1 + fn.spare :]), tail
    given = {
        leaf: _for_each_cell(full.pop(leaf)[0][0], base, (*own, *event))
        for leaf in GIVEN.get(type(base), ())
        if full[leaf][0].shape[0] == 1
    }
    rows = [1 + rank + axis for axis in axes]
    by_row = any(v.shape[i] != 1 and own[i - 1] != 1 for v, _ in full.values() for i in rows)
    target = tuple(n if by_row or i + 1 not in rows else 1 for i, n in enumerate(own))
    leaves = {}
    for leaf, (value, tail) in full.items():
        shape = (fn.mixture_size, *target, *event, *value.shape[value.ndim - tail :])
        value = jnp.broadcast_to(value, shape)
        if by_row:
            leaves[leaf] = jnp.moveaxis(value, [*rows, 0], range(len(rows) + 1))
        else:
            leaves[leaf] = value.squeeze(rows)
    return leaves, given, by_row


def _without_given(
    component: Any, shape: tuple[int, ...]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], int]:
    """Parameters of components along the last batch axis; those that are data, in their shape.

    Also the number of batch axes of the others: 1 where only the given ones vary by row.
    """
    base = peel(component)
    rank, inside = len(component.batch_shape), component.event_dim - base.event_dim
    full, tails = {}, {}
    for leaf, (value, tail) in own_parameters(base).items():
        units = (1,) * (rank + inside + tail - value.ndim)
        full[leaf], tails[leaf] = value.reshape(units + value.shape), tail
    names = [leaf for leaf in GIVEN[type(base)] if full[leaf].shape[rank - 1] == 1]
    cells = shape[: len(shape) - base.event_dim]
    given = {n: _for_each_cell(full.pop(n).squeeze(rank - 1), base, cells) for n in names}
    rows = tuple(range(rank - 1))
    if any(value.shape[axis] != 1 for value in full.values() for axis in rows):
        return parameters(component), {}, rank
    target = (component.batch_shape[-1], *component.event_shape[:inside])
    leaves = {
        n: jnp.broadcast_to(v.squeeze(rows), target + v.shape[v.ndim - tails[n] :])
        for n, v in full.items()
    }
    return leaves, given, 1


def _for_each_cell(value: jax.Array, base: Any, cells: tuple[int, ...]) -> jax.Array:
    """A given parameter in the shape of the data: cells, then the event of one component."""
    event = tuple(base.event_shape)
    return jnp.broadcast_to(value.reshape(value.shape + (1,) * len(event)), cells + event)


def _by_row(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Numbers of a mixing distribution, (*batch, K), without the axes that are not rows."""
    shared = [axis - 1 for axis in range(-values.ndim + 1, 0) if axis not in axes]
    return values.squeeze(shared)


def as_data(value: Any) -> jax.Array:
    """Observed values in the ambient precision, also those the program closed over."""
    if isinstance(value, np.ndarray):
        value = value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
    return jnp.asarray(value)


def _check_shapes(name: str, site: dict[str, Any], event_dim: int) -> None:
    expected, value = tuple(site["fn"].shape()), jnp.shape(site["value"])
    if value != expected:
        raise ValueError(
            f"site {name!r} describes data of shape {expected} (rows, then columns) but its data "
            f"have shape {value}: check the plate's size and the number of columns"
        )
    if len(value) == event_dim:
        raise ValueError(
            f"site {name!r} has one observation and no rows: put it into numpyro.plate("
            "'obs_id', len(x))"
        )


def _row_dims(frames: Sequence[Any], axes: Sequence[int]) -> tuple[str, ...]:
    plates = {frame.dim: frame.name for frame in frames}
    spare = ["obs_id"] if len(axes) == 1 else [f"obs_id_{i}" for i in range(len(axes))]
    return tuple(plates.get(axis, name) for axis, name in zip(axes, spare, strict=True))


def _row_scale(
    site: dict[str, Any],
    masks: list[Any],
    rows: tuple[int, ...],
    axes: Sequence[int] | None = None,
) -> Any:
    """Weight of each row: handlers.scale times the masks, or None when all are one."""
    factors = [] if site["scale"] is None else [jnp.asarray(site["scale"], float)]
    factors += [jnp.asarray(mask, float) for mask in masks if mask is not True]
    if not factors:
        return None
    total = reduce(operator.mul, factors)
    if axes is None:
        return jnp.broadcast_to(total, rows)
    shared = [a for a in range(-total.ndim, 0) if a not in axes and total.shape[a] == 1]
    return jnp.broadcast_to(total.squeeze(shared), rows)


def _mixing_values(mixing: Any) -> Any:
    """The mixing distribution's own parameter: probabilities if it has them, else logits."""
    return mixing.probs if "probs" in vars(mixing) else mixing.logits
