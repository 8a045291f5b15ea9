"""Linear predictors: is a value, row by row and cluster by cluster, X_n' b_k + offset_n?

A location that a program computes from data and parameters is read backwards, through sums,
products with data, and changes of shape, to the *coefficients*: values that no data enter. The
cluster's axis is followed on the way, so that the data's part is known to be the same for all
clusters. An operation that is not of this kind ends the reading: then nothing is claimed.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.graph import Node, core, evaluate, fingerprint, same_along


class NotLinear(Exception):
    """Ends a reading."""


class Predictor:
    """A value (N, K) that is linear in ``coefficients``, the same for all clusters.

    ``axes``: the cluster's axis of each coefficient, None for one that all clusters share. Hashable
    by its arithmetic, so that it can be static under ``jax.jit``.
    """

    def __init__(self, node: Node, found: dict[int, tuple[Node, int | None]]) -> None:
        self.node = node
        self.coefficients = tuple(coefficient for coefficient, _ in found.values())
        self.axes = tuple(axis for _, axis in found.values())
        self._key = (fingerprint([node, *self.coefficients]), self.axes)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Predictor) and self._key == other._key

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the coefficients of one cluster."""
        return [
            tuple(n for i, n in enumerate(c.shape) if i != axis)
            for c, axis in zip(self.coefficients, self.axes, strict=True)
        ]

    def design(self, data: dict[int, Any]) -> tuple[np.ndarray, np.ndarray]:
        """X (N, P) and the offset (N,), given the values of the data's nodes."""
        source = tuple(sorted(data))
        columns, offset = _design(self, source, [data[number] for number in source])
        return np.asarray(columns, np.float64).T, np.asarray(offset, np.float64)


@partial(jax.jit, static_argnums=(0, 1))
def _design(predictor: Predictor, source: tuple[int, ...], arrays: list[Any]) -> Any:
    """The columns of X, (P, N), from the value's slope in each coefficient, and the offset."""
    given = dict(zip(source, arrays, strict=True))
    sizes = [int(np.prod(shape)) for shape in predictor.shapes]

    def of_first_cluster(flat: jax.Array) -> jax.Array:
        parts = jnp.split(flat, np.cumsum(sizes)[:-1])
        for part, shape, node, axis in zip(
            parts, predictor.shapes, predictor.coefficients, predictor.axes, strict=True
        ):
            value = part.reshape(shape)
            if axis is not None:
                value = jnp.expand_dims(value, axis)
            given[node.number] = jnp.broadcast_to(value, node.shape)
        return evaluate([predictor.node], given)[0][:, 0]

    none = jnp.zeros(sum(sizes))
    offset, slope = jax.linearize(of_first_cluster, none)
    return jax.lax.map(slope, jnp.eye(len(none))), offset


def side_by_side(values: Iterable[jax.Array], axes: Iterable[int | None], K: int) -> jax.Array:
    """The coefficients of all clusters as one matrix (K, P)."""
    return jnp.concatenate(
        [
            jnp.broadcast_to(value.reshape(1, -1), (K, value.size))
            if axis is None
            else jnp.broadcast_to(
                jnp.moveaxis(value, axis, 0).reshape(value.shape[axis], -1),
                (K, value.size // value.shape[axis]),
            )
            for value, axis in zip(values, axes, strict=True)
        ],
        axis=1,
    )


def read_predictor(node: Node) -> Predictor | None:
    """The linear predictor that a location (N, K) is, or None."""
    found: dict[int, tuple[Node, int | None]] = {}
    try:
        _follow(node, 1, found)
    except NotLinear:
        return None
    return Predictor(node, found) if node.on_data and found else None


def affine(node: Node, sites: frozenset[str]) -> bool:
    """Whether a value without data is affine in the sites, others held fixed."""
    if not node.depends & sites or node.site:
        return True
    inputs = [n for n in node.inputs if n.depends & sites]
    match node.label:
        case "mul" | "dot_general":
            return len(inputs) == 1 and affine(inputs[0], sites)
        case "div":
            return inputs == [node.inputs[0]] and affine(inputs[0], sites)
        case "gather" | "dynamic_slice":
            return inputs == [node.inputs[0]] and affine(inputs[0], sites)
    return node.label in ADDITIVE and all(affine(n, sites) for n in inputs)


ADDITIVE = set(
    "add sub neg add_any convert_element_type broadcast_in_dim reshape transpose squeeze slice "
    "reduce_sum concatenate rev".split()
)


def _follow(node: Node, axis: int | None, found: dict[int, tuple[Node, int | None]]) -> None:
    """Collect the coefficients of ``node``, whose cluster axis is ``axis`` or None."""
    if axis is not None and node.shape[axis] == 1:
        axis = None
    if not node.depends:
        if axis is not None and not same_along(node, axis):
            raise NotLinear
        return
    if not node.on_data:
        if found.setdefault(node.number, (node, axis))[1] != axis:
            raise NotLinear
        return
    match node.label:
        case "mul" | "div":
            _product(node, axis, found)
        case "dot_general":
            _contraction(node, axis, found)
        case label if label in ADDITIVE:
            for operand in node.inputs:
                _follow(operand, _before(node, operand, axis), found)
        case _:
            raise NotLinear


def _product(node: Node, axis: int | None, found: dict[int, tuple[Node, int | None]]) -> None:
    left, right = node.inputs
    if right.depends and (left.depends or node.label == "div"):
        raise NotLinear
    for operand in node.inputs:
        _follow(operand, axis if operand.shape else None, found)


def _contraction(node: Node, axis: int | None, found: dict[int, tuple[Node, int | None]]) -> None:
    """A matrix product with data: the cluster's axis must be the parameters' own."""
    (left_sum, right_sum), (left_batch, right_batch) = node.params["dimension_numbers"]
    sides = [(node.inputs[0], left_sum, left_batch), (node.inputs[1], right_sum, right_batch)]
    if all(operand.depends for operand, *_ in sides):
        raise NotLinear
    start = len(left_batch)
    for operand, summed, batch in sides:
        free = [i for i in range(len(operand.shape)) if i not in (*summed, *batch)]
        own = None
        if axis is not None and axis < len(left_batch):
            own = batch[axis]
        elif axis is not None and start <= axis < start + len(free):
            own = free[axis - start]
        start += len(free)
        _follow(operand, own, found)


def _before(node: Node, operand: Node, axis: int | None) -> int | None:
    """The axis of an operand that becomes the axis of ``node``."""
    if axis is None or not operand.shape:
        return None
    params = node.params
    match node.label:
        case "broadcast_in_dim":
            places = params["broadcast_dimensions"]
            return places.index(axis) if axis in places else None
        case "transpose":
            return params["permutation"][axis]
        case "squeeze":
            gone = {d % len(operand.shape) for d in params["dimensions"]}
            return [i for i in range(len(operand.shape)) if i not in gone][axis]
        case "reduce_sum":
            return [i for i in range(len(operand.shape)) if i not in params["axes"]][axis]
        case "reshape":
            return _unshaped(operand.shape, node.shape, axis)
        case "concatenate" if params["dimension"] == axis:
            raise NotLinear
        case "slice" if operand.shape[axis] != node.shape[axis]:
            raise NotLinear
        case "rev":
            raise NotLinear
    return axis


def _unshaped(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int:
    """The axis of equal size and equal product of earlier sizes."""
    lead = int(np.prod(after[:axis]))
    for other, size in enumerate(before):
        if size == after[axis] and int(np.prod(before[:other])) == lead:
            return other
    raise NotLinear


def of_clusters(node: Node) -> Node | None:
    """The K values by cluster, or the one for all, of a parameter (N, K) alike in all rows."""
    if len(node.shape) != 2 or not same_along(node, 0):
        return None
    inner = core(node)
    while inner.label == "transpose":
        inner = core(inner.inputs[0])
    return inner if int(np.prod(inner.shape)) in (node.shape[1], 1) else None
