"""Summaries of data that are never held whole: a graph's sums over the rows, block by block.

What a program wants of its data before it sees a row (means, variances, a covariance matrix for a
prior) is arithmetic on the rows followed by a sum, a maximum or a product over them. The rows' axis
is followed through the graph; each such reduction is taken block by block, and what depends on one
(deviations from a mean) waits for the next pass. Exact for any program of that kind; an operation
that needs all rows at once (a median) is refused by name.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.graph import ELEMENTWISE, Node, ancestors, evaluate, same_along

JOIN: dict[str, Callable[[Any, Any], Any]] = {
    "reduce_sum": np.add,
    "dot_general": np.add,
    "reduce_max": np.maximum,
    "reduce_min": np.minimum,
    "reduce_or": np.logical_or,
    "reduce_and": np.logical_and,
}


def summarise(
    outputs: Sequence[Node], source: int, given: dict[int, Any], blocks: Iterable[Any]
) -> list[Any]:
    """Values of ``outputs``, whose only rows are those of node ``source``, read from ``blocks``.

    blocks : the rows in order, as arrays of at least one row; iterated once for each pass.
    given : values of other nodes, by number. Raises ValueError naming an operation that needs all
    rows at once.
    """
    axes = _follow(outputs, source)
    known = dict(given)
    while pending := _pending(outputs, axes, known):
        totals: list[Any] = []
        take = jax.jit(partial(_parts, tuple(pending), source, axes))
        for block in blocks:
            parts = [np.asarray(value) for value in take(known, block)]
            joins = [JOIN[node.label] for node in pending]
            totals = (
                [join(a, b) for join, a, b in zip(joins, totals, parts, strict=True)]
                if totals
                else parts
            )
        known |= {node.number: value for node, value in zip(pending, totals, strict=True)}
    return [np.asarray(value) for value in evaluate(outputs, known)]


def _follow(outputs: Sequence[Node], source: int) -> dict[int, int]:
    """The axis of the rows of every node that has them, by number."""
    axes = {source: 0}
    for node in ancestors(outputs):
        if any(n.number in axes for n in node.inputs):
            axis = _axis(node, [axes.get(n.number) for n in node.inputs])
            if axis is not None:
                axes[node.number] = axis
    if any(node.number in axes for node in outputs):
        raise ValueError(_refusal("all rows at once"))
    return axes | _broadcast(outputs, axes)


def _broadcast(outputs: Sequence[Node], axes: dict[int, int]) -> dict[int, int]:
    """The same for values that are broadcast along the rows to meet those that have them."""
    found = dict(axes)
    for node in reversed(ancestors(outputs)):
        axis = found.get(node.number)
        if axis is None or not node.inputs:
            continue
        for n in node.inputs:
            along: int | None = axis
            if node.label == "broadcast_in_dim":
                dims = node.params["broadcast_dimensions"]
                along = dims.index(axis) if axis in dims else None
            elif node.label not in ELEMENTWISE:
                continue
            if along is not None and n.shape and n.shape[along] == node.shape[axis]:
                found.setdefault(n.number, along)
    return found


def _refusal(what: str) -> str:
    return (
        f"the program wants {what} of data given as Blocks; besides the observed site it may use "
        "sums, means, variances, covariances, minima and maxima over the rows, len(x) and x.shape"
    )


def _axis(node: Node, along: list[int | None]) -> int | None:
    """The rows' axis of ``node``, None if it has reduced them; ``along``: those of its inputs."""
    axis = next(a for a in along if a is not None)
    name, params, before = node.label, node.params, node.inputs[along.index(axis)].shape
    if name in JOIN and name.startswith("reduce_"):
        return None if axis in params["axes"] else axis - sum(a < axis for a in params["axes"])
    match name:
        case "dot_general":
            return _product_axis(params, along, [len(n.shape) for n in node.inputs])
        case "broadcast_in_dim":
            return params["broadcast_dimensions"][axis]
        case "transpose":
            return params["permutation"].index(axis)
        case "squeeze":
            gone = [d % len(before) for d in params["dimensions"]]
            return axis - sum(d < axis for d in gone)
        case "slice" if before[axis] == node.shape[axis]:
            return axis
        case "reshape":
            lead = int(np.prod(before[:axis]))
            for other, size in enumerate(node.shape):
                if size == before[axis] and int(np.prod(node.shape[:other])) == lead:
                    return other
    if name in ELEMENTWISE and _agree(node, along, axis):
        return axis
    raise ValueError(_refusal(f"'{name}'"))


def _agree(node: Node, along: list[int | None], axis: int) -> bool:
    """Whether every operand runs along the rows, or is the same for all of them."""
    return all(
        a == axis if a is not None else not n.shape or same_along(n, axis)
        for n, a in zip(node.inputs, along, strict=True)
    )


def _product_axis(params: Any, along: list[int | None], ranks: list[int]) -> int | None:
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    summed = [a in s for a, s in zip(along, (left_sum, right_sum), strict=True)]
    if all(summed) and left_sum.index(along[0]) == right_sum.index(along[1]):
        return None
    sides = [i for i, a in enumerate(along) if a is not None]
    if len(sides) > 1 or any(summed) or left_batch or right_batch:
        raise ValueError(_refusal("a product that mixes the rows"))
    side, axis = sides[0], along[sides[0]]
    assert axis is not None
    free = [a for a in range(ranks[side]) if a not in (left_sum, right_sum)[side]]
    return free.index(axis) + (0 if side == 0 else ranks[0] - len(left_sum))


def _pending(outputs: Sequence[Node], axes: dict[int, int], known: dict[int, Any]) -> list[Node]:
    """The reductions that the next pass can take: those that wait for no other."""
    ready: list[Node] = []
    waits: dict[int, bool] = {}
    for node in ancestors(outputs, known):
        if node.number in known:
            waits[node.number] = False
            continue
        waits[node.number] = any(waits[n.number] for n in node.inputs)
        if node.number not in axes and any(n.number in axes for n in node.inputs):
            if not waits[node.number]:
                ready.append(node)
            waits[node.number] = True
    return ready


def _parts(
    nodes: Sequence[Node], source: int, axes: dict[int, int], known: dict[int, Any], block: Any
) -> list[Any]:
    """The reductions ``nodes`` of one block."""
    size = len(block)

    def params(node: Node) -> dict[str, Any]:
        axis, own = axes.get(node.number), dict(node.params)
        for name in ("shape", "new_sizes", "limit_indices"):
            if name in own and axis is not None:
                own[name] = (*own[name][:axis], size, *own[name][axis + 1 :])
        return own

    return evaluate(nodes, {**known, source: jnp.asarray(block)}, params)
