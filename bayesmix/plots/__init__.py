"""Pictures of a fitted mixture: data, clusters, responsibilities, and EM against NUTS.

Every function takes results (`EMResult`, `NUTSResult`) or DataTrees, and returns a matplotlib
Figure; those that draw into one panel also take `ax=`. Draws of NUTS are relabelled first, so a
colour is one cluster throughout.

Lives here: drawing. Does not live here: any number that `card` or a DataTree does not already hold,
except densities on a grid.
"""

from bayesmix.plots.chains import rank, trace
from bayesmix.plots.data import clusters, density
from bayesmix.plots.engines import forest, history, responsibilities

__all__ = ["clusters", "density", "forest", "history", "rank", "responsibilities", "trace"]
