"""Which clusters may change places: permutations that leave a program's log joint unchanged."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln

from bayesmix.coordinates import from_free, to_free
from bayesmix.density import data_of, density_of, log_joint, responsibilities
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


def permute_draws(
    mixture: Mixture, draws: Mapping[str, np.ndarray], perm: np.ndarray
) -> dict[str, np.ndarray]:
    """Draws {site: (*lead, *shape)}, the clusters of each renamed by its own perm (*lead, K)."""
    lead = perm.ndim - 1
    renamed = {}
    for name, value in draws.items():
        axis = mixture.sites[name].cluster_axis
        if axis is None:
            renamed[name] = value
            continue
        index = perm.reshape(
            *perm.shape[:lead], *[1] * axis, mixture.K, *[1] * (value.ndim - lead - axis - 1)
        )
        renamed[name] = np.take_along_axis(value, index, lead + axis)
    return renamed


def exchangeable(mixture: Mixture, params: Params) -> tuple[tuple[int, ...], ...]:
    """Classes of clusters that may change places without changing the log joint.

    Checked numerically at ``params``, which should be a generic point: two clusters are in one
    class when swapping them leaves the log joint as it is, to rounding, here and at a point moved
    away from here. ((0, 1, 2),) is full symmetry, ((0,), (1,), (2,)) none, as for a program in
    which no site has a cluster axis to be swapped along.
    """
    if all(site.cluster_axis is None for site in mixture.sites.values()):
        return tuple((k,) for k in range(mixture.K))
    pairs = list(combinations(range(mixture.K), 2))
    perms = np.tile(np.arange(mixture.K), (len(pairs) + 1, 1))
    for row, (i, j) in enumerate(pairs, start=1):
        perms[row, [i, j]] = j, i
    with jax.enable_x64(True):
        points = [params, moved(mixture, params)]
        values = np.array(
            [
                [float(log_joint(mixture, permute(mixture, p, perm))) for p in points]
                for perm in perms
            ]
        )
    same = np.isclose(values, values[0], rtol=1e-9, atol=1e-9 * mixture.N).all(1)
    return _classes(mixture.K, [pair for pair, kept in zip(pairs, same[1:], strict=True) if kept])


def log_order(classes: tuple[tuple[int, ...], ...]) -> float:
    """Log of the number of permutations that only move clusters inside their class."""
    return float(sum(gammaln(len(members) + 1) for members in classes))


def aligned(mixture: Mixture, params: Params, pivot: Params) -> Params:
    """``params`` with clusters named like the pivot's, where the program lets them be renamed.

    The permutation under which the responsibilities agree best with the pivot's. Needs x64.
    """
    here = np.asarray(responsibilities(mixture, params)).reshape(-1, mixture.K)
    there = np.asarray(responsibilities(mixture, pivot)).reshape(-1, mixture.K)
    overlap, perm = there.T @ here, np.arange(mixture.K)
    for members in map(list, exchangeable(mixture, pivot)):
        block = overlap[np.ix_(members, members)]
        perm[members] = np.take(members, linear_sum_assignment(block, maximize=True)[1])
    return permute(mixture, {name: np.asarray(value) for name, value in params.items()}, perm)


def moved(mixture: Mixture, params: Params, step: float = 0.1) -> dict[str, np.ndarray]:
    """A generic point near ``params``: each free coordinate moved by a different amount."""
    density, data = density_of(mixture), data_of(mixture)
    z = to_free(density, {n: jnp.asarray(v, float) for n, v in params.items()}, data)
    there = from_free(density, z + step * jnp.cos(1.0 + jnp.arange(z.size)), data)
    return {name: np.asarray(there[name]) for name in mixture.sites}


def _classes(K: int, swaps: list[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    label = list(range(K))
    for i, j in swaps:
        label = [label[i] if other == label[j] else other for other in label]
    return tuple(tuple(k for k in range(K) if label[k] == name) for name in dict.fromkeys(label))
