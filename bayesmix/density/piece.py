"""A part of a program's arithmetic as a pure function of params and summaries of the data."""

from functools import partial
from typing import Any

import jax

from bayesmix.graph import evaluate, fingerprint, frontier
from bayesmix.program import Params
from bayesmix.reader import Reading


class Piece:
    """A part of a program's arithmetic, ``nodes``, as a function of params and data summaries.

    Hashable by its arithmetic, so that it can be static under ``jax.jit``.
    """

    def __init__(self, nodes: Any, reading: Reading) -> None:
        self.nodes = nodes
        flat = jax.tree.leaves(nodes)
        self.frontier = frontier(flat)
        self._sites = {name: node.number for name, node in reading.sites.items()}
        self._key = (fingerprint([*flat, *self.frontier]), str(jax.tree.structure(nodes)))
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Piece) and self._key == other._key)

    def __call__(self, nodes: Any, params: Params, known: list[Any]) -> Any:
        """Values of some of the nodes, in their own structure."""
        given = {node.number: value for node, value in zip(self.frontier, known, strict=True)}
        given |= {self._sites[name]: v for name, v in params.items() if name in self._sites}
        flat, tree = jax.tree.flatten(nodes)
        return jax.tree.unflatten(tree, evaluate(flat, given))

    def summarise(self, data: dict[int, Any]) -> list[Any]:
        """What the nodes need of the data, given the data by node number."""
        source = tuple(sorted(data))
        return _summaries(self, source, [data[number] for number in source])


@partial(jax.jit, static_argnums=(0, 1))
def _summaries(piece: Piece, source: tuple[int, ...], arrays: list[Any]) -> list[Any]:
    return evaluate(piece.frontier, dict(zip(source, arrays, strict=True)))
