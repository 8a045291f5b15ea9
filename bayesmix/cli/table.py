"""A user's table: read, chosen and checked, every refusal in one sentence."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


class Refusal(Exception):
    """What the user can put right, as one sentence."""


def plural(n: int, noun: str) -> str:
    """3 rows, 1 row."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def read_table(path: Path) -> pd.DataFrame:
    """The CSV file as a DataFrame, any columns."""
    import pandas as pd

    if not path.exists():
        raise Refusal(f"there is no file {str(path)!r}")
    if path.is_dir():
        raise Refusal(f"{str(path)!r} is a directory: name a CSV file")
    try:
        table = pd.read_csv(path, skipinitialspace=True, low_memory=False)
    except pd.errors.EmptyDataError:
        raise Refusal(f"{path.name} is empty: it needs a header line and rows") from None
    except UnicodeDecodeError:
        raise Refusal(f"{path.name} is not a text file in UTF-8") from None
    except pd.errors.ParserError as error:
        reason = " ".join(str(error).split()).rsplit("C error: ", 1)[-1]
        raise Refusal(f"{path.name} is not a CSV table: {reason}") from None
    except OSError as error:
        raise Refusal(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except ValueError as error:
        raise Refusal(f"{path.name} is not a CSV table: {error}") from None
    return _check_header(table, path.name)


def _check_header(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table, its nameless first column (R and pandas write one) taken as row labels."""
    import pandas as pd

    if not table.index.equals(pd.RangeIndex(len(table))):
        raise Refusal(f"{name} has rows with more fields than its header line has names")
    table.columns = [str(column).strip() for column in table.columns]
    if len(table.columns) > 1 and table.columns[0].startswith("Unnamed: "):
        table = table.set_index(table.columns[0])
        table.index.name = None
    if all(_is_number(column) for column in table.columns):
        raise Refusal(
            f"the first line of {name} holds numbers ({table.columns[0]}, …): put the columns' "
            f"names there"
        )
    for sign, said in ((";", "semicolons"), ("\t", "tabs")):
        if table.shape[1] == 1 and sign in table.columns[0]:
            raise Refusal(f"the columns of {name} are separated by {said}: separate them by commas")
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def choose(table: pd.DataFrame, columns: str | None) -> pd.DataFrame:
    """The named columns ("a,b"), in that order; all when None."""
    if columns is None:
        return table
    wanted = [name.strip() for name in next(csv.reader([columns]), []) if name.strip()]
    there = [str(column) for column in table.columns]
    for name in wanted:
        if name not in there:
            raise Refusal(f'there is no column "{name}"; the columns are: {", ".join(there)}')
        if wanted.count(name) > 1:
            raise Refusal(f'--columns names "{name}" twice')
    if not wanted:
        raise Refusal(f"--columns names no column; the columns are: {', '.join(there)}")
    return table[wanted]


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table in float64; refuses text, naming the column and its first value."""
    import pandas as pd

    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in table.columns}
    text = {name: table[name].notna() & numbers[name].isna() for name in table.columns}
    numeric = [name for name in table.columns if not text[name].any() and table[name].notna().any()]
    for name in table.columns:
        if not text[name].any():
            continue
        value = table.loc[text[name], name].iloc[0]
        if text[name].sum() == table[name].notna().sum():
            hint = f", for example --columns {','.join(numeric)}" if numeric else ""
            raise Refusal(
                f'column "{name}" is text ("{value}", …): name numeric columns with --columns{hint}'
            )
        row = int(np.argmax(text[name].to_numpy())) + 1
        raise Refusal(f'column "{name}" holds text in row {row} ("{value}"): it needs numbers')
    return pd.DataFrame({name: column.astype("float64") for name, column in numbers.items()})


def gaps(table: pd.DataFrame) -> str:
    """How many cells are missing, in how many rows; "" if none are."""
    missing = table.isna().to_numpy()
    if not missing.any():
        return ""
    cells, rows = int(missing.sum()), int(missing.any(1).sum())
    return (
        f"{plural(cells, 'missing cell')} in {plural(rows, 'row')} "
        f"{'is' if cells == 1 else 'are'} integrated out"
    )


def check_values(table: pd.DataFrame, model: str, K: int) -> None:
    """Refuses what the model cannot take, naming column and row."""
    values = table.to_numpy()
    if len(table) == 0:
        raise Refusal("the table has a header line but no rows")
    for name in table.columns[np.isnan(values).all(0)]:
        raise Refusal(f'column "{name}" has no value in any row: leave it out with --columns')
    if np.isinf(values).any():
        row, column = _first(np.isinf(values), table)
        raise Refusal(f'column "{column}" is infinite in row {row}: it needs finite numbers')
    rows = int((~np.isnan(values)).any(1).sum())
    if rows < 2 * K:
        raise Refusal(
            f"{plural(rows, 'row')} cannot show {plural(K, 'cluster')}: at least "
            f"{2 * K} are needed, two per cluster"
        )
    {"gaussian": _check_spread, "poisson": _check_counts, "bernoulli": _check_bits}[model](table)


def _first(bad: np.ndarray, table: pd.DataFrame) -> tuple[int, str]:
    """Row (from 1, header not counted) and column of the first bad value."""
    row, column = np.argwhere(bad)[0]
    return int(row) + 1, str(table.columns[column])


def _check_spread(table: pd.DataFrame) -> None:
    for name, column in table.items():
        x = column.dropna().to_numpy()
        if (x == x[0]).all():
            raise Refusal(f'column "{name}" is constant ({x[0]:g} in every row): leave it out')
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            spread = np.var(x)
        if not 1e-280 < spread < 1e280:
            raise Refusal(f'column "{name}" has a spread beyond computing: change its unit')


def _check_counts(table: pd.DataFrame) -> None:
    values = table.to_numpy()
    bad = ~np.isnan(values) & ((values < 0) | (values != np.floor(values)))
    if bad.any():
        row, column = _first(bad, table)
        raise Refusal(
            f'column "{column}" is {table.loc[:, column].iloc[row - 1]:g} in row {row}: '
            "--model poisson needs counts (0, 1, 2, …)"
        )


def _check_bits(table: pd.DataFrame) -> None:
    bad = ~np.isin(table.to_numpy(), (0.0, 1.0)) & table.notna().to_numpy()
    if bad.any():
        row, column = _first(bad, table)
        raise Refusal(
            f'column "{column}" is {table.loc[:, column].iloc[row - 1]:g} in row {row}: '
            "--model bernoulli needs 0 and 1"
        )
