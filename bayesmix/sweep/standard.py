"""The coordinates of a sweep: a shift and a scale of each column, undone exactly in the params."""

from collections.abc import Iterator

import numpy as np

from bayesmix.families import Family


def centre(x: np.ndarray, w: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of each column; 0 and 1 without location.

    Medians for a robust family: with outliers the mean may be far from every cluster.
    """
    D = x.shape[1]
    if not family.location_scale:
        return np.zeros(D), np.ones(D)
    if w.sum() == 0:
        x, w = np.zeros((1, D)), np.ones(1)
    if np.isnan(x).any():
        return _centre_of_observed(x, w, family)
    if family.robust and len(x):
        centre = np.median(x, 0)
        deviation = np.median(np.abs(x - centre), 0)
        if (deviation > 0).all():
            return centre, deviation
    total = w.sum()
    shift = sum(part_w @ part for part, part_w in _parts(x, w)) / total
    spread = np.sqrt(sum(part_w @ (part - shift) ** 2 for part, part_w in _parts(x, w)) / total)
    return _moved(shift, spread, family)


def _centre_of_observed(
    x: np.ndarray, w: np.ndarray, family: Family
) -> tuple[np.ndarray, np.ndarray]:
    """The same from the cells that are not NaN."""
    seen = ~np.isnan(x)
    total = np.maximum(w @ seen, np.finfo(float).tiny)
    shift = (w @ np.where(seen, x, 0.0)) / total
    spread = np.sqrt((w @ np.where(seen, x - shift, 0.0) ** 2) / total)
    return _moved(shift, spread, family)


def _moved(shift: np.ndarray, spread: np.ndarray, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of the columns that may be moved."""
    D = len(shift)
    moved = np.broadcast_to(family.location_scale, D)  # a product says it column by column
    return np.where(moved, shift, 0.0), np.where(moved, spread_of(spread, family), 1.0)


def spread_of(spread: np.ndarray, family: Family) -> np.ndarray:
    """Standard deviations to divide by: 1 for constant columns, one for all if isotropic."""
    spread = np.where(spread > 0, spread, 1.0)
    return np.full_like(spread, np.sqrt(np.mean(spread**2))) if family.isotropic else spread


def _parts(x: np.ndarray, w: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and weights piece by piece, in one layout, so that sums round alike for all layouts."""
    for start in range(0, len(x), 65536):
        some = slice(start, start + 65536)
        yield np.ascontiguousarray(x[some], np.float64), w[some]


def jacobian(x: np.ndarray, w: np.ndarray, scale: np.ndarray) -> float:
    """The log determinant of the standardisation, over the cells that were observed."""
    if not np.isnan(x).any():
        return -float(w.sum() * np.log(scale).sum())
    return -float(w @ (~np.isnan(x) @ np.log(scale)))
