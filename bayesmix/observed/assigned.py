"""The arrays of the observed sites that share an assignment."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayesmix.marginal import IMPOSSIBLE, SumOut, partial_labels
from bayesmix.observed.arrays import (
    as_data,
    check_shapes,
    for_each_cell,
    mixing_values,
    row_dims,
    row_scale,
)
from bayesmix.observed.found import Found, Part
from bayesmix.parameters import GIVEN, own_parameters, peel, unwrap


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
    found.row_dims = row_dims(z["cond_indep_stack"], axes)
    terms = sum((member.density for member in members), log_weights)
    if labels is not None:
        terms = terms + _ruled_out(labels, K)
    leaves = [member.leaves for member in members]
    plain = len(members) == 1 and labels is None
    own = [p.site for p in found.parts if summed.used[p.name].powers is None]
    sites = [z] if summed.group is not None else [z, *own]
    return {
        "values": tuple(member.value for member in members),
        "givens": tuple(member.given for member in members),
        "scales": [row_scale(site, masks, rows, axes) for site in sites],
        "powers": tuple(each.powers for each in summed.used.values()),
        "labels": labels,
        "group": summed.group,
        "weights": _by_row(mixing_values(mixing), axes),
        "log_weights": log_weights,
        "leaves": (leaves[0] if plain else _named(leaves, list(summed.used)),),
        "components": jnp.broadcast_to(terms, (*rows, K)),
    }


def _ruled_out(labels: jax.Array, K: int) -> jax.Array:
    """0 for the clusters that a row's label allows, all of them for -1; a huge loss for others."""
    other = (labels >= 0)[..., None] & (labels[..., None] != jnp.arange(K))
    return jnp.where(other, IMPOSSIBLE, 0.0)


def _named(leaves: Sequence[dict[str, Any]], sites: Sequence[str]) -> dict[str, Any]:
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
    check_shapes(name, site, fn.event_dim)
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
        leaf: for_each_cell(full.pop(leaf)[0][0], base, (*own, *event))
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


def _by_row(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Numbers of a mixing distribution, (*batch, K), without the axes that are not rows."""
    shared = [axis - 1 for axis in range(-values.ndim + 1, 0) if axis not in axes]
    return values.squeeze(shared)
