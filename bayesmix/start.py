"""Where EM begins, and where it may begin again: both are matrices of responsibilities.

Starts differ on purpose, since each kind misses optima that another finds: k-means++ with Lloyd
steps, k-means++ seeds as they fall, nearest of K random rows, slices along a random direction, and
random responsibilities; on columns scaled one by one and on whitened columns in turn. Clusters that
are lines may begin at lines through random rows, as many as it takes to fix one (Fischler & Bolles
1981, Random sample consensus, Communications of the ACM 24). Hard assignments are softened, so that
no cluster begins on a single point.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpyro.distributions as dist
from scipy.cluster.vq import ClusterError, kmeans2, vq
from scipy.optimize import linear_sum_assignment

from bayesmix.program import Mixture

SUBSAMPLE = 4096
SOFT = 0.05
FIRM = 0.95
HAZE = 0.01
SPARE = 0.1  # of every row: what the background begins with
KINDS = ("k-means", "seeds", "slices", "random", "rows", "slices", "seeds", "random")
LINE_KINDS = ("k-means", "lines", "slices", "random", "rows", "lines", "seeds", "lines")
LLOYD = {"k-means": 10, "seeds": 1}


def _indicators(x: np.ndarray) -> np.ndarray:
    """A column for each category of each column; NaN in the rows where it is missing."""
    gone = np.isnan(x)
    levels = [np.unique(column[~missing]) for column, missing in zip(x.T, gone.T, strict=True)]
    found = [column[:, None] == own for column, own in zip(x.T, levels, strict=True)]
    unknown = gone.repeat([len(own) for own in levels], axis=1)
    return np.where(unknown, np.nan, np.concatenate(found, 1))


def _on_the_circle(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.cos(x), np.sin(x)], 1)


def _logarithms(x: np.ndarray) -> np.ndarray:
    """Rows that do not count may hold anything; impossible values in them are taken as 1."""
    return np.log(np.where((x > 0) | np.isnan(x), x, 1.0))


def _log_odds(x: np.ndarray) -> np.ndarray:
    return _logarithms(x) - _logarithms(1 - x)


# Columns in which a distance means something, for families whose values lie on no straight line.
COORDINATES: dict[type, Callable[[np.ndarray], np.ndarray]] = {
    dist.CategoricalProbs: _indicators,
    dist.CategoricalLogits: _indicators,
    dist.VonMises: _on_the_circle,
    dist.Gamma: _logarithms,
    dist.InverseGamma: _logarithms,
    dist.Weibull: _logarithms,
    dist.Beta: _log_odds,
    dist.BetaProportion: _log_odds,
    dist.Dirichlet: _logarithms,
}


@dataclass(frozen=True)
class Starts:
    """Random starts for rows in some coordinates, (n, D) each; ``ordered`` clusters ascend.

    ``labels`` (n,) are known assignments, -1 for none, or None. K does not count the clusters of
    the ``background``, which have no place among the rows and begin with a little of every row.
    ``lines``: where clusters are lines, the response and the covariates side by side, else None.
    """

    x: np.ndarray
    coordinates: tuple[np.ndarray, ...]
    K: int
    ordered: bool
    rng: np.random.Generator
    labels: np.ndarray | None = None
    background: tuple[int, ...] = ()
    lines: np.ndarray | None = None

    def start(self, number: int) -> np.ndarray:
        """Responsibilities (n, K) of start ``number``, which says of what kind it is."""
        labels = self._labels(self.coordinates[number // len(KINDS) % 2], number)
        if labels is None:
            resp = self.rng.dirichlet(np.full(self.K, 0.2), size=len(self.x))
        else:
            resp = soften(labels, self.K)
        return self._with_background(self._in_order(resp))

    def swap(self, resp: np.ndarray, fewest: int, most: int) -> np.ndarray:
        """``resp`` (n, K) with one cluster taken away and another grown from a few close rows.

        The rows of the cluster that goes fall to the others; the new one begins as the ``fewest``
        to ``most`` nearest neighbours of a random row, in one of the coordinates, or as the rows
        closest to a line through random ones.
        """
        resp = np.delete(resp, self.background, axis=1)
        resp = (resp + 1e-12) / (resp + 1e-12).sum(1, keepdims=True)
        gone = int(self.rng.integers(self.K))
        ways = len(self.coordinates) + (self.lines is not None)
        way = int(self.rng.integers(ways))
        size = int(np.exp(self.rng.uniform(np.log(fewest), np.log(most + 1))))
        if way == len(self.coordinates):
            distance = self._from_random_line(self.lines)
        else:
            x = self.coordinates[way]
            distance = np.square(x - x[self.rng.integers(len(x))]).sum(1)
        near = np.argpartition(distance, size - 1)[:size]
        others = np.delete(resp, gone, axis=1)
        total = others.sum(1, keepdims=True)
        others = np.where(total > 1e-8, others / np.maximum(total, 1e-8), 1 / (self.K - 1))
        new = np.zeros(len(resp))
        new[near] = FIRM
        moved = np.insert(others * (1 - new[:, None]), gone, new, axis=1)
        return self._with_background(self._in_order((1 - HAZE) * moved + HAZE / self.K))

    def _with_background(self, resp: np.ndarray) -> np.ndarray:
        """Responsibilities of all clusters, given those of the clusters that have a place."""
        for k in self.background:
            resp = np.insert((1 - SPARE) * resp, k, SPARE, axis=1)
        return resp

    def _labels(self, x: np.ndarray, number: int) -> np.ndarray | None:
        """Labels of one start, or None for random responsibilities."""
        kind = (KINDS if self.lines is None else LINE_KINDS)[number % len(KINDS)]
        distinct = np.unique(x, axis=0)
        if kind == "random" or len(distinct) < self.K:
            return None
        if kind == "lines":
            each = [self._from_random_line(self.lines) for _ in range(self.K)]
            return np.argmin(each, axis=0)
        if kind == "slices":
            return self._slices(x @ self.rng.standard_normal(x.shape[1]))
        if kind == "rows":
            return vq(x, self._random_rows(distinct))[0]
        some = x[self.rng.choice(len(x), min(SUBSAMPLE, len(x)), replace=False)]
        try:
            found = kmeans2(
                some, self.K, iter=LLOYD[kind], minit="++", missing="raise", rng=self.rng
            )
            centres = found[0]
        except ClusterError:
            centres = self._random_rows(distinct)
        return vq(x, centres)[0]

    def _from_random_line(self, columns: Any) -> np.ndarray:
        """Squared distance, along the response, from a line through random rows, (n,)."""
        response, design = columns[:, 0], columns[:, 1:]
        some = self.rng.choice(len(design), min(design.shape), replace=False)
        slope = np.linalg.lstsq(design[some], response[some], rcond=None)[0]
        return np.square(response - design @ slope)

    def _random_rows(self, distinct: np.ndarray) -> np.ndarray:
        return distinct[self.rng.choice(len(distinct), self.K, replace=False)]

    def _slices(self, position: np.ndarray) -> np.ndarray:
        """Labels by rank along a line, cut at K - 1 random shares."""
        rank = np.argsort(np.argsort(position)) / len(position)
        return np.searchsorted(np.sort(self.rng.random(self.K - 1)), rank)

    def _in_order(self, resp: np.ndarray) -> np.ndarray:
        """Columns named as the program asks: means ascend for ordered sites, known labels agree."""
        if self.ordered:
            resp = resp[:, np.argsort(resp.T @ self.x[:, 0] / resp.sum(0))]
        if self.labels is None or not (self.labels >= 0).any():
            return resp
        known = self.labels >= 0
        certain = np.eye(self.K)[self.labels[known]]
        resp = resp[:, linear_sum_assignment(certain.T @ resp[known], maximize=True)[1]]
        resp[known] = certain
        return resp


def starts_on(
    x: np.ndarray,
    labels: np.ndarray | None,
    K: int,
    ordered: bool,
    rng: np.random.Generator,
    background: tuple[int, ...] = (),
    lines: np.ndarray | None = None,
) -> Starts:
    """Starts for rows ``x`` (n, D) with known labels, if any, in scaled and whitened columns.

    lines : response and covariates of clusters that are lines. A missing cell lies where its
    column's mean is, which tells nothing about its cluster.
    """
    x = np.where(np.isnan(x), np.nanmean(x, 0), x)
    places = K - len(background)
    return Starts(x, (_scaled(x), _whitened(x)), places, ordered, rng, labels, background, lines)


def coded(mixture: Mixture, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of the sweep as columns in which distance means something, and their known labels.

    Categories become indicators, successes shares of their trials, angles points on the circle;
    other positive numbers than log-normal ones, which are logarithms already, and shares are taken
    by their logarithms. Labels are -1 for none.
    """
    blocks, start = [], 0
    for site in mixture.observed:
        width = int(np.prod(site.value.shape[len(mixture.rows) :]))
        block, start = x[:, start : start + width], start + width
        kinds = {COORDINATES.get(component) for component in site.components}
        if len(kinds) == 1 and (coordinates := kinds.pop()) is not None:
            block = coordinates(block)
        for _ in site.given:
            block = block / np.maximum(x[:, start : start + width], 1)
            start += width
        blocks.append(block)
    labels = None if mixture.labels is None else x[:, -1].astype(int)
    return np.concatenate(blocks, 1), labels


def soften(labels: np.ndarray, K: int) -> np.ndarray:
    """Responsibilities of 1 - SOFT for the label, the rest spread evenly over all clusters."""
    return (1 - SOFT) * np.eye(K)[labels] + SOFT / K


def _scaled(x: np.ndarray) -> np.ndarray:
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 0, spread, 1.0)


def _whitened(x: np.ndarray) -> np.ndarray:
    """Rows in uncorrelated coordinates of unit variance, without the directions that are flat."""
    z = _scaled(x)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z.T, bias=True)))
    kept = values > 1e-12 * values.max() if values.max() > 0 else np.ones_like(values, bool)
    return z @ (vectors[:, kept] / np.sqrt(np.where(values[kept] > 0, values[kept], 1.0)))
