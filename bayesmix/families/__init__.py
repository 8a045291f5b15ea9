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
``shaped(shapes)``, which returns the family for them, or None where it does not fit; one whose
features depend on the range of the data (one for each count) has ``seen(values)``, which returns
the family for it, or None. A family around another one (a hurdle) has ``over(inside)``, which
returns the family around that, or None. A ``robust`` family is centred and scaled by medians, since
its rows may lie anywhere.

A family of a transformed variable (log x of a log-normal) has ``coordinates(x)``, which makes the
sweep's columns of the observed ones, (N, D) each, before they are centred; its ``base``, in these
columns as they were before, then has the Jacobian.

A family with an unobserved variable by row and cluster (the scale of a Student-t) is exponential in
the pair (x, u), with the moments of u given x for statistics. Its ``scores`` sums u out; see
``Linear``, which is what all other families do. A family that is not here goes through the general
sweep.

Chunks are padded with rows of zeros and of weight 0: features and base must be finite there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Leaves = dict[str, jax.Array]


class Family(Protocol):
    """What the sweep needs of an exponential family; see the module's text."""

    name: str

    def __hash__(self) -> int: ...

    @property
    def location_scale(self) -> bool | tuple[bool, ...]: ...

    @property
    def isotropic(self) -> bool: ...

    @property
    def spread(self) -> str: ...

    @property
    def robust(self) -> bool: ...

    def features(self, z: jax.Array) -> jax.Array: ...

    def natural(self, leaves: Leaves) -> tuple[jax.Array, jax.Array]: ...

    def base(self, z: jax.Array) -> jax.Array: ...

    def standardise(self, leaves: Leaves, shift: jax.Array, scale: jax.Array) -> Leaves: ...


_families: dict[type, Family] = {}


def family(*distributions: type) -> Callable[[type], type]:
    """Register a family class for NumPyro distributions; use as a decorator.

    A family need not say what is usual: T(x) = x, log h(x) = 0, not ``isotropic``, no ``spread``,
    not ``robust``.
    """
    usual = {
        "features": staticmethod(linear),
        "base": staticmethod(nothing),
        "isotropic": False,
        "spread": "",
        "robust": False,
    }

    def register(cls: type) -> type:
        for name, value in usual.items():
            if not hasattr(cls, name):
                setattr(cls, name, value)
        for distribution in distributions:
            _families[distribution] = cls()
        return cls

    return register


def find(distribution: type, shapes: dict[str, tuple[int, ...]], values: Any) -> Family | None:
    """The family registered for exactly this distribution, or None.

    ``shapes`` are those of the components' parameters and ``values`` the data, for families that
    depend on them.
    """
    found = _families.get(getattr(distribution, "outer", distribution))
    over = getattr(found, "over", None)
    if over is not None:
        inside = find(getattr(distribution, "inner", object), shapes, values)
        return None if inside is None else over(inside)
    seen, shaped = getattr(found, "seen", None), getattr(found, "shaped", None)
    if seen is not None:
        return seen(values)
    return found if shaped is None else shaped(shapes)


Collect = Callable[[jax.Array], jax.Array]


class Linear(NamedTuple):
    """How a family without unobserved variables scores rows: by one matrix product."""

    features: Callable[[jax.Array], jax.Array]

    def scores(self, full: jax.Array, z: jax.Array) -> tuple[jax.Array, Collect]:
        """Scores (K, n) of rows z (D, n), and from weighted responsibilities to statistics.

        full : offset and eta, (K, 1 + F). The statistics are (K, 1 + F), too: mass and features.
        """
        T = self.features(z)
        return full.astype(z.dtype) @ T, lambda resp: resp @ T.T

    def complete(self, resp: jax.Array, z: jax.Array) -> jax.Array:
        """Statistics (K, 1 + F) under given responsibilities (K, n), where nothing is scored."""
        return resp @ self.features(z).T.astype(resp.dtype)


def kernel(family: Family) -> Any:
    """What scores the rows of a family: the family itself, or its features' matrix product."""
    return family if hasattr(family, "scores") else Linear(family.features)


def coordinates(distribution: type) -> Callable[[Any], Any] | None:
    """The map from observed columns to the sweep's, for components of this distribution."""
    return getattr(_families.get(distribution), "coordinates", None)


def linear(z: jax.Array) -> jax.Array:
    """The features 1 and x, (1 + D, n)."""
    return jnp.concatenate([jnp.ones_like(z[:1]), z])


def nothing(z: jax.Array) -> jax.Array:
    """The log base measure of a family that has none beside its features: 0 in every row, (n,)."""
    return jnp.zeros(z.shape[1:], z.dtype)


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
    skew_normal,  # noqa: F401
    student,  # noqa: F401
    von_mises,  # noqa: F401
    zeros,  # noqa: F401
)
