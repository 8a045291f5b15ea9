"""The sampler: from a program and data to posterior draws."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import ParamInfo

from bayesmix.curvature import evaluate
from bayesmix.density import data_of, density_of
from bayesmix.em import EM
from bayesmix.estimate import EMResult
from bayesmix.laplace import refuse_improper
from bayesmix.nuts.kernel import BLOCK, constrainer, machine
from bayesmix.nuts.result import NUTSResult
from bayesmix.nuts.starts import Frame, Starts, starts_of
from bayesmix.program import Mixture, trace

ADAPTED_WARMUP = 300
PLAIN_WARMUP = 1000


@dataclass(frozen=True)
class NUTS:
    """Posterior sampling; ``NUTS(program).run(key, *data, start=em)`` returns a NUTSResult.

    chains, draws : chains run side by side (vectorised); draws kept per chain.
    warmup : transitions per chain to adapt in; by default 300 when a mode's curvature is known
        beforehand and 1000 when not.
    target_accept : acceptance rate that the step size is adapted to.
    dtype : "float64" or "float32".
    """

    program: Any
    chains: int = 4
    warmup: int | None = None
    draws: int = 1000
    target_accept: float = 0.8
    dtype: str = "float64"
    progress_bar: bool = True

    def __post_init__(self) -> None:
        for name in ("chains", "draws") + (("warmup",) if self.warmup is not None else ()):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive whole number, not {value!r}")
        if not 0 < self.target_accept < 1:
            raise ValueError(f"target_accept must lie between 0 and 1, not {self.target_accept!r}")
        if self.dtype not in ("float64", "float32"):
            raise ValueError(f'dtype must be "float64" or "float32", not {self.dtype!r}')

    def run(
        self, key: Any, *args: Any, start: EMResult | str | None = None, **kwargs: Any
    ) -> NUTSResult:
        """Sample the posterior of the program given data (the program's own arguments).

        start : an EMResult of the same program and data; None runs EM first; "prior" starts the
            chains at draws from the prior, with NumPyro's ordinary adaptation.

        Raises ValueError for improper priors, naming the site, and for a start that does not fit.
        """
        began = time.perf_counter()
        mixture = trace(self.program, *args, **kwargs)
        refuse_improper(mixture, "NUTS")
        key, key_start = jax.random.split(key)
        if start is None:
            start = EM(self.program, progress_bar=self.progress_bar).run(key_start, *args, **kwargs)
        elif isinstance(start, EMResult):
            _check_start(mixture, start)
        elif start != "prior":
            raise ValueError(f'start must be an EMResult, "prior" or None, not {start!r}')
        em = start if isinstance(start, EMResult) else None
        starts = starts_of(mixture, em, key_start, self.chains)
        with jax.enable_x64(self.dtype == "float64"):
            samples, stats = self._sample(key, mixture, starts, em is not None)
        return NUTSResult(
            mixture=mixture,
            samples=samples,
            sample_stats=stats,
            start=em,
            start_policy=starts.policy,
            notes=(*starts.notes, *_divergences(stats)),
            seconds=time.perf_counter() - began,
            seed=str(np.asarray(jax.random.key_data(key)).tolist()),
            settings={
                "chains": self.chains,
                "warmup": self._warmup(em is not None),
                "draws": self.draws,
                "target_accept": self.target_accept,
                "dtype": self.dtype,
            },
        )

    def _warmup(self, geometry: bool) -> int:
        return self.warmup or (ADAPTED_WARMUP if geometry else PLAIN_WARMUP)

    def _sample(
        self, key: Any, mixture: Mixture, starts: Starts, geometry: bool
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        density, data = density_of(mixture), data_of(mixture)
        warmup = self._warmup(geometry)
        begin, advance = machine(density, warmup, self.target_accept)
        frame, points = starts.frame, starts.points
        centre, factor = jnp.asarray(frame.centre, float), jnp.asarray(frame.factor, float)
        first = _first(mixture, frame, points)
        states = begin(jax.random.split(key, self.chains), first, data, centre, factor)
        kept = []
        for phase, count in _blocks(warmup, self.draws, self.progress_bar):
            states, block = advance(states, count, data, centre, factor)
            jax.block_until_ready(states)
            if phase == "draws":
                kept.append(jax.tree.map(lambda a: np.asarray(a)[:count], block))  # noqa: B023
        drawn = {
            name: np.moveaxis(np.concatenate([block[name] for block in kept]), 0, 1)
            for name in kept[0]
        }
        u = drawn.pop("u")
        flat = constrainer(density)(u.reshape(-1, u.shape[-1]), data, centre, factor)
        samples = {
            name: np.asarray(flat[name], np.float64).reshape(*u.shape[:2], *flat[name].shape[1:])
            for name in mixture.sites
        }
        drawn["lp"] = -drawn["lp"]
        return samples, drawn


def _first(mixture: Mixture, frame: Frame, points: np.ndarray) -> ParamInfo:
    """The chains' first points with potential and gradient there."""
    values, gradients, _ = evaluate(mixture, frame.centre + points @ frame.factor.T)
    potential, gradient = -values, -gradients @ frame.factor
    return ParamInfo(*(jnp.asarray(part, float) for part in (points, potential, gradient)))


def _blocks(warmup: int, draws: int, shown: bool) -> Any:
    """(phase, count) of each compiled call, with a progress bar over all transitions."""
    plan = [("warmup", n) for n in _pieces(warmup)] + [("draws", n) for n in _pieces(draws)]
    if not shown:
        yield from plan
        return
    from tqdm.auto import tqdm

    with tqdm(total=warmup + draws, desc="NUTS", unit="draw", leave=False) as bar:
        for phase, count in plan:
            bar.set_postfix_str(phase)
            yield phase, count
            bar.update(count)


def _pieces(total: int) -> list[int]:
    return [min(BLOCK, total - begin) for begin in range(0, total, BLOCK)]


def _check_start(mixture: Mixture, em: EMResult) -> None:
    with jax.enable_x64(True):
        same = density_of(mixture) == density_of(em.mixture)
    if not same or not _same_data(mixture, em.mixture):
        raise ValueError(
            "start is the EMResult of another program or other data: run EM on the same program "
            "and data first"
        )


def _same_data(a: Mixture, b: Mixture) -> bool:
    pairs: list[Any] = [(a.value, b.value), (a.weights, b.weights), (a.labels, b.labels)]
    return all(x is y is None or np.array_equal(x, y) for x, y in pairs)


def _divergences(stats: dict[str, np.ndarray]) -> list[str]:
    count = int(stats["diverging"].sum())
    if count == 0:
        return []
    return [
        f"{count} of {stats['diverging'].size} transitions diverged: the sampler could not follow "
        "the density somewhere, often where a scale goes to zero; a prior that vanishes at 0 or a "
        "higher target_accept helps"
    ]
