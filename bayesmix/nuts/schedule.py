"""How many transitions each compiled call makes, the progress bars, and what a run will cost.

Calls are short enough for Ctrl-C and the bar to answer. What is drawn does not depend on them.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bayesmix.nuts.kernel import BLOCK

FEW = 10  # transitions of the first call: how long they take is not known yet
PATIENCE = 1.0  # seconds that a call should take at most
LONG = 60.0  # seconds of a run from which its cost is told before
STEPS = {"orbits": (1, 3), "whitened": (3, 15), "ordinary": (7, 63)}  # gradients of a transition


def schedule(phase: str, done: Mapping[str, int], goal: int, shown: bool) -> Iterator[int]:
    """Transitions of each call, until ``done``, which the caller counts, is ``goal``."""
    from tqdm.auto import tqdm

    count = FEW
    with tqdm(
        total=goal,
        initial=min(done[phase], goal),
        desc=f"NUTS {phase}",
        unit="draw",
        leave=False,
        disable=not shown,
    ) as bar:
        while done[phase] < goal:
            some = min(count, goal - done[phase])
            began = time.perf_counter()
            yield some
            bar.update(some)
            count = _next(count, time.perf_counter() - began)


def watched(items: Iterable[Any], text: str, shown: bool) -> Iterable[Any]:
    """The items, with a bar where working on them takes a while."""
    from tqdm.auto import tqdm

    return tqdm(items, f"NUTS {text}", unit="call", delay=PATIENCE, leave=False, disable=not shown)


def tell(sentence: str) -> None:
    """Print a sentence, if it says anything, above the bars."""
    from tqdm.auto import tqdm

    if sentence:
        tqdm.write(sentence)


def outlook(seconds: float, kernel: str, chains: int, transitions: int) -> str:
    """What the run will cost when a value with its gradient takes so long; "" where it is short."""
    few, many = (seconds * steps * chains * transitions for steps in STEPS[kernel])
    if few < LONG:
        return ""
    return (
        f"NUTS: the log density and its gradient take {1e3 * seconds:.3g} ms; {chains} chains x "
        f"{transitions} transitions of {STEPS[kernel][0]} to {STEPS[kernel][1]} such gradients are "
        f"about {_in_words(few)} to {_in_words(many)} (fewer draws or chains take less)"
    )


def _in_words(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.2g} h"


def _next(count: int, seconds: float) -> int:
    """Twice as many where the call was quick, half as many where it was slow."""
    if seconds < PATIENCE / 2:
        return min(2 * count, BLOCK)
    return max(count // 2, 1) if seconds > PATIENCE else count
