"""Jaxprs read as graphs: equal arithmetic becomes the same node.

Calls are inlined, broadcasts that change nothing are left out, and a gather that only takes whole
axes of a parameter becomes slices, transposes and broadcasts.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from bayesmix.graph.gathers import whole_axes
from bayesmix.graph.keys import canonical
from bayesmix.graph.nodes import INLINED, Equation, Node, site_p


class Graph:
    """Builds and interns nodes from jaxprs."""

    def __init__(self) -> None:
        self.sites: dict[str, Node] = {}
        self.captured: list[Node] = []
        self._interned: dict[Any, Any] = {}
        self._count = 0

    def data(self, shape: Sequence[int]) -> Node:
        """An input that stands for one array of data."""
        return self._new("data", shape, on_data=True)

    def read(self, closed: Any, inputs: Sequence[Node]) -> list[Node]:
        """The nodes of a closed jaxpr's outputs, given the nodes of its inputs."""
        consts = [
            self._new("captured", np.shape(value), on_data=True, value=value)
            for value in closed.consts
        ]
        self.captured.extend(consts)
        return self._inline(closed.jaxpr, consts, inputs)

    def _inline(self, jaxpr: Any, consts: Sequence[Node], inputs: Sequence[Node]) -> list[Node]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def node_of(atom: Any) -> Node:
            return self._literal(atom) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            operands = [node_of(atom) for atom in eqn.invars]
            if eqn.primitive.name in INLINED:
                inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
                if hasattr(inner, "consts"):
                    results = self.read(inner, operands)
                else:
                    results = self._inline(inner, (), operands)
            else:
                results = self._apply(eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        return [node_of(atom) for atom in jaxpr.outvars]

    def _literal(self, atom: Any) -> Node:
        value = np.asarray(atom.val, atom.aval.dtype)
        key = ("literal", value.dtype.str, value.shape, value.tobytes())
        if key not in self._interned:
            self._interned[key] = self._new("literal", value.shape, value=value)
        return self._interned[key]

    def _apply(self, eqn: Any, operands: list[Node]) -> list[Node]:
        name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
        if eqn.primitive is site_p:
            site = eqn.params["name"]
            if site not in self.sites:
                self.sites[site] = self._new(site, shape, site=site, depends=frozenset([site]))
            return [self.sites[site]]
        if name in ("copy", "copy_p") or (
            name == "broadcast_in_dim" and operands and shape == operands[0].shape
        ):
            return [operands[0]]
        if name == "gather" and operands[0].depends:
            source = whole_axes(eqn.params, *operands)
            if source is not None:
                return [self._spread(operands[0], *source, shape)]
        return self._results(
            eqn.primitive, eqn.params, operands, [var.aval.shape for var in eqn.outvars]
        )

    def _results(
        self, primitive: Any, params: Any, operands: list[Node], shapes: list[Sequence[int]]
    ) -> list[Node]:
        """The nodes of one application of a primitive, made once."""
        name, comparable = primitive.name, canonical(params)
        key = (name, comparable, tuple(node.number for node in operands))
        if key not in self._interned:
            equation = Equation(primitive, params, comparable)
            equation.results.extend(
                self._new(
                    name,
                    shape,
                    inputs=tuple(operands),
                    equation=equation,
                    out=out,
                    depends=frozenset().union(*(node.depends for node in operands)),
                    on_data=any(node.on_data for node in operands),
                )
                for out, shape in enumerate(shapes)
            )
            self._interned[key] = equation.results
        return self._interned[key]

    def _spread(
        self, node: Node, held: dict[int, int], source: list[int | None], shape: Sequence[int]
    ) -> Node:
        """``node`` at the indices ``held``, its other axes where ``source`` says, broadcast."""
        for axis, index in held.items():
            low = [index if i == axis else 0 for i in range(len(node.shape))]
            high = [index + 1 if i == axis else n for i, n in enumerate(node.shape)]
            bounds = {"start_indices": tuple(low), "limit_indices": tuple(high), "strides": None}
            cut = [h - start for start, h in zip(low, high, strict=True)]
            node = self._results(jax.lax.slice_p, bounds, [node], [cut])[0]
        order = tuple(axis for axis in source if axis is not None)
        if held:
            left = [n for axis, n in enumerate(node.shape) if axis not in held]
            gone = {"dimensions": tuple(sorted(held))}
            node = self._results(jax.lax.squeeze_p, gone, [node], [left])[0]
            order = tuple(axis - sum(h < axis for h in held) for axis in order)
        if order != tuple(range(len(order))):
            turned = [node.shape[axis] for axis in order]
            node = self._results(jax.lax.transpose_p, {"permutation": order}, [node], [turned])[0]
        if node.shape == tuple(shape):
            return node
        places = tuple(i for i, axis in enumerate(source) if axis is not None)
        params = {"shape": tuple(shape), "broadcast_dimensions": places, "sharding": None}
        return self._results(jax.lax.broadcast_in_dim_p, params, [node], [shape])[0]

    def _new(self, label: str, shape: Sequence[int], **fields: Any) -> Node:
        self._count += 1
        return Node(self._count, label, tuple(shape), **fields)
