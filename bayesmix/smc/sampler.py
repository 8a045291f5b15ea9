"""The sampler: from a program and data to particles of the posterior and the log evidence."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from bayesmix.arguments import check_dtype, seed_of
from bayesmix.blocks import Blocks
from bayesmix.climb import work_of
from bayesmix.device import arithmetic, placed
from bayesmix.draws import systematic
from bayesmix.laplace import refuse_improper
from bayesmix.program import Mixture, trace
from bayesmix.smc.bridge import Pool, alone, bridged
from bayesmix.smc.climb import Problem, State, begin, last, step
from bayesmix.smc.prior import refuse_weighted
from bayesmix.smc.result import SMCResult, evidence

MOST, FEWEST = 2**13, 2**10  # particles by default, where rows and clusters are few or many
WORK = 2**24  # rows x clusters x particles that the default may cost at one temperature
DRAWS = 4096


@dataclass(frozen=True)
class SMC:
    """Tempered sequential Monte Carlo; ``SMC(program).run(key, *data)`` returns an SMCResult.

    particles : at each temperature; a multiple of 1024. By default 8192, fewer (down to 1024)
        where rows x clusters are many. The errors fall like 1 / sqrt(particles).
    dtype : "float64" or "float32".
    """

    program: Any
    particles: int | None = None
    dtype: str = "float64"
    progress_bar: bool = True

    def __post_init__(self) -> None:
        count = self.particles
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if count is not None and not (whole and count > 0 and count % FEWEST == 0):
            raise ValueError(f"particles must be a multiple of {FEWEST}, not {count!r}")
        check_dtype(self.dtype)

    def run(self, key: Any, *args: Any, **kwargs: Any) -> SMCResult:
        """Sample the posterior of the program given data (the program's own arguments).

        Raises ValueError for improper priors and for priors that handlers.scale or a mask changes,
        naming the site, where more than 1 % of the prior's draws are beyond the range of ``dtype``,
        and where no draw from the prior has any likelihood.
        """
        began = time.perf_counter()
        seed = seed_of(key)
        mixture = trace(self.program, *args, **kwargs)
        refuse_improper(mixture, "SMC")
        refuse_weighted(mixture)
        if isinstance(mixture.value, Blocks):
            raise ValueError("SMC moves many particles over rows that are held: give an array")
        rng = np.random.default_rng(seed)
        particles = self._particles(mixture)
        with placed(work_of(mixture, mixture.N) * particles), arithmetic(self.dtype):
            problem, first = begin(mixture, key, particles)
            stages = [first, *_shown(problem, first, rng, self.progress_bar)]
            state = stages[-1]
            climbed, better = alone(state), bridged(problem, state, rng)
            pool = min(climbed, better, key=lambda each: evidence(each.log_evidence).error)
            kept = _in_proportion(rng, pool, min(DRAWS, problem.particles))
            drawn, factor = last(problem, state.key, pool.z.reshape(-1, problem.size)[kept], rng)
        return SMCResult(
            mixture=mixture,
            params=drawn,
            sample_stats={
                "lp": np.asarray(pool.lp, np.float64).ravel()[kept],
                "island": kept // pool.lp.shape[1],
            },
            log_evidences=pool.log_evidence,
            climbed=climbed.log_evidence,
            temperatures=np.array([each.temperature for each in stages]),
            acceptance=np.array([each.acceptance for each in stages[1:]]),
            rounds=np.array([each.rounds for each in stages[1:]]),
            factor=factor,
            seconds=time.perf_counter() - began,
            seed=str(seed.entropy),
            settings={"particles": problem.particles, "dtype": self.dtype},
        )

    def _particles(self, mixture: Mixture) -> int:
        affordable = WORK // (mixture.N * mixture.K) // FEWEST * FEWEST
        return int(self.particles or np.clip(affordable, FEWEST, MOST))


def _shown(problem: Problem, state: State, rng: Any, shown: bool) -> Iterator[State]:
    """The states after each temperature, with a progress bar over the power of the likelihood."""
    bar = tqdm(desc="SMC", unit=" temperatures", leave=False, disable=not shown)
    with bar:
        while state.temperature < 1:
            state = step(problem, state, rng)
            bar.set_postfix_str(f"power {state.temperature:.2g}")
            bar.update()
            yield state


def _in_proportion(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    """Points that count alike, (count,) of them, by their weights, in random order."""
    log_weight = pool.log_weight + pool.log_evidence[:, None]
    return rng.permutation(systematic(rng, np.exp(log_weight - log_weight.max()).ravel(), count))
