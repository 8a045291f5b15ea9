"""What a function looks up besides its arguments: a key of it, or None where that cannot be told.

Functions with equal keys do the same with the same arguments. The key is made anew at every call
from what is there now, so that a changed closure, global or default changes it. It is given out
only where everything looked up is known never to change by itself: numbers and strings by their
value, functions by their code and what they look up in turn, and the things that the numerical
libraries on a list held when they were imported. Arrays, containers, objects, imports, writes to
what is outside and anything unknown give None. What these libraries do inside is taken for granted,
but what is named, and a class's bases, must have the attributes that it had.
"""

import builtins
import dis
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from operator import is_
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.constraints import Constraint

# Where functions and classes are defined that have no memory and read nothing from outside.
LIBRARIES = (
    "jax.numpy",
    "jax.nn",
    "jax.lax",
    "jax.scipy",
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
    name: getattr(builtins, name)
    for name in (
        *("abs", "all", "any", "bool", "complex", "dict", "enumerate", "filter", "float", "int"),
        *("isinstance", "len", "list", "map", "max", "min", "pow", "range", "reversed", "round"),
        *("set", "slice", "sorted", "str", "sum", "tuple", "zip", "ValueError", "TypeError"),
    )
}
OWN = __name__.partition(".")[0] + "."
# A name that is set in place, an attribute, an import: what reaches beyond the call.
REACHING_OUT = {
    *("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR"),
    *("IMPORT_NAME", "IMPORT_FROM", "LOAD_BUILD_CLASS", "LOAD_NAME"),
}


# What Python itself adds to a class that is merely looked at.
UNASKED = ("__annotations__", "__annotations_cache__")
STEADY = (
    *(type, FunctionType, BuiltinFunctionType, type(jnp.exp), jnp.ufunc, jax.custom_jvp),
    Constraint,
)


def _library() -> dict[int, Any]:
    """The functions and classes of the listed libraries, by their identity."""
    modules = [module for name, module in list(sys.modules.items()) if _is_listed(name)]
    return {
        id(value): value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, STEADY) and not {name, getattr(value, "__name__", None)} & STATEFUL
    }


def _is_listed(module: str) -> bool:
    return any(f"{module}.".startswith(f"{each}.") for each in LIBRARIES)


def _holders(value: Any) -> tuple[Any, ...]:
    """What holds the attributes of a function, a class or a constraint."""
    if isinstance(value, type):
        return value.__mro__
    return (value,) if hasattr(value, "__dict__") else ()


# As they are when bayesmix is imported: what takes their place later is another thing.
LIBRARY = _library()
ATTRIBUTES = {
    id(each): tuple(vars(each).values()) for value in LIBRARY.values() for each in _holders(value)
}


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
        return _key(value, [])
    except Unsure:
        return None


def nesting(treedef: Any) -> Any:
    """A hashable key of how tuples and dicts are nested in a tree; None where others are.

    Tree definitions alone do not do: they are equal for dicts with keys 1 and True, and compare
    what other containers hold by its identity.
    """
    node = treedef.node_data()
    if node is None:
        return "leaf"
    kind, names = node
    if kind not in (tuple, dict):
        return None
    parts = lookups(tuple(names or ())), *map(nesting, treedef.children())
    return None if None in parts else (kind, parts)


def _key(value: Any, seen: list[FunctionType]) -> Any:
    """``seen``: the functions that have been looked at; these may call one another."""
    kind = type(value)
    if kind is Same:
        return value
    if value is None or value is Ellipsis or kind in (bool, int, str, bytes):
        return kind, value
    if kind in (float, complex):
        return kind, repr(value)  # tells 0.0 from -0.0
    if kind in (tuple, frozenset):
        return kind, tuple(_key(item, seen) for item in value)
    if kind is partial:
        parts = (value.func, value.args, *_attributes(value.keywords), *_attributes(vars(value)))
        return kind, _key(parts, seen)
    if id(value) in LIBRARY and not _is_changed(value):
        return Same(value)
    if kind is FunctionType:
        return _function_key(value, seen)
    raise Unsure


def _attributes(named: dict[str, Any] | None) -> tuple[Any, ...]:
    return (None,) if named is None else (len(named), *named.items())


def _is_changed(value: Any) -> bool:
    """Whether an attribute of a thing of the library was set or deleted since it was imported."""
    for each in _holders(value):
        before, now = ATTRIBUTES[id(each)], vars(each)
        added = [name for name in islice(now, len(before), None) if name not in UNASKED]
        if added or len(now) < len(before) or not all(map(is_, now.values(), before)):
            return True
    return False


def _function_key(function: FunctionType, seen: list[FunctionType]) -> Any:
    code = function.__code__
    known = next((number for number, each in enumerate(seen) if each is function), None)
    if known is not None:
        return "seen", known
    seen.append(function)
    cells = function.__closure__ or ()
    try:
        closed = tuple(cell.cell_contents for cell in cells)
    except ValueError:  # a cell that is still empty
        raise Unsure from None
    named = (_attributes(function.__kwdefaults__), _attributes(vars(function)))
    found = _key((closed, function.__defaults__, *named), seen)
    # The library's own modules hold tables and helpers; these are set once, when it is imported.
    if _is_own(function.__globals__):
        return code, found
    return code, found, _key(tuple(_globals(function)), seen)


def _is_own(names: dict[str, Any]) -> bool:
    """Whether these are the global names of one of this package's modules."""
    module = names.get("__name__")
    if not isinstance(module, str) or not module.startswith(OWN):
        return False
    return module in sys.modules and vars(sys.modules[module]) is names


def _globals(function: FunctionType) -> Iterator[Any]:
    """The values of the global names that a function uses, followed through modules."""
    chains = _chains(function.__code__)
    if chains is None:
        raise Unsure
    held = function.__builtins__
    for name, *attributes in chains:
        if name in function.__globals__:
            yield _followed(function.__globals__[name], attributes)
        elif name in BUILTINS and held.get(name) is BUILTINS[name]:
            yield Same(BUILTINS[name])
        else:
            raise Unsure


def _followed(value: Any, attributes: Sequence[str]) -> Any:
    """What the attributes of a module, one of another, lead to.

    Attributes of other things are left alone: what these are decides.
    """
    for attribute in attributes:
        if not isinstance(value, ModuleType):
            break
        if not hasattr(value, attribute):
            raise Unsure
        value = getattr(value, attribute)
    return value


def _reaches_out(step: dis.Instruction, code: CodeType) -> bool:
    if step.opname in ("STORE_DEREF", "DELETE_DEREF"):
        return step.argval in code.co_freevars
    if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):  # __globals__, __doc__, __dict__, ...
        return str(step.argval).startswith("__")
    return step.opname in REACHING_OUT


@lru_cache(maxsize=256)
def _chains(code: CodeType) -> tuple[tuple[str, ...], ...] | None:
    """Each global name in the code with the attributes taken of it; None for code that reaches out.

    Code of functions inside counts too.
    """
    chains: list[tuple[str, ...]] = []
    open_chain = False
    for step in dis.get_instructions(code):
        if _reaches_out(step, code):
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
