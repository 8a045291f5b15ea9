"""Repeated rows as one row with their weights added: exact, and done only where it pays.

Counts, categories and rounded values repeat: a million Poisson rows hold some tens of values. A
sample decides whether the rows are sorted at all, so that continuous data cost nothing.
"""

from typing import NamedTuple

import numpy as np

WORTH = 2  # rows for each distinct one, at least
SAMPLE = 4096  # rows that are looked at; a pass over no more than these needs no shortening


class Merged(NamedTuple):
    """Distinct rows x (M, D) with their summed weights (M,).

    ``place`` (N,) is the distinct row of each row, ``counts`` (N,) the weight it brings; rows of
    weight 0 bring nothing and stand at place 0.
    """

    x: np.ndarray
    weights: np.ndarray
    place: np.ndarray
    counts: np.ndarray


def merge(x: np.ndarray, weights: np.ndarray | None) -> Merged | None:
    """The distinct rows of x (N, D), or None where they are more than N / ``WORTH``."""
    counts = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    counted = counts > 0
    if not counted.all():
        x = x[counted]
    if len(x) <= SAMPLE or not _repeats(x):
        return None
    _, first, inverse = np.unique(_codes(x), return_index=True, return_inverse=True)
    if len(first) * WORTH > len(x):
        return None
    place = np.zeros(len(counts), np.int32)
    place[counted] = inverse
    total = np.bincount(inverse, counts[counted], len(first))
    return Merged(np.asarray(x[first], np.float64), total, place, counts)


def binned(x: np.ndarray, weights: np.ndarray | None, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Values x (N,) in cells: two points and their weights for each, (2 cells,) or fewer.

    Gauss's quadrature of what is in a cell: its weight, mean, variance and third moment are kept
    exactly, so that a log density that is cubic over the cell is summed without error. What is left
    is of the order of weight x width^4, and is least where cells are as dense as the fifth root of
    the values: half of the cells follow it (the sum of gaps^0.8 grows like that), half the weights,
    whatever lies far out. A cell does not span a wide gap. Weight 0 does not count.
    """
    counts = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(x, kind="stable")
    order = order[counts[order] > 0]
    x, counts = np.asarray(x[order], np.float64), counts[order]
    gaps = np.cumsum(np.diff(x, prepend=x[0]) ** 0.8)
    reached = (np.cumsum(counts) - counts) / counts.sum() + gaps / (gaps[-1] or 1.0)
    first = np.unique(np.searchsorted(reached, reached[-1] * np.arange(cells) / cells))
    weight = np.add.reduceat(counts, first)
    middle = x[len(x) // 2]  # sums of deviations keep their digits
    mean = middle + np.add.reduceat(counts * (x - middle), first) / weight
    off = x - np.repeat(mean, np.diff(np.append(first, len(x))))
    sd = np.sqrt(np.add.reduceat(counts * off**2, first) / weight)
    third = np.add.reduceat(counts * off**3, first) / weight
    half = 0.5 * third / np.where(sd > 0, sd, 1.0) ** 3  # of the skewness
    root = np.sqrt(1 + half**2)
    points = mean[:, None] + sd[:, None] * np.stack([half - root, half + root], axis=1)
    shares = 0.5 * np.stack([1 + half / root, 1 - half / root], axis=1)
    return points.ravel(), (weight[:, None] * shares).ravel()


def _repeats(x: np.ndarray) -> bool:
    """Whether a sample has as many repeats as rows drawn from N / ``WORTH`` values would.

    Of m rows from M equally likely values some m^2 / 2M repeat; unequal values repeat more often.
    """
    step = len(x) // SAMPLE
    repeats = SAMPLE - len(np.unique(_codes(x[: SAMPLE * step : step])))
    return repeats > 0.5 * SAMPLE**2 * WORTH / (2 * len(x))


def _codes(x: np.ndarray) -> np.ndarray:
    """An integer for each row, equal exactly for equal rows, (N,)."""
    code, count = np.zeros(len(x), np.int64), 1
    for column in x.T:
        values, number = np.unique(column, return_inverse=True)
        if count * len(values) >= 2**62:
            kept, code = np.unique(code, return_inverse=True)
            count = len(kept)
        code = code * len(values) + number
        count *= len(values)
    return code
