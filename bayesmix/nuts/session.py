"""One run of all chains: warm-up and draws, into a record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from numpyro.infer.util import ParamInfo

from bayesmix.density import Data, Density
from bayesmix.nuts import orbits
from bayesmix.nuts.kernel import constrainer, machine, shared_out, side_by_side
from bayesmix.nuts.record import RECENT, Block, Record
from bayesmix.nuts.schedule import schedule

# Transitions to adapt in: the step size, or step size and scales.
WARMUP = {"orbits": 150, "whitened": 150, "ordinary": 1000}
LONGEST = 63  # steps per transition, or
SHORTEST = 0.05  # step size, that coordinates of about unit scale never need

KERNELS = {"auto": ("orbits", "whitened", "ordinary"), "nuts": ("whitened", "ordinary")}
MOVES = {
    "orbits": "Hamiltonian orbits of one length in whitened coordinates",
    "whitened": "NUTS in whitened coordinates",
    "ordinary": "NUTS with NumPyro's adaptation",
}
MISFIT = {
    "orbits": (
        "the posterior is far from the Gaussian at the mode, so the chains use NUTS' trees instead "
        "of orbits of one length"
    ),
    "whitened": (
        "the shape that was expected is no guide to the posterior (the sampler needs steps far too "
        "small or too many), so the chains use NumPyro's ordinary adaptation"
    ),
}


@dataclass(frozen=True)
class Session:
    """What a run needs. centre (n,) and factor (n, n) are the frame's.

    mesh : the devices that the chains are shared out among, or None for one.
    warmup : transitions to adapt in, or None for as many as the adaptation takes by itself.
    """

    density: Density
    data: Data
    centre: Any
    factor: Any
    key: Any
    chains: int
    mesh: Any
    record: Record
    warmup: int | None
    draws: int
    target_accept: float
    progress_bar: bool

    def sample(self, first: ParamInfo, kernels: Sequence[str], tell: Callable[[str], None]) -> None:
        """Warm up and draw with the first of the kernels that fits the posterior.

        "orbits" and "whitened" (NUTS) rely on the frame and need a short warm-up of their steps,
        "ordinary" is NumPyro's adaptation. The last one is not asked whether it fits.
        """
        before = 0
        for kernel in kernels:
            warmup = self.warmup or WARMUP[kernel]
            advance, states = self._begun(kernel, first, warmup, before)
            states = self._fill("warmup", before + warmup, advance, states)
            if kernel == kernels[-1] or not self._misfit(kernel, states, warmup):
                break
            tell(MISFIT[kernel])
            first = _where(states)
            before += warmup
        self._fill("draws", self.draws, advance, states)

    def _misfit(self, kernel: str, states: Any, warmup: int) -> bool:
        def judged() -> Block:
            if kernel == "orbits":
                return {"misfit": np.array(orbits.unfit(states))}
            return {"misfit": np.array(misfit(self.record.last(min(RECENT, warmup))))}

        return bool(self.record.once(f"metric-{kernel}", judged)["misfit"])

    def _begun(self, kernel: str, first: ParamInfo, warmup: int, before: int) -> tuple[Any, Any]:
        """The compiled transitions, and the states they begin or go on from.

        The record is theirs when it is beyond the ``before`` transitions of other kernels, and not
        beyond their own warm-up and the draws after it.
        """
        waiting = kernel != "orbits"
        devices = 1 if self.mesh is None else self.mesh.size
        together = side_by_side(self.density, self.data, self.chains // devices, waiting)
        frame = (self.data, self.centre, self.factor)
        if kernel == "orbits":
            states: Any = orbits.begun(first, self.key)
            enough = max(orbits.ENOUGH, self.target_accept)
            move = orbits.machine(self.density, together, devices)
            advance = partial(_with_frame, move, (np.int32(warmup), enough, *frame))
        else:
            whitened = kernel == "whitened"
            adaptation = (warmup, self.target_accept, whitened)
            begin, move = machine(self.density, *adaptation, together, devices)
            states = begin(jax.random.split(self.key, self.chains), first, *frame)
            advance = partial(_with_frame, move, frame)
        if before < self.record.done["warmup"] <= before + warmup:
            states = self.record.resume(states)
        return advance, shared_out(states, self.chains, self.mesh)

    def _fill(self, phase: str, goal: int, advance: Any, states: Any) -> Any:
        """The states when the record has ``goal`` transitions of the phase."""
        constrain = constrainer(self.density)
        for count in schedule(phase, self.record.done, goal, self.progress_bar):
            states, kept = advance(states, count)
            u = np.asarray(kept.pop("u"))
            sites = constrain(u.reshape(-1, u.shape[-1]), self.data, self.centre, self.factor)
            self.record.add(phase, _block(sites, kept, count), states)
        return states


def _with_frame(move: Any, frame: tuple[Any, ...], states: Any, count: int) -> Any:
    return move(states, count, *frame)


def _where(states: Any) -> ParamInfo:
    """Points, potentials and gradients of the chains of either kernel."""
    if isinstance(states, orbits.Walk):
        return ParamInfo(states.u, states.potential, states.gradient)
    return ParamInfo(states.z, states.potential_energy, states.z_grad)


def misfit(block: Block) -> bool:
    """Whether the end of a warm-up says that the coordinates are far from whitened."""
    many = block["stats/n_steps"].mean() > LONGEST
    small = block["stats/step_size"].mean(0).min() < SHORTEST
    return bool(many or small)


def _block(sites: dict[str, Any], stats: dict[str, Any], count: int) -> Block:
    """The first ``count`` of the transitions that a compiled call has room for."""
    lead = stats["lp"].shape
    named = {f"stats/{name}": np.asarray(value)[:count] for name, value in stats.items()}
    for name, value in sites.items():
        whole = np.asarray(value, np.float64).reshape(*lead, *value.shape[1:])
        named[f"sites/{name}"] = whole[:count]
    return named
