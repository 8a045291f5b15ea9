"""What the columns of a table are: numbers, counts, answers; and whether their values can be that.

`--model` gives all columns one kind, `--kinds` each its own. Does not live here: what a kind is to
a program (`bayesmix.models`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from bayesmix.cli.table import Refusal, numbers, plural

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = ("student_t", "skew_normal")
POSITIVE = ("gamma", "log_normal", "inverse_gamma", "weibull", "exponential")
COUNTS = (
    "poisson", "negative_binomial", "geometric", "zero_inflated_poisson",
    "zero_inflated_negative_binomial", "hurdle_poisson", "hurdle_negative_binomial",
)  # fmt: skip
ALIKE = ("gaussian", *NUMBERS, *POSITIVE, "beta", "von_mises", *COUNTS, "bernoulli", "categorical")
MODELS = (*ALIKE, "multinomial", "mixed")
KINDS = ("normal", *ALIKE)
TEXT = ("bernoulli", "categorical")  # kinds of --kinds that may be text
NAMES = 20  # a text column with more values, all different, is a name of the rows
HELP = (
    "what a cluster looks like. Numbers: gaussian (the default), student_t, skew_normal; positive: "
    f"{', '.join(POSITIVE)}; shares: beta; angles: von_mises; counts: {', '.join(COUNTS)}; 0 and "
    "1: bernoulli; answers, also as text: categorical; rows of counts: multinomial; columns of "
    "different kinds: mixed, with --kinds"
)


def read_kinds(text: str, table: pd.DataFrame) -> dict[str, str]:
    """{column: kind} of "height=normal,region=categorical"."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, kind = (piece.strip() for piece in part.rpartition("="))
        if not equals or not name:
            raise Refusal(f'--kinds has "{part}": write column=kind, {_example(table)}')
        if name not in table.columns:
            known = ", ".join(map(str, table.columns))
            raise Refusal(f'there is no column "{name}"; the columns are: {known}')
        if kind not in KINDS:
            raise Refusal(f'column "{name}" has the kind "{kind}": choose from {", ".join(KINDS)}')
        if name in found:
            raise Refusal(f'--kinds names "{name}" twice')
        found[name] = kind
    if not found:
        raise Refusal(f"--kinds names no column: write column=kind, {_example(table)}")
    return found


def ask_for_kinds(table: pd.DataFrame) -> Refusal:
    """What to say to mixed columns without kinds."""
    return Refusal(f"say what each column is, {_example(table)}")


def _example(table: pd.DataFrame) -> str:
    guess = [
        f"{name}={'normal' if column.dtype.kind in 'if' else 'categorical'}"
        for name, column in list(table.items())[:3]
    ]
    return f"for example --kinds {','.join(guess)}"


def as_numbers(table: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """The columns in float64, but answers as they are; refuses other text."""
    import pandas as pd

    text = [name for name in table.columns if kinds[name] in TEXT and not _numeric(table[name])]
    codes = [name for name in table.columns if kinds[name] == "categorical" and name not in text]
    rest = numbers(table.drop(columns=[*text, *codes]))
    parts = {name: table[name] for name in text} | {name: _whole(table[name]) for name in codes}
    return pd.DataFrame({n: parts[n] if n in parts else rest[n] for n in table.columns})


def _numeric(column: pd.Series) -> bool:
    return column.dtype.kind in "bif"


def _whole(column: pd.Series) -> pd.Series:
    """Codes as whole numbers also where a cell is empty, so that they are called 1, not 1.0."""
    if column.dtype.kind == "i" or not (column.dropna() == column.dropna().round()).all():
        return column
    return column.astype("Int64").astype(object)


def check_values(table: pd.DataFrame, kinds: Mapping[str, str], K: int, said: str) -> None:
    """Refuses what a kind cannot take, naming column and row; said : how the kinds were asked for,
    `--model` or `--kinds`.
    """
    if len(table) == 0:
        raise Refusal("the table has a header line but no rows")
    for name in table.columns[table.isna().to_numpy().all(0)]:
        raise Refusal(f'column "{name}" has no value in any row: leave it out with --columns')
    for name, column in table.items():
        if column.dtype.kind == "f" and np.isinf(column).any():
            row = int(np.argmax(np.isinf(column))) + 1
            raise Refusal(f'column "{name}" is infinite in row {row}: it needs finite numbers')
    rows = int(table.notna().to_numpy().any(1).sum())
    if rows < 2 * K:
        raise Refusal(
            f"{plural(rows, 'row')} cannot show {plural(K, 'cluster')}: at least "
            f"{2 * K} are needed, two per cluster"
        )
    for name, column in table.items():
        CHECKS[kinds[str(name)]](str(name), column, f"{said} {kinds[str(name)]}")


def _needs(words: str, fits: Callable[[np.ndarray], np.ndarray]) -> Callable[..., None]:
    """A check that values fit, row by row; the row from 1, the header not counted."""

    def check(name: str, column: pd.Series, said: str) -> None:
        values = column.to_numpy()
        bad = ~np.isnan(values) & ~fits(values)
        if bad.any():
            row = int(np.argmax(bad))
            raise Refusal(
                f'column "{name}" is {values[row]:g} in row {row + 1}: {said} needs {words}'
            )

    return check


def _check_spread(name: str, column: pd.Series, said: str) -> None:
    x = column.dropna().to_numpy()
    if (x == x[0]).all():
        raise Refusal(f'column "{name}" is constant ({x[0]:g} in every row): leave it out')
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        spread = np.var(x)
    if not 1e-280 < spread < 1e280:
        raise Refusal(f'column "{name}" has a spread beyond computing: change its unit')


def _check_answers(name: str, column: pd.Series, said: str) -> None:
    seen = column.dropna()
    if len(seen) > NAMES and seen.nunique() == len(seen):
        raise Refusal(
            f'column "{name}" has another value in every row ("{seen.iloc[0]}", …): it names the '
            "rows, leave it out"
        )


def _check_bits(name: str, column: pd.Series, said: str) -> None:
    if column.dtype.kind == "f":
        _bits(name, column, said)
    elif column.nunique() > 2:
        raise Refusal(
            f'column "{name}" has {column.nunique()} values: {said} needs two; make it categorical'
        )


def _both(*checks: Callable[..., None]) -> Callable[..., None]:
    def check(name: str, column: pd.Series, said: str) -> None:
        for one in checks:
            one(name, column, said)

    return check


_bits = _needs("0 and 1", lambda x: np.isin(x, (0.0, 1.0)))
_counts = _needs("counts (0, 1, 2, …)", lambda x: (x >= 0) & (x == np.floor(x)))
_positive = _both(_needs("positive numbers", lambda x: x > 0), _check_spread)
CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("gaussian", "normal", *NUMBERS), _check_spread),
    **dict.fromkeys(POSITIVE, _positive),
    **dict.fromkeys((*COUNTS, "multinomial"), _counts),
    "beta": _both(_needs("shares between 0 and 1", lambda x: (x > 0) & (x < 1)), _check_spread),
    "von_mises": _both(
        _needs("angles in radians, from -π to π", lambda x: abs(x) <= np.pi), _check_spread
    ),
    "bernoulli": _check_bits,
    "categorical": _check_answers,
}
