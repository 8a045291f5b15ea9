"""Gathers that take whole axes of a parameter, read from their indices.

An index made of literals is computed here by NumPy; what depends on data or on sites is not.
"""

from typing import Any

import numpy as np

from bayesmix.graph.nodes import Node

NUMPY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "lt": np.less,
    "eq": np.equal,
    "ge": np.greater_equal,
    "max": np.maximum,
    "min": np.minimum,
}


def whole_axes(
    params: Any, operand: Node, indices: Node
) -> tuple[dict[int, int], list[int | None]] | None:
    """How a gather takes whole axes in their order, ``beta[arange(K)[:, None], 1]``.

    That is how a parameter looks when an assignment runs over all of its values. Returns the axes
    of the operand held at one index, and for each axis of the result the axis of the operand, or
    None for a new one; None for any other gather.
    """
    numbers = params["dimension_numbers"]
    taken = numbers.start_index_map
    if (
        indices.depends
        or indices.on_data
        or numbers.operand_batching_dims
        or numbers.collapsed_slice_dims != tuple(sorted(taken))
        or any(
            size != (1 if axis in taken else operand.shape[axis])
            for axis, size in enumerate(params["slice_sizes"])
        )
    ):
        return None
    index = _constant(indices)
    if index is None:
        return None
    batch: list[int | None] = [None] * (index.ndim - 1)
    held = {}
    for number, axis in enumerate(taken):
        component, size = index[..., number], operand.shape[axis]
        run = _run(component, size)
        if size > 1 and np.all(component == component.flat[0]):
            held[axis] = int(component.flat[0])
        elif run is not None and batch[run] is None:
            batch[run] = axis
        else:
            return None
    offset = [axis for axis in range(len(operand.shape)) if axis not in taken]
    fresh, rest = iter(batch), iter(offset)
    rank = len(batch) + len(offset)
    return held, [next(rest) if i in numbers.offset_dims else next(fresh) for i in range(rank)]


def _constant(node: Node) -> np.ndarray | None:
    """The value of a node that is an index made of literals, by NumPy; None if it is more."""
    if node.label == "literal":
        return node.value
    values = [value for n in node.inputs if (value := _constant(n)) is not None]
    params = node.params
    if len(values) < len(node.inputs):
        return None
    match node.label:
        case "iota":
            shape, axis = node.shape, params["dimension"]
            line = np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1))
            return np.broadcast_to(line, shape)
        case "broadcast_in_dim":
            places = dict(zip(params["broadcast_dimensions"], values[0].shape, strict=True))
            line = values[0].reshape([places.get(i, 1) for i in range(len(node.shape))])
            return np.broadcast_to(line, node.shape)
        case "reshape" | "squeeze":
            return values[0].reshape(node.shape)
        case "convert_element_type":
            return values[0].astype(params["new_dtype"])
        case "select_n" if values[0].dtype == bool and len(values) == 3:
            return np.where(values[0], values[2], values[1])
        case "concatenate":
            return np.concatenate(values, params["dimension"])
        case "add" | "sub" | "mul" | "lt" | "eq" | "ge" | "max" | "min":
            return NUMPY[node.label](*values)
    return None


def _run(index: np.ndarray, size: int) -> int | None:
    """The one axis along which an index counts 0, 1, ..., size - 1, or None."""
    for axis, length in enumerate(index.shape):
        counting = np.arange(size).reshape(-1, *(1,) * (index.ndim - axis - 1))
        if length == size and np.all(index == counting):
            return axis
    return None
