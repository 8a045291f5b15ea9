"""Expected values of new rows with the names of a tree: chains, draws, rows, clusters, columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.expected import expected_draws
from bayesmix.posterior.layout import SAMPLE, layout_of, row_labels
from bayesmix.predict import new_arguments

if TYPE_CHECKING:
    import xarray


def expected_dataset(
    mixture: Any, draws: Mapping[str, np.ndarray], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> xarray.Dataset:
    """E[x_n], E[x_n | k] and the weights of rows, at each of the draws {site: (chain, draw, ...)}.

    For each observed site ``y``: ``y`` (chain, draw, *rows, *event), ``y_by_cluster`` (chain, draw,
    *rows, cluster, *event), and ``weights`` (chain, draw, *rows, cluster), which do not know y (for
    the others give y to ``predict_proba``); with several sites ``y_weights``. A categorical site
    has the probabilities of its levels. EM has one chain and one draw.
    """
    import xarray

    lead = next(iter(draws.values())).shape[:2]
    flat = {name: v.reshape(-1, *v.shape[2:]) for name, v in draws.items()}
    found = expected_draws(mixture, flat, args, kwargs)
    layout = layout_of(mixture)
    several = len(mixture.observed) > 1
    variables: dict[str, Any] = {}
    for site, weights in found.weights.items():
        name = layout.names[site]
        rows = layout.data[name][: weights.ndim - 2]
        event = layout.data[name][len(rows) :]
        if found.mean[site].ndim > 1 + len(rows) + len(event):
            event = (*event, f"{name}_level")
        parts = {
            name: ((*rows, *event), found.mean[site]),
            f"{name}_by_cluster": ((*rows, layout.cluster, *event), found.by_cluster[site]),
            f"{name}_weights" if several else "weights": ((*rows, layout.cluster), weights),
        }
        variables |= {
            key: ((*SAMPLE, *dims), value.reshape(*lead, *value.shape[1:]))
            for key, (dims, value) in parts.items()
        }
    dataset = xarray.Dataset(variables)
    index = new_arguments(mixture, args, kwargs).index
    coords: dict[str, Any] = {}
    for dim, size in ((str(dim), size) for dim, size in dataset.sizes.items()):
        own = row_labels(index) if index is not None and dim in layout.rows else None
        known = own if dim in layout.rows else layout.coords.get(dim)
        coords[dim] = known if known is not None and len(known) == size else np.arange(size)
    return dataset.assign_coords(coords)
