"""The search for the best mode: runs from many starts, moves from the best of them, all the data.

On many rows the search runs on a sample of them, weighted up, with the priors of the whole data;
the best distinct modes are then carried on with every row. A move takes one cluster away and grows
a new one from a few neighbouring rows (random swap, Zhao, Hautamaki, Karkkainen & Franti 2012,
Random swap EM algorithm for Gaussian mixture models, Pattern Recognition Letters 33); a few EM
steps tell whether it leads anywhere. Where clusters overlap they do not: moves that end higher are
then still a hundred nats behind. So where the starts disagree some moves are followed to about
their end whatever they look like, until most come back to where they left. What counts as better
is decided among regular modes only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.climb import NOWHERE, Climber, Outlook, Run, work_of
from bayesmix.density import binned_of, responsibilities, sample_of
from bayesmix.density.layout import line_of
from bayesmix.device import brought, placed
from bayesmix.engine import INTERRUPTED, EMState
from bayesmix.modes import atlas, is_possible, rows_needed
from bayesmix.program import Params
from bayesmix.start import Starts, coded, starts_on

SCOUT = 4096  # rows that the search looks at
ROUGH = 1e-5  # nats: where runs on a sample stop; at 1e-3 some ended on ridges, 5 nats short
MARGIN = 4.0  # nats that a move may be behind the best mode and still be worth finishing
FOLLOWED, LOOSE = 8, 1.0  # moves without success that are followed however they begin; nats
TRIED, COME_BACK = 4, 2 / 3  # of these; and the share that comes back which ends the following
CARRIED = 4  # distinct modes that are carried on with all rows
EFFORT = 60_000  # rows times moves without success before the search ends
MOVES = (32, 300)  # bounds of that number, for USUAL restarts
USUAL = 16
SCOUTING, CARRYING = 2000, 60  # passes of a search, about, over the sample and over all rows
AGREED = 0.75  # share of starts at the best mode that makes the landscape an easy one


class Found(NamedTuple):
    """All runs of a search, and whether an interrupt ended it early."""

    runs: list[Run]
    interrupted: bool


Progress = Callable[[Iterable[Any], str], Iterable[Any]]


def search(
    climber: Climber,
    restarts: int,
    rng: np.random.Generator,
    progress: Progress,
    bins: int | None = None,
) -> Found:
    """Runs from ``restarts`` starts, then from moves, finished on all rows.

    bins : look at all rows in so many cells instead of at a sample; for univariate data.
    ``progress`` passes what is worked on through, and shows it by the name of its kind. An
    interrupt before anything was found is passed on.
    """
    mixture = climber.mixture
    density = climber.engine.density
    sampled = density.family or (density.portion and len(mixture.rows) == 1)
    rows = min(mixture.N, SCOUT) if sampled else mixture.N
    with placed(work_of(mixture, rows)):
        runs, interrupted, whole = _scouted(climber, restarts, rng, progress, bins)
    if not whole:
        try:
            runs = _carried(climber if not interrupted else _hurried(climber), runs, progress)
        except KeyboardInterrupt:
            if interrupted:
                raise
            runs, interrupted = _carried(_hurried(climber), runs, progress), True
    return Found(runs, interrupted or runs[-1].stop == INTERRUPTED)


def run_from(climber: Climber, params: Params, state: EMState, bins: int | None) -> Run:
    """One run from ``params``, where ``state`` is; by way of the mode of the cells, if any."""
    mixture = climber.mixture
    if bins is None or bins >= mixture.N:
        return climber.climb(state, [float(state.log_joint)])
    cells = brought(binned_of(mixture, climber.data, bins)[1])
    coarse = replace(climber, data=cells, tol=max(climber.tol, ROUGH))
    first = coarse.climb(*coarse.resume(params))
    if not np.isfinite(first.mode.log_joint):
        return climber.climb(state, [float(state.log_joint)])
    interrupted = first.stop == INTERRUPTED
    rest = _hurried(climber) if interrupted else climber
    run = rest.climb(*rest.resume(first.mode.params), near=True, memory=first.memory)
    return run._replace(stop=INTERRUPTED) if interrupted else run


def _scouted(
    climber: Climber, restarts: int, rng: np.random.Generator, progress: Progress, bins: int | None
) -> tuple[list[Run], bool, bool]:
    """Runs from starts and moves on what is looked at; were they interrupted, was that all rows?"""
    mixture = climber.mixture
    if bins is not None and bins < mixture.N:
        (x, data), whole = binned_of(mixture, climber.data, bins), False
    else:
        x, data, whole = sample_of(mixture, climber.data, SCOUT, rng)
    tol = climber.tol if whole else max(climber.tol, ROUGH)
    scout = replace(climber, data=brought(data), tol=tol, passes=SCOUTING)
    ordered = any("Ordered" in str(site.support) for site in mixture.sites.values())
    lines = x if line_of(mixture) is not None else None
    starts = starts_on(*coded(mixture, x), mixture.K, ordered, rng, mixture.background, lines)
    runs: list[Run] = []
    try:
        for number in progress(range(restarts), "start"):
            runs.append(scout.climb(scout.begin(starts.start(number))))
            if runs[-1].stop == INTERRUPTED:
                raise KeyboardInterrupt
        for run in progress(_moves(scout, starts, runs, restarts), "move"):
            runs.append(run._replace(mode=replace(run.mode, starts=0, moves=1)))
            if run.stop == INTERRUPTED:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if not any(np.isfinite(run.mode.log_joint) for run in runs):
            raise
        return runs, True, whole
    return runs, False, whole


def _hurried(climber: Climber) -> Climber:
    """A climber that only takes an E-step, for what was found before an interrupt."""
    return replace(climber, max_steps=1, accelerate=False, saved=NOWHERE)


def _moves(scout: Climber, starts: Starts, runs: list[Run], restarts: int) -> Iterator[Run]:
    """Runs from moves off the best regular mode, until none has been better for a while."""
    best = max(runs, key=lambda run: (run.mode.regular, run.mode.log_joint))
    if starts.K == 1 or not best.mode.regular:
        return
    n = len(starts.x)
    fewest = min(rows_needed(scout.mixture) + 1, n)
    easy = atlas([run.mode for run in runs], scout.mixture)[0].starts >= AGREED * len(runs)
    usual = np.clip(EFFORT / n, *MOVES)
    patience = usual * restarts / USUAL / (4 if easy else 1)
    # Two in a row are followed, one grown from few rows and one from many.
    every = max(1, round(usual / FOLLOWED))
    resp, idle, followed, back = scout.resp(best, n), 0, 0, 0
    while idle < patience:
        most = 4 * fewest if idle % 2 else max(4 * fewest, n // starts.K)
        state, history = scout.glance(scout.begin(starts.swap(resp, fewest, min(most, n))))
        idle += 1
        enough = best.mode.log_joint - MARGIN
        leads_away = followed < TRIED or back < COME_BACK * followed
        if float(state.log_joint) > enough:
            run = scout.climb(state, history)
        elif not easy and leads_away and idle // 2 % every == 0:
            followed += 1
            way = scout.follow(state, history, LOOSE)
            if not float(way.state.log_joint) > enough:
                continue
            run = scout.climb(way.state, way.history, way.accelerated, near=True, memory=way.memory)
            back += len(atlas([best.mode, run.mode], scout.mixture)) == 1
        else:
            continue
        yield run
        if run.mode.regular and run.mode.log_joint > best.mode.log_joint + scout.tol:
            best, idle, followed, back = run, 0, 0, 0
            resp = scout.resp(best, n)


def _carried(climber: Climber, runs: list[Run], progress: Progress) -> list[Run]:
    """The best modes of a sample of the rows, carried on with all of them.

    Those that promise less than the best has already are left.
    """
    climber = replace(climber, passes=CARRYING)
    modes = atlas([run.mode for run in runs], climber.mixture)[:CARRIED]
    scouted = [next(run for run in runs if run.mode.params is mode.params) for mode in modes]
    begun = [_begun(climber, run) for run in scouted]
    reached = max(float(each.state.log_joint) for each in begun)
    carried = []
    ahead = list(zip(modes, scouted, begun, strict=True))
    for mode, run, (state, history, left) in progress(ahead, "mode"):
        if not float(state.log_joint) + 4 * left < reached:  # NaN, too: a row is impossible there
            run = climber.climb(state, history, near=bool(np.isfinite(left)), memory=run.memory)
            seen = replace(run.mode, starts=mode.starts, moves=mode.moves)
            carried.append(run._replace(mode=seen))
            if run.stop == INTERRUPTED:
                break
    return carried


def _begun(climber: Climber, scouted: Run) -> Outlook:
    """What one pass over all rows tells of a mode of a sample of them.

    A row may be impossible there: a category that the sample lacks may have probability 0. Then the
    first few steps from the responsibilities, which of such a row are even.
    """
    mixture, params = climber.mixture, scouted.mode.params
    seen = climber.outlook(params, scouted.memory)
    if is_possible(float(seen.state.log_joint)) or isinstance(mixture.value, Blocks):
        return seen
    resp = np.asarray(responsibilities(mixture, params)).reshape(mixture.N, mixture.K)
    return Outlook(*climber.glance(climber.begin(resp)), np.inf)
