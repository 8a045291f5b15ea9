"""One partition in place of a whole posterior of partitions, and how far to trust it.

Lives here: the point estimate (`partition`) and what the user keeps of it. Below it are `losses`
(what a wrong partition costs), `objective` and `tables` (its expectation) and `search`; above it
`ball` and `represent` (what one partition leaves out), `certainty` and `combine`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bayesmix.allocations import Labels, Rows, draws_of, read_labels, resp_blocks, rows_of
from bayesmix.arguments import check_counts, check_optional_counts, seed_of
from bayesmix.partition.losses import Loss, distances, loss_of
from bayesmix.partition.objective import Objective, Pairs
from bayesmix.partition.search import Optimum, Search
from bayesmix.partition.tables import HELD, Tables
from bayesmix.relabel.tree import shape_of
from bayesmix.similarity import has_responsibilities, similarity

if TYPE_CHECKING:
    import xarray

COARSE = 512  # draws on which random starts descend; the optima are then refined on all draws
CANDIDATES = 64  # draws tried as a start
STOPPED = "; stopped at its bound of work: compare with another key's"
MOST_PAIRS = 20_000  # observations whose similarity matrix is held, 3.2 GB


@dataclass(frozen=True)
class Partition:
    """The partition of least posterior expected loss that was found.

    labels : (N,) int, clusters numbered 0, 1, ... by their first member. loss, a, unit : what was
        minimised. expected_loss : its posterior mean; mcse : its Monte-Carlo standard error, from
        the effective number of draws.
    runs : random starts that were made; reached : share of them that ended here. stopped : whether
        the search met its bound of work, so that starts or the last moves were left out.
    optima : the local optima that were met, this one first. runner_up : the second best partition
        that was met, among the other optima, one observation moved and two clusters merged (None:
        one observation); lead : how much more it is expected to cost; lead_mcse : Monte-Carlo
        standard error of that difference.
    """

    labels: np.ndarray
    loss: str
    a: float
    unit: str
    expected_loss: float
    mcse: float
    runs: int
    reached: float
    stopped: bool
    optima: tuple[Optimum, ...]
    runner_up: np.ndarray | None
    lead: float | None
    lead_mcse: float | None
    rows: Rows = field(repr=False)
    key: Any = field(repr=False)

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1

    @property
    def sizes(self) -> np.ndarray:
        """Observations in each cluster, (n_clusters,)."""
        return np.bincount(self.labels)

    def to_dataarray(self) -> xarray.DataArray:
        """The labels with the observations' names."""
        from xarray import DataArray

        coords = self.rows.coords(self.rows.dim)
        return DataArray(self.labels, dims=(self.rows.dim,), coords=coords, name="partition")

    def __repr__(self) -> str:
        name = f"{self.loss}, a={self.a:g}" if self.loss.startswith("g") else self.loss
        lines = [
            f"Partition of {len(self.labels)} observations: {clusters_in_words(self.labels)}",
            f"  expected loss  {self.expected_loss:.4f} +- {self.mcse:.1g}  ({name}; {self.unit})",
            f"  search         {round(self.reached * self.runs)} of {self.runs} random starts "
            f"ended here{STOPPED if self.stopped else ''}",
        ]
        if self.runner_up is not None:
            lines.append(
                f"  runner-up      costs {self.lead:.2g} +- {self.lead_mcse:.1g} more: "
                f"{clusters_in_words(self.runner_up)}"
            )
        if len(self.optima) > 1:
            labels, loss, _ = self.optima[1]
            lines.append(
                f"  other optimum  costs {loss - self.expected_loss:.2g} more: "
                f"{clusters_in_words(labels)}"
            )
        return "\n".join(lines)


def clusters_in_words(labels: np.ndarray, most: int = 8) -> str:
    """'3 clusters of 120, 95, 57'."""
    sizes = sorted(np.bincount(labels).tolist(), reverse=True)
    if len(sizes) == 1:
        return f"one cluster of {sizes[0]}"
    listed = ", ".join(map(str, sizes[:most])) + (", ..." if len(sizes) > most else "")
    return f"{len(sizes)} clusters of {listed}"


def partition(
    key: Any,
    draws: Any,
    loss: str = "vi",
    *,
    a: float | None = None,
    max_clusters: int | None = None,
    runs: int = 16,
    mixture: Any = None,
) -> Partition:
    """The partition of least posterior expected loss.

    key : JAX random key. draws : a result, a tree with responsibilities (or with the labels in a
    group `allocations`), a DataArray (chain, draw, obs) or an array (draw, obs) of labels from
    anywhere; labels may start at 1, have gaps or be text, and need not mean the same in two draws.
    loss : "vi" (variation of information, bits), "binder" (pairs, the N-invariant 2 / N^2 scale),
    "gvi" and "gbinder" with 0 < a < 2, the cost of separating what belongs together (2 - a is
    the cost of joining what does not: a > 1 gives fewer clusters), "omari" (one minus the adjusted
    Rand index), "nvi", "id", "nid" (normalised VI, information distance, and that normalised).
    max_clusters : default no bound. runs : random starts; fewer are made where the search meets its
    bound of work (some 5 to 15 CPU seconds up to 1000 observations; then `stopped` is true).
    mixture : needed only where the responsibilities were too large to store.

    From a tree, "binder" and "gbinder" use the exact similarity (no z is drawn); every other loss
    uses `bm.allocations(key, tree)`. With more than 512 draws the random starts descend on 512 of
    them, evenly spaced, and their optima are refined on all.
    Memory: 8 N^2 bytes for Binder's loss; for the others about 24 N x draws, 16 for each cluster
    of each draw and each estimated cluster of several, and 8 N^2 up to 4096 observations.
    Raises ValueError for an unknown loss, and for draws that are not labels.
    Source: Dahl, Johnson and Mueller (2022), JCGS 31(4), 1189-1201; departures in `search`, and
    "omari" of two equal trivial partitions is 0 here.
    """
    chosen = loss_of(loss, a)
    check_counts(runs=runs)
    check_optional_counts(max_clusters=max_clusters)
    seed_of(key)  # refuses what is not a key before any work
    posterior = _read(key, draws, chosen, mixture)
    rng = np.random.default_rng(seed_of(jax.random.fold_in(key, 1)))
    searches, optima = _search(rng, chosen, posterior, max_clusters or sys.maxsize, runs)
    best, runs, stopped = optima[0], searches[0].begun, any(each.stopped for each in searches)
    values = posterior.losses(chosen, best.labels)
    others = [optimum.labels for optimum in optima[1:2]] + searches[-1].neighbours(best.labels)
    leads = [posterior.losses(chosen, labels) - values for labels in others]
    second = min(range(len(others)), key=lambda at: leads[at].mean(), default=None)
    lead = None if second is None else leads[second]
    return Partition(
        labels=best.labels,
        loss=loss,
        a=1.0 if a is None else float(a),
        unit=chosen.unit,
        expected_loss=best.loss,
        mcse=mcse(values, posterior.chains),
        runs=runs,
        reached=best.starts / runs,
        stopped=stopped,
        optima=tuple(optima),
        runner_up=None if second is None else others[second],
        lead=None if lead is None else float(lead.mean()),
        lead_mcse=None if lead is None else mcse(lead, posterior.chains),
        rows=posterior.rows,
        key=key,
    )


@dataclass(frozen=True)
class _Sampled:
    """The posterior as labels, one partition per draw."""

    labels: Labels
    P: np.ndarray | None

    @property
    def chains(self) -> int:
        return self.labels.chains

    @property
    def rows(self) -> Rows:
        return self.labels.rows

    @property
    def large(self) -> bool:
        return self.P is None and len(self.labels.values) > COARSE

    def objective(self, loss: Loss, most: int | None = None) -> Objective:
        """Over all draws, or over at most so many evenly spaced ones."""
        if self.P is not None:
            return Pairs(loss, self.P)
        unique, counts = np.unique(spread(self.labels.values, most), axis=0, return_counts=True)
        return Tables(loss, unique, counts / counts.sum())

    def starts(self, loss: Loss, most: int) -> list[np.ndarray]:
        """The draw of least expected loss, of some evenly spaced ones with few enough clusters.

        And, where pairs are cheap, the partition in which every observation is alone: losses whose
        optimum has hundreds of such clusters are reached from there at once.
        """
        truths = spread(self.labels.values, COARSE)
        candidates = [z for z in spread(self.labels.values, CANDIDATES) if z.max() < most]
        costs = [distances(loss, z, truths).mean() for z in candidates]
        found = [candidates[int(np.argmin(costs))]] if candidates else []
        N = truths.shape[1]
        return [*found, np.arange(N)] if self.P is None and min(most, HELD) >= N else found

    def losses(self, loss: Loss, labels: np.ndarray) -> np.ndarray:
        """Loss of one partition under each draw, (S,)."""
        return distances(loss, labels, self.labels.values)


@dataclass(frozen=True)
class _Summed:
    """The posterior as a tree whose assignments are summed out: enough for Binder's loss."""

    tree: xarray.DataTree
    mixture: Any
    P: np.ndarray
    large = False

    @property
    def chains(self) -> int:
        return shape_of(self.tree)[0]

    @property
    def rows(self) -> Rows:
        return rows_of(self.tree, len(self.P))

    def objective(self, loss: Loss, most: int | None = None) -> Objective:
        return Pairs(loss, self.P)

    def starts(self, loss: Loss, most: int) -> list[np.ndarray]:
        return []

    def losses(self, loss: Loss, labels: np.ndarray) -> np.ndarray:
        """Expected loss of one partition given each draw, (S,)."""
        blocks = resp_blocks(self.tree, self.mixture)
        return np.concatenate([_pair_losses(loss, labels, block) for block in blocks])


def _read(key: Any, draws: Any, loss: Loss, mixture: Any) -> _Sampled | _Summed:
    draws, mixture = draws_of(draws, mixture)
    pairs = loss.pairs and loss.a is not None
    if pairs and has_responsibilities(draws, mixture):
        return _Summed(draws, mixture, similarity(draws, mixture=mixture).to_numpy())
    labels = read_labels(draws, key, mixture=mixture)
    small = labels.values.shape[1] <= MOST_PAIRS
    return _Sampled(labels, similarity(labels.values).to_numpy() if pairs and small else None)


def _pair_losses(loss: Loss, labels: np.ndarray, resp: np.ndarray) -> np.ndarray:
    """Expected Binder loss given each draw's responsibilities (S, N, K): assignments summed out.

    sum over i != j in one set of r_i . r_j  =  |sum r_i|^2 - sum |r_i|^2.
    """
    members = (labels == np.arange(labels.max() + 1)[:, None]).astype(np.float64)
    within = members @ resp
    own = np.square(resp).sum(axis=(1, 2))
    A = np.square(resp.sum(axis=1)).sum(axis=-1) - own
    C = np.square(within).sum(axis=(1, 2)) - own
    return loss.of(A, loss.phi(members.sum(axis=1)).sum(), C, len(labels))


def _search(
    rng: np.random.Generator, loss: Loss, posterior: _Sampled | _Summed, most: int, runs: int
) -> tuple[list[Search], list[Optimum]]:
    """The searches, on some and on all of the draws where these are many, and what they found."""
    objective = posterior.objective(loss, COARSE if posterior.large else None)
    searches = [Search(objective, rng, most)]
    optima = searches[0].run(runs, posterior.starts(loss, most))
    if posterior.large:
        searches.append(Search(posterior.objective(loss), rng, most))
        optima = searches[1].refine(optima)
    return searches, optima


def spread(values: np.ndarray, most: int | None) -> np.ndarray:
    """At most so many evenly spaced rows."""
    if most is None or len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(int)]


def mcse(values: np.ndarray, chains: int) -> float:
    """Monte-Carlo standard error of the mean of draws from chains laid end to end."""
    if np.ptp(values) <= 1e-12 * (1 + np.abs(values).max()):
        return 0.0
    if len(values) < 8 * chains:  # too few to see autocorrelation
        return float(values.std(ddof=1) / np.sqrt(len(values)))
    from arviz_stats import mcse as arviz_mcse

    return float(arviz_mcse(values.reshape(chains, -1)))
