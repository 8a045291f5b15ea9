"""Families of which single cells may be missing.

In a product every cell stands for itself: ``CellWise`` switches off the features of a missing cell,
and its log-normaliser is the natural parameter of one more feature, 1 where the cell was observed.
In a multivariate normal the observed cells of a row decide its natural parameters: rows are grouped
by pattern, and every pattern has its own eta, from the observed block of the covariance matrix.
What the pass then collects by pattern is completed to the statistics of whole rows by the
conditional means and covariances of the missing cells (Ghahramani & Jordan 1994, Supervised
learning from incomplete data via an EM approach, NIPS 6; Little & Rubin 2002, section 8.2).
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.families import Leaves, taken
from bayesmix.families.product import Slot, slots_of
from bayesmix.missing import masked_covariance


@dataclass(frozen=True)
class CellWise:
    """A product of univariate components in which a NaN cell contributes nothing.

    cells : shape of a row's value. given : columns of data that are parameters, such as numbers of
    trials; they follow the values. by_column : the features of the whole come column by column;
    else every kind of feature for all columns.
    """

    whole: Any
    name: str
    cells: tuple[int, ...]
    given: int
    by_column: bool
    isotropic = False
    robust = False
    spread = ""  # column by column, so that no sum over the squares serves all clusters

    @property
    def location_scale(self) -> bool:
        return bool(self.whole.location_scale)

    @property
    def D(self) -> int:
        """Number of cells of a row."""
        return math.prod(self.cells)

    def features(self, z: jax.Array) -> jax.Array:
        """1, the features of the whole with those of missing cells 0, and what was observed."""
        own, seen = self.whole.features(z), ~jnp.isnan(z[: self.D])
        kinds = (len(own) - 1) // self.D
        each = jnp.repeat(seen, kinds, axis=0) if self.by_column else jnp.tile(seen, (kinds, 1))
        kept = jnp.where(each, own[1:], 0)
        return jnp.concatenate([own[:1], kept, seen.astype(z.dtype)])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        eta, normaliser = self.whole.natural(leaves)
        by_cell = {name: self._by_cell(leaf) for name, leaf in leaves.items()}
        each = jax.vmap(lambda own: self.whole.natural(own)[1], 1, 1)(by_cell)  # (K, D)
        return jnp.concatenate([eta, -each], 1), jnp.zeros_like(normaliser)

    def _by_cell(self, leaf: jax.Array) -> jax.Array:
        """(K, D, ...) of a parameter (K, *cells, ...)."""
        return leaf.reshape(leaf.shape[0], self.D, *leaf.shape[1 + len(self.cells) :])

    def base(self, z: jax.Array) -> jax.Array:
        by_cell = z.reshape(1 + self.given, self.D, -1)
        each = jax.vmap(self.whole.base, 1)(by_cell)
        return jnp.where(jnp.isnan(by_cell[0]), 0, each).sum(0)

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        return self.whole.standardise(leaves, shift, scale)


@cache
def cell_wise(family: Any, cells: tuple[int, ...], given: int) -> CellWise | None:
    """The family for rows of which single cells are missing.

    None where its features are not those of its columns one by one, which is tried out, or where
    its scores are no matrix product.
    """
    if hasattr(family, "scores"):
        return None
    D = math.prod(cells)
    some = np.array([0.0, 1.0, 2.0, 0.25, 0.6, 3.0])
    probe = np.stack([np.roll(some, column) for column in range((1 + given) * D)])
    with jax.ensure_compile_time_eval():
        whole = np.asarray(family.features(jnp.asarray(probe)))[1:]
        by_cell = probe.reshape(1 + given, D, -1)
        each = np.stack(
            [np.asarray(family.features(jnp.asarray(by_cell[:, d])))[1:] for d in range(D)]
        )
    for by_column, order in ((True, each), (False, each.swapaxes(0, 1))):
        expected = order.reshape(-1, len(some))
        if expected.shape == whole.shape and np.allclose(expected, whole, equal_nan=True):
            return CellWise(family, family.name, cells, given, by_column)
    return None


def counted(family: Any, features: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """The features of the whole, and the expected counts of observed cells (K, D), if by cell."""
    if not isinstance(family, CellWise):
        return features, None
    return features[:, : -family.D], features[:, -family.D :]


def patterned(family: Any) -> bool:
    """Whether rows are grouped by their pattern of missing cells."""
    return bool(_matrices(family, 1))


def patterned_columns(family: Any, D: int) -> np.ndarray:
    """Which of D columns decide the pattern of a row, (D,): those of multivariate normals."""
    columns = np.zeros(D, bool)
    for slot in _matrices(family, D):
        columns[slot.columns] = True
    return columns


def _matrices(family: Any, D: int) -> list[Slot]:
    """The multivariate normal sites with missing cells; ``D``: all columns."""
    return [slot for slot, _ in slots_of(family, {}, D) if getattr(slot.family, "patterned", False)]


def natural_by_pattern(family: Any, leaves: Leaves, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """eta (P, K, F) and A (P, K) of the observed cells, for the P patterns ``seen`` (P, D).

    A missing cell counts as one of location 0, variance 1 and value 0, independent of the rest.
    """
    sites = _matrices(family, seen.shape[1])
    covariances = {slot.site: _covariance(slot.own(leaves)) for slot in sites}

    def one(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = dict(leaves)
        for slot in sites:
            some, own = seen[slot.columns], slot.own(leaves)
            covariance = masked_covariance(covariances[slot.site], some)
            masked = {
                "loc": jnp.where(some, own["loc"], 0.0),
                "scale_tril": jnp.linalg.cholesky(covariance),
            }
            found |= slot.named(masked)
        eta, normaliser = family.natural(found)
        missing = sum((~seen[slot.columns]).sum() for slot in sites)
        return eta, normaliser - 0.5 * np.log(2 * np.pi) * missing

    return jax.vmap(one)(seen)


def _covariance(leaves: Leaves) -> jax.Array:
    return leaves["scale_tril"] @ leaves["scale_tril"].mT


def complete(family: Any, leaves: Leaves, mass: Any, features: Any, seen: Any) -> Any:
    """Expected statistics of whole rows, mass (K,) and features (K, F), from those by pattern.

    mass (P, K) and features (P, K, F) are sums over the observed cells; the missing cells enter by
    their conditional moments given the observed ones, at the parameters ``leaves``.
    """
    total = features.sum(0)
    for slot in _matrices(family, seen.shape[1]):
        own = features[..., slot.features]
        whole = _completed(slot.own(leaves), mass, own, seen[:, slot.columns])
        total = total.at[:, slot.features].set(whole)
    return mass.sum(0), total


def available(family: Any, mass: Any, features: Any, seen: Any) -> Leaves:
    """Parameters from the observed cells alone: each column's mean and variance, uncorrelated.

    With them ``complete`` stands for a start, where there are no parameters yet.
    """
    found: Leaves = {}
    for slot in _matrices(family, seen.shape[1]):
        some = seen[:, slot.columns]
        D = some.shape[1]
        first, second = _moments(features[..., slot.features], D)
        count = jnp.einsum("pi,pk->ki", some.astype(mass.dtype), mass)
        divisor = jnp.where(count > 0, count, 1)
        loc = first.sum(0) / divisor
        variance = jnp.diagonal(second.sum(0), axis1=1, axis2=2) / divisor - loc**2
        scale = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
        found |= slot.named({"loc": loc, "scale_tril": scale[:, None] * jnp.eye(D)})
    return found


def _moments(features: jax.Array, D: int) -> tuple[jax.Array, jax.Array]:
    """Sums of x (..., D) and of x x' (..., D, D)."""
    pair = np.zeros((D, D), int)
    pair[np.triu_indices(D)] = D + np.arange(D * (D + 1) // 2)
    pair = np.maximum(pair, pair.T)
    second = taken(jnp.moveaxis(features, -1, 0), pair.ravel())
    return features[..., :D], jnp.moveaxis(second, 0, -1).reshape(*features.shape[:-1], D, D)


def regression(leaves: Leaves, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Missing cells given the observed: E[x | k] = loc + B (x - loc), and their covariance C.

    seen (P, D); B and C are (P, K, D, D). B has zero columns at missing cells and is the identity
    on observed ones, where C is 0.
    """
    covariance, D = _covariance(leaves), seen.shape[1]
    some = seen[:, None]
    scale_tril = jnp.linalg.cholesky(masked_covariance(covariance, some))
    identity = jnp.broadcast_to(jnp.eye(D, dtype=covariance.dtype), scale_tril.shape)
    inverse = jax.scipy.linalg.cho_solve((scale_tril, True), identity)
    precision = jnp.where(some[..., None, :] & some[..., :, None], inverse, 0.0)
    slope = jnp.where(some[..., :, None], identity * some[..., None, :], covariance @ precision)
    both_missing = ~some[..., :, None] & ~some[..., None, :]
    return slope, jnp.where(both_missing, covariance - slope @ covariance, 0.0)


def _completed(leaves: Leaves, mass: Any, features: Any, seen: Any) -> jax.Array:
    """The statistics (K, F) of a multivariate normal site; every line is a sum over patterns."""
    D = seen.shape[1]
    first, second = _moments(features, D)
    slope, spread = regression(leaves, seen)
    constant = leaves["loc"] - jnp.einsum("pkij,kj->pki", slope, leaves["loc"])
    known = jnp.einsum("pkij,pkj->pki", slope, first)  # sum of B x
    cross = jnp.einsum("pki,pkj->pkij", known, constant)
    square = slope @ second @ slope.mT + cross + cross.mT
    square = square + mass[..., None, None] * (
        constant[..., :, None] * constant[..., None, :] + spread
    )
    mean = known + mass[..., None] * constant
    i, j = np.triu_indices(D)
    pairs = taken(square.sum(0).reshape(-1, D * D).T, i * D + j).T
    return jnp.concatenate([mean.sum(0), pairs], axis=1)
