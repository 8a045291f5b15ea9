"""Arithmetic in a comparable form: of one equation, and of a whole graph.

Two readings of the same program have equal keys, which is how nodes are interned, and how compiled
code is found again.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from bayesmix.graph.evaluation import ancestors
from bayesmix.graph.nodes import Node


def canonical(params: Any) -> Any:
    """A hashable form of an equation's parameters, equal for two readings of the same program.

    Functions attached to a primitive (the derivative rule of a ``custom_jvp``, say) are made anew
    at every trace and go with the arithmetic beside them, so only their kind is kept.
    """
    if isinstance(params, dict):
        return tuple((name, canonical(params[name])) for name in sorted(params))
    if isinstance(params, tuple | list):
        return tuple(canonical(item) for item in params)
    if isinstance(params, np.ndarray | jax.Array):
        array = np.asarray(params)
        return (array.dtype.str, array.shape, array.tobytes())
    if hasattr(params, "eqns"):
        return _canonical_jaxpr(params)
    if hasattr(params, "jaxpr"):
        return (canonical(params.jaxpr), canonical(tuple(params.consts)))
    if hasattr(params, "call_wrapped") or (callable(params) and not isinstance(params, type)):
        return type(params).__name__
    return repr(params) if type(params).__hash__ is None else params


def fingerprint(outputs: Sequence[Node]) -> Any:
    """A hashable description of the arithmetic: equal for two readings of the same program.

    Data and captured arrays enter by shape only, so compiled code can be shared between data sets
    and never holds any of their values.
    """
    order: dict[int, int] = {}
    lines: list[Any] = []
    for node in ancestors(outputs):
        order[node.number] = len(order)
        if node.equation is not None:
            operands = tuple(order[n.number] for n in node.inputs)
            lines.append((node.label, node.equation.key, operands, node.out))
        elif node.label == "literal":
            lines.append(("literal", node.value.dtype.str, node.shape, node.value.tobytes()))
        else:
            lines.append((node.label, node.shape, node.site))
    return (tuple(lines), tuple(order[node.number] for node in outputs))


def _canonical_jaxpr(jaxpr: Any) -> Any:
    names: dict[Any, int] = {}

    def name(atom: Any) -> Any:
        if isinstance(atom, jex.Literal):
            return ("literal", atom.aval.str_short(), np.asarray(atom.val).tobytes())
        return (names.setdefault(atom, len(names)), atom.aval.str_short())

    heads = tuple(map(name, [*jaxpr.constvars, *jaxpr.invars]))
    body = tuple(
        (
            eqn.primitive.name,
            canonical(eqn.params),
            tuple(map(name, eqn.invars)),
            tuple(map(name, eqn.outvars)),
        )
        for eqn in jaxpr.eqns
    )
    return (heads, body, tuple(map(name, jaxpr.outvars)))
