"""Which axis of a site became which axis of a value.

``axes`` follows the axes of sites through a value's arithmetic; ``same_along`` says where a value
only repeats itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayesmix.graph.evaluation import ancestors
from bayesmix.graph.nodes import Node, is_elementwise

Axes = tuple[frozenset[tuple[str, int]], ...]

NONE: frozenset[tuple[str, int]] = frozenset()


def same_along(node: Node, axis: int) -> bool:
    """Whether all slices of ``node`` along ``axis`` are equal by construction: a broadcast."""
    if node.label == "broadcast_in_dim":
        sources = node.params["broadcast_dimensions"]
        if axis not in sources:
            return True
        source = sources.index(axis)
        inner = node.inputs[0]
        return inner.shape[source] != node.shape[axis] or same_along(inner, source)
    if node.label == "transpose":
        return same_along(node.inputs[0], node.params["permutation"][axis])
    if not (node.inputs and (is_elementwise(node) or (node.label == "cholesky" and axis == 0))):
        return not node.depends and not node.shape
    return all(not n.shape or same_along(n, axis) for n in node.inputs)


def axes(node: Node, memo: dict[int, Axes] | None = None) -> Axes:
    """For each axis of ``node``, the (site, axis) pairs that run along it.

    Followed through elementwise arithmetic and changes of shape; an operation that mixes an axis
    (a sum, a factorisation, a gather) ends the pairs that run along it.
    """
    memo = {} if memo is None else memo
    for ancestor in ancestors([node]):
        if ancestor.number not in memo:
            memo[ancestor.number] = _axes(ancestor, [memo[n.number] for n in ancestor.inputs])
    return memo[node.number]


def _axes(node: Node, operands: list[Axes]) -> Axes:
    """The pairs along each axis of ``node``, given those of its inputs."""
    rank, params = len(node.shape), node.params
    if node.site:
        return tuple(frozenset([(node.site, axis)]) for axis in range(rank))
    if not node.depends:
        return (NONE,) * rank
    if is_elementwise(node):
        return _cellwise(node, operands)
    match node.label:
        case "broadcast_in_dim":
            return _broadcast(node, params["broadcast_dimensions"], operands[0])
        case "squeeze":
            return _without(operands[0], params["dimensions"])
        case "transpose":
            return tuple(operands[0][axis] for axis in params["permutation"])
        case "reshape":
            return _reshaped(node, operands[0])
        case "slice":
            kept = zip(node.inputs[0].shape, node.shape, operands[0], strict=True)
            return tuple(a if before == after else NONE for before, after, a in kept)
        case "concatenate":
            return _ended(_together(operands, rank), params["dimension"])
        case "dot_general":
            return _contracted(params, operands)
        case "cholesky" | "triangular_solve" | "eigh" | "lu":
            lead = _together(operands, rank - 2)
            return (*lead, *((NONE,) * (rank - len(lead))))
    if node.label.startswith(("reduce_", "arg")) and "axes" in params:
        return _without(operands[0], params["axes"])
    if node.label.startswith("cum"):
        return _ended(operands[0], params["axis"])
    return (NONE,) * rank


def _cellwise(node: Node, operands: list[Axes]) -> Axes:
    pairs = [(n.shape, a) for n, a in zip(node.inputs, operands, strict=True) if n.shape]
    return tuple(
        NONE.union(*(a[i] for shape, a in pairs if shape[i] == size))
        for i, size in enumerate(node.shape)
    )


def _broadcast(node: Node, targets: Sequence[int], before: Axes) -> Axes:
    result = [NONE] * len(node.shape)
    for size, target, pairs in zip(node.inputs[0].shape, targets, before, strict=True):
        if size == node.shape[target]:
            result[target] = pairs
    return tuple(result)


def _without(before: Axes, gone: Sequence[int]) -> Axes:
    dropped = {axis % len(before) for axis in gone}
    return tuple(a for axis, a in enumerate(before) if axis not in dropped)


def _ended(before: Axes, mixed: int) -> Axes:
    """The pairs but those along the one axis that is mixed."""
    return tuple(NONE if axis == mixed else a for axis, a in enumerate(before))


def _together(operands: list[Axes], rank: int) -> Axes:
    """The pairs of all operands, along the first ``rank`` axes."""
    return tuple(NONE.union(*(a[axis] for a in operands)) for axis in range(rank))


def _reshaped(node: Node, before: Axes) -> Axes:
    """Axes kept by a reshape: those whose size and whose product of earlier sizes are unchanged."""
    old = node.inputs[0].shape
    starts = {
        (int(np.prod(old[:i])), old[i]): labels for i, labels in enumerate(before) if old[i] != 1
    }
    return tuple(
        starts.get((int(np.prod(node.shape[:i])), size), NONE) if size != 1 else NONE
        for i, size in enumerate(node.shape)
    )


def _contracted(params: dict[str, Any], operands: list[Axes]) -> Axes:
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    left, right = operands
    batch = [left[i] | right[j] for i, j in zip(left_batch, right_batch, strict=True)]
    rest_left = [a for i, a in enumerate(left) if i not in (*left_sum, *left_batch)]
    rest_right = [a for i, a in enumerate(right) if i not in (*right_sum, *right_batch)]
    return (*batch, *rest_left, *rest_right)
