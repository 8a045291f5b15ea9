"""The observed side of a mixture: values, row weights and component parameters, as arrays.

A mixture is written either as one site with a mixture distribution (``mixture``) or as an
assignment with observed sites that use it (``assigned``). Both come out the same: parts (observed
sites), each with its values by row and its components' parameters by cluster. ``arrays`` has what
both need, ``found`` the facts that are no arrays.
"""

from bayesmix.observed.assigned import assigned_arrays
from bayesmix.observed.found import Found, Part
from bayesmix.observed.mixture import mixture_arrays

__all__ = ["Found", "Part", "assigned_arrays", "mixture_arrays"]
