"""What a user hands to a program, made ready for JAX: frames, lists and odd dtypes become arrays.

Arrays become float64 / integer / boolean NumPy arrays and are traced; Python numbers, strings and
None stay as they are and are static. Nothing here knows NumPyro.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from types import GeneratorType
from typing import Any

import jax
import numpy as np

from bayesmix.blocks import Blocks

NO_TEXT = "not numbers: leave it out, or see bm.models.mixed, which takes columns of text"


@dataclass(frozen=True)
class Arguments:
    """A program's arguments, flat: ``arrays`` are data, ``rebuild(arrays)`` gives args, kwargs.

    ``columns`` and ``index`` are the names that came with the first table among them; ``mesh`` is
    over the devices that hold the first array that is spread over several, or None. ``tables`` are
    the columns of every table, by the name of the argument.
    """

    leaves: tuple[Any, ...]
    treedef: Any
    columns: tuple[str, ...] | None
    index: Any
    mesh: Any = None
    tables: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def arrays(self) -> list[Any]:
        """The data: arrays, and at most one Blocks."""
        return [leaf for leaf in self.leaves if isinstance(leaf, np.ndarray | Blocks)]

    @property
    def names(self) -> dict[str, Any]:
        """The names of columns and rows."""
        return {"columns": self.columns, "index": self.index, "tables": self.tables}

    def rebuild(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        fresh = iter(arrays)
        leaves = [
            next(fresh) if isinstance(leaf, np.ndarray | Blocks) else leaf for leaf in self.leaves
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def same_as(self, other: "Arguments") -> bool:
        """Whether the other arguments are these: static ones, data, names and devices."""
        names = (self.treedef, self.columns, self.tables, self.mesh) == (
            other.treedef,
            other.columns,
            other.tables,
            other.mesh,
        )
        pairs = [*zip(self.leaves, other.leaves, strict=False), (self.index, other.index)]
        return names and all(_same(a, b) for a, b in pairs)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        floats = a.dtype.kind == b.dtype.kind == "f"
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=floats)
    plain = not isinstance(a, np.ndarray | Blocks) and not isinstance(b, np.ndarray | Blocks)
    return a is b or (plain and type(a) is type(b) and bool(a == b))


def read_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Arguments of a program as plain arrays and static values.

    Raises ValueError naming the argument, and the column or row, for text, missing objects,
    ragged lists and generators.
    """
    table, columns = _first_table(args, kwargs), None
    if table is not None:
        names = getattr(table, "columns", None)
        columns = tuple(str(n) for n in (names if names is not None else [table.name]))
    positional = tuple(_convert(a, f"argument {i + 1}") for i, a in enumerate(args))
    named = {name: _convert(a, f"argument {name!r}") for name, a in kwargs.items()}
    leaves, treedef = jax.tree.flatten((positional, named), is_leaf=lambda leaf: leaf is None)
    index = row_labels_of(args, kwargs)
    every = {f"argument {i + 1}": a for i, a in enumerate(args)} | kwargs
    tables = tuple(
        (where, tuple(map(str, table.columns)))
        for where, table in every.items()
        if _is_table(table) and hasattr(table, "columns")
    )
    return Arguments(tuple(leaves), treedef, columns, index, _mesh((args, kwargs)), tables)


def row_labels_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> np.ndarray | None:
    """The names of the rows of the first table among the arguments, (N,)."""
    table = _first_table(args, kwargs)
    return np.asarray(table.index) if hasattr(table, "index") else None


def _first_table(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return next((a for a in (*args, *kwargs.values()) if _is_table(a)), None)


def _mesh(arguments: Any) -> Any:
    """A mesh of one axis over the devices of the first array spread over several, or None."""
    for leaf in jax.tree.leaves(arguments):
        if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
            devices: list[Any] = list(leaf.sharding.device_set)
            devices.sort(key=lambda device: device.id)
            return jax.sharding.Mesh(np.array(devices), ("rows",))
    return None


def on_host(value: Any) -> np.ndarray:
    """An array's values in this process, also where other processes hold a part of it."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        from jax.experimental.multihost_utils import process_allgather

        return np.asarray(process_allgather(value, tiled=True))
    return np.asarray(value)


def _is_table(value: Any) -> bool:
    return hasattr(value, "to_numpy") and (hasattr(value, "columns") or hasattr(value, "name"))


def _convert(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | complex | str) or callable(value):
        return value
    if isinstance(value, Blocks):
        return value.held()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, GeneratorType):
        raise ValueError(f"{where} is a generator: pass an array, a table or a list of rows")
    if _is_table(value):
        return _array(_table_values(value, where), where)
    if isinstance(value, dict):
        return {name: _convert(item, f"{where}[{name!r}]") for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_convert(item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise ValueError(f"{where} is a random key: a key is the first argument of run only")
    if isinstance(value, list) and any(isinstance(row, np.ma.MaskedArray) for row in value):
        value = np.ma.stack(value)
    if isinstance(value, np.ma.MaskedArray):
        return _array(_unmasked(value), where)
    try:
        return _array(on_host(value), where)
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise ValueError(f"{where} is a list whose rows differ in length") from None
        raise


def _unmasked(array: np.ma.MaskedArray[Any, Any]) -> np.ndarray:
    """Masked cells as NaN; what has none, or holds no numbers, as it is."""
    masked = np.ma.getmaskarray(array)
    if array.dtype.kind not in "biuf" or not masked.any():
        return np.asarray(array.data)
    return np.where(masked, np.nan, array.data)


def _table_values(table: Any, where: str) -> np.ndarray:
    if not hasattr(table, "columns"):
        return np.asarray(table.to_numpy())
    names = list(table.columns)
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"{where} has several columns {str(twice)!r}: give each its own name")
    for name in table.columns:
        column = np.asarray(table[name].to_numpy())
        if column.dtype.kind in "mM":
            raise ValueError(
                f"{where}: column {str(name)!r} holds {column.dtype.name} values; make numbers of "
                "them"
            )
        if column.dtype.kind not in "biufO":
            raise ValueError(
                f"{where}: column {str(name)!r} is text ({str(column[:1].tolist()[0])!r}, ...); "
                "choose the numeric columns"
            )
        if column.dtype.kind == "O":
            _array(column, f"{where}: column {str(name)!r}")
    return np.asarray(table.to_numpy())


def _array(array: np.ndarray, where: str) -> np.ndarray:
    """A plain ndarray in a dtype that JAX and float64 arithmetic can hold."""
    array = np.asarray(array)
    if array.dtype.kind == "O":
        array = _from_objects(array, where)
    if array.dtype.kind in "US":
        raise ValueError(f"{where} holds text ({str(array.ravel()[0])!r}, ...), {NO_TEXT}")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} has dtype {array.dtype}, which is not a number")
    wide = array.dtype.kind == "f" and array.dtype != np.float32
    return array.astype(np.float64 if wide else array.dtype.newbyteorder("="))  # the only copy


def _from_objects(array: np.ndarray, where: str) -> np.ndarray:
    """Python's own numbers; None and pandas' NA are cells that are missing."""
    if array.ndim == 0:
        raise ValueError(f"{where} is a {type(array.item()).__name__}, not an array or a table")
    numbers = np.empty(array.shape)
    for position, item in np.ndenumerate(array):
        place = f"row {position[0]}" + (f", column {position[1]}" if len(position) > 1 else "")
        if isinstance(item, str):
            raise ValueError(f"{where} holds text ({item!r}) at {place}, {NO_TEXT}")
        if isinstance(item, list | tuple | np.ndarray):
            raise ValueError(f"{where} is a list whose rows differ in length")
        if item is None or type(item).__name__ == "NAType":
            numbers[position] = np.nan
        elif isinstance(item, Real | Decimal | np.bool_):
            numbers[position] = float(item)
        else:
            raise ValueError(f"{where} holds {item!r} at {place}, not a number")
    return numbers


def check_counts(**named: Any) -> None:
    """Raise ValueError, naming it, for a setting that is not a positive whole number."""
    for name, value in named.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, not {value!r}")


def check_optional_counts(**named: Any) -> None:
    """``check_counts`` of the settings that are not None."""
    check_counts(**{name: value for name, value in named.items() if value is not None})


def check_dtype(dtype: Any) -> None:
    """Raise ValueError for a precision that is not float64 or float32."""
    if dtype not in ("float64", "float32"):
        raise ValueError(f'dtype must be "float64" or "float32", not {dtype!r}')


def seed_of(key: Any) -> np.random.SeedSequence:
    """A NumPy seed from a JAX key: the same key gives the same numbers.

    Raises ValueError for anything that is not a random key.
    """
    if isinstance(key, int | np.integer):
        raise ValueError(f"the first argument is a random key: jax.random.key({key}), not {key}")
    try:
        words = np.asarray(jax.random.key_data(key))
    except (TypeError, ValueError, AttributeError):
        raise ValueError(
            f"the first argument is a random key, jax.random.key(0), not {type(key).__name__}"
        ) from None
    return np.random.SeedSequence([int(word) for word in words.ravel()])
