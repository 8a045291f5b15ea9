"""How many transitions each compiled call makes, and the progress bar.

Calls are short enough for Ctrl-C and the bar to answer. What is drawn does not depend on them.
"""

import time
from collections.abc import Iterator, Mapping

from bayesmix.nuts.kernel import BLOCK

FEW = 10  # transitions of the first call: how long they take is not known yet
PATIENCE = 1.0  # seconds that a call should take at most


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


def _next(count: int, seconds: float) -> int:
    """Twice as many where the call was quick, half as many where it was slow."""
    if seconds < PATIENCE / 2:
        return min(2 * count, BLOCK)
    return max(count // 2, 1) if seconds > PATIENCE else count
