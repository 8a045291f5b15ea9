"""The densities of a mixture: log joint, responsibilities, and the expectation that EM maximises.

``piece`` is arithmetic read from the program's graph; ``layout`` is the observed side as columns of
one family; ``arithmetic`` has ``Density``, pure functions of (params, data); ``data`` is what it
works on, which ``prepared`` makes ready; ``byrow`` and ``values`` are the same arithmetic on one
mixture. ``chunks`` and ``bent`` are the general sweep's passes.
"""

from bayesmix.density.arithmetic import Density
from bayesmix.density.bent import Bent, Turn, count_directions
from bayesmix.density.byrow import by_row, row_piece
from bayesmix.density.data import Data, Ordered
from bayesmix.density.layout import columns_of, has_family, merged_of, spread_out
from bayesmix.density.piece import Piece
from bayesmix.density.prepared import (
    binned_of,
    cached,
    check_bins,
    data_at_hand,
    data_of,
    density_of,
    on_bins,
    row_weights,
    sample_of,
)
from bayesmix.density.values import (
    expected_log_joint,
    log_density,
    log_joint,
    log_prior,
    responsibilities,
)

__all__ = [
    "Bent",
    "Data",
    "Density",
    "Ordered",
    "Piece",
    "Turn",
    "binned_of",
    "by_row",
    "cached",
    "check_bins",
    "columns_of",
    "count_directions",
    "data_at_hand",
    "data_of",
    "density_of",
    "expected_log_joint",
    "has_family",
    "log_density",
    "log_joint",
    "log_prior",
    "merged_of",
    "on_bins",
    "responsibilities",
    "row_piece",
    "row_weights",
    "sample_of",
    "spread_out",
]
