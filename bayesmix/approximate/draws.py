"""Independent draws around modes, and what they weigh against the posterior.

Each mode has the Gaussian that fits it best in unconstrained coordinates. As many draws again have
heavier tails, a defence against a posterior that is wider than its Laplace approximation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, logsumexp

from bayesmix.curvature import evaluate
from bayesmix.estimate import EMResult
from bayesmix.importance import in_cell
from bayesmix.laplace import Geometry
from bayesmix.symmetry import exchangeable, log_order

TAILS = 5.0  # degrees of freedom


class Pool(NamedTuple):
    """Draws (2 S) from the modes: S Normal ones, then S of the same shapes with Student t tails.

    ``params`` are constrained, ``height`` (2 S,) is the log density with its Jacobian.
    ``log_ratio`` (2 S,) is the log of the posterior, times the order of the group, over the density
    of all that was drawn, -inf outside the cell; ``log_ratio_normal`` (S,) over that of the Normal
    ones alone. ``member`` (mode, 2 S) is p(mode | draw), ``share`` (mode,) the modes' masses.
    """

    params: dict[str, np.ndarray]
    height: np.ndarray
    log_ratio: np.ndarray
    log_ratio_normal: np.ndarray
    member: np.ndarray
    share: np.ndarray
    log_copies: float


def pool_of(
    rng: np.random.Generator, em: EMResult, geometries: Sequence[Geometry], draws: int
) -> Pool:
    """``draws`` Normal draws from the modes, and as many with heavier tails."""
    classes = exchangeable(em.mixture, em.params)
    log_mass = np.array([geometry.log_evidence for geometry in geometries])
    log_share = log_mass - logsumexp(log_mass)
    z = _draw(rng, geometries, rng.choice(len(geometries), 2 * draws, p=np.exp(log_share)))
    height, _, params = evaluate(em.mixture, z)
    used = np.isfinite(height)
    alive = {name: value[used] for name, value in params.items()}
    used[used] = in_cell(em.mixture, alive, geometries, log_share, classes)
    if not used.any():
        raise ValueError(
            "no draw from the Laplace approximation has any posterior density: run NUTS instead"
        )
    parts = np.stack([_log_densities(each, z) for each in geometries], 1)
    normal, wide = logsumexp(log_share[:, None] + parts, axis=1)
    target = np.full(2 * draws, -np.inf)
    target[used] = height[used] + log_order(classes)
    return Pool(
        params=params,
        height=height,
        log_ratio=target - np.logaddexp(normal, wide) + np.log(2),
        log_ratio_normal=(target - normal)[:draws],
        member=np.exp(log_share[:, None] + parts[1] - wide),
        share=np.exp(log_share),
        log_copies=log_order(classes),
    )


def _draw(
    rng: np.random.Generator, geometries: Sequence[Geometry], component: np.ndarray
) -> np.ndarray:
    """One unconstrained draw (n,) around each component's mode; the second half has t tails."""
    unit = rng.standard_normal((len(component), geometries[0].z.size))
    half = len(component) // 2
    unit[half:] /= np.sqrt(rng.chisquare(TAILS, half) / TAILS)[:, None]
    z = np.empty_like(unit)
    for number, geometry in enumerate(geometries):
        own = component == number
        z[own] = geometry.z + unit[own] @ geometry.factor.T
    return z


def _log_densities(geometry: Geometry, z: np.ndarray) -> np.ndarray:
    """Log density at ``z`` (draws, n) of the mode's Normal and of its Student t, (2, draws)."""
    n, nu = z.shape[1], TAILS
    square = np.sum(np.linalg.solve(geometry.factor, (z - geometry.z).T) ** 2, axis=0)
    log_volume = np.linalg.slogdet(geometry.factor)[1]
    normal = -0.5 * square - 0.5 * n * np.log(2 * np.pi)
    wide = gammaln((nu + n) / 2) - gammaln(nu / 2) - 0.5 * n * np.log(nu * np.pi)
    return np.stack([normal, wide - 0.5 * (nu + n) * np.log1p(square / nu)]) - log_volume
