"""EM's uncertainty by the weighted likelihood bootstrap: EM again and again on reweighted rows.

Each replicate maximises log prior + sum_n w_n log f(x_n) with random row weights w, from EM's mode
on.

Lives here: `bootstrap`, and which replicates are kept under which names. `lanes` computes them,
`result` is what comes out.
"""

import time
from typing import Any

import jax
import numpy as np

from bayesmix.arguments import check_counts, seed_of
from bayesmix.bootstrap.lanes import Ended, replicates
from bayesmix.bootstrap.result import BootstrapResult
from bayesmix.draws import draw_responsibilities
from bayesmix.engine import CONVERGED, DEGENERATE
from bayesmix.estimate import EMResult
from bayesmix.modes import judge
from bayesmix.program import Mixture
from bayesmix.relabel.blocks import Responsibilities
from bayesmix.relabel.methods import align, disagreement
from bayesmix.symmetry import exchangeable, permute_draws

__all__ = ["BootstrapResult", "bootstrap"]

WEIGHTS = ("dirichlet", "multinomial")


def bootstrap(
    key: Any, em: EMResult, draws: int = 200, *, weights: str = "dirichlet"
) -> BootstrapResult:
    """EM's estimate on reweighted rows, ``draws`` times, with the clusters' names of the MAP.

    weights : "dirichlet", N times a flat Dirichlet (the weighted likelihood bootstrap, Newton &
        Raftery 1994, JRSS B 56, whose draws approximate a posterior: with priors the weighted
        Bayesian bootstrap of Newton, Polson & Xu 2021, Canad. J. Statist. 49, prior weight 1), or
        "multinomial", rows drawn with replacement (Efron 1979: sampling variation of EM's MAP).
        A row of weight m counts as m rows in both. Priors scaled by the data stay as they are.

    A replicate stops when EM promises less than 1e-6 nats, about 1e-3 of a standard error.
    Raises ValueError where EM's own mode is not regular.
    """
    began = time.perf_counter()
    seed = seed_of(key)
    check_counts(draws=draws)
    if weights not in WEIGHTS:
        raise ValueError(f'weights must be "dirichlet" or "multinomial", not {weights!r}')
    if not em.modes[0].regular:
        raise ValueError(f"EM reached no regular mode to start from: {em.modes[0].reason}")
    with jax.enable_x64(True):
        ended = replicates(em, seed.spawn(int(draws)), weights)
        kept, notes = _regular(em.mixture, ended)
    params = {name: ended.params[name][kept] for name in em.mixture.sites}
    return BootstrapResult(
        mixture=em.mixture,
        params=_named_like(em, params),
        sample_stats={
            "converged": ended.stop[kept] == CONVERGED,
            "n_steps": ended.steps[kept],
        },
        start=em,
        notes=tuple(notes),
        seconds=time.perf_counter() - began,
        seed=str(seed.entropy),
        settings={"draws": int(draws), "weights": weights},
    )


def _regular(mixture: Mixture, ended: Ended) -> tuple[np.ndarray, list[str]]:
    """Numbers of the replicates that ended at a regular mode; and notes about the others."""
    reasons = {}
    for number in range(len(ended.stop)):
        one = jax.tree.map(lambda value: value[number], ended)  # noqa: B023
        mode = judge(
            mixture,
            one.params,
            log_joint=float(one.log_joint),
            log_likelihood=float(one.log_likelihood),
            counts=one.counts,
            leaves=one.leaves,
            degenerate=int(one.stop) == DEGENERATE,
        )
        if not mode.regular:
            reasons[number] = mode.reason
    kept = np.array([number for number in range(len(ended.stop)) if number not in reasons], int)
    total, notes = len(ended.stop), []
    if not kept.size:
        raise ValueError(f"no replicate ended at a regular mode; of the first, {reasons[0]}")
    if reasons:
        notes.append(
            f"{len(reasons)} of {total} replicates ended at a mode that is not regular and are "
            f"left out, so the others understate the uncertainty (the first: "
            f"{next(iter(reasons.values()))})"
        )
    slow = int((ended.stop[kept] != CONVERGED).sum())
    if slow:
        notes.append(f"{slow} of {total} replicates did not converge: raise EM's max_steps")
    return kept, notes


def _named_like(em: EMResult, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The replicates with the names of EM's clusters: the best agreement of responsibilities."""
    mixture = em.mixture
    draws = len(next(iter(params.values())))
    weights = np.ones(mixture.N) if mixture.weights is None else mixture.weights.reshape(-1)

    def resp_of(some: np.ndarray) -> np.ndarray:
        return draw_responsibilities(mixture, {name: v[some] for name, v in params.items()})

    resp = Responsibilities(resp_of, (draws, mixture.N, mixture.K), weights)
    loss = disagreement(em.responsibilities.reshape(-1, mixture.K))
    return permute_draws(
        mixture, params, align(resp, loss, exchangeable(mixture, em.params))[0].perm
    )
