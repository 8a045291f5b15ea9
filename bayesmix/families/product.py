"""Several observed sites of one assignment, and known assignments, as one family.

Given the cluster the sites are independent, so features and natural parameters stand side by side
and log-normalisers add up. A row's known label is one more column: it allows one cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.families import Family, Leaves
from bayesmix.marginal import IMPOSSIBLE


@dataclass(frozen=True)
class Slot:
    """One site of a product: its columns among the data's, its features among the product's."""

    site: str
    family: Family
    columns: slice
    features: slice

    def own(self, leaves: Leaves) -> Leaves:
        """The site's parameters under their plain names: ``loc`` for ``loc[height]``."""
        if not self.site:
            return leaves
        end = f"[{self.site}]"
        return {n.removesuffix(end): v for n, v in leaves.items() if n.endswith(end)}

    def named(self, leaves: Leaves) -> Leaves:
        """The opposite of ``own``."""
        return {f"{n}[{self.site}]" if self.site else n: v for n, v in leaves.items()}


class Product:
    """Independent sites, each of a registered family."""

    isotropic = False
    spread = ""
    robust = False

    def __init__(self, sites: Sequence[tuple[str, Any, int]]) -> None:
        """``sites``: name, family and number of columns of each."""
        slots: list[Slot] = []
        column = feature = 0
        for name, family, width in sites:
            z = jax.ShapeDtypeStruct((width, 1), jnp.result_type(float))
            count = jax.eval_shape(family.features, z).shape[0] - 1  # the 1 is the product's
            columns, features = slice(column, column + width), slice(feature, feature + count)
            slots.append(Slot(name, family, columns, features))
            column, feature = columns.stop, features.stop
        self.slots = tuple(slots)
        self.name = " x ".join(slot.family.name for slot in slots)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Product) and self._key == other._key

    @cached_property
    def _key(self) -> Any:
        return tuple((s.site, s.family, s.columns.stop, s.features.stop) for s in self.slots)

    @property
    def location_scale(self) -> tuple[bool, ...] | bool:
        """By column; False if no column may be centred and scaled."""
        located = [
            bool(slot.family.location_scale)
            for slot in self.slots
            for _ in range(slot.columns.stop - slot.columns.start)
        ]
        return tuple(located) if any(located) else False

    def features(self, z: jax.Array) -> jax.Array:
        parts = [slot.family.features(z[slot.columns])[1:] for slot in self.slots]
        return jnp.concatenate([jnp.ones_like(z[:1]), *parts])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        pairs = [slot.family.natural(slot.own(leaves)) for slot in self.slots]
        return jnp.concatenate([eta for eta, _ in pairs], 1), reduce(add, (A for _, A in pairs))

    def base(self, z: jax.Array) -> jax.Array:
        return reduce(add, (slot.family.base(z[slot.columns]) for slot in self.slots))

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves:
        found = dict(leaves)
        for slot in self.slots:
            if slot.family.location_scale:
                columns = slot.columns
                own = slot.family.standardise(slot.own(leaves), shift[columns], scale[columns])
                found |= {f"{leaf}[{slot.site}]": value for leaf, value in own.items()}
        return found


@dataclass(frozen=True)
class Labels:
    """A column of known assignments, -1 for none: log density 0 in its cluster, -inf elsewhere."""

    K: int
    name: str = "labels"
    location_scale: bool = False
    isotropic: bool = False
    robust: bool = False

    def features(self, z: jax.Array) -> jax.Array:
        own = (z == jnp.arange(self.K)[:, None]).astype(z.dtype)
        return jnp.concatenate([jnp.ones_like(z[:1]), own])

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]:
        eta = IMPOSSIBLE * (1 - jnp.eye(self.K, dtype=jnp.result_type(float)))
        return eta, jnp.zeros(self.K, eta.dtype)

    def base(self, z: jax.Array) -> jax.Array:
        return jnp.zeros(z.shape[1:], z.dtype)


def slots_of(family: Family, leaves: Leaves, width: int) -> list[tuple[Slot, Leaves]]:
    """The sites of a family with their parameters; a family that is no product is one site."""
    if isinstance(family, Product):
        return [(slot, slot.own(leaves)) for slot in family.slots]
    return [(Slot("", family, slice(0, width), slice(None)), leaves)]


def located(family: Family, eta: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """eta (K, F) and z (..., D, n) of the columns that the sweep centres and scales."""
    if not isinstance(family, Product):
        return eta, z
    some = [slot for slot in family.slots if slot.family.location_scale]
    features = np.concatenate([np.arange(eta.shape[-1])[slot.features] for slot in some])
    columns = np.concatenate([np.arange(z.shape[-2])[slot.columns] for slot in some])
    return eta[..., features], z[..., columns, :]
