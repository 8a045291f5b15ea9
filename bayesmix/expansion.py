"""The log likelihood to second order around one point, so that it bends without further passes.

In natural parameters the log likelihood of rows whose clusters are known is linear. What bends it
is that they are not known: with T the features of a row (1 among them), r its responsibilities and
w its weight,

    d2 log likelihood / d(offset, eta)2 = sum_n w_n (diag(r_n) - r_n r_n') x T_n T_n'

(Louis 1982, Finding the observed information matrix when using the EM algorithm, JRSS B 44). That
is one pass over the rows; how the program's parameters make the natural ones needs no rows at all.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.density import Data, Density
from bayesmix.families import Linear, kernel, linear
from bayesmix.sweep import Streamed, scan_rows

CALL = 1e10  # multiplications of one compiled call: about a second

# Passes what is worked on through, and shows it under a text.
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


class Expansion(NamedTuple):
    """value () and slope (K, 1 + F) of the log likelihood at ``at``, offset and eta (K, 1 + F).

    ``hidden`` (K G, K G) is its second derivative in the first G of each cluster's 1 + F; the
    others are the same in all clusters.
    """

    value: Any
    at: Any
    slope: Any
    hidden: Any

    def __call__(self, eta: jax.Array, offset: jax.Array) -> jax.Array:
        """The log likelihood near ``at``, in nats."""
        move = jnp.concatenate([offset[:, None], eta], axis=1) - self.at
        scored = move[:, : self.hidden.shape[0] // len(move)].ravel()
        return self.value + jnp.sum(self.slope * move) + 0.5 * scored @ (self.hidden @ scored)


def quiet(items: Iterable[Any], text: str) -> Iterable[Any]:
    """Progress that is not shown."""
    return items


def expandable(density: Density, data: Data) -> bool:
    """Whether a row's score is linear in the natural parameters, and the rows are in memory."""
    linear_in_them = density.family is not None and not hasattr(density.family, "scores")
    return linear_in_them and not density.patterned and not isinstance(data.rows.z, Streamed)


def expanded(
    density: Density, params: Any, data: Data, rows: int | None, progress: Progress
) -> Expansion:
    """The expansion around constrained ``params``.

    rows : take ``hidden`` from about so many rows, spread evenly, raised to the weight of all;
    value and slope are always those of all.
    """
    value, at, slope = _first(density, params, data)
    *_, chunks, size = np.shape(data.rows.weights)
    every = 1 if rows is None else max(1, chunks * size // rows)
    count = -(-chunks // every)
    at_once = max(1, int(CALL / (2 * size * _scored(data.rows, at).size ** 2)))
    hidden, weight = np.zeros(()), np.zeros(())
    for begin in progress(range(0, count, at_once), "curvature"):
        some = min(at_once, count - begin)
        found = _hidden(density, at, data, begin * every, every, some)
        hidden, weight = hidden + np.asarray(found[0]), weight + np.asarray(found[1])
    whole = jnp.sum(slope[:, 0])
    return Expansion(value, at, slope, hidden * (whole / weight))


@partial(jax.jit, static_argnums=0)
def _first(density: Density, params: Any, data: Data) -> Any:
    assert density.family is not None
    eta, offset = density.natural(params, data)
    value, (mass, features) = scan_rows(density.family, eta, offset, data.rows)
    at = jnp.concatenate([offset[:, None], eta], axis=1)
    slope = jnp.concatenate([mass[:, None], features], axis=1)
    return data.base + value, at, slope


def _scored(rows: Any, at: Any) -> Any:
    """The part of ``at`` that differs between clusters: the squares of tied spreads do not."""
    return at if rows.shared is None else at[:, : 1 + rows.z.shape[-2]]


@partial(jax.jit, static_argnums=0)
def _hidden(density: Density, at: Any, data: Data, first: Any, every: Any, count: Any) -> Any:
    """``hidden`` of ``count`` chunks of the rows, ``every`` so many of them, and their weight."""
    assert density.family is not None
    by = kernel(density.family) if data.rows.shared is None else Linear(linear)
    full = _scored(data.rows, at)
    K, G = full.shape

    def chunk(z: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        T = by.features(z).astype(full.dtype)
        resp = jax.nn.softmax(full @ T, axis=0)
        spread = (resp[:, None] * T).reshape(K * G, -1)
        own = spread * w
        within = (own @ T.T).reshape(K, G, G)
        known = jnp.einsum("kgh,kl->kglh", within, jnp.eye(K, dtype=full.dtype))
        return known.reshape(K * G, K * G) - own @ spread.T, w.sum()

    def part(z: jax.Array, w: jax.Array) -> Any:
        def add(i: Any, total: Any) -> Any:
            number = first + every * i
            return jax.tree.map(jnp.add, total, chunk(z[number], w[number].astype(full.dtype)))

        start = jnp.zeros((K * G, K * G), full.dtype), jnp.zeros((), full.dtype)
        return jax.lax.fori_loop(0, count, add, start)

    z, w = jnp.asarray(data.rows.z), jnp.asarray(data.rows.weights)
    if w.ndim == 2:
        return part(z, w)
    return jax.tree.map(lambda each: each.sum(0), jax.vmap(part)(z, w))
