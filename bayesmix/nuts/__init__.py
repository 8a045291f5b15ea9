"""NUTS: the full posterior of any traced mixture, on the same log joint as EM.

The kernel is NumPyro's; its potential runs through the fast sweep. Chains start around EM's regular
modes, spread by the local curvature, and move in coordinates whitened by the Hessian at the best
mode, so that a short warm-up of the step size is enough. `starts` chooses coordinates and first
points, `kernel` holds the compiled transitions, `session` makes them, `record` keeps the draws,
`sampler` is the door, `result` is what comes out.
"""

from bayesmix.nuts.result import NUTSResult
from bayesmix.nuts.sampler import NUTS

__all__ = ["NUTS", "NUTSResult"]
