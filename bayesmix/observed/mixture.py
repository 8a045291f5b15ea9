"""The arrays of one observed site that has a mixture distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bayesmix.missing import declared, holes_in, observed_components
from bayesmix.observed.arrays import (
    as_data,
    check_shapes,
    for_each_cell,
    mixing_values,
    row_dims,
    row_scale,
)
from bayesmix.observed.found import Found, Part
from bayesmix.parameters import GIVEN, own_parameters, parameters, peel, unwrap


def mixture_arrays(name: str, site: dict[str, Any], found: Found) -> dict[str, Any]:
    """The arrays of one observed site that has a mixture distribution."""
    mixture, masks = unwrap(site["fn"])
    value = as_data(site["value"])
    check_shapes(name, site, mixture.event_dim)
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
    found.row_dims = row_dims(site["cond_indep_stack"], range(-len(rows), 0))
    return {
        "values": (value,),
        "givens": (given,),
        "scales": [row_scale(site, masks, rows)],
        "powers": (None,),
        "labels": None,
        "group": None,
        "weights": mixing_values(mixture.mixing_distribution),
        "log_weights": log_weights,
        "leaves": tuple(leaves),
        "components": (
            observed_components(mixture, value)
            if declared(site) and (found.holes or holes_in(site["value"]))
            else mixture.component_log_probs(value)
        ),
    }


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
    given = {n: for_each_cell(full.pop(n).squeeze(rank - 1), base, cells) for n in names}
    rows = tuple(range(rank - 1))
    if any(value.shape[axis] != 1 for value in full.values() for axis in rows):
        return parameters(component), {}, rank
    target = (component.batch_shape[-1], *component.event_shape[:inside])
    leaves = {
        n: jnp.broadcast_to(v.squeeze(rows), target + v.shape[v.ndim - tails[n] :])
        for n, v in full.items()
    }
    return leaves, given, 1
