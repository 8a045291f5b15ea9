"""Missing, infinite and impossible values, and weights and labels that are none."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.checks.places import counted, place, used_of
from bayesmix.checks.stream import check_blocks
from bayesmix.checks.support import check_support
from bayesmix.checks.trials import check_trials
from bayesmix.graph import ancestors

if TYPE_CHECKING:
    from bayesmix.program import Mixture, Observed


def check_data(mixture: "Mixture") -> None:
    """Raise ValueError for data that no component could have produced, in one sentence."""
    name = mixture.name
    if mixture.N == 0:
        raise ValueError(f"site {name!r} has no rows: the data are empty")
    if isinstance(mixture.value, Blocks):
        check_blocks(mixture, mixture.value)
        return
    used = np.ones(mixture.rows, bool) if mixture.weights is None else mixture.weights != 0
    for weights in (mixture.weights, *(site.powers for site in mixture.observed)):
        if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(f"site {name!r} has a row weight that is negative or not finite")
    _check_finite(mixture, used)
    _check_arguments(mixture)
    _check_possible(mixture, used)
    _check_labels(mixture)


def check_idle_rows(mixture: "Mixture") -> None:
    """Raise ValueError where a row of weight 0 has a value that no component could have produced.

    Components fitted by their own log_prob have no slope there, and 0 times that is none either.
    """
    every = np.ones(mixture.rows, bool)
    try:
        _check_finite(mixture, every)
        _check_possible(mixture, every)
    except ValueError as error:
        raise ValueError(
            f"{error}; its weight of 0 does not help here, where the components' own log_prob is "
            "differentiated"
        ) from None


def _check_finite(mixture: "Mixture", used: np.ndarray) -> None:
    for site in mixture.observed:
        some = used_of(site, used)
        _refuse(np.isnan, "is missing (NaN)", mixture, site, some, _remedy(site))
        _refuse(np.isinf, "is infinite", mixture, site, some, "remove the row or the value")


def _check_possible(mixture: "Mixture", used: np.ndarray) -> None:
    for site in mixture.observed:
        check_trials(mixture, site, used_of(site, used))
        check_support(mixture, site, used_of(site, used))


def _refuse(
    test: Any, what: str, mixture: "Mixture", site: "Observed", used: np.ndarray, remedy: str
) -> None:
    if site.value.dtype.kind != "f":
        return
    bad = test(site.value) & ~site.missing & counted(used, site.value.ndim)
    if bad.any():
        count = int(bad.any(axis=tuple(range(len(mixture.rows), bad.ndim))).sum())
        raise ValueError(
            f"site {site.name!r}: {place(mixture, np.argwhere(bad)[0])} {what}"
            f" ({count} of {used.size} rows): {remedy}"
        )


def _remedy(site: "Observed") -> str:
    return (
        "remove the row, fill it in, or have it integrated out: numpyro.sample("
        f"{site.name!r}, ..., infer={{'missing': 'marginal'}})"
    )


def _check_arguments(mixture: "Mixture") -> None:
    """Refuse gaps in what is not observed: covariates, offsets."""
    own = _observed_arrays(mixture)
    for array in mixture.arguments.arrays:
        known = any(array is value for value in own)
        if not known and array.dtype.kind == "f" and np.isnan(array).any():
            row = ", ".join(map(str, np.argwhere(np.isnan(array))[0]))
            raise ValueError(
                f"an argument of the program of shape {array.shape} has a missing value (NaN) at "
                f"row {row}: remove the row or fill it in"
            )


def _observed_arrays(mixture: "Mixture") -> list[Any]:
    """The arguments that are observed values, whose missing cells have been dealt with."""
    values = [site.value for site in mixture.observed]
    reading = mixture.reading
    for site, node in zip(mixture.observed, reading.values, strict=True):
        if site.declared:
            inputs = {source.number for source in ancestors([node])}
            values += [array for number, array in reading.data.items() if number in inputs]
            if mixture.static_data:  # then the graph does not tell from which argument they came
                values += [a for a in mixture.arguments.arrays if _equal(a, site.value)]
    return values


def _equal(array: np.ndarray, value: np.ndarray) -> bool:
    return array.dtype.kind == value.dtype.kind == "f" and np.array_equal(
        array, value, equal_nan=True
    )


def _check_labels(mixture: "Mixture") -> None:
    """Refuse known assignments that are not clusters."""
    if mixture.labels is None:
        return
    outside = (mixture.labels >= mixture.K) | (mixture.labels < -1)
    if outside.any():
        row = np.argwhere(outside)[0]
        raise ValueError(
            f"site {mixture.assignment!r}: row {', '.join(map(str, row))} has the label "
            f"{mixture.labels[tuple(row)]:g}, but the clusters are 0 to {mixture.K - 1}"
        )
