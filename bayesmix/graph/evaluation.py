"""Values of a graph, computed again, in parts.

``ancestors`` orders what a value needs, ``frontier`` is what it needs of the data alone, and
``evaluate`` computes it, given any values in between.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bayesmix.graph.nodes import Node


def ancestors(outputs: Iterable[Node], known: Iterable[int] = ()) -> list[Node]:
    """The nodes needed for ``outputs``, in the order of computation, stopping at ``known``."""
    seen: dict[int, Node] = {}
    known, pending = set(known), list(outputs)
    while pending:
        node = pending.pop()
        if node.number in seen:
            continue
        seen[node.number] = node
        if node.number not in known:
            pending.extend(node.inputs)
    return [seen[number] for number in sorted(seen)]


def frontier(outputs: Iterable[Node]) -> list[Node]:
    """The values, free of parameters, that summarise all that ``outputs`` need of the data."""
    found, seen, pending = {}, set(), list(outputs)
    while pending:
        node = pending.pop()
        if node.number in seen:
            continue
        seen.add(node.number)
        if node.depends:
            pending.extend(node.inputs)
        elif node.on_data:
            found[node.number] = node
    return [found[number] for number in sorted(found)]


def evaluate(
    outputs: Sequence[Node],
    given: dict[int, Any],
    params: Callable[[Node], dict[str, Any]] = lambda node: node.params,
) -> list[Any]:
    """Values of ``outputs`` where ``given`` holds the values of some nodes, by number.

    Traceable by JAX. Captured arrays that are not given have the value they had when read.
    params : of a node's equation, by default its own; other sizes of arrays want others.
    """
    values = dict(given)
    for node in ancestors(outputs, given):
        if node.number in values:
            continue
        if node.equation is None:
            values[node.number] = node.value
            continue
        inputs = [values[n.number] for n in node.inputs]
        results = _bind(node, inputs, params(node))
        for sibling, value in zip(node.equation.results, results, strict=True):
            values[sibling.number] = value
    return [values[node.number] for node in outputs]


def _bind(node: Node, inputs: Sequence[Any], params: dict[str, Any]) -> Sequence[Any]:
    """Results of a node's primitive on other inputs."""
    assert node.equation is not None
    primitive = node.equation.primitive
    bound = primitive.get_bind_params(params)
    # jax before 0.10 gives (functions, params), later ones params alone
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    result = primitive.bind(*functions, *inputs, **params)
    return result if primitive.multiple_results else [result]
