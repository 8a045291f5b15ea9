"""The pass over the data, shared by EM and NUTS.

For an exponential family one pass gives the log likelihood, sum_n w_n logsumexp_k score_nk with
score = <T(x_n), eta_k> + offset_k, and its gradient, the expected statistics (Fisher's identity):

    mass_k = sum_n w_n r_nk            features_k = sum_n w_n r_nk T(x_n)

Rows are taken in chunks laid out (columns, rows) that stay in the cache; memory is the data plus
O(chunk x (K + F)), and no N x K array is made. Where all clusters share one scale, the squares of
the data carry no information about the clusters: their sum is taken once and the pass does without
them. The precision of the pass is that of ``Rows.z``; sums over chunks are taken in that of the
params.

``scan`` is the pass, by ``chunks`` for rows in memory, ``patterns`` for rows with missing cells and
``stream`` for rows read from disk; ``rows`` says what it works on, ``layout`` and ``standard`` how
data become that, ``covariance`` how widely they spread.
"""

from bayesmix.sweep.chunks import total_base, total_squares
from bayesmix.sweep.covariance import whitening
from bayesmix.sweep.layout import merged_rows, rows_of, sharded
from bayesmix.sweep.patterns import densities_by_pattern
from bayesmix.sweep.rows import CACHED, Rows, Statistics, at_hand, count_statistics
from bayesmix.sweep.scan import log_likelihood, responsibilities_of, scan_rows, statistics_of
from bayesmix.sweep.stream import Streamed, largest, streamed_rows

__all__ = [
    "CACHED",
    "Rows",
    "Statistics",
    "Streamed",
    "at_hand",
    "count_statistics",
    "densities_by_pattern",
    "largest",
    "log_likelihood",
    "merged_rows",
    "responsibilities_of",
    "rows_of",
    "scan_rows",
    "sharded",
    "statistics_of",
    "streamed_rows",
    "total_base",
    "total_squares",
    "whitening",
]
