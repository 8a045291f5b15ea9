"""Where EM begins: a start is a matrix of responsibilities.

Starts differ on purpose, since each kind misses optima that another finds: k-means++ with Lloyd
steps, k-means++ seeds as they fall, nearest of K random rows, slices along a random direction, and
random responsibilities; on columns scaled one by one and on whitened columns in turn. Hard
assignments are softened, so that no cluster begins on a single point.
"""

from collections.abc import Iterator

import numpy as np
from scipy.cluster.vq import ClusterError, kmeans2, vq

from bayesmix.program import Mixture

SUBSAMPLE = 4096
SOFT = 0.05
KINDS = ("k-means", "seeds", "slices", "random", "rows", "slices", "seeds", "random")
LLOYD = {"k-means": 10, "seeds": 1}


def starts(mixture: Mixture, rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """``count`` matrices of responsibilities, (N, K), for the rows of a mixture."""
    x = np.asarray(mixture.value, np.float64).reshape(mixture.N, -1)
    coordinates = (_scaled(x), _whitened(x))
    ordered = any("Ordered" in str(site.support) for site in mixture.sites.values())
    for number in range(count):
        labels = _labels(coordinates[number // len(KINDS) % 2], mixture.K, rng, number)
        if labels is None:
            yield rng.dirichlet(np.full(mixture.K, 0.2), size=mixture.N)
            continue
        if ordered:
            labels = _by_first_column(labels, x[:, 0], mixture.K)
        yield soften(labels, mixture.K)


def soften(labels: np.ndarray, K: int) -> np.ndarray:
    """Responsibilities of 1 - SOFT for the label, the rest spread evenly over all clusters."""
    return (1 - SOFT) * np.eye(K)[labels] + SOFT / K


def _labels(x: np.ndarray, K: int, rng: np.random.Generator, number: int) -> np.ndarray | None:
    """Labels of one start, or None for random responsibilities."""
    kind = KINDS[number % len(KINDS)]
    distinct = np.unique(x, axis=0)
    if kind == "random" or len(distinct) < K:
        return None
    if kind == "slices":
        return _slices(x @ rng.standard_normal(x.shape[1]), K, rng)
    if kind == "rows":
        return vq(x, _random_rows(distinct, K, rng))[0]
    some = x[rng.choice(len(x), min(SUBSAMPLE, len(x)), replace=False)]
    try:
        centres = kmeans2(some, K, iter=LLOYD[kind], minit="++", missing="raise", rng=rng)[0]
    except ClusterError:
        centres = _random_rows(distinct, K, rng)
    return vq(x, centres)[0]


def _random_rows(distinct: np.ndarray, K: int, rng: np.random.Generator) -> np.ndarray:
    return distinct[rng.choice(len(distinct), K, replace=False)]


def _slices(position: np.ndarray, K: int, rng: np.random.Generator) -> np.ndarray:
    """Labels by rank along a line, cut at K - 1 random shares."""
    rank = np.argsort(np.argsort(position)) / len(position)
    return np.searchsorted(np.sort(rng.random(K - 1)), rank)


def _scaled(x: np.ndarray) -> np.ndarray:
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 0, spread, 1.0)


def _whitened(x: np.ndarray) -> np.ndarray:
    """Rows in uncorrelated coordinates of unit variance, without the directions that are flat."""
    z = _scaled(x)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z.T, bias=True)))
    kept = values > 1e-12 * values.max() if values.max() > 0 else np.ones_like(values, bool)
    return z @ (vectors[:, kept] / np.sqrt(np.where(values[kept] > 0, values[kept], 1.0)))


def _by_first_column(labels: np.ndarray, x: np.ndarray, K: int) -> np.ndarray:
    """Rename labels so that the clusters' means ascend, for programs with ordered sites."""
    means = [x[labels == k].mean() if (labels == k).any() else np.inf for k in range(K)]
    return np.argsort(np.argsort(means))[labels]
