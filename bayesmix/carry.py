"""What a result takes along into another process: its fields, and how to find its program there.

Compiled code, graphs and what was worked out on the way stay behind. A program travels by its name,
as every function does in a pickle; one of `bayesmix.models` by the call that makes it.
"""

import pickle
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import cache, wraps
from hashlib import sha256
from importlib import import_module
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro

from bayesmix.graph import ancestors
from bayesmix.reader import Reading

REFUSALS = (pickle.PicklingError, AttributeError, TypeError)


def once(factory: Callable[..., Any]) -> Any:
    """A factory of programs that gives the same object for the same positional arguments.

    The program's ``recipe`` says how it was made, so that another process can make it again.
    """

    @cache
    @wraps(factory)
    def make(*args: Any) -> Any:
        program = factory(*args)
        program.recipe = factory.__module__, factory.__qualname__, args
        return program

    return make


class Recipe(NamedTuple):
    """The call that makes a program: a module's function and its arguments."""

    module: str
    name: str
    args: tuple[Any, ...]


def packed(program: Any) -> Any:
    """What is pickled in a program's place: its recipe, or the program.

    Raises PicklingError for a program that another process could not find. A pickler that stores
    functions whole, such as cloudpickle's, may have any program.
    """
    found = Recipe(*program.recipe) if hasattr(program, "recipe") else program
    try:
        pickle.dumps(found)
    except REFUSALS as error:
        if not _stores_functions():
            name = getattr(program, "__qualname__", type(program).__name__)
            raise pickle.PicklingError(
                f"the program {name!r} cannot be found by another process, because it is a lambda "
                "or was made inside a function: define it at the top level of a module, or save "
                "the draws, result.to_datatree().to_netcdf(...)"
            ) from error
    return found


def unpacked(found: Any) -> Any:
    """The program of ``packed``, in this process."""
    if not isinstance(found, Recipe):
        return found
    return getattr(import_module(found.module), found.name)(*found.args)


def _stores_functions() -> bool:
    """Whether the pickler at work stores functions whole, as that of joblib's workers does.

    An object is not told which pickler asks, so it is looked for among the callers.
    """
    frame = sys._getframe()
    while frame is not None:
        asking = frame.f_locals.get("self")
        if isinstance(asking, pickle.Pickler) and hasattr(asking, "reducer_override"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def mark(reading: Reading) -> tuple[tuple[str, str], str]:
    """A text that differs where a program's arithmetic or its numbers differ, with the versions of
    the libraries by which alone it may be compared.
    """
    found = sha256()
    for node in ancestors([reading.components, *reading.terms.values()]):
        constant = b"" if node.value is None else np.asarray(node.value).tobytes()
        found.update(f"{node.label}{node.shape}".encode() + constant)
    return (jax.__version__, numpyro.__version__), found.hexdigest()


def own_fields(result: Any) -> dict[str, Any]:
    """The state of a frozen dataclass: its fields, without what was worked out from them."""
    return {field.name: getattr(result, field.name) for field in fields(result)}
