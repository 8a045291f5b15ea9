"""Data held against the program: missing, infinite or impossible values, by row and column."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from numpyro.distributions import constraints

if TYPE_CHECKING:
    from bayesmix.program import Mixture


def check_data(mixture: "Mixture") -> None:
    """Raise ValueError for data that no component could have produced, in one sentence."""
    name = mixture.name
    if mixture.N == 0:
        raise ValueError(f"site {name!r} has no rows: the data are empty")
    used = np.ones(mixture.rows, bool) if mixture.weights is None else mixture.weights != 0
    if mixture.weights is not None and not (
        np.isfinite(mixture.weights).all() and (mixture.weights >= 0).all()
    ):
        raise ValueError(f"site {name!r} has a row weight that is negative or not finite")
    _refuse(np.isnan, "is missing (NaN)", mixture, used, "remove the row or fill it in")
    _refuse(np.isinf, "is infinite", mixture, used, "remove the row or the value")
    for array in mixture.arguments.arrays:
        if array is not mixture.value and array.dtype.kind == "f" and np.isnan(array).any():
            row = ", ".join(map(str, np.argwhere(np.isnan(array))[0]))
            raise ValueError(
                f"an argument of the program of shape {array.shape} has a missing value (NaN) at "
                f"row {row}: remove the row or fill it in"
            )
    _check_support(mixture, used)


def _refuse(test: Any, what: str, mixture: "Mixture", used: np.ndarray, remedy: str) -> None:
    if mixture.value.dtype.kind != "f":
        return
    bad = test(mixture.value)
    bad &= used.reshape(used.shape + (1,) * mixture.mixture_event_dim)
    if bad.any():
        count = int(bad.any(axis=tuple(range(len(mixture.rows), bad.ndim))).sum())
        raise ValueError(
            f"site {mixture.name!r}: {place(mixture, np.argwhere(bad)[0])} {what}"
            f" ({count} of {mixture.N} rows): {remedy}"
        )


def place(mixture: "Mixture", position: np.ndarray) -> str:
    """Where a value of the data is, in words: its row and, if it has one, its column."""
    rows = len(mixture.rows)
    row = ", ".join(str(int(i)) for i in position[:rows])
    if len(position) == rows:
        return f"row {row}"
    column = int(position[-1])
    label = repr(mixture.columns[column]) if mixture.columns else str(column)
    return f"row {row}, column {label}"


def _check_support(mixture: "Mixture", used: np.ndarray) -> None:
    """Refuse values that no component can produce, where the supports are fixed."""
    if any(map(_depends_on_parameters, mixture.supports)):
        return
    inside = np.zeros(mixture.rows, bool)
    for support in mixture.supports:
        inside |= np.asarray(support(mixture.value)).reshape(mixture.rows)
    if (inside | ~used).all():
        return
    position = np.argwhere(~inside & used)[0]
    value = mixture.value[tuple(position)]
    if mixture.event_shape and not _row_support(mixture):
        column = next(
            j
            for j, cell in enumerate(value)
            if not np.all(mixture.supports[0].base_constraint(cell))
        )
        position, value = np.array([*position, column]), value[column]
    supports = " or ".join(dict.fromkeys(map(_support_name, mixture.supports)))
    raise ValueError(
        f"site {mixture.name!r}: {place(mixture, position)} is {value}, outside the support of "
        f"{mixture.family} ({supports})"
    )


def _row_support(mixture: "Mixture") -> bool:
    """Whether the support is of a row as a whole, not of its columns one by one."""
    return (
        not isinstance(mixture.supports[0], type(constraints.independent(constraints.real, 1)))
        or len(mixture.event_shape) > 1
    )


def _support_name(support: Any) -> str:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return str(support)


def _depends_on_parameters(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(support))
