"""Data made ready for a Density: laid out for the sweep, summarised for the priors, kept.

Densities and prepared data are made once for each mixture and precision.
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.density.arithmetic import Density
from bayesmix.density.chunks import Chunks, in_chunks, padded_weights, taken
from bayesmix.density.data import Data, Ordered
from bayesmix.density.layout import (
    columns_of,
    kinked_sites,
    line_columns,
    merged_of,
    spread_out,
)
from bayesmix.effort import cells_of, compiled
from bayesmix.families.lines import Lines
from bayesmix.graph import evaluate
from bayesmix.merge import binned
from bayesmix.program import Mixture
from bayesmix.reader import x64
from bayesmix.rowwise import summarise
from bayesmix.sweep import (
    at_hand,
    merged_rows,
    rows_of,
    sharded,
    streamed_rows,
    total_base,
    total_squares,
)


def cached(mixture: Mixture, name: str, make: Any) -> Any:
    """Made once per mixture and precision, from values, even when called under a trace."""
    key = (name, x64())
    if key not in mixture.cache:
        _ = mixture.reading
        tracing = isinstance(jax.device_put(0.0), jax.core.Tracer)  # compiles nothing
        with jax.ensure_compile_time_eval() if tracing else nullcontext():
            mixture.cache[key] = make()
    return mixture.cache[key]


def density_of(mixture: Mixture) -> Density:
    """The mixture's Density in the ambient precision."""
    return cached(mixture, "density", lambda: Density(mixture))


def data_of(mixture: Mixture, dtype: str | None = None) -> Data:
    """The mixture's data, prepared for its Density, in the ambient precision.

    dtype : the precision of the pass over the rows, if it is to be lower than the ambient one.
    """
    dtype = dtype or jnp.result_type(float).name
    return cached(mixture, f"data {dtype}", lambda: prepare(density_of(mixture), mixture, dtype))


def data_at_hand(mixture: Mixture) -> Data:
    """The mixture's data in the precision in which they have been prepared already, if any."""
    known = (mixture.cache.get((f"data {dtype}", x64())) for dtype in ("float64", "float32"))
    return next((data for data in known if data is not None), None) or data_of(mixture)


def prepare(density: Density, mixture: Mixture, dtype: str) -> Data:
    """The data of a mixture whose Density is given; ``dtype`` is the precision of the sweep."""
    rows = None
    if isinstance(mixture.value, Blocks):
        return _prepare_blocks(density, mixture, mixture.value, dtype)
    if density.family:
        merged = merged_of(mixture)
        if merged is not None:
            rows = merged_rows(merged, density.family, density.K, dtype)
        else:
            mesh = mixture.arguments.mesh if spread_out(mixture) else None
            devices = 1 if mesh is None else mesh.size
            rows = rows_of(*columns_of(mixture), density.family, density.K, dtype, devices)
            rows = rows if mesh is None else sharded(rows, mesh)
    source = tuple(sorted(mixture.reading.data))
    arrays = [mixture.reading.data[number] for number in source]
    frame = line_columns(mixture)[1] if isinstance(density.family, Lines) else None
    if density.portion:
        weights = np.ones(mixture.rows) if mixture.weights is None else mixture.weights
        data = _prepare_chunks(density, source, arrays, jnp.asarray(weights, float))
        return data._replace(ordered=_ordered(mixture))
    rows = at_hand(rows)
    known, base, shared = _prepare(density, source, arrays, rows)
    if shared is not None:
        rows = rows._replace(shared=shared)
    own = None if density.family else _ordered(mixture)
    return Data(known, rows, base, jax.tree.map(jnp.asarray, frame), own)


def _ordered(mixture: Mixture, index: Any = slice(None)) -> dict[str, Ordered] | None:
    """Some of the rows of observed sites with kinks, each column in ascending order; or None."""
    found = {}
    for site in kinked_sites(mixture):
        columns = np.asarray(site.value, float).reshape(mixture.N, -1)[index].T
        order = np.argsort(columns, axis=1, kind="stable")
        values = jnp.asarray(np.take_along_axis(columns, order, 1), float)
        found[site.name] = Ordered(values, jnp.asarray(order, jnp.int32))
    return found or None


def _prepare_blocks(density: Density, mixture: Mixture, blocks: Blocks, dtype: str) -> Data:
    """The same for data that are never held: summaries and moments by passes over them."""
    if density.family is None:
        raise ValueError(
            f"site {mixture.name!r}: {mixture.family} components have no sweep of their own, "
            "so their rows cannot be given as Blocks"
        )
    data = dict(mixture.reading.data)
    source = next(number for number, array in data.items() if array is blocks)
    del data[source]
    known = summarise(density.piece.frontier, source, data, blocks)
    rows = streamed_rows(columns_of(mixture)[0], density.family, density.K, dtype, density.tied)
    return Data([jnp.asarray(value) for value in known], rows, jnp.asarray(rows.base, float))


@compiled(lambda density, source, arrays, rows: cells_of(arrays), static=(0, 1))
def _prepare(density: Density, source: tuple[int, ...], arrays: list[Any], rows: Any) -> Any:
    """Everything that depends on the data alone, in one compiled call: what the program's
    arithmetic needs, and the totals of the rows.
    """
    known = evaluate(density.piece.frontier, dict(zip(source, arrays, strict=True)))
    return known, *((jnp.zeros(()), None) if density.family is None else _totals(density, rows))


@partial(jax.jit, static_argnums=(0, 1))
def _prepare_chunks(
    density: Density, source: tuple[int, ...], arrays: list[Any], weights: Any
) -> Data:
    """The same for the general sweep in chunks, with row weights."""
    portion, count = density.portion, len(density.piece.frontier)
    assert portion is not None
    nodes = [*density.piece.frontier, *(leaf.whole for leaf in portion.rows)]
    values = evaluate(nodes, dict(zip(source, arrays, strict=True)))
    rows = [
        in_chunks(value, axis, portion.size)
        for axis, value in zip(portion.axes, values[count:], strict=True)
    ]
    return Data(values[:count], Chunks(rows, padded_weights(weights, portion.size)), jnp.zeros(()))


def on_rows(density: Density, known: list[Any], rows: Any) -> Data:
    """The data of a sweep: what the rows alone decide is added up once."""
    rows = at_hand(rows)
    base, shared = _totals(density, rows)
    return Data(known, rows if shared is None else rows._replace(shared=shared), base)


@partial(jax.jit, static_argnums=0)
def _totals(density: Density, rows: Any) -> Any:
    """The base, and of tied spreads the squares, or None."""
    assert density.family is not None
    base = total_base(density.family, rows)
    return base, total_squares(density.family, rows) if density.tied else None


def sample_of(
    mixture: Mixture, data: Data, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, Data, bool]:
    """At most ``most`` of the rows, (n, D), the data of these alone, and whether they are all.

    Merged rows count once. Weights are raised to the weight of all; priors stay as the whole data
    made them. The general sweep keeps all rows where they do not come in chunks.
    """
    density, merged = density_of(mixture), merged_of(mixture)
    x, weights = columns_of(mixture) if merged is None else (merged.x, merged.weights)
    if density.family is None and (density.portion is None or len(mixture.rows) > 1):
        return np.asarray(x, np.float64), data, True
    if len(x) <= most:
        if merged is not None:
            data = data._replace(rows=data.rows._replace(place=None, counts=None))
        return np.asarray(x, np.float64), data, True
    counted = np.arange(len(x)) if weights is None else np.flatnonzero(weights > 0)
    index = np.sort(rng.choice(counted, min(most, len(counted)), replace=False))
    some = np.asarray(x[index], np.float64).reshape(len(index), -1)
    raised = np.ones(len(index)) if weights is None else weights[index]
    total = len(x) if weights is None else weights.sum()
    raised = raised * (total / raised.sum())
    if density.portion:
        chunks = taken(data.rows, index, raised, density.portion.size)
        return some, data._replace(rows=chunks, ordered=_ordered(mixture, index)), False
    assert density.family is not None
    rows = rows_of(some, raised, density.family, mixture.K, data.rows.z.dtype.name)
    return some, on_rows(density, data.known, rows)._replace(frame=data.frame), False


def binned_of(mixture: Mixture, data: Data, bins: int) -> tuple[np.ndarray, Data]:
    """Univariate rows in ``bins`` cells: their points (2 bins, 1), and the data of these alone.

    Priors stay as the whole data made them. What a cell hides is how the log density bends within
    it beyond a cubic.
    """
    density = density_of(mixture)
    assert density.family is not None
    x, weights = columns_of(mixture)
    seen = ~np.isnan(x[:, 0])
    points, weight = binned(x[seen, 0], None if weights is None else weights[seen], bins)
    cells = points[:, None]
    rows = rows_of(cells, weight, density.family, mixture.K, data.rows.z.dtype.name)
    return cells, on_rows(density, data.known, rows)


def check_bins(mixture: Mixture) -> None:
    """Refuse bins for data that have no cells: several columns, counts, blocks."""
    family, found = density_of(mixture).family, None
    if isinstance(mixture.value, Blocks):
        found = "data given as Blocks"
    elif family is None or family.location_scale is not True:
        found = f"{mixture.family} components"
    elif (columns := columns_of(mixture)[0].shape[1]) != 1:
        found = f"{columns} columns"
    if found:
        raise ValueError(
            f"site {mixture.name!r} has {found}: bins is for one column under Normal, StudentT, "
            "LogNormal or skew normal components, leave it out"
        )


def on_bins(mixture: Mixture, bins: int, dtype: str) -> Mixture:
    """The mixture with its rows in ``bins`` cells, in float64 and in ``dtype``.

    Its densities are those of the cells; its ``value`` stays the data themselves.
    """
    coarse = replace(mixture, cache={})
    for name in dict.fromkeys(["float64", dtype]):
        with jax.enable_x64(name == "float64"):
            coarse.cache[("density", x64())] = density_of(mixture)
            data = binned_of(mixture, data_of(mixture), bins)[1]
            coarse.cache[(f"data {name}", x64())] = data
    return coarse


def row_weights(mixture: Mixture) -> np.ndarray:
    """Row weights as the sweep holds them, padding rows 0; (*rows) where it takes all at once."""
    if density_of(mixture).family or density_of(mixture).portion:
        return np.asarray(data_of(mixture).rows.weights, np.float64)
    return np.ones(mixture.rows) if mixture.weights is None else np.asarray(mixture.weights)
