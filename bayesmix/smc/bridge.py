"""The last step: a bridge from the particles to a density that is known, for a sharper answer.

The evidence that particles bring from the prior has errors of every temperature. The posterior's
mass can also be had in one step, from a density q of mass 1 that is fitted to the particles, drawn
from, and held against the posterior. What the draws of q say about the posterior and the particles
about q is put together: particles fill in where q is too thin, draws of q where particles are in
wrong proportions.
"""

from typing import NamedTuple

import jax
import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logsumexp

from bayesmix.smc import kernel
from bayesmix.smc.climb import Problem, State
from bayesmix.smc.naming import Places
from bayesmix.smc.proposal import Proposal, fitted

DRAWN = 3  # points from the proposal for each particle
BEYOND = 40.0  # nats


class Pool(NamedTuple):
    """Weighted points of the posterior on islands: z (J, m, n), ``lp`` and ``log_weight`` (J, m).

    ``log_weight`` sums to 1 over each island; ``log_evidence`` (J,) is each island's own, nats.
    """

    z: np.ndarray
    lp: np.ndarray
    log_weight: np.ndarray
    log_evidence: np.ndarray


def alone(state: State) -> Pool:
    """The particles of temperature 1 as they are, with the evidence of their climb."""
    equal = np.full(state.prior.shape, -np.log(state.prior.shape[1]))
    return Pool(state.z, state.prior + state.rest, equal, state.log_evidence)


def bridged(problem: Problem, state: State, rng: np.random.Generator) -> Pool:
    """Particles of temperature 1 and draws of a proposal, weighted together on each island.

    The proposal for one half of the islands is fitted to the other half's particles, so that it
    knows nothing of those that it is held against, and islands stay each other's replicates.
    """
    key, islands = state.key, []
    for half in (0, 1):
        own, other = state.z[half::2], state.z[1 - half :: 2]
        key, for_frame = jax.random.split(key)
        for_fit, for_own = jax.random.split(for_frame)
        known = rng.permutation(other.reshape(-1, problem.size))
        frame = problem.frame(for_frame, known)
        proposal = fitted(rng, problem.named(for_fit, known, frame.places), frame.factor)
        named = problem.named(for_own, own.reshape(-1, problem.size), frame.places)
        for z in named.reshape(own.shape):
            drawn = proposal.draw(rng, DRAWN * len(z))
            islands.append(_island(problem, frame.places, proposal, z, drawn))
    return Pool(*(np.stack(part) for part in zip(*islands, strict=True)))


def _island(
    problem: Problem, places: Places, proposal: Proposal, named: np.ndarray, drawn: np.ndarray
) -> Pool:
    """One island's named particles and its draws of the proposal."""
    z = np.concatenate([named, drawn])
    lp, target = problem.weigh(z, places)
    log_ratio = np.where(np.isfinite(target), target, -np.inf) - proposal.log_density(z)
    ours, theirs = np.split(log_ratio, [len(named)])
    return Pool(z, lp, *weighed(ours, theirs, len(named) / kernel.STEPS))


def weighed(ours: np.ndarray, theirs: np.ndarray, worth: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of points of the posterior and of a proposal, and the log of the posterior's mass.

    ours (m,), theirs (m',) : log of the posterior, not normalised, over the proposal, at particles
    and at the proposal's own draws. worth : as how many independent draws the particles count.
    Returns log weights (m + m',), which sum to 1, and the log mass; -inf where no draw of the
    proposal has any posterior.

    Source: Meng & Wong (1996), Stat. Sinica 6 (the best bridge); Kong et al. (2003), J. R. Stat.
    Soc. B 65 (the weights of both samples together).
    """
    count = len(theirs)
    if not np.isfinite(theirs).any():
        equal = np.full(len(ours), -np.log(len(ours)))
        return np.concatenate([equal, theirs]), np.array(-np.inf)

    def excess(log_mass: float) -> float:
        """Chance of the proposal at particles, less that of the posterior at its draws."""
        lead = np.log(worth / count) - log_mass
        return float(worth * expit(-lead - ours).mean() - count * expit(lead + theirs).mean())

    middle = logsumexp(theirs) - np.log(count)
    low, high = min(middle, ours.min()) - BEYOND, max(middle, ours.max()) + BEYOND
    log_mass = brentq(excess, low, high, xtol=1e-9)
    each = np.repeat(np.log([worth / len(ours), 1.0]), [len(ours), count])
    log_ratio = np.concatenate([ours, theirs]) - log_mass
    log_weight = each + log_ratio - np.logaddexp(np.log(worth) + log_ratio, np.log(count))
    return log_weight - logsumexp(log_weight), np.array(log_mass)
