"""NUTS: the full posterior of any traced mixture, on the same log joint as EM.

The potential runs through the fast sweep. Chains start around EM's regular modes, spread by the
local curvature, and move in coordinates whitened by the Hessian at the best mode, so that a short
warm-up is enough: along orbits of one length where the posterior is nearly Gaussian there, else by
NumPyro's NUTS. `starts` chooses coordinates and first points, `orbits` and `kernel` hold the
compiled transitions, `session` makes them by the blocks of a `schedule`, `record` keeps the draws,
`sampler` is the door, `result` is what comes out; `divergences` and `cells` say what to know of it.
"""

from bayesmix.nuts.result import NUTSResult
from bayesmix.nuts.sampler import NUTS

__all__ = ["NUTS", "NUTSResult"]
