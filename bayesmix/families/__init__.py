"""Component families in exponential-family form: one file each, nothing about priors.

A family knows, for observations laid out as columns ``z`` of shape (D, n):

* ``features(z)``: 1 and T(x), (1 + F, n);
* ``natural(leaves)``: the natural parameters eta (K, F) and the log-normaliser A (K,) of
  components whose NumPyro parameters are ``leaves``, each (K, *event);
* ``base(z)``: log h(x), (n,);

so that log f(x | k) = base + <T(x), eta_k> - A_k. A location-scale family also has
``standardise(leaves, shift, scale)``, the parameters of (x - shift) / scale: its sweep runs on
centred and scaled data; its T(x) begins with x itself, and its parameter ``spread`` alone decides
the natural parameters of the rest. An ``isotropic`` family has all columns scaled alike. A family
whose features depend on the shapes of the parameters (one for each category) has
``shaped(shapes)``, which returns the family for them; one whose features depend on the range of the
data (one for each count) has ``seen(values)``, which returns the family for it, or None. A family
that is not here goes through the general sweep.

Chunks are padded with rows of zeros and of weight 0: features and base must be finite there.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Leaves = dict[str, jax.Array]


class Family(Protocol):
    """What the sweep needs of an exponential family; see the module's text."""

    name: str

    @property
    def location_scale(self) -> bool | tuple[bool, ...]: ...

    @property
    def isotropic(self) -> bool: ...

    @property
    def spread(self) -> str: ...

    def features(self, z: jax.Array) -> jax.Array: ...

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]: ...

    def base(self, z: jax.Array) -> jax.Array: ...

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves: ...


_families: dict[type, Family] = {}


def family(*distributions: type) -> Callable[[type], type]:
    """Register a family class for NumPyro distributions; use as a decorator.

    A family without location and scale need not say ``isotropic`` and ``spread``.
    """

    def register(cls: type) -> type:
        for name, usual in (("isotropic", False), ("spread", "")):
            if not hasattr(cls, name):
                setattr(cls, name, usual)
        for distribution in distributions:
            _families[distribution] = cls()
        return cls

    return register


def find(distribution: type, shapes: dict[str, tuple[int, ...]], values: Any) -> Family | None:
    """The family registered for exactly this distribution, or None.

    ``shapes`` are those of the components' parameters and ``values`` the data, for families that
    depend on them.
    """
    found = _families.get(distribution)
    seen, shaped = getattr(found, "seen", None), getattr(found, "shaped", None)
    if seen is not None:
        return seen(values)
    return found if shaped is None else shaped(shapes)


def linear(z: jax.Array) -> jax.Array:
    """The features 1 and x, (1 + D, n)."""
    return jnp.concatenate([jnp.ones_like(z[:1]), z])


def flat(leaf: Any) -> jax.Array:
    """A parameter of shape (K, *event) with its event axes joined: (K, D)."""
    return leaf.reshape(leaf.shape[0], -1)


def within(z: jax.Array) -> jax.Array:
    """Values inside (0, inf), or (0, 1): the zeros of padding rows become 1/2."""
    return jnp.where(z > 0, z, 0.5)


def taken(x: jax.Array, index: Any) -> jax.Array:
    """x[index] for known indices within bounds, without the code that would guard them."""
    return x.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


from bayesmix.families import (  # noqa: E402
    bernoulli,  # noqa: F401
    beta,  # noqa: F401
    binomial,  # noqa: F401
    categorical,  # noqa: F401
    dirichlet,  # noqa: F401
    exponential,  # noqa: F401
    gamma,  # noqa: F401
    geometric,  # noqa: F401
    log_normal,  # noqa: F401
    multinomial,  # noqa: F401
    mvn,  # noqa: F401
    negative_binomial,  # noqa: F401
    normal,  # noqa: F401
    poisson,  # noqa: F401
    von_mises,  # noqa: F401
)
