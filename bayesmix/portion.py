"""A program's arithmetic on some of its rows at a time, for values that all rows share or own.

The program is read a second time, on fewer rows, and the two graphs are walked side by side from
their outputs. An axis along which they differ is that of the rows. Every operation on the way that
the parameters enter must treat each row by itself; then the graph of few rows, given some rows of
what the whole one computes from the data and all of what has no rows (a mean in a prior, say), does
for these rows what the whole graph does. Where an operation is not known to, or the two graphs
differ in anything else, there is no portion, and all rows are taken at once.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from bayesmix.arguments import Arguments
from bayesmix.graph import (
    ELEMENTWISE,
    INLINED,
    Node,
    canonical,
    evaluate,
    fingerprint,
    is_elementwise,
    lands,
)
from bayesmix.missing import holes_in
from bayesmix.reader import NEEDS_VALUES, Reading, read

# Parameters of equations in which the number of rows stands.
SIZED = {"shape", "new_sizes", "limit_indices", "call_jaxpr", "jvp_jaxpr_fun", "sharding"}


class _Mixed(Exception):
    """Rows are mixed, or the two readings are not of the same arithmetic."""


class Leaf(NamedTuple):
    """A value that comes from the data alone: its node in the whole graph, and in the portion's.

    ``axis``: that of the rows, or None where all rows share it.
    """

    whole: Node
    node: Node
    axis: int | None


class Portion:
    """``output`` (rows first) on ``size`` rows, as a function of params and its ``leaves``.

    Hashable by its arithmetic, so that it can be static under ``jax.jit``.
    """

    def __init__(self, output: Node, leaves: Sequence[Leaf], sites: dict[str, Node]) -> None:
        self.output, self.size = output, output.shape[0]
        self.shared = tuple(leaf for leaf in leaves if leaf.axis is None)
        self.rows = tuple(leaf for leaf in leaves if leaf.axis is not None)
        self.axes = tuple(leaf.axis for leaf in leaves if leaf.axis is not None)
        self._sites = {name: node.number for name, node in sites.items()}
        nodes = [output, *(leaf.node for leaf in (*self.shared, *self.rows))]
        self._key = (fingerprint(nodes), self.axes)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Portion) and self._key == other._key)

    def __call__(self, params: dict[str, Any], shared: Sequence[Any], rows: Sequence[Any]) -> Any:
        """The output for rows whose own values are ``rows``, each (size, ...)."""
        given = {leaf.node.number: value for leaf, value in zip(self.shared, shared, strict=True)}
        for leaf, axis, value in zip(self.rows, self.axes, rows, strict=True):
            given[leaf.node.number] = jnp.moveaxis(value, 0, axis)
        given |= {self._sites[name]: v for name, v in params.items() if name in self._sites}
        return evaluate([self.output], given)[0]


def portion_of(program: Any, arguments: Arguments, reading: Reading, size: int) -> Portion | None:
    """The components of a reading on ``size`` of its rows, or None where that cannot be told."""
    N = reading.components.shape[0]
    few = [_few(array, N, size) for array in arguments.arrays]
    try:
        part = read(program, _with_arrays(arguments, few), static_data=False)[0]
        leaves = _leaves(reading.components, part.components, N, size)
    except (_Mixed, ValueError, *NEEDS_VALUES):
        return None
    return Portion(part.components, leaves, part.sites)


def _few(array: np.ndarray, N: int, size: int) -> np.ndarray:
    """The first rows of an array that has N; the last of them with a gap, if any row has one."""
    if array.shape[:1] != (N,):
        return array
    some = array[:size].copy()
    if holes_in(array) and not holes_in(some):
        some[-1] = array[np.isnan(array).reshape(N, -1).any(1).argmax()]
    return some


def _with_arrays(arguments: Arguments, arrays: Sequence[np.ndarray]) -> Arguments:
    fresh = iter(arrays)
    leaves = tuple(
        next(fresh) if isinstance(leaf, np.ndarray) else leaf for leaf in arguments.leaves
    )
    return Arguments(leaves, arguments.treedef, arguments.columns, None)


def _leaves(whole: Node, part: Node, N: int, size: int) -> list[Leaf]:
    """What the portion needs of the data, with as little for each row as there can be."""
    walk = _Walk(N, size)
    walk.follow(whole, part)
    return walk.chosen(part)


class _Walk:
    """Two graphs side by side: for each node of the smaller, by number, its twin and rows' axis."""

    def __init__(self, N: int, size: int) -> None:
        self.N, self.size = N, size
        self.twins: dict[int, Node] = {}
        self.axes: dict[int, int | None] = {}
        self.nodes: dict[int, Node] = {}
        self.opaque: set[int] = set()

    def follow(self, whole: Node, part: Node) -> None:
        """Pair all nodes that may have to be computed for a portion. Raises _Mixed."""
        pending = [(whole, part)]
        while pending:
            w, p = pending.pop()
            if p.number in self.twins:
                if self.twins[p.number] is not w:
                    raise _Mixed
                continue
            self.twins[p.number], self.nodes[p.number] = w, p
            axis = self.axes[p.number] = self._axis(w, p)
            if w.depends != p.depends or w.site != p.site or (w.site and axis is not None):
                raise _Mixed
            if not w.depends and (axis is None or not self._is_apart(w, p, axis)):
                self.opaque.add(p.number)
                continue
            if w.depends and not (w.site or self._is_apart(w, p, axis)):
                raise _Mixed
            pending += zip(w.inputs, p.inputs, strict=True)

    def chosen(self, output: Node) -> list[Leaf]:
        """The leaves: of what has rows and no parameters, that with the fewest cells."""
        cells: dict[int, int] = {}
        below: dict[int, frozenset[int]] = {}
        for number in sorted(self.nodes):
            w, p = self.twins[number], self.nodes[number]
            if w.depends:
                continue
            cells[number] = own = math.prod(w.shape) if self.axes[number] is not None else 0
            below[number] = frozenset([number])
            if number not in self.opaque:
                inner = frozenset().union(*(below[n.number] for n in p.inputs))
                if sum(cells[n] for n in inner) < own:
                    below[number] = inner
            elif not own and not w.on_data and fingerprint([w]) == fingerprint([p]):
                below[number] = frozenset()  # a constant
        needed: dict[int, None] = {}
        pending, seen = [output], set()
        while pending:
            p = pending.pop()
            if p.number in seen:
                continue
            seen.add(p.number)
            if p.number in below:
                needed |= dict.fromkeys(sorted(below[p.number]))
            else:
                pending += p.inputs
        found = sorted(needed)
        return [Leaf(self.twins[n], self.nodes[n], self.axes[n]) for n in found]

    def _axis(self, w: Node, p: Node) -> int | None:
        """The axis of the rows; None without. Raises _Mixed for any other difference."""
        if len(w.shape) != len(p.shape):
            raise _Mixed
        differ = [i for i, (a, b) in enumerate(zip(w.shape, p.shape, strict=True)) if a != b]
        if not differ:
            return None
        axis = differ[0]
        if len(differ) > 1 or (w.shape[axis], p.shape[axis]) != (self.N, self.size):
            raise _Mixed
        return axis

    def _is_apart(self, w: Node, p: Node, axis: int | None) -> bool:
        """Whether an operation is the same in both graphs, and takes each row by itself."""
        if w.equation is None or p.equation is None or w.label != p.label or w.out != p.out:
            return False
        if len(w.inputs) != len(p.inputs) or not _alike(w, p):
            return False
        try:
            along = [self._axis(a, b) for a, b in zip(w.inputs, p.inputs, strict=True)]
        except _Mixed:
            return False
        if all(a is None for a in along):
            return axis is None or w.label == "broadcast_in_dim"
        if axis is None or lands(w, along) != axis:
            return False
        others = [n for n, a in zip(w.inputs, along, strict=True) if a is None]
        return not is_elementwise(w) or all(_is_unit(n, axis) for n in others)


def _is_unit(node: Node, axis: int) -> bool:
    """Whether a value without rows meets those that have them: a scalar, or one row for all."""
    return not node.shape or node.shape[axis] == 1


def _alike(w: Node, p: Node) -> bool:
    """Whether two equations are the same but for the number of rows."""
    mine, other = w.params, p.params
    if mine.keys() != other.keys():
        return False
    if any(canonical(mine[k]) != canonical(other[k]) for k in mine.keys() - SIZED):
        return False
    if "call_jaxpr" not in mine:
        return True
    return _same_closed(mine["call_jaxpr"], other["call_jaxpr"])


def _same_closed(mine: Any, other: Any) -> bool:
    """``_same_steps`` with the arrays that they closed over."""
    same = canonical(tuple(mine.consts)) == canonical(tuple(other.consts))
    return same and _same_steps(mine.jaxpr, other.jaxpr)


def _same_steps(mine: Any, other: Any) -> bool:
    """Whether two jaxprs are of the same elementwise steps, whatever the shapes."""
    names: tuple[dict[Any, int], dict[Any, int]] = ({}, {})

    def seen(side: int, atoms: Sequence[Any]) -> list[Any]:
        own = names[side]
        return [
            np.asarray(a.val).tobytes()
            if isinstance(a, jex.Literal)
            else own.setdefault(a, len(own))
            for a in atoms
        ]

    def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
        return seen(0, a) == seen(1, b)

    if not same([*mine.constvars, *mine.invars], [*other.constvars, *other.invars]):
        return False
    if len(mine.eqns) != len(other.eqns):
        return False
    for a, b in zip(mine.eqns, other.eqns, strict=True):
        if a.primitive is not b.primitive or not _same_step(a, b):
            return False
        if not (same(a.invars, b.invars) and same(a.outvars, b.outvars)):
            return False
    return same(mine.outvars, other.outvars)


def _same_step(a: Any, b: Any) -> bool:
    name = a.primitive.name
    if name in INLINED:
        return _same_closed(a.params["jaxpr"], b.params["jaxpr"])
    plain = a.params.keys() - SIZED
    known = name in ELEMENTWISE or name == "broadcast_in_dim"
    return known and all(canonical(a.params[k]) == canonical(b.params[k]) for k in plain)
