"""What is decided about a cloud of particles: the next power, the survivors, the coordinates.

Particles live on islands that never mix, so that the spread of the islands' answers is the error
of their mean, whatever the chains and the resampling do. Plain NumPy on (islands, particles).
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

from bayesmix.draws import systematic

KEPT = 0.7  # conditional effective sample size from one temperature to the next
SETTLED = 1.25
REWEIGHTED = 20
TAILS = 3.0  # degrees of freedom
IMPOSSIBLE = -1e30  # nats


def conditional_ess(log_share: np.ndarray, log_ratio: np.ndarray) -> float:
    """Effective share of particles that are worth log_share (J,) each, reweighted by (J, m).

    Source: Zhou, Johansen & Aston (2016), J. Comput. Graph. Stat. 25(3), eq. 3.17.
    """
    log_weight = np.broadcast_to(log_share[:, None], log_ratio.shape)
    first, second = (logsumexp(log_weight + power * log_ratio) for power in (1, 2))
    return float(np.exp(2 * first - second - logsumexp(log_weight)))


def next_temperature(temperature: float, log_share: np.ndarray, rest: np.ndarray) -> float:
    """The power that keeps a share KEPT of the particles that have any likelihood, at most 1."""
    possible = np.where(rest > IMPOSSIBLE, rest, -np.inf)
    if not np.isfinite(possible).any():
        raise ValueError(
            "no draw from the prior has any likelihood: the priors and the data do not meet"
        )
    relative = possible - possible.max()
    alive = conditional_ess(log_share, np.where(np.isfinite(relative), 0.0, -np.inf))

    def excess(log_step: float) -> float:
        return conditional_ess(log_share, np.exp(log_step) * relative) - KEPT * alive

    longest = np.log1p(-temperature)
    if excess(longest) >= 0:
        return 1.0
    shortest = longest - 1.0
    while excess(shortest) < 0:
        shortest -= 3.0
    step = float(np.exp(brentq(excess, shortest, longest, xtol=1e-3)))
    return min(1.0, temperature + step)


def survivors(rng: np.random.Generator, log_weight: np.ndarray, count: int) -> np.ndarray:
    """Of each island the indices of ``count`` particles, by systematic resampling, (J, count)."""
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    return np.stack([systematic(rng, each, count) for each in weight])


def settled(start: np.ndarray, path: np.ndarray, factor: np.ndarray) -> bool:
    """Whether particles are as far from their start (M, n) after half of the path as at its end.

    By squared distance along each coordinate in which ``factor`` makes the cloud round; of an
    autoregression with correlation r, the ratio is 1 + r^(steps / 2).
    """
    inverse = np.linalg.inv(factor).T
    middle, end = path[:, path.shape[1] // 2 - 1], path[:, -1]
    half, whole = (np.mean(((z - start) @ inverse) ** 2, 0) for z in (middle, end))
    return bool((whole <= SETTLED * half).all())


def factor_of(z: np.ndarray) -> np.ndarray:
    """Cholesky factor (n, n) of the scatter of particles (S, n), as it is where most of them are.

    That of a multivariate t distribution, so that a mode apart does not count as spread of the
    others; correlations are shrunk as far as the number of particles leaves them open.
    Source: Lange, Little & Taylor (1989), JASA 84, eq. 2-4 (maximum likelihood by EM).
    """
    count, size = z.shape
    centre, scatter = np.median(z, 0), np.atleast_2d(np.cov(z.T))
    shrink = size / (size + count)
    for _ in range(REWEIGHTED):
        factor = np.linalg.cholesky(_shrunk(scatter, shrink))
        square = np.sum(np.linalg.solve(factor, (z - centre).T) ** 2, 0)
        weight = (TAILS + size) / (TAILS + square)
        centre = weight @ z / weight.sum()
        scatter = (z - centre).T * weight @ (z - centre) / count
    return np.linalg.cholesky(_shrunk(scatter, shrink))


def _shrunk(scatter: np.ndarray, shrink: float) -> np.ndarray:
    diagonal = np.maximum(np.diag(scatter), np.finfo(float).tiny)
    return (1 - shrink) * scatter + shrink * np.diag(diagonal)
