"""How EM's Q bends in the params: its second derivatives, in the pass that the E-step makes anyway.

At the params that gave the responsibilities r, Q's slope is that of sum r c with r held fixed, c
the components' weighted log densities, and its Hessian follows from derivatives of that slope in
some directions. Where cluster k's component sees slice k of a site alone, one direction serves all
clusters at once: their blocks of the Hessian do not meet. So the coefficients of a regression on P
covariates cost P directions, whatever K: the X'WX of iteratively reweighted least squares, for any
family, link and program.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayesmix.density.chunks import dot, safe, weighted
from bayesmix.program import Params


class Turn(NamedTuple):
    """A site whose second derivatives are wanted; ``apart`` is the axis along which its slices
    enter one cluster each, or None.
    """

    site: str
    shape: tuple[int, ...]
    apart: int | None

    @property
    def cells(self) -> np.ndarray:
        """The cluster of every cell, -1 for one that several clusters share."""
        if self.apart is None:
            return np.full(math.prod(self.shape), -1)
        return np.indices(self.shape)[self.apart].reshape(-1)

    @property
    def directions(self) -> np.ndarray:
        """The direction of every cell, counted from 0."""
        if self.apart is None:
            return np.arange(math.prod(self.shape))
        slice_shape = (*self.shape[: self.apart], 1, *self.shape[self.apart + 1 :])
        inner = np.arange(math.prod(slice_shape)).reshape(slice_shape)
        return np.broadcast_to(inner, self.shape).reshape(-1)


class Bent(NamedTuple):
    """What an E-step gives, ``own``, and how Q's fit to the data goes on from its params ``at``.

    ``slope``: its gradient by site; ``bend``: its Hessian (n, n) in the cells of some sites.
    """

    own: Any
    at: Params
    slope: Params
    bend: jax.Array


def plain(statistics: Any) -> Any:
    """Statistics without what is known of Q's bend."""
    return statistics.own if isinstance(statistics, Bent) else statistics


def count_directions(turns: tuple[Turn, ...]) -> int:
    """Derivatives of the slope that the Hessian takes."""
    return sum(int(turn.directions.max(initial=-1)) + 1 for turn in turns)


def bend_of(
    components: Callable[[Params], jax.Array], params: Params, weights: Any, turns: tuple[Turn, ...]
) -> tuple[jax.Array, jax.Array, Params, jax.Array]:
    """Log likelihood, weighted responsibilities, Q's slope by site, and the slope's derivatives
    (C, n) along C directions.
    """
    flat, restore = ravel_pytree(params)

    def fit(flat: jax.Array) -> Any:
        score = components(restore(flat))
        value = jnp.sum(weighted(jax.nn.logsumexp(safe(score), -1), weights))
        resp = jax.nn.softmax(jax.lax.stop_gradient(safe(score)), -1)
        resp = resp if weights is None else resp * weights[..., None]
        return dot(resp, score), (value, resp)

    def slope(flat: jax.Array) -> Any:
        gradient, (value, resp) = jax.grad(fit, has_aux=True)(flat)
        return gradient, (gradient, value, resp)

    _, along, (gradient, value, resp) = jax.linearize(slope, flat, has_aux=True)
    cells = np.concatenate([_cells(params)[turn.site] for turn in turns])
    basis, count = np.concatenate(_numbered(turns)), count_directions(turns)
    directions = np.zeros((count, flat.size), flat.dtype)
    directions[basis, cells] = 1.0
    products = jax.vmap(along)(jnp.asarray(directions))
    return value, resp, restore(gradient), products[:, cells]


def hessian(products: jax.Array, turns: tuple[Turn, ...]) -> jax.Array:
    """The Hessian (n, n) from its products (C, n) with the directions."""
    cluster = np.concatenate([turn.cells for turn in turns])
    row = products[np.concatenate(_numbered(turns))]  # of cell j: with j's whole direction
    alone = cluster == -1
    meet = alone[:, None] | (cluster[:, None] == cluster)
    return jnp.where(meet, row, jnp.where(alone, row.T, 0.0))


def _numbered(turns: tuple[Turn, ...]) -> list[np.ndarray]:
    """The direction of every cell of every site, counted through."""
    start, found = 0, []
    for turn in turns:
        found.append(start + turn.directions)
        start = int(found[-1].max(initial=start - 1)) + 1
    return found


def _cells(params: Params) -> dict[str, np.ndarray]:
    """Where the cells of every site are in the flat vector of all."""
    names = sorted(params)
    ends = np.cumsum([0] + [params[name].size for name in names])
    return {name: np.arange(*ends[i : i + 2]) for i, name in enumerate(names)}
