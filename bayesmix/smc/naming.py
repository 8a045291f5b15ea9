"""One naming of the clusters among all that the program allows, without losing any of them.

A symmetric posterior holds every mode under all names; a metric that fits one of the copies fits no
other. So a particle is given names at random, p(names | particle), which favour names that are like
the cloud's, and moves under prior * likelihood * p(its names | it): that times the number of
renamings is the posterior of the particle without names, exactly, however good or bad the naming.
Names are chosen place by place: of the clusters that are left, one goes to each place with
probability proportional to a Normal density that was fitted there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from bayesmix.coordinates import constrain, free, unraveller
from bayesmix.density import Data, Density
from bayesmix.program import Mixture, Params

ROUNDS = 3
NARROWEST = 1e-3  # of the spread over all clusters
TINY = 1e-300


class Symmetry(NamedTuple):
    """Clusters that may change places, and the sites that have a cluster axis: (name, axis)."""

    classes: tuple[tuple[int, ...], ...]
    axes: tuple[tuple[str, int], ...]

    @property
    def trivial(self) -> bool:
        return all(len(members) == 1 for members in self.classes)


class Places(NamedTuple):
    """The Normal densities of the places: ``centre`` and ``width`` (K, P) of cluster features."""

    centre: Any
    width: Any


def symmetry_of(mixture: Mixture, classes: tuple[tuple[int, ...], ...]) -> Symmetry:
    """The symmetry of a mixture whose exchangeable clusters are known."""
    axes = ((name, site.cluster_axis) for name, site in mixture.sites.items())
    return Symmetry(classes, tuple((n, axis) for n, axis in axes if axis is not None))


def features(density: Density, symmetry: Symmetry, z: Any, params: Params, data: Data) -> Any:
    """Numbers of each cluster, (K, P): unconstrained ones, logs where clusters share a simplex."""
    loose, rows = unraveller(density, data)(z), []
    for name, axis in symmetry.axes:
        shape = density.sites[name][: axis + 1]
        own = loose[name].shape[: axis + 1] == shape
        value = loose[name] if own else jnp.log(jnp.maximum(jnp.abs(params[name]), TINY))
        rows.append(jnp.moveaxis(value, axis, 0).reshape(density.K, -1))
    return jnp.concatenate(rows, 1)


def scores(found: Any, places: Places) -> Any:
    """Log density (K, K) of each cluster (rows) at each place (columns)."""
    gap = (found[:, None] - places.centre) / places.width
    return -0.5 * jnp.sum(gap**2, -1) - jnp.sum(jnp.log(places.width), -1)


def log_chance(symmetry: Symmetry, score: Any) -> Any:
    """log p(names | particle) of the names that it has."""
    total = jnp.zeros((), score.dtype)
    for members in symmetry.classes:
        for number, k in enumerate(members[:-1]):
            left = np.array(members[number:])
            total += score[k, k] - jax.nn.logsumexp(score[left, k])
    return total


def draw_names(symmetry: Symmetry, key: Any, score: Any) -> Any:
    """perm (K,) drawn from p(names | particle): the cluster that goes to each place."""
    luck = jax.random.gumbel(key, score.shape, score.dtype)
    perm, taken = jnp.arange(len(score)), jnp.zeros(len(score), bool)
    for members in symmetry.classes:
        inside = np.isin(np.arange(len(score)), members)
        for k in members:
            open_to = jnp.where(inside & ~taken, score[:, k] + luck[:, k], -jnp.inf)
            chosen = jnp.argmax(open_to)
            perm, taken = perm.at[k].set(chosen), taken.at[chosen].set(True)
    return perm


def renamed(
    density: Density, symmetry: Symmetry, key: Any, z: Any, places: Places, data: Data
) -> Any:
    """The particle ``z`` (n,) under names drawn from p(names | particle)."""
    params = constrain(density, z, data)
    found = features(density, symmetry, z, params, data)
    perm = draw_names(symmetry, key, scores(found, places))
    for name, axis in symmetry.axes:
        params[name] = jnp.take(params[name], perm, axis=axis)
    return free(density, params, data)


def places_of(found: np.ndarray, classes: Sequence[Sequence[int]]) -> Places:
    """Normal densities fitted to the clusters of many particles, (S, K, P), named alike.

    Names and means in turn, beginning at the first particle; by ranks, which neither units nor
    tails can distort. Any places leave the target what it is.
    """
    ranks = found.reshape(-1, found.shape[-1]).argsort(0).argsort(0)
    ranks = ranks.reshape(found.shape) / (found.shape[0] * found.shape[1])
    centre = ranks[0]
    perm = np.tile(np.arange(found.shape[1]), (len(found), 1))
    for _ in range(ROUNDS):
        cost = np.sum((ranks[:, :, None] - centre) ** 2, -1)
        for members in map(list, classes):
            perm[:, members] = _matched(cost[:, members][:, :, members], members)
        centre = np.take_along_axis(ranks, perm[..., None], 1).mean(0)
    named = np.take_along_axis(found, perm[..., None], 1)
    least = NARROWEST * found.reshape(-1, found.shape[-1]).std(0) + TINY
    return Places(named.mean(0), np.maximum(named.std(0), least))


def _matched(cost: np.ndarray, members: list[int]) -> np.ndarray:
    """For each place the member that goes there, (S, m), at the least total cost (S, m, m).

    Where every place has a cheapest member of its own, that is the answer already.
    """
    best = cost.argmin(1)
    for row in np.flatnonzero((np.sort(best, 1) != np.arange(len(members))).any(1)):
        best[row] = linear_sum_assignment(cost[row].T)[1]
    return np.asarray(members)[best]
