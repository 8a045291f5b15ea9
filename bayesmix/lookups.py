"""What a function looks up besides its arguments: a key of it, or None where that cannot be told.

Functions with equal keys do the same with the same arguments. The key is made anew at every call
from what is there now, so that a changed closure, global or default changes it. It is given out
only where everything looked up is known never to change by itself: numbers and strings by their
value, functions by their code and what they look up in turn, and names of the numerical libraries
that are on a list. Arrays, containers, objects, imports, writes to what is outside and anything
unknown give None.
"""

import builtins
import dis
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import jax.numpy as jnp

# Where functions and classes are defined that have no memory and read nothing from outside.
LIBRARIES = (
    "jax.numpy",
    "jax.nn",
    "jax.lax",
    "jax.scipy",
    "jax._src.nn",
    "jax._src.numpy",
    "jax._src.lax",
    "jax._src.scipy",
    "jax._src.ops",
    "numpyro.distributions",
    "numpyro.primitives",
    "numpyro.handlers",
    "math",
)
STATEFUL = {
    *("load", "save", "savez", "fromfile", "frombuffer", "set_printoptions", "printoptions"),
    *("param", "module", "mutable", "prng_key", "subsample", "get_mask", "Messenger"),
    *("condition", "substitute", "seed", "trace", "replay", "block", "do", "infer_config"),
    *("enable_validation", "validation_enabled"),
}
BUILTINS = {
    *("abs", "all", "any", "bool", "complex", "dict", "enumerate", "filter", "float", "int"),
    *("isinstance", "len", "list", "map", "max", "min", "pow", "range", "reversed", "round"),
    *("set", "slice", "sorted", "str", "sum", "tuple", "zip", "ValueError", "TypeError"),
}
OWN = __name__.partition(".")[0] + "."
# A name that is set in place, an attribute, an import: what reaches beyond the call.
REACHING_OUT = {
    *("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR"),
    *("IMPORT_NAME", "IMPORT_FROM", "LOAD_BUILD_CLASS", "LOAD_NAME"),
}


CALLABLE = (type, FunctionType, BuiltinFunctionType, type(jnp.exp))


class Same:
    """A thing that equals itself alone, and stays alive with the key it is in."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Unsure(Exception):
    """Something is looked up that may change unseen."""


def lookups(value: Any) -> Any:
    """A hashable key of a value or function; None where it may change unseen."""
    try:
        return _key(value, ())
    except Unsure:
        return None


def _key(value: Any, above: tuple[FunctionType, ...]) -> Any:
    """``above``: the functions that are being looked at, for those that call one another."""
    kind = type(value)
    if kind is Same:
        return value
    if value is None or value is Ellipsis or kind in (bool, int, str, bytes):
        return kind, value
    if kind in (float, complex):
        return kind, repr(value)  # tells 0.0 from -0.0
    if kind in (tuple, frozenset):
        return kind, tuple(_key(item, above) for item in value)
    if kind is partial:
        named = tuple(value.keywords.items())
        return kind, _key(value.func, above), _key(value.args, above), _key(named, above)
    if isinstance(value, CALLABLE) and _is_listed(value.__module__) and not _has_state(value):
        return Same(value)
    if kind is FunctionType:
        return _function_key(value, above)
    raise Unsure


def _is_listed(module: str | None) -> bool:
    return any(f"{module}.".startswith(f"{each}.") for each in LIBRARIES)


def _has_state(value: Any) -> bool:
    return value.__name__ in STATEFUL or bool(getattr(value, "__closure__", None))


def _function_key(function: FunctionType, above: tuple[FunctionType, ...]) -> Any:
    code = function.__code__
    known = next((number for number, each in enumerate(above) if each is function), None)
    if known is not None:
        return "itself", known
    above = (*above, function)
    cells = function.__closure__ or ()
    try:
        closed = tuple(cell.cell_contents for cell in cells)
    except ValueError:  # a cell that is still empty
        raise Unsure from None
    defaults = (function.__defaults__, tuple((function.__kwdefaults__ or {}).items()))
    found = tuple(_key(value, above) for value in (*closed, *defaults))
    # The library's own modules hold tables and helpers; these are set once, when it is imported.
    if function.__globals__.get("__name__", "").startswith(OWN):
        return code, found
    return code, found, tuple(_key(value, above) for value in _globals(function))


def _globals(function: FunctionType) -> Iterator[Any]:
    """The values of the global names that a function uses, followed through modules."""
    chains = _chains(function.__code__)
    if chains is None:
        raise Unsure
    for name, *attributes in chains:
        if name not in function.__globals__:
            if name not in BUILTINS or not hasattr(builtins, name):
                raise Unsure
            continue
        yield _followed(function.__globals__[name], attributes)


def _followed(value: Any, attributes: Sequence[str]) -> Any:
    """What the attributes of a module, one of another, lead to; a fixed value where it is listed.

    Attributes of other things are left alone: what these are decides.
    """
    for attribute in attributes:
        if not isinstance(value, ModuleType):
            break
        if not hasattr(value, attribute):
            raise Unsure
        module, value = value, getattr(value, attribute)
        listed = _is_listed(module.__name__) and attribute not in STATEFUL
        if listed and not isinstance(value, ModuleType):
            return Same(value)
    return value


@lru_cache(maxsize=256)
def _chains(code: CodeType) -> tuple[tuple[str, ...], ...] | None:
    """Each global name in the code with the attributes taken of it; None for code that reaches out.

    Code of functions inside counts too.
    """
    chains: list[tuple[str, ...]] = []
    open_chain = False
    for step in dis.get_instructions(code):
        if step.opname in REACHING_OUT or (
            step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in code.co_freevars
        ):
            return None
        if step.opname == "EXTENDED_ARG":
            continue
        if step.opname == "LOAD_GLOBAL":
            chains.append((step.argval,))
            open_chain = True
        elif open_chain and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chains[-1] = (*chains[-1], step.argval)
        else:
            open_chain = False
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found = _chains(inner)
            if found is None:
                return None
            chains += found
    return tuple(dict.fromkeys(chains))
