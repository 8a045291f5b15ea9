"""The point whose names all draws are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayesmix.relabel.blocks import Responsibilities
from bayesmix.relabel.tree import dataset, log_joint

if TYPE_CHECKING:
    import xarray

CANDIDATES = 64


class Pivot(NamedTuple):
    """resp : (N, K). kind : "em" (EM's MAP), "draw" (of highest log joint) or "central draw".

    draw : its number among the flattened draws; None where it is not one of them.
    """

    resp: np.ndarray
    kind: str
    draw: int | None


def pivot_of(tree: xarray.DataTree, draws: Responsibilities) -> Pivot:
    """EM's MAP when the chains started there, else the draw of highest log joint.

    Where the tree has no log joint it is a central draw, see `central`.
    """
    point, best = dataset(tree, "pivot"), best_draw(tree)
    if "resp" in point:
        resp = point["resp"].to_numpy()
        resp = _same_rows(resp.reshape(-1, resp.shape[-1]), draws)
        return Pivot(resp, str(point.attrs.get("kind", "pivot group")), None)
    if best is not None:
        return Pivot(draws.of(np.array([best]))[0], "draw", best)
    return central(draws)


def best_draw(tree: xarray.DataTree) -> int | None:
    """Number of the draw of highest log joint; None where the tree has no log joint."""
    heights = log_joint(tree)
    return None if heights is None else int(np.argmax(heights))


def _same_rows(resp: np.ndarray, draws: Responsibilities) -> np.ndarray:
    if resp.shape != draws.shape[1:]:
        raise ValueError(
            f"the pivot has responsibilities of shape {resp.shape} and the draws of shape "
            f"{draws.shape[1:]}: both must be of the same observations and clusters"
        )
    return resp


def central(draws: Responsibilities) -> Pivot:
    """The most central of 64 evenly spaced draws.

    Its similarity matrix R R^T, which no renaming changes, is the nearest to those of the others
    (expected Binder loss).
    """
    S = draws.shape[0]
    some = np.unique(np.linspace(0, S - 1, min(S, CANDIDATES)).astype(int))
    resp = draws.of(some)
    flat = np.sqrt(draws.shares)[:, None] * resp
    size = np.array([np.sum((a.T @ a) ** 2) for a in flat])
    shared = np.array([sum(np.sum((a.T @ b) ** 2) for b in flat) for a in flat])
    best = int(np.argmin(len(flat) * size - 2 * shared))
    return Pivot(resp[best], "central draw", int(some[best]))
