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
                ", or use --model categorical, or mixed"
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
