"""What every ready-made program does with its arguments: number of clusters, a name, the data.

Refusals are `ValueError`s that name the argument, what was found and what to write instead.
"""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike

Program = Callable[..., None]


def cluster_count(K: object) -> int:
    """Number of clusters as an int of at least 1. Integral floats (2.0) are accepted."""
    if isinstance(K, float | np.floating) and K.is_integer():
        K = int(K)
    try:
        if isinstance(K, bool):
            raise TypeError
        count = operator.index(K)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"K must be a positive integer, got {K!r}") from None
    if count < 1:
        raise ValueError(f"K must be a positive integer, got {count}")
    return count


def one_of(argument: str, value: object, choices: tuple[str, ...]) -> str:
    """`value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{argument} must be one of {listed}, got {value!r}")
    return value


def rows(x: ArrayLike) -> jax.Array:
    """The data as a float array of shape (N,) or (N, D).

    float32 and float64 stay what they are; booleans, integers and short floats become JAX's
    current default float, so that integer products cannot overflow.
    """
    if x is None or isinstance(x, str | dict):
        raise ValueError(
            f"x must be an array or a table of numbers, not {type(x).__name__} {x!r:.60}"
        )
    x = jnp.asarray(x)
    if x.dtype not in (jnp.float32, jnp.float64):
        x = x.astype(float)
    if x.ndim not in (1, 2):
        raise ValueError(f"x must have shape (N,) or (N, D), got shape {x.shape}")
    if x.ndim == 2 and x.shape[1] == 0:
        raise ValueError(f"x must have at least one column, got shape {x.shape}")
    if len(x) == 0:
        raise ValueError("x must have at least one row, got none")
    return x


def by_column(distribution: dist.Distribution, x: jax.Array) -> dist.Distribution:
    """The columns of x as one event; nothing to do for x of shape (N,)."""
    return distribution.to_event(1) if x.ndim == 2 else distribution
