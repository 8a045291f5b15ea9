"""Densities of many posterior draws at once, in blocks of bounded memory."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.density import (
    Data,
    Density,
    Piece,
    by_row,
    cached,
    columns_of,
    data_of,
    density_of,
    row_piece,
)
from bayesmix.density.chunks import weighted
from bayesmix.families import kernel
from bayesmix.program import Mixture, Params

RESPONSIBILITIES_LIMIT = 256e6
BLOCK = 2**22
AT_ONCE = 64


def evaluate_draws(mixture: Mixture, draws: Mapping[str, Any]) -> dict[str, Any]:
    """Densities of draws {site: (chain, draw, *shape)}, as NumPy arrays in float64.

    "log_joint" (chain, draw); "log_prior" {site: (chain, draw)}; "log_likelihood"
    (chain, draw, *rows), in nats; "responsibilities" (chain, draw, *rows, K), or None where they
    would take more than 256 MB; "mean_responsibilities" (*rows, K), averaged over the draws;
    "weights" (chain, draw, K), averaged over rows where they differ by row; "entropy"
    (chain, draw), the mean over rows of the entropy of the responsibilities, in nats.
    """
    lead = next(iter(draws.values())).shape[:2]
    total = lead[0] * lead[1]
    flat = {n: np.asarray(v, np.float64).reshape(total, *v.shape[2:]) for n, v in draws.items()}
    keep = total * mixture.N * mixture.K * 8 <= RESPONSIBILITIES_LIMIT
    block = max(1, min(total, BLOCK // (mixture.N * mixture.K)))
    parts, mean = [], np.zeros((mixture.N, mixture.K))
    with jax.enable_x64(True):
        density, data = density_of(mixture), data_of(mixture)
        piece, rows = _rowwise(mixture)
        weights = _weights_piece(mixture)
        for start in range(0, total, block):
            some = {name: value[start : start + block] for name, value in flat.items()}
            size = min(block, total - start)
            some = {n: np.concatenate([v, v[:1].repeat(block - size, 0)]) for n, v in some.items()}
            part = _many(density, piece, mixture.rows, weights[0], some, data, rows, weights[1])
            part = jax.tree.map(lambda value: np.asarray(value)[:size], part)  # noqa: B023
            mean += part["responsibilities"].sum(0) / total
            if not keep:
                part["responsibilities"] = None
            parts.append(part)
    stacked = jax.tree.map(lambda *values: np.concatenate(values), *parts)
    result = jax.tree.map(lambda value: value.reshape(*lead, *value.shape[1:]), stacked)
    for name, tail in (("log_likelihood", ()), ("responsibilities", (mixture.K,))):
        if result[name] is not None:
            result[name] = result[name].reshape(*lead, *mixture.rows, *tail)
    return result | {"mean_responsibilities": mean.reshape(*mixture.rows, mixture.K)}


def _weights_piece(mixture: Mixture) -> tuple[Piece, list[Any]]:
    def make() -> tuple[Piece, list[Any]]:
        piece = Piece(mixture.reading.log_weights, mixture.reading)
        return piece, piece.summarise(mixture.reading.data)

    return cached(mixture, "weights", make)


class Rowwise(NamedTuple):
    """What the rows' densities need of one mixture's data.

    known : for the program's own arithmetic. x : (N, D) values where the family has a sweep, else
    None. weights : (N,) of the rows, or None.
    """

    known: list[Any]
    x: Any
    weights: Any


def _rowwise(mixture: Mixture) -> tuple[Piece | None, Rowwise]:
    """The rows' densities, and what they need; neither where the sweep has rows in chunks."""
    if density_of(mixture).portion:
        return None, Rowwise([], None, None)
    piece, known = row_piece(mixture)
    x, weights = columns_of(mixture)
    whole = density_of(mixture).family is not None
    return piece, Rowwise(known, np.asarray(x, np.float64) if whole else None, weights)


def _by_row(
    density: Density, piece: Piece | None, shape: tuple[int, ...], data: Data, rows: Rowwise
) -> Any:
    """Function of params: weighted log density (N,) and responsibilities (N, K) of the rows.

    By the sweep's one matrix product where the family has one; by the components' own densities
    where that would cancel; in chunks where the general sweep has these. ``shape``: of the rows.
    """

    def by_chunks(params: Params) -> tuple[jax.Array, jax.Array]:
        pointwise, resp = density.by_portion(params, data)
        return pointwise[: shape[0]].reshape(-1), resp[: shape[0]].reshape(-1, density.K)

    if piece is None:
        return by_chunks

    def by_components(params: Params) -> tuple[jax.Array, jax.Array]:
        pointwise, resp = by_row(piece, params, rows.known)
        return pointwise.reshape(-1), resp.reshape(-1, density.K)

    family = density.family
    if family is None:
        return by_components
    by_sweep = (
        partial(density.by_pattern, data=data)
        if density.patterned
        else _by_sweep(density, data, rows)
    )

    def by_either(params: Params) -> tuple[jax.Array, jax.Array]:
        return jax.lax.cond(density.cancels(params, data), by_components, by_sweep, params)

    return by_either if density.may_cancel else by_sweep


def _by_sweep(density: Density, data: Data, rows: Rowwise) -> Any:
    """The same function, by the sweep's one matrix product."""
    family = density.family
    assert family is not None
    z = ((rows.x - data.rows.shift) / data.rows.scale).T
    base = family.base(rows.x.T) - jnp.log(data.rows.scale) @ ~jnp.isnan(z)

    def by_sweep(params: Params) -> tuple[jax.Array, jax.Array]:
        eta, offset = density.natural(params, data)
        full = jnp.concatenate([offset[:, None], eta], axis=1)
        score = kernel(family).scores(full, z)[0].T
        total = jax.nn.logsumexp(score, -1)
        return weighted(base + total, rows.weights), jnp.exp(score - total[:, None])

    return by_sweep


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _many(
    density: Density,
    piece: Piece | None,
    shape: tuple[int, ...],
    weights: Piece,
    draws: Params,
    data: Data,
    rows: Rowwise,
    weights_known: list[Any],
) -> dict[str, Any]:
    of_rows = _by_row(density, piece, shape, data, rows)

    def one(params: Params) -> dict[str, Any]:
        terms = density.terms(params, data)
        pointwise, resp = of_rows(params)
        shares = jnp.exp(weights(weights.nodes, params, weights_known))
        entropy = -jnp.sum(jax.scipy.special.xlogy(resp, resp), -1)
        return {
            "log_joint": sum(terms.values(), pointwise.sum()),
            "log_prior": terms,
            "log_likelihood": pointwise,
            "responsibilities": resp,
            "weights": shares.reshape(-1, density.K).mean(0),
            "entropy": entropy.mean(),
        }

    return jax.lax.map(one, draws)


def draw_responsibilities(mixture: Mixture, draws: dict[str, Any]) -> np.ndarray:
    """Responsibilities alone of draws {site: (S, *shape)}, (S, N, K), in float64.

    The caller keeps S small enough. Draws are taken 64 at a time, so that any S runs the same
    compiled function.
    """
    total = len(next(iter(draws.values())))
    found = np.empty((total, mixture.N, mixture.K))
    with jax.enable_x64(True):
        density, data = density_of(mixture), data_of(mixture)
        piece, rows = _rowwise(mixture)
        for start in range(0, total, AT_ONCE):
            few = np.arange(start, start + AT_ONCE) % total
            some = {name: np.asarray(value, np.float64)[few] for name, value in draws.items()}
            resp = np.asarray(_responsibilities(density, piece, mixture.rows, some, data, rows))
            found[start : start + AT_ONCE] = resp[: total - start]
    return found


@partial(jax.jit, static_argnums=(0, 1, 2))
def _responsibilities(
    density: Density,
    piece: Piece | None,
    shape: tuple[int, ...],
    draws: Params,
    data: Data,
    rows: Rowwise,
) -> jax.Array:
    of_rows = _by_row(density, piece, shape, data, rows)
    return jax.lax.map(lambda params: of_rows(params)[1], draws)


def systematic(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` draws, each in proportion to its weight to within one."""
    total = np.cumsum(weights)
    positions = (rng.random() + np.arange(count)) / count * total[-1]
    return np.minimum(np.searchsorted(total, positions), weights.size - 1)
