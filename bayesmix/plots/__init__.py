"""Pictures of a fitted mixture: data, clusters, partitions, and EM against NUTS.

Functions take what they draw, results (`EMResult`, `NUTSResult`), DataTrees, partitions or labels
(each page says which), and return a matplotlib Figure; those that draw into one panel also take
`ax=`. Draws of NUTS are relabelled first, so a colour is one cluster throughout; partitions need no
names, and pictures of one give each of its clusters the colour of its number.

Lives here: drawing. Does not live here: any number that `card`, `partition` or a DataTree does not
already hold, except densities on a grid.
"""

from bayesmix.plots.alluvial import alluvial
from bayesmix.plots.ball import credible_ball, uncertainty
from bayesmix.plots.chains import rank, trace
from bayesmix.plots.comparison import comparison
from bayesmix.plots.data import clusters, density
from bayesmix.plots.engines import forest, history, responsibilities
from bayesmix.plots.names import relabelling, ridges
from bayesmix.plots.partitions import n_occupied, similarity

__all__ = [
    "alluvial",
    "clusters",
    "comparison",
    "credible_ball",
    "density",
    "forest",
    "history",
    "n_occupied",
    "rank",
    "relabelling",
    "responsibilities",
    "ridges",
    "similarity",
    "trace",
    "uncertainty",
]
