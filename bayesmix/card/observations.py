"""The card's tables of observations: how sure EM is, and how sure it may be.

Lives here: EM's responsibilities beside the posterior's, and their calibration. Does not live here:
partitions, any sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

OVERCONFIDENT = 0.05  # EM's probability exceeds the posterior-averaged one by more than this
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)  # finer where most observations are


def observations_of(em: Any, resp: np.ndarray) -> pd.DataFrame:
    """One row per observation; resp : posterior-averaged responsibilities (N, K), in EM's names."""
    import pandas as pd

    mine = np.asarray(em.responsibilities, float).reshape(resp.shape)
    row = np.arange(len(mine))
    first, second = mine.argmax(1), resp.argmax(1)
    return pd.DataFrame(
        {
            "em_cluster": first,
            "em_prob": mine[row, first],
            "posterior_cluster": second,
            "posterior_prob": resp[row, second],
            "same_prob": resp[row, first],
            "overconfidence": mine[row, first] - resp[row, first],
            "em_entropy": _entropy(mine),
            "posterior_entropy": _entropy(resp),
        },
        index=_row_index(em.mixture),
    )


def _entropy(resp: np.ndarray) -> np.ndarray:
    return -np.sum(resp * np.log(np.where(resp > 0, resp, 1.0)), axis=-1) + 0.0


def _row_index(mixture: Any) -> pd.Index:
    import pandas as pd

    if len(mixture.rows) > 1:
        return pd.MultiIndex.from_product(
            [range(n) for n in mixture.rows], names=list(mixture.row_dims)
        )
    index = getattr(mixture, "index", None)
    return pd.Index(range(mixture.N) if index is None else index, name=mixture.row_dims[0])


def overconfident_of(observations: pd.DataFrame) -> pd.DataFrame:
    """The observations about which EM is too sure by more than OVERCONFIDENT, the worst first."""
    worst = observations.sort_values("overconfidence", ascending=False, kind="stable")
    return worst[worst["overconfidence"] > OVERCONFIDENT]


def calibration_of(observations: pd.DataFrame) -> pd.DataFrame:
    """Reliability of EM's most probable clusters: one row per bin that has observations.

    Of the observations whose EM probability lies in [low, high): how many, EM's mean probability,
    the mean posterior probability of the same clusters, and the gap between the two.
    """
    import pandas as pd

    em, posterior = observations["em_prob"].to_numpy(), observations["same_prob"].to_numpy()
    number = np.clip(np.digitize(em, EDGES) - 1, 0, len(EDGES) - 2)
    rows = []
    for b in np.unique(number):
        own = number == b
        claimed, held = float(em[own].mean()), float(posterior[own].mean())
        rows.append((EDGES[b], EDGES[b + 1], int(own.sum()), claimed, held, claimed - held))
    columns = ["low", "high", "observations", "em", "posterior", "gap"]
    return pd.DataFrame(rows, columns=columns).rename_axis("bin")


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error, sum over bins of (n_b / N) |EM's mean - posterior's mean|.

    Naeini, Cooper & Hauskrecht (2015), AAAI, with the posterior probability of each label in place
    of observed labels, and with bins of unequal width.
    """
    share = table["observations"] / table["observations"].sum()
    return float((share * table["gap"].abs()).sum())
