"""A density that is near the posterior's and can be drawn from: a mixture of Student t's."""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, logsumexp

MOST = 16  # components
PARTICLES = 5  # for each number that a component has
PASSES = 40
TAILS = 8.0  # degrees of freedom
SINGULAR = 1e-9


class Proposal(NamedTuple):
    """C multivariate t densities over unconstrained coordinates: ``log_share`` (C,), ``centre``
    (C, n), ``factor`` (C, n, n) with scale matrices factor factor'.
    """

    log_share: np.ndarray
    centre: np.ndarray
    factor: np.ndarray

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, n), the components in proportion to their shares, in no particular order."""
        each = rng.multinomial(count, np.exp(self.log_share))
        n = self.centre.shape[1]
        unit = rng.standard_normal((count, n)) / np.sqrt(rng.chisquare(TAILS, (count, 1)) / TAILS)
        parts = np.split(unit, np.cumsum(each)[:-1])
        drawn = [c + u @ f.T for c, f, u in zip(self.centre, self.factor, parts, strict=True)]
        return rng.permutation(np.concatenate(drawn))

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Of points (S, n), in nats, (S,)."""
        n = z.shape[1]
        square, log_volume = _distances(z, self.centre, self.factor)
        level = gammaln((TAILS + n) / 2) - gammaln(TAILS / 2) - 0.5 * n * np.log(TAILS * np.pi)
        part = level - log_volume - 0.5 * (TAILS + n) * np.log1p(square / TAILS)
        return np.asarray(logsumexp(self.log_share + part, axis=1))


def fitted(rng: np.random.Generator, z: np.ndarray, factor: np.ndarray) -> Proposal:
    """A mixture fitted to particles (S, n), by EM for Normals where ``factor`` makes them round.

    Each component's covariance is drawn towards a small round one by as many pseudo-particles as
    there are coordinates, so that none collapses. Components begin at particles far apart.
    """
    S, n = z.shape
    middle = np.median(z, 0)
    x = np.linalg.solve(factor, (z - middle).T).T
    count = int(np.clip(S // (PARTICLES * (n + 1) * (n + 2) // 2), 1, MOST))
    centre = _far_apart(rng, x, count)
    small = np.eye(n) * count ** (-2 / n)
    root = np.broadcast_to(np.linalg.cholesky(small), (count, n, n))
    log_share = np.full(count, -np.log(count))
    for _ in range(PASSES):
        square, log_volume = _distances(x, centre, root)
        score = log_share - log_volume - 0.5 * square
        resp = np.exp(score - logsumexp(score, axis=1, keepdims=True))
        mass = resp.sum(0) + SINGULAR
        centre = resp.T @ x / mass[:, None]
        gap = x[:, None] - centre
        scatter = np.einsum("sc,sci,scj->cij", resp, gap, gap, optimize=True)
        root = np.linalg.cholesky((scatter + n * small) / (mass + n)[:, None, None])
        log_share = np.log(mass / mass.sum())
    return Proposal(log_share, middle + centre @ factor.T, factor @ root)


def _far_apart(rng: np.random.Generator, x: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the points (S, n), each chosen by its squared distance from those before.

    Source: Arthur & Vassilvitskii (2007), SODA (k-means++).
    """
    chosen = [x[rng.integers(len(x))]]
    least = np.full(len(x), np.inf)
    while len(chosen) < count:
        least = np.minimum(least, np.sum((x - chosen[-1]) ** 2, 1))
        chosen.append(x[rng.choice(len(x), p=least / least.sum())])
    return np.stack(chosen)


def _distances(
    z: np.ndarray, centre: np.ndarray, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance (S, C) of points from each centre by its factor; log volumes (C,)."""
    square = np.stack(
        [
            np.sum(((z - c) @ np.linalg.inv(f).T) ** 2, 1)
            for c, f in zip(centre, factor, strict=True)
        ],
        1,
    )
    return square, np.linalg.slogdet(factor)[1]
