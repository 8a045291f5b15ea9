"""Undo label switching: give the clusters of every draw the same names.

Only permutations that leave the program's log joint unchanged are considered (attribute
`exchangeable` of the tree): an asymmetric prior, a noise component or an ordered site allows fewer
than K!, perhaps none.

Lives here: `relabel`. `task` holds the methods, `methods` their losses, `assignment` the Hungarian
algorithm and the margins, `blocks` the streaming of responsibilities, `pivot` the point that gives
the names, `tree` what is read from a DataTree, `report` whether names can be trusted. Does not live
here: fitting, and R-hat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.relabel.assignment import Alignment
from bayesmix.relabel.task import METHODS, Task
from bayesmix.relabel.tree import (
    check,
    cluster_axes,
    cluster_dim,
    dataset,
    node,
    permuted,
    renamed,
    shape_of,
)

if TYPE_CHECKING:
    import xarray


def relabel(
    tree: xarray.DataTree, method: str = "ecr", *, by: Any = None, mixture: Any = None
) -> xarray.DataTree:
    """Tree whose clusters carry the same names in every draw; the given tree is left alone.

    Every site with a cluster axis in `posterior`, and `responsibilities` (and `allocations`), is
    permuted draw by draw, within the classes of clusters that may change places without changing
    the log joint (attribute `exchangeable`). Nothing is averaged or dropped, so each draw still
    has its log joint. The new group `relabelling` holds `permutation` (new cluster k is old
    cluster permutation[k], so it can be undone), `cost` and `margin` (what the second-best
    permutation would cost more) per draw; the attributes `relabelled`, `relabel_pivot`,
    `relabel_changed` (share of draws whose names changed), `relabel_cost` and `relabel_margin`
    (means) sum it up. Relabelling twice changes nothing; `permutation` then still refers to the
    first tree. A tree of one point (EM) comes back with the identity.

    method, and the unit of its cost:
      "ecr"  agreement with a pivot: share of observations that it puts elsewhere. The pivot is the
        group `pivot` (EM's MAP when the chains started there), else the draw of highest log joint,
        else a central draw. The other methods start from these names, so the result does not
        depend on the names the draws came with.
      "ecr-iterative-1", "ecr-iterative-2"  agreement with the cluster where the observation is
        most often: counted over allocations (sampled ones in the group `allocations`, else the
        most probable ones), or by the mean responsibilities.
      "stephens"  Kullback-Leibler divergence from the mean responsibilities, nats per observation.
      "data-based"  squared distance of the observations from the cluster's centre, per observation.
      "pra"  squared distance of the parameters from the pivot's, in standard deviations.
      "order"  order of the site `by`, or by=(site, label, ...) where it has more dims.
    by : for method "order" only.
    mixture : needed only where the responsibilities were too large to store; they are then
        computed in blocks, again for each pass.

    Raises ValueError when `method` is unknown or the tree lacks what is needed.
    Sources: beside each loss in `bayesmix.relabel.methods`. Departure: assignments are summed out,
    so exact responsibilities take the place of one sampled allocation; with one-hot
    responsibilities the algorithms are those of the papers.
    """
    check(tree)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(map(repr, METHODS))}")
    if by is not None and method != "order":
        raise ValueError(f'by={by!r} is for method "order" only, not {method!r}')
    task = Task(tree, mixture)
    return applied(task, task.solve(method, by), method)


def applied(task: Task, found: Alignment, method: str) -> xarray.DataTree:
    """The tree under the names found, with their record."""
    tree = task.tree
    perm = found.perm.reshape(*shape_of(tree), task.K)
    new = tree.copy()
    new["posterior"] = node(permuted(dataset(tree, "posterior"), cluster_axes(tree), perm))
    for group, change in (("responsibilities", _moved), ("allocations", _renamed)):
        if group in tree.children:
            new[group] = node(change(dataset(tree, group), perm))
    new["relabelling"] = node(_record(tree, found, perm))
    new.attrs.update(_summary(task, found, method))
    return new


def _moved(resp: xarray.Dataset, perm: np.ndarray) -> xarray.Dataset:
    return permuted(resp, {str(name): resp[name].ndim - 1 for name in resp.data_vars}, perm)


def _renamed(labels: xarray.Dataset, perm: np.ndarray) -> xarray.Dataset:
    return labels.map(renamed, keep_attrs=True, perm=perm)


def _record(tree: xarray.DataTree, found: Alignment, perm: np.ndarray) -> xarray.Dataset:
    from xarray import Dataset

    before = dataset(tree, "relabelling")
    if "permutation" in before:
        perm = np.take_along_axis(before["permutation"].to_numpy(), perm, axis=-1)
    sample, cluster = ("chain", "draw"), cluster_dim(tree)
    coords = dataset(tree, "posterior").coords
    return Dataset(
        {
            "permutation": ((*sample, cluster), perm),
            "cost": (sample, found.cost.reshape(perm.shape[:2])),
            "margin": (sample, found.margin.reshape(perm.shape[:2])),
        },
        coords={
            **{dim: coords[dim] for dim in sample if dim in coords},
            cluster: np.arange(perm.shape[-1]),
        },
    )


def _summary(task: Task, found: Alignment, method: str) -> dict[str, Any]:
    changed = (found.perm != np.arange(task.K)).any(axis=-1)
    return {
        "relabelled": method,
        "relabel_pivot": "none" if method == "order" else task.kind,
        "relabel_changed": float(changed.mean()),
        "relabel_cost": float(found.cost.mean()),
        "relabel_margin": float(found.margin.mean()),
    }
