"""The arguments of a regression as numbers: columns by name, text as indicators, groups as codes.

Everything that can be said about the arguments before the program runs is said here, with the names
that the user gave. Nothing here knows NumPyro.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Columns(NamedTuple):
    """Numeric columns ``values`` (N, P), their names, and the given column that each comes from.

    ``levels`` has the categories of each text column.
    """

    values: np.ndarray
    names: tuple[str, ...]
    sources: tuple[Any, ...]
    levels: dict[str, tuple[Any, ...]]


def prepare_arguments(
    family: str,
    shared: Sequence[Any],
    prior: str,
    X: Any,
    y: Any,
    *,
    offset: Any = None,
    trials: Any = None,
    gating: Any = None,
    groups: Any = None,
    levels: Mapping[str, Any] | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the regression program.

    ``levels`` are those of a fit, so that new data are numbered in the same way and have the same
    columns and offset, and may lack the response; without them this is a fit, whose columns must
    vary. Raises ValueError naming the argument, its column and row.
    """
    fitting = levels is None
    known = {name: dict(own) for name, own in (levels or {"X": {}, "gating": {}}).items()}
    if y is None and fitting:
        raise ValueError("the data of a regression are X and y: y, the response, is missing")
    given = {"X": X, "y": y, "offset": offset, "gating": gating, "groups": groups}
    for name, value in given.items():
        if isinstance(value, str):
            raise ValueError(f"{name} is the text {value!r}: give its values, table[{value!r}]")
    response = np.full(len(X), np.nan) if y is None else _vector("y", y)
    N = len(response)
    if not N:
        raise ValueError("X and y must have at least one row, got none")
    _check_rows(X, y)
    columns = _columns("X", X, N, known["X"])
    if np.ndim(trials) == 0 and trials is not None:
        trials = np.full(N, trials)
    arrays: dict[str, Any] = {"offset": offset, "trials": trials}
    arrays = {n: _vector(n, a, N) for n, a in arrays.items() if a is not None}
    if (trials is None) == (family == "binomial"):
        raise ValueError(
            f"trials= are the numbers of trials of family='binomial', which needs them: family is "
            f"{family!r} and trials are {'not ' if trials is None else ''}given"
        )
    coords: dict[str, list[str]] = {"covariate": [], "shared_covariate": []}
    common = _shared(shared, columns)
    for number, name in enumerate(columns.names):
        coords["shared_covariate" if number in common else "covariate"].append(name)
    options = {"offset": offset, "gating": gating, "groups": groups}
    had = {name: value is not None for name, value in options.items()}
    said = getattr(y, "name", None)
    fitted = known.setdefault(
        "fitted", {"options": had, "response": "y" if said is None else str(said)}
    )
    _check_options(fitted["options"], options)
    _check_names("X", fitted, columns)
    if fitting:
        _check_design("X", columns, flat=prior == "flat")
    given = dict(arrays)
    if groups is not None:
        codes, labels = _codes(groups, N)
        given |= {"groups": codes, "group_count": len(labels)}
    if gating is not None:
        concomitant = _columns("gating", gating, N, known["gating"])
        if groups is not None:
            concomitant = _by_group(concomitant, given["groups"], given["group_count"])
        _check_names("gating", fitted, concomitant)
        if fitting:
            _check_design("gating", concomitant, flat=prior == "flat")
        given["gating"] = concomitant.values
        coords["gating"] = ["(intercept)", *concomitant.names]
        known["gating"] = concomitant.levels
    known["X"] = columns.levels
    static = {"common": common, "levels": known}
    static["coords"] = {dim: tuple(names) for dim, names in coords.items()}
    return (columns.values, response), given | static


def _check_rows(X: Any, y: Any) -> None:
    """Two tables whose rows have other names, or another order, are refused."""
    labels, others = getattr(X, "index", None), getattr(y, "index", None)
    if labels is None or others is None or callable(labels) or callable(others):
        return
    if len(labels) == len(others) and not labels.equals(others):
        row = int(np.argmax(np.asarray(labels) != np.asarray(others)))
        raise ValueError(
            f"row {row} is {labels[row]!r} in X and {others[row]!r} in y: bring them into one "
            "order, or give y as an array"
        )


def _check_options(fitted: Mapping[str, bool], options: Mapping[str, Any]) -> None:
    """New data come with what the fit had, and without gating where it had none."""
    for name, value in options.items():
        if fitted[name] and value is None:
            raise ValueError(f"the fit had {name}: give {name}= for the new rows, too")
    if options["gating"] is not None and not fitted["gating"]:
        raise ValueError("the fit had no gating: its weights do not depend on covariates")


def _check_names(argument: str, fitted: dict[str, Any], columns: Columns) -> None:
    """Columns of new data are those of the fit, in its order, where both have names."""
    names = fitted.setdefault(argument, columns.names)
    numbered = all(name.isdigit() for name in names) or all(n.isdigit() for n in columns.names)
    if columns.names != names and not numbered:
        raise ValueError(
            f"{argument} has the columns {list(columns.names)}, where {list(names)} were fitted: "
            "choose these, in this order"
        )


def _vector(name: str, values: Any, N: int | None = None) -> np.ndarray:
    """One number per row, (N,)."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or (N is not None and len(array) != N):
        rows = "one value per row" if N is None else f"one value for each of y's {N} rows"
        raise ValueError(f"{name} has shape {array.shape}, it must have {rows}")
    if array.dtype.kind == "b":
        array = array.astype(int)
    if array.dtype.kind == "O":
        array = _numbers(name, _with_nan(array))
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} holds {str(array[0])!r}, ..., not numbers")
    if name != "y":  # a missing response is integrated out
        _refuse_missing(name, array)
    return array


def _with_nan(array: np.ndarray) -> np.ndarray:
    """None and pandas' NA as NaN."""
    import pandas as pd

    return np.where(pd.isna(array), np.nan, array)


def _numbers(name: str, array: np.ndarray) -> np.ndarray:
    for row, value in enumerate(array):
        if not isinstance(value, bool | int | float | np.number):
            raise ValueError(f"{name} has {value!r} at row {row}, which is not a number")
    return array.astype(float)


def _refuse_missing(name: str, array: np.ndarray) -> None:
    bad = ~np.isfinite(array.astype(float))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{name} is {array[row]} at row {row} ({int(bad.sum())} of {len(bad)} rows): remove "
            "the row or fill it in"
        )


def _columns(argument: str, given: Any, N: int, levels: Mapping[str, Any]) -> Columns:
    """Numeric columns of a table, an array, a vector, or of nothing."""
    if given is None:
        return Columns(np.zeros((N, 0)), (), (), {})
    found: list[tuple[Any, str, Any]] = []  # source, name, values
    if hasattr(given, "columns"):
        found = [(name, str(name), given[name]) for name in given.columns]
    elif isinstance(given, Mapping):
        found = [(name, str(name), values) for name, values in given.items()]
    else:
        array = np.asarray(given)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise ValueError(f"{argument} has shape {array.shape}, it must be (rows, columns)")
        name = getattr(given, "name", None)
        found = [
            (j, str(j) if name is None else str(name), array[:, j]) for j in range(array.shape[1])
        ]
    values, names, sources = [], [], []
    categories: dict[str, tuple[Any, ...]] = {}
    for source, name, column in found:
        label = f"column {name!r} of {argument}"
        if len(column) != N:
            raise ValueError(f"{argument} has {len(column)} rows but y has {N}: one row for each")
        array = np.asarray(column)
        if array.dtype.kind in "mMc":
            raise ValueError(f"{label} holds {array.dtype.name} values: make numbers of them")
        if name in levels or array.dtype.kind not in "biuf":
            array, own = _coded(label, column, array, levels.get(name))
        else:
            own = ()
        if own:
            categories[name] = own
            values += [(array == code).astype(float) for code in range(1, len(own))]
            names += [f"{name}[{category}]" for category in own[1:]]
            sources += [source] * (len(own) - 1)
        else:
            _refuse_missing(label, array)
            values.append(array.astype(float))
            names.append(name)
            sources.append(source)
    stacked = np.stack(values, 1) if values else np.zeros((N, 0))
    return Columns(stacked, tuple(names), tuple(sources), categories)


def _coded(
    label: str, column: Any, array: np.ndarray, known: Sequence[Any] | None
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Codes of a text column and its categories; numbers held as objects stay numbers."""
    missing = np.array([value is None or value != value for value in array.tolist()], bool)
    if missing.any():
        raise ValueError(
            f"{label} has a missing value at row {int(missing.argmax())} ({int(missing.sum())} of "
            f"{len(missing)} rows): remove the row or fill it in"
        )
    if known is None and all(isinstance(v, bool | int | float) for v in array.tolist()):
        own = getattr(getattr(column, "dtype", None), "categories", None)
        if own is None:
            return array.astype(float), ()
    if known is None:
        own = getattr(getattr(column, "dtype", None), "categories", None)
        known = list(own) if own is not None else sorted(set(array.tolist()), key=str)
    code = {value: number for number, value in enumerate(known)}
    for row, value in enumerate(array.tolist()):
        if value not in code:
            raise ValueError(
                f"{label} has {value!r} at row {row}, which is none of the categories of the fit "
                f"({', '.join(map(repr, known))})"
            )
    return np.array([code[value] for value in array.tolist()]), tuple(known)


def _shared(shared: Sequence[Any], columns: Columns) -> tuple[int, ...]:
    """Numbers of the columns that come from, or are, those named in ``shared``."""
    common = []
    for name in shared:
        own = [
            number
            for number, (source, label) in enumerate(
                zip(columns.sources, columns.names, strict=True)
            )
            if source == name or label == name
        ]
        if not own:
            have = ", ".join(map(repr, columns.sources)) or "none"
            raise ValueError(f"shared names {name!r}, which is no column of X; it has {have}")
        common += own
    return tuple(sorted(set(common)))


def _codes(groups: Any, N: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes 0, 1, ... of the groups' labels in their sorted order, and the labels."""
    labels = np.asarray(groups)
    if labels.shape != (N,):
        raise ValueError(
            f"groups has shape {labels.shape}, it must have one label for each of y's {N} rows"
        )
    missing = np.array([value is None or value != value for value in labels.tolist()], bool)
    if missing.any():
        raise ValueError(f"groups has no label at row {int(missing.argmax())}: give every row one")
    known, codes = np.unique(
        labels.astype(str) if labels.dtype.kind == "O" else labels, return_inverse=True
    )
    return codes.astype(np.int32), known


def _by_group(columns: Columns, codes: np.ndarray, count: int) -> Columns:
    """One row of covariates for each group."""
    first = np.unique(codes, return_index=True)[1]
    assert len(first) == count
    differs = columns.values != columns.values[first][codes]
    if differs.any():
        row, column = np.argwhere(differs)[0]
        raise ValueError(
            f"column {columns.names[column]!r} of gating differs within a group (row {row} from "
            f"row {first[codes[row]]}): the weights of a group need one value"
        )
    return columns._replace(values=columns.values[first])


def _check_design(argument: str, columns: Columns, *, flat: bool) -> None:
    """Refuse constant columns, and under flat priors columns that determine one another."""
    X = columns.values
    for name, column in zip(columns.names, X.T, strict=True):
        if len(column) and np.ptp(column) == 0:
            raise ValueError(
                f"column {name!r} of {argument} is constant ({column[0]:g}): leave it out, the "
                "model has an intercept"
            )
    if not flat or X.shape[1] == 0:
        return
    units = (X - X.mean(0)) / X.std(0)
    upper = np.abs(np.diag(np.linalg.qr(units, mode="r")))
    upper = np.pad(upper, (0, X.shape[1] - len(upper)))
    dependent = upper <= 1e-10 * np.sqrt(len(X))
    if dependent.any():
        name = columns.names[int(dependent.argmax())]
        raise ValueError(
            f"column {name!r} of {argument} is a linear combination of the others: under flat "
            "priors its coefficient is arbitrary; leave it out or use prior='default'"
        )
