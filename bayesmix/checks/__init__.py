"""Data held against the program: missing, infinite or impossible values, by row and column.

Every refusal is one sentence that says where the value is and what to do. ``data`` has what all
data must be, ``support``, ``trials`` and ``stream`` its parts, ``gaps`` what may be missing,
``places`` how a value is pointed at.
"""

from bayesmix.checks.data import check_data, check_idle_rows
from bayesmix.checks.gaps import check_gaps

__all__ = ["check_data", "check_gaps", "check_idle_rows"]
