"""Whether univariate rows in cells serve for all rows: both log densities at some of the draws."""

from collections.abc import Mapping

import jax
import numpy as np

from bayesmix.curvature import evaluate, free_vector
from bayesmix.program import Mixture

SPREAD = 16  # draws looked at, from first to last
EXTREME = 32  # and draws, at most, at which an element of a site is smallest or largest
FINE = 0.1  # nats by which the densities may differ beyond a constant


def agreement(
    mixture: Mixture, coarse: Mixture, samples: Mapping[str, np.ndarray], bins: int
) -> str:
    """How much the cells change the log density over the draws, and whether that is too much.

    A cluster as narrow as a cell is where they change it most, so draws with the smallest values
    of every site (scales) and the largest (precisions) are looked at, too.
    """
    draws = _chosen(mixture, samples)
    with jax.enable_x64(True):
        points = np.stack([free_vector(mixture, draw) for draw in draws])
        gap = evaluate(mixture, points)[0] - evaluate(coarse, points)[0]
    worst = float(np.abs(gap - np.median(gap)).max())
    said = (
        f"the rows are in {bins} cells: at {len(draws)} of the draws, those with the smallest "
        "and largest values among them, the log density of all rows differs by "
        f"{worst:.1g} nats at most, beyond a constant"
    )
    return said if worst <= FINE else f"{said}, which is too much: raise bins"


def _chosen(mixture: Mixture, samples: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Draws from first to last, and those where some element of a site is smallest or largest."""
    flat = {n: np.asarray(samples[n]).reshape(-1, *site.shape) for n, site in mixture.sites.items()}
    count = len(next(iter(flat.values())))
    columns = [v.reshape(count, -1) for v in flat.values()]
    ends = np.unique(np.concatenate([f(v, 0) for v in columns for f in (np.argmin, np.argmax)]))
    ends = ends[np.linspace(0, len(ends) - 1, min(EXTREME, len(ends))).astype(int)]
    even = np.linspace(0, count - 1, min(SPREAD, count)).astype(int)
    return [{n: v[i] for n, v in flat.items()} for i in np.union1d(even, ends)]
