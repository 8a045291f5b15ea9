"""Running a program on abstract values: its log densities as a graph, and the facts met on the way.

``running`` runs it, ``sites`` finds the mixture among what was met, ``reading`` makes the graph.
"""

from bayesmix.reader.reading import Reading, read, x64
from bayesmix.reader.running import NEEDS_VALUES

__all__ = ["NEEDS_VALUES", "Reading", "read", "x64"]
