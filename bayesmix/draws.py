"""Densities of many posterior draws at once, in blocks of bounded memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.density import (
    Data,
    Density,
    Piece,
    by_row,
    cached,
    data_of,
    density_of,
    row_piece,
)
from bayesmix.program import Mixture, Params

RESPONSIBILITIES_LIMIT = 256e6
BLOCK = 2**22
AT_ONCE = 64


def evaluate_draws(mixture: Mixture, draws: dict[str, Any]) -> dict[str, Any]:
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
    parts, mean = [], np.zeros((*mixture.rows, mixture.K))
    with jax.enable_x64(True):
        density, data = density_of(mixture), data_of(mixture)
        piece, known = row_piece(mixture)
        weights = _weights_piece(mixture)
        for start in range(0, total, block):
            some = {name: value[start : start + block] for name, value in flat.items()}
            size = min(block, total - start)
            some = {n: np.concatenate([v, v[:1].repeat(block - size, 0)]) for n, v in some.items()}
            part = _many(density, piece, weights[0], some, data, known, weights[1])
            part = jax.tree.map(lambda value: np.asarray(value)[:size], part)  # noqa: B023
            mean += part["responsibilities"].sum(0) / total
            if not keep:
                part["responsibilities"] = None
            parts.append(part)
    stacked = jax.tree.map(lambda *values: np.concatenate(values), *parts)
    result = jax.tree.map(lambda value: value.reshape(*lead, *value.shape[1:]), stacked)
    return result | {"mean_responsibilities": mean}


def _weights_piece(mixture: Mixture) -> tuple[Piece, list[Any]]:
    def make() -> tuple[Piece, list[Any]]:
        piece = Piece(mixture.reading.log_weights, mixture.reading)
        return piece, piece.summarise(mixture.reading.data)

    return cached(mixture, "weights", make)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _many(
    density: Density,
    piece: Piece,
    weights: Piece,
    draws: Params,
    data: Data,
    known: list[Any],
    weights_known: list[Any],
) -> dict[str, Any]:
    def one(params: Params) -> dict[str, Any]:
        terms = density.terms(params, data)
        pointwise, resp = by_row(piece, params, known)
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

    By the sweep's one matrix product per draw where the family has one, and by the components'
    own densities where that would cancel. The caller keeps S small enough. Draws are taken 64 at
    a time, so that any S runs the same compiled function.
    """
    total = len(next(iter(draws.values())))
    found = np.empty((total, mixture.N, mixture.K))
    with jax.enable_x64(True):
        density, data = density_of(mixture), data_of(mixture)
        piece, known = row_piece(mixture)
        x = np.asarray(mixture.value).reshape(mixture.N, -1) if density.family else None
        for start in range(0, total, AT_ONCE):
            rows = np.arange(start, start + AT_ONCE) % total
            some = {name: np.asarray(value, np.float64)[rows] for name, value in draws.items()}
            resp = np.asarray(_responsibilities(density, piece, some, data, known, x))
            found[start : start + AT_ONCE] = resp[: total - start]
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _responsibilities(
    density: Density, piece: Piece, draws: Params, data: Data, known: list[Any], x: Any
) -> jax.Array:
    def by_components(params: Params) -> jax.Array:
        return by_row(piece, params, known)[1].reshape(-1, density.K)

    family = density.family
    if family is None:
        return jax.lax.map(by_components, draws)
    features = family.features(((x - data.rows.shift) / data.rows.scale).T)

    def by_sweep(params: Params) -> jax.Array:
        eta, offset = density.natural(params, data)
        score = jnp.concatenate([offset[:, None], eta], axis=1) @ features
        return jax.nn.softmax(score.T, axis=-1)

    def by_either(params: Params) -> jax.Array:
        cancels = density.cancels(params, data)
        return jax.lax.cond(cancels, by_components, by_sweep, params)

    return jax.lax.map(by_either if family.location_scale else by_sweep, draws)
