"""Tempered sequential Monte Carlo: every mode in its right proportion, and the log evidence.

Particles begin as draws from the prior and follow it, by raising the likelihood to powers from 0 to
1, to the posterior of the same log joint that EM climbs and NUTS samples. No mode has to be known
beforehand, and no chain has to cross between modes. `prior` draws the first particles, `kernel`
moves them, `naming` says how clusters keep and change names, `cloud` decides (powers, survivors,
coordinates, whether they have moved enough), `climb` goes from one power to the next, `bridge`
sharpens the evidence at the end by a `proposal`, `sampler` runs, `result` is what it leaves.
"""

from bayesmix.smc.result import SMCResult
from bayesmix.smc.sampler import SMC

__all__ = ["SMC", "SMCResult"]
