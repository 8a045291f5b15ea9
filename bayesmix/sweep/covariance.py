"""The spread of all rows in every direction, by a factor of their covariance."""

from collections.abc import Iterator

import numpy as np

from bayesmix.arguments import on_host
from bayesmix.sweep.rows import Rows
from bayesmix.sweep.stream import Streamed


def whitening(rows: Rows) -> np.ndarray:
    """Upper triangular R (D, D) with R'R the weighted covariance of z, by QR of its chunks.

    Squares are never taken, so that variances of 1e-20 of the largest are still seen.
    """
    total = sum(w.sum() for _, w in _standardised(rows))
    mean = sum(w @ z for z, w in _standardised(rows)) / total
    upper = np.zeros((0, len(mean)))
    for z, w in _standardised(rows):
        stacked = np.concatenate([upper, (z - mean) * np.sqrt(w / total)[:, None]])
        upper = np.asarray(np.linalg.qr(stacked, mode="r"))
    return upper


def _standardised(rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Standardised rows (n, D) and their weights (n,), some thousands at a time."""
    if isinstance(rows.z, Streamed):
        for block in rows.z.blocks:
            x = np.asarray(block, np.float64).reshape(len(block), -1)
            yield (x - rows.z.shift) / rows.z.scale, np.ones(len(x))
        return
    chunks, weights = np.nan_to_num(on_host(rows.z)), on_host(rows.weights)
    for number in range(0, len(chunks), 64):
        z = np.asarray(chunks[number : number + 64], np.float64)
        w = np.asarray(weights[number : number + 64], np.float64)
        yield np.moveaxis(z, -2, -1).reshape(-1, z.shape[-2]), w.reshape(-1)
