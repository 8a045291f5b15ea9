"""Whether the names of clusters can be trusted: how clear they are, and who agrees on them.

Lives here: the numbers and the verdict of `label_report`. Does not live here: whether the chains
have mixed, which `bayesmix.diagnose` tells from quantities without names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.relabel import methods
from bayesmix.relabel.assignment import Classes, anchored, margins
from bayesmix.relabel.task import METHODS, Task
from bayesmix.relabel.tree import check, cluster_axes, has_numbers, shape_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray

TIE = float(np.log(20.0))  # nats: other names are more than 1/20 as probable
CLEAR = 0.95  # share of draws
MERGE = 0.15  # estimated misclassification, Hennig (2010)
BY_ALLOCATION = ("ecr", "ecr-iterative-1", "ecr-iterative-2", "stephens")


@dataclass(frozen=True, eq=False)
class LabelReport:
    """What `label_report` found; printing it gives the gist in words.

    trusted : whether every cluster can be summarised under its name, which it may also where
        clusters overlap. verdict : in words.
    near_ties : share of draws whose second-best names are more than 1/20 as probable as theirs.
    margin : (S,) nats by which each draw's names are more probable than the next best.
    clusters : DataFrame, one row per cluster: `share` of the observations, `agreement` (share of
        draws in which all methods that look at allocations name it alike), `ties` (share of draws
        in which it could as well exchange names with some other), `misclassified` (largest
        estimated probability that an observation of it is assigned to some other cluster),
        `trusted`.
    pairs : DataFrame of two clusters each: `ties`, `misclassified`, `merge` (candidates).
    methods : DataFrame, one row per method: `same_draws` (share of draws named exactly as by the
        first method), `same_names` (share of single clusters), `counts` (towards the verdict).
    agreement : DataFrame of methods x methods, share of draws named alike.
    """

    trusted: bool
    verdict: str
    near_ties: float
    margin: np.ndarray
    clusters: pd.DataFrame
    pairs: pd.DataFrame
    methods: pd.DataFrame
    agreement: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """One row per cluster."""
        return self.clusters

    def __repr__(self) -> str:
        with_names = self.methods.drop(columns="counts").map("{:.3f}".format)
        if not np.isfinite(self.margin).any():
            return self.verdict
        low, middle = np.quantile(self.margin, [0.05, 0.5])
        lines = [
            self.verdict,
            f"{_are(self.near_ties)} near a tie; names are better than the next best "
            f"by {middle:.3g} nats (median), {low:.3g} (5% quantile)",
            "agreement with the first method:",
            *("  " + line for line in with_names.to_string().splitlines()),
            "clusters:",
            *("  " + line for line in self.clusters.round(3).to_string().splitlines()),
            "bm.diagnose says whether the chains have mixed",
        ]
        return "\n".join(lines)


def label_report(tree: xarray.DataTree, *, by: Any = None, mixture: Any = None) -> LabelReport:
    """Whether cluster-specific summaries of the draws can be trusted, with the reasons.

    tree : draws as they came, or already relabelled (then these names are judged). by : also judge
    the order of this site (see `relabel`). mixture : as in `relabel`.

    The names are judged in two ways. How clear is each draw? The mean of the relabelled
    responsibilities q gives every draw's names an expected log probability, sum_n sum_k r_nk
    log q_nk; the margin to the second-best permutation is in nats, and a draw whose second-best
    names are more than 1/20 as probable is near a tie. Do the methods agree? Those that look at
    allocations (ECR, its two iterative forms, Stephens) count; data-based, parameter pivot and
    order are shown beside, as they also fail where clusters differ in something else.
    Clusters are candidates for merging where more than 15 % of one's observations are assigned to
    the other on average (directly estimated misclassification, Hennig 2010), or where more than 5 %
    of the draws are near a tie between the two.

    Raises ValueError for a single point (EM), and where `relabel` does.
    Sources: margins as probabilities of permutations, Sperrin, Jaki and Wit (2010), Stat. Comput.
    20, 357-366; merging, Hennig (2010), Adv. Data Anal. Classif. 4, 3-34, section 3.2.3.
    """
    check(tree)
    if int(np.prod(shape_of(tree))) == 1:
        raise ValueError(
            "the tree holds one point, whose names nothing can confirm or contradict: give draws, "
            "for example of bm.NUTS"
        )
    task = Task(tree, mixture)
    names = _names(task, by)
    first = next(iter(names.values()))
    mean = methods.named_mean(task.draws, first)
    loss = methods.surprise(mean) * task.draws.weights.sum()
    cost = methods.named_cost(task.draws, loss, first)
    margin, swap = margins(cost, task.classes)
    pairs = _pair_table(mean, task.draws.weights, swap, task.classes)
    clusters = _cluster_table(mean, task.draws.shares, names, swap)
    near = float((margin < TIE).mean())
    free = any(len(c) > 1 for c in task.classes)
    return LabelReport(
        trusted=bool(clusters["trusted"].all()),
        verdict=_verdict(names, clusters, pairs, near) if free else NO_FREEDOM,
        near_ties=near,
        margin=margin,
        clusters=clusters,
        pairs=pairs,
        methods=_method_table(names),
        agreement=_agreement_table(names),
    )


def _names(task: Task, by: Any) -> dict[str, np.ndarray]:
    """Permutations (S, K) by method, in the names of the first; the first one's are judged."""
    given = task.tree.attrs.get("relabelled")
    first = str(given or "ecr")
    S = int(np.prod(shape_of(task.tree)))
    names = {first: np.tile(np.arange(task.K), (S, 1)) if given else task.solve("ecr").perm}
    for method in METHODS:
        if method != first and _applies(method, task, by):
            found = task.solve(method, by)
            names[method] = anchored(found, names[first], task.classes).perm
    return names


def _applies(method: str, task: Task, by: Any) -> bool:
    if method == "order":
        return by is not None
    if method == "pra":
        return bool(cluster_axes(task.tree))
    return method != "data-based" or has_numbers(task.tree, task.draws.shape[1])


# The tables.


def _method_table(names: dict[str, np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    first = next(iter(names.values()))
    rows = {
        method: {
            "same_draws": (perm == first).all(1).mean(),
            "same_names": (perm == first).mean(),
            "counts": method in BY_ALLOCATION or perm is first,
        }
        for method, perm in names.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _agreement_table(names: dict[str, np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    values = [[(a == b).all(1).mean() for b in names.values()] for a in names.values()]
    return pd.DataFrame(values, index=list(names), columns=list(names))


def _pair_table(
    mean: np.ndarray, weights: np.ndarray, swap: np.ndarray, classes: Classes
) -> pd.DataFrame:
    import pandas as pd

    wrong = misclassified(mean, weights)
    home = {k: number for number, members in enumerate(classes) for k in members}
    rows = []
    for j in range(mean.shape[1]):
        for k in range(j + 1, mean.shape[1]):
            ties = float((swap[:, j, k] < TIE).mean())
            confused = max(wrong[j, k], wrong[k, j])
            apart = ties <= 1 - CLEAR and confused < MERGE
            rows.append((j, k, home[j] == home[k], ties, confused, not apart))
    columns = ["cluster", "other", "exchangeable", "ties", "misclassified", "merge"]
    return pd.DataFrame(rows, columns=columns)


def misclassified(mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Estimated probability that an observation of cluster j is assigned to k, (K, K), diagonal 0.

    mean : responsibilities (N, K). Assigned is where the responsibility is largest. A cluster
    without observations gets 0.
    """
    K = mean.shape[1]
    assigned = np.eye(K)[mean.argmax(1)]
    mass = weights @ mean
    shared = (weights[:, None] * mean).T @ assigned
    share = shared / np.where(mass > 0, mass, 1.0)[:, None]
    return np.asarray(share * (1 - np.eye(K)))


def _cluster_table(
    mean: np.ndarray,
    shares: np.ndarray,
    names: dict[str, np.ndarray],
    swap: np.ndarray,
) -> pd.DataFrame:
    import pandas as pd

    K = mean.shape[1]
    first = next(iter(names.values()))
    counted = [perm for method, perm in names.items() if method in BY_ALLOCATION]
    alike = np.all([perm == first for perm in counted], axis=0).mean(0)
    ties = (swap.min(axis=-1, initial=np.inf) < TIE).mean(0)
    table = {
        "share": shares @ mean,
        "agreement": alike,
        "ties": ties,
        "misclassified": misclassified(mean, shares).max(1, initial=0.0),
        "trusted": (alike >= CLEAR) & (ties <= 1 - CLEAR),
    }
    return pd.DataFrame(table, index=pd.RangeIndex(K, name="cluster"))


# The verdict.

NO_FREEDOM = (
    "No permutation of the clusters leaves the log joint unchanged: the program itself tells them "
    "apart, and the draws keep their names."
)


def _verdict(
    names: dict[str, np.ndarray], clusters: pd.DataFrame, pairs: pd.DataFrame, near: float
) -> str:
    return " ".join([_gist(names, clusters, near), *_ties(pairs), *_merging(pairs)])


def _gist(names: dict[str, np.ndarray], clusters: pd.DataFrame, near: float) -> str:
    counted = [method for method in names if method in BY_ALLOCATION]
    doubtful = list(clusters.index[~clusters["trusted"]])
    alike = clusters["agreement"].min()
    if not doubtful:
        return (
            f"Cluster-specific summaries can be trusted: {len(counted)} methods agree on every "
            f"cluster's name in {_at_least(alike)}, and {_are(near)} near a tie."
        )
    why = f"the methods agree on {alike:.0%} of the draws at worst, and {_are(near)} near a tie"
    if len(doubtful) < len(clusters):
        sure = listed(clusters.index[clusters["trusted"]])
        one = len(doubtful) == 1
        return (
            f"Do not summarise cluster{'' if one else 's'} {listed(doubtful)} by name ({why}); "
            f"{sure} can be."
        )
    return (
        f"Cluster-specific summaries cannot be trusted: {why}. Use what has no names: "
        "similarities, partitions, predictive densities."
    )


def _at_least(share: float) -> str:
    """All of the draws, or at least 99.9% of them: never rounded up."""
    if share == 1:
        return "all draws"
    return f"at least {np.floor(1000 * share) / 10:.1f}% of the draws"


def _are(share: float) -> str:
    """No draw is, or 0.1% of the draws are: never rounded to none."""
    if share == 0:
        return "no draw is"
    return f"{share:.1%} of the draws are" if share >= 0.001 else "under 0.1% of the draws are"


def _ties(pairs: pd.DataFrame) -> list[str]:
    tied = pairs[pairs["ties"] > 1 - CLEAR].sort_values("ties", ascending=False)
    return [
        f"Clusters {row.cluster} and {row.other} could exchange names in {row.ties:.0%} of the "
        "draws."
        for row in tied.head(3).itertuples()
    ]


def _merging(pairs: pd.DataFrame) -> list[str]:
    merge = pairs[pairs["merge"]].sort_values(["misclassified", "ties"], ascending=False)
    if not len(merge):
        return []
    which = listed(f"{row.cluster} with {row.other}" for row in merge.head(3).itertuples())
    more = f" (and {len(merge) - 3} more pairs)" if len(merge) > 3 else ""
    worst = merge["misclassified"].max()
    return [
        f"As groups of observations some are hardly separable, candidates for merging: {which}"
        f"{more}; up to {worst:.0%} of a cluster's observations are assigned to the other."
    ]


def listed(items: Any) -> str:
    """1, 2 and 3."""
    words = [str(item) for item in items]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
