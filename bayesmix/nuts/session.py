"""One run of all chains: warm-up and draws, into a record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpyro.infer.util import ParamInfo

from bayesmix.density import Data, Density
from bayesmix.nuts.kernel import constrainer, machine, side_by_side
from bayesmix.nuts.record import Block, Record
from bayesmix.nuts.schedule import schedule

SHORT_WARMUP = 150  # of the step size
PLAIN_WARMUP = 1000  # of step size and scales
LONGEST = 63  # steps per transition, or
SHORTEST = 0.05  # step size, that coordinates of about unit scale never need

MISFIT = (
    "the shape that was expected is no guide to the posterior (the sampler needs steps far too "
    "small or too many), so the chains use NumPyro's ordinary adaptation"
)


@dataclass(frozen=True)
class Session:
    """What a run needs. centre (n,) and factor (n, n) are the frame's.

    warmup : transitions to adapt in, or None for as many as the adaptation takes by itself.
    """

    density: Density
    data: Data
    centre: Any
    factor: Any
    key: Any
    chains: int
    record: Record
    warmup: int | None
    draws: int
    target_accept: float
    progress_bar: bool

    def whitened(self, first: ParamInfo, tell: Callable[[str], None]) -> None:
        """A short warm-up of the step size, and draws; ordinary adaptation where it must be."""
        warmup = self.warmup or SHORT_WARMUP
        advance, states = self._begun(first, warmup, before=0, whitened=True)
        states = self._fill("warmup", warmup, advance, states)
        if self.record.once("metric", lambda: {"misfit": misfit(self.record.last())})["misfit"]:
            tell(MISFIT)
            here = ParamInfo(states.z, states.potential_energy, states.z_grad)
            return self.ordinary(here, before=warmup)
        self._fill("draws", self.draws, advance, states)

    def ordinary(self, first: ParamInfo, before: int = 0) -> None:
        """NumPyro's adaptation and draws, after ``before`` transitions that were of no use."""
        warmup = self.warmup or PLAIN_WARMUP
        advance, states = self._begun(first, warmup, before, whitened=False)
        states = self._fill("warmup", before + warmup, advance, states)
        self._fill("draws", self.draws, advance, states)

    def _begun(self, first: ParamInfo, warmup: int, before: int, whitened: bool) -> tuple[Any, Any]:
        """The compiled transitions, and the states they begin or go on from.

        The record is theirs when it is beyond the ``before`` transitions of another adaptation, and
        not yet beyond their own warm-up and the draws after it.
        """
        together = side_by_side(self.density, self.data, self.chains)
        begin, advance = machine(self.density, warmup, self.target_accept, whitened, together)
        keys = jax.random.split(self.key, self.chains)
        states = begin(keys, first, self.data, self.centre, self.factor)
        done = self.record.done["warmup"]
        if done > before and (not whitened or done <= warmup):
            states = self.record.resume(states)
        return advance, states

    def _fill(self, phase: str, goal: int, advance: Any, states: Any) -> Any:
        """The states when the record has ``goal`` transitions of the phase."""
        constrain = constrainer(self.density)
        for count in schedule(phase, self.record.done, goal, self.progress_bar):
            states, kept = advance(states, count, self.data, self.centre, self.factor)
            u = kept.pop("u")
            sites = constrain(u.reshape(-1, u.shape[-1]), self.data, self.centre, self.factor)
            self.record.add(phase, _block(sites, kept, count), states)
        return states


def misfit(block: Block) -> np.ndarray:
    """Whether the last block of a warm-up says that the coordinates are far from whitened."""
    many = block["stats/n_steps"].mean() > LONGEST
    small = block["stats/step_size"].mean(0).min() < SHORTEST
    return np.array(many or small)


def _block(sites: dict[str, Any], stats: dict[str, Any], count: int) -> Block:
    """The first ``count`` of the transitions that a compiled call has room for."""
    lead = stats["lp"].shape
    named = {f"stats/{name}": np.asarray(value)[:count] for name, value in stats.items()}
    for name, value in sites.items():
        whole = np.asarray(value, np.float64).reshape(*lead, *value.shape[1:])
        named[f"sites/{name}"] = whole[:count]
    return named
