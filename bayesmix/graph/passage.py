"""Along which axis of a value do slices of its inputs run on, each by itself?

Slices are rows of the data, or clusters. An operation that is known to treat them one by one hands
them on; any other mixes them.
"""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core as jex

from bayesmix.graph.evaluation import ancestors
from bayesmix.graph.nodes import INLINED, Equation, Node, is_elementwise


def carried(node: Node, site: str, axis: int) -> int | None:
    """The axis of ``node`` on which slices of a site along ``axis`` end; None where mixed."""
    place: dict[int, int | None] = {}
    for n in ancestors([node]):
        place[n.number] = None
        if n.site == site:
            place[n.number] = axis
        elif site in n.depends:
            place[n.number] = lands(n, [place[each.number] for each in n.inputs])
            if place[n.number] is None:
                return None
    return place[node.number]


def lands(w: Node, along: Sequence[int | None]) -> int | None:
    """The axis of a node on which the slices of its inputs end, each ``along`` an axis or None.

    None where no input has slices, and where these are mixed.
    """
    axes = [a for a in along if a is not None]
    params = w.params
    if not axes:
        return None
    first, name = axes[0], w.label
    before = w.inputs[along.index(first)].shape
    if is_elementwise(w):
        return first if set(axes) == {first} else None
    if "call_jaxpr" in params:
        return _inside(params["call_jaxpr"].jaxpr, along)[w.out]
    if name.startswith(("reduce_", "arg")) and "axes" in params:
        kept = [a for a in range(len(before)) if a not in params["axes"]]
        return kept.index(first) if first in kept and len(set(axes)) == 1 else None
    if name in SINGLE:
        return SINGLE[name](params, first, before, w.shape)
    if name in SEVERAL:
        return SEVERAL[name](w, along)
    return None


def _inside(jaxpr: Any, along: Sequence[int | None]) -> list[int | None]:
    """Where slices of a function's arguments end, for each of its results."""
    places = dict(zip(jaxpr.invars, along, strict=True))

    def place(atom: Any) -> int | None:
        return None if isinstance(atom, jex.Literal) else places.get(atom)

    for eqn in jaxpr.eqns:
        before = [place(atom) for atom in eqn.invars]
        if eqn.primitive.name in INLINED:
            ends = _inside(eqn.params["jaxpr"].jaxpr, before)
        else:
            inputs = tuple(Node(0, "", atom.aval.shape) for atom in eqn.invars)
            made = Equation(eqn.primitive, eqn.params, None)
            ends = [
                lands(Node(0, eqn.primitive.name, out.aval.shape, inputs, made, i), before)
                for i, out in enumerate(eqn.outvars)
            ]
        mixed = any(a is not None for a in before) and None in ends
        if mixed:
            return [None] * len(jaxpr.outvars)
        places |= dict(zip(eqn.outvars, ends, strict=True))
    return [place(atom) for atom in jaxpr.outvars]


def _reshaped(params: Any, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    lead = math.prod(before[:axis])
    if params.get("dimensions") is not None:
        return None
    places = (i for i, n in enumerate(after) if n == before[axis])
    return next((i for i in places if math.prod(after[:i]) == lead), None)


def _squeezed(params: Any, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    gone = {d % len(before) for d in params["dimensions"]}
    return axis - sum(d < axis for d in gone)


def _sliced(params: Any, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    strides = params["strides"]
    start, end = params["start_indices"][axis], params["limit_indices"][axis]
    whole = (start, end) == (0, before[axis]) and (strides is None or strides[axis] == 1)
    return axis if whole else None


def _unless(name: str) -> Any:
    """An operation along one axis, by the parameter that names it: not that of the slices."""

    def landed(params: Any, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
        return None if params[name] % len(before) == axis else axis

    return landed


def _of_matrices(params: Any, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    return axis if axis < len(before) - 2 else None


# Operations with one input, and those of several.
SINGLE: dict[str, Any] = {
    "broadcast_in_dim": lambda params, axis, *_: params["broadcast_dimensions"][axis],
    "transpose": lambda params, axis, *_: list(params["permutation"]).index(axis),
    "reshape": _reshaped,
    "squeeze": _squeezed,
    "slice": _sliced,
    "split": _unless("axis"),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _unless("axis")),
    **dict.fromkeys(("cholesky", "lu", "eigh", "qr"), _of_matrices),
}


def _joined(node: Node, along: Sequence[int | None]) -> int | None:
    axis = along[0]
    return axis if set(along) == {axis} and axis != node.params["dimension"] else None


def _stacked(node: Node, along: Sequence[int | None]) -> int | None:
    axis, place = along[0], node.params["axis"] % len(node.shape)
    if axis is None or set(along) != {axis}:
        return None
    return axis + (axis >= place)


def _multiplied(node: Node, along: Sequence[int | None]) -> int | None:
    """An axis of one factor that is not summed over, or a batch of both."""
    (left_sum, right_sum), (left_batch, right_batch) = node.params["dimension_numbers"]
    left, right = along
    if left is not None and right is not None:
        both = [*zip(left_batch, right_batch, strict=True)]
        return both.index((left, right)) if (left, right) in both else None
    side = 0 if left is not None else 1
    axis, summed, batch = ((left, left_sum, left_batch), (right, right_sum, right_batch))[side]
    if axis in batch:
        return list(batch).index(axis)
    ranks = [len(n.shape) for n in node.inputs]
    free = [a for a in range(ranks[side]) if a not in summed and a not in batch]
    if axis not in free:
        return None
    ahead = 0 if side == 0 else ranks[0] - len(left_sum) - len(left_batch)
    return len(batch) + ahead + free.index(axis)


def _looked_up(node: Node, along: Sequence[int | None]) -> int | None:
    """Slices of the indices into something that has none itself."""
    numbers = node.params["dimension_numbers"]
    table, index = along
    if table is not None or index is None or numbers.operand_batching_dims:
        return None
    batch = [i for i in range(len(node.shape)) if i not in numbers.offset_dims]
    return batch[index] if index < len(batch) else None


def _solved(node: Node, along: Sequence[int | None]) -> int | None:
    """Slices of a batch of triangular systems, or of the right-hand sides of one."""
    left, right = along
    rank = len(node.shape)
    if right is None or (left is not None and left != right):
        return None
    side = rank - 1 if node.params["left_side"] else rank - 2
    return right if right < rank - 2 or (left is None and right == side) else None


SEVERAL: dict[str, Any] = {
    "concatenate": _joined,
    "stack": _stacked,
    "dot_general": _multiplied,
    "gather": _looked_up,
    "triangular_solve": _solved,
}
