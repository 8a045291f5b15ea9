"""Which clusters may change places: permutations that leave a program's log joint unchanged."""

from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.coordinates import moved
from bayesmix.density import Data, Density, data_of, density_of
from bayesmix.program import Mixture, Params


def permute(mixture: Mixture, params: Params, perm: Any) -> Params:
    """``params`` with the clusters renamed: new cluster k is old cluster ``perm[k]``.

    A site without a cluster axis is shared and stays as it is.
    """
    return {
        name: value
        if mixture.sites[name].cluster_axis is None
        else value.take(np.asarray(perm), axis=mixture.sites[name].cluster_axis)
        for name, value in params.items()
    }


def exchangeable(mixture: Mixture, params: Params) -> tuple[tuple[int, ...], ...]:
    """Classes of clusters that may change places without changing the log joint.

    Checked numerically at ``params``, which should be a generic point: two clusters are in one
    class when swapping them leaves the log joint as it is, to rounding, here and at a point moved
    away from here. ((0, 1, 2),) is full symmetry, ((0,), (1,), (2,)) none.
    """
    pairs = list(combinations(range(mixture.K), 2))
    perms = np.tile(np.arange(mixture.K), (len(pairs) + 1, 1))
    for row, (i, j) in enumerate(pairs, start=1):
        perms[row, [i, j]] = j, i
    axes = tuple((name, site.cluster_axis) for name, site in mixture.sites.items())
    with jax.enable_x64(True):
        values = _permuted(density_of(mixture), axes, params, data_of(mixture), perms)
    same = np.isclose(values, values[0], rtol=1e-9, atol=1e-9 * mixture.N).all(1)
    return _classes(mixture.K, [pair for pair, kept in zip(pairs, same[1:], strict=True) if kept])


@partial(jax.jit, static_argnums=(0, 1))
def _permuted(density: Density, axes: Any, params: Params, data: Data, perms: Any) -> jax.Array:
    """Log joints (permutation, point) at ``params`` and at a point moved away from there."""

    def renamed(point: Params, perm: jax.Array) -> Params:
        return {n: point[n] if axis is None else point[n].take(perm, axis) for n, axis in axes}

    def values(perm: jax.Array) -> jax.Array:
        points = (moved(density, params, data, step) for step in (0.0, 0.1))
        return jnp.stack([density.log_joint(renamed(point, perm), data) for point in points])

    return jax.lax.map(values, perms)


def _classes(K: int, swaps: list[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    label = list(range(K))
    for i, j in swaps:
        label = [label[i] if other == label[j] else other for other in label]
    return tuple(tuple(k for k in range(K) if label[k] == name) for name in dict.fromkeys(label))
