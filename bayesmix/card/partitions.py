"""EM's partition against the posterior of partitions: what no renaming of clusters changes.

Lives here: distances to every draw and to the point estimate, and what EM's partition would cost in
the estimate's place. Does not live here: the search, see `bayesmix.partition`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesmix.allocations import allocations, read_labels, read_partition
from bayesmix.card.sources import Source
from bayesmix.partition import Partition, clusters_in_words, mcse, partition
from bayesmix.partition.losses import adjusted_rand, distances, loss_of, vi
from bayesmix.relabel.tree import shape_of

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 1000
MOST_CELLS = 2e6  # rows x draws
RUNS = 4
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Compared(NamedTuple):
    """The posterior's point estimate, the distances to it and to the draws, and their facts."""

    estimate: Partition
    table: pd.DataFrame
    facts: dict[str, Any]


def compare(em: Any, source: Source) -> Compared:
    """EM's partition (each observation where it is most probable) against a result's.

    One assignment is drawn per posterior draw, with a fixed key, so that a card depends on the
    results alone. Beyond MOST_ROWS observations a fixed random subset stands for all (both
    measures are averages over observations, or over pairs of them); beyond MOST_CELLS the draws are
    thinned.
    """
    import jax

    rows = _some_rows(em.mixture.N)
    mine = read_partition(em.responsibilities.reshape(em.mixture.N, -1).argmax(-1)[rows], len(rows))
    key = jax.random.key(0)
    z = _assignments(key, source, rows)
    estimate = partition(jax.random.fold_in(key, 1), z, "vi", runs=RUNS)
    chains, draws = len(z), read_labels(z).values
    cost = {
        (measure, of): distances(loss_of(loss, None), labels, draws)
        for measure, loss in (("vi", "vi"), ("adjusted_rand", "omari"))
        for of, labels in (("em", mine), ("estimate", estimate.labels))
    }
    excess = cost["vi", "em"] - cost["vi", "estimate"]
    facts = {
        "excess": float(excess.mean()),
        "excess_mcse": mcse(excess, chains),
        "expected_vi": estimate.expected_loss,
        "em_vi": vi(mine, estimate),
        "em_rand": adjusted_rand(mine, estimate),
        "em_clusters": clusters_in_words(mine),
        "estimate_clusters": clusters_in_words(estimate.labels),
        "estimate_number": len(np.unique(estimate.labels)),
        "occupied": np.bincount(draws.max(axis=1) + 1) / len(draws),
        "partition_rows": len(rows),
        "partition_draws": len(draws),
        "most_vi": math.log2(len(rows)),
    }
    table = _table(cost, facts, chains)
    spread = table.loc[("adjusted_rand", "estimate")]
    return Compared(estimate, table, facts | {"rand_range": (spread["q05"], spread["q95"])})


def _some_rows(N: int) -> np.ndarray:
    if N <= MOST_ROWS:
        return np.arange(N)
    return np.sort(np.random.default_rng(0).choice(N, MOST_ROWS, replace=False))


def _assignments(key: Any, source: Source, rows: np.ndarray) -> np.ndarray:
    """Labels (chain, draw, some rows)."""
    tree = source.thinned
    step = math.ceil(math.prod(shape_of(tree)) * len(rows) / MOST_CELLS)
    few = tree if step == 1 else tree.isel(draw=slice(None, None, step))
    z = allocations(key, few, mixture=source.result.mixture).to_numpy()
    return z.reshape(*z.shape[:2], -1)[..., rows]


def _table(cost: dict[Any, np.ndarray], facts: dict[str, Any], chains: int) -> pd.DataFrame:
    """One row per measure and partition; the adjusted Rand index is one minus its loss."""
    import pandas as pd

    to_estimate = {
        ("vi", "em"): facts["em_vi"],
        ("vi", "estimate"): 0.0,
        ("adjusted_rand", "em"): facts["em_rand"],
        ("adjusted_rand", "estimate"): 1.0,
    }
    rows = {}
    for name, values in cost.items():
        shown = values if name[0] == "vi" else 1.0 - values
        at = dict(zip(QUANTILES, np.quantile(shown, QUANTILES), strict=True))
        rows[name] = {
            "to_estimate": to_estimate[name],
            "mean": float(shown.mean()),
            "mcse": mcse(shown, chains),
            **{f"q{100 * q:02.0f}": float(value) for q, value in at.items()},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["measure", "partition"])
