"""The arithmetic of a program as a graph that can be read.

JAX writes a Python function down as a jaxpr. Here the jaxpr becomes a graph of immutable, interned
nodes: equal arithmetic is the same object, so "is this leaf just that site?" is an identity test.
The graph answers three questions (what does a value depend on, which axis of a site became which
axis of a value, how does a value scale with a site) and can be evaluated again, in parts: what
depends on the data alone is computed once, what depends on the parameters is left to the loops.

Lives here: `graph`. `nodes` has the values, `jaxprs` makes them, `gathers` reads its lookups by
index, `keys` are comparable forms, `evaluation` computes, `alignment`, `passage` and `maps` answer
the questions. Nothing here knows NumPyro, mixtures or EM.
"""

from bayesmix.graph.alignment import Axes, axes, same_along
from bayesmix.graph.evaluation import ancestors, evaluate, frontier
from bayesmix.graph.jaxprs import Graph
from bayesmix.graph.keys import canonical, fingerprint
from bayesmix.graph.maps import core, degree, multiple_of, unary_map
from bayesmix.graph.nodes import ELEMENTWISE, INLINED, Node, is_elementwise, symbol
from bayesmix.graph.passage import carried, lands

__all__ = [
    "ELEMENTWISE",
    "INLINED",
    "Axes",
    "Graph",
    "Node",
    "ancestors",
    "axes",
    "canonical",
    "carried",
    "core",
    "degree",
    "evaluate",
    "fingerprint",
    "frontier",
    "is_elementwise",
    "lands",
    "multiple_of",
    "same_along",
    "symbol",
    "unary_map",
]
