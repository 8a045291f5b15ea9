"""EM: the maximum a posteriori estimate of any traced mixture, in constrained space.

Runs from several starts become an atlas of modes, of which the best regular one is the result. What
is maximised is the density over the constrained sites, without a Jacobian.
"""

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.arguments import seed_of
from bayesmix.density import Data, Density, data_of, density_of, has_family, log_density
from bayesmix.engine import (
    CONVERGED,
    DEGENERATE,
    FELL,
    MAX_STEPS,
    ROUNDING,
    RUNNING,
    EMState,
    Engine,
    from_params,
    from_resp,
    one_step,
    run,
)
from bayesmix.estimate import EMResult
from bayesmix.modes import Mode, atlas, judge
from bayesmix.mstep import plan_for
from bayesmix.mstep.bounds import boundedness
from bayesmix.program import Mixture, Params, trace
from bayesmix.start import starts

SENTENCES = {
    CONVERGED: "converged: what remains to be gained is estimated to be below {tol:.1g} nats",
    MAX_STEPS: "not converged: stopped after {max_steps} steps; raise max_steps",
    DEGENERATE: "stopped: the log joint is no longer finite, a cluster has become singular",
    FELL: "stopped: the log joint fell by more than rounding; the params are the last good ones",
}


def step(mixture: Mixture, params: Params) -> dict[str, np.ndarray]:
    """The params after one plain EM step from ``params``; the log joint does not fall."""
    with jax.enable_x64(True):
        engine = Engine(density_of(mixture), plan_for(mixture), False, 1)
        after = one_step(engine, _as_arrays(params), data_of(mixture))
        return {name: np.asarray(after[name]) for name in mixture.sites}


def _as_arrays(params: Params) -> Params:
    return {name: jnp.asarray(value, float) for name, value in params.items()}


class Run(NamedTuple):
    """Where one start ended: its mode, the stop code, the E-steps, the log joint after each."""

    mode: Mode
    stop: int
    steps: int
    history: np.ndarray


@dataclass(frozen=True)
class EM:
    """Maximum a posteriori estimation by EM; ``EM(program).run(key, *data)`` returns an EMResult.

    restarts : number of starts (k-means++, random rows, random responsibilities).
    max_steps : E-steps per start at most.
    tol : stop when the estimated remaining gain of the log joint is below this, in nats.
    accelerate : extrapolate between EM steps (SQUAREM); the log joint still never falls.
    dtype : "float64", or "float32": then the data and the scores of the rows are float32, half the
        memory; params, sums over chunks and M-step stay float64. Components without a sweep of
        their own are computed in float32 throughout.
    progress_bar : show the starts as they finish.
    """

    program: Any
    restarts: int = 16
    max_steps: int = 1000
    tol: float = 1e-9
    accelerate: bool = True
    dtype: str = "float64"
    progress_bar: bool = True

    def __post_init__(self) -> None:
        for name in ("restarts", "max_steps"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive whole number, not {value!r}")
        if not self.tol > 0:
            raise ValueError(f"tol must be a positive number of nats, not {self.tol!r}")
        if self.dtype not in ("float64", "float32"):
            raise ValueError(f'dtype must be "float64" or "float32", not {self.dtype!r}')

    def run(
        self,
        key: Any,
        *args: Any,
        init_params: Params | None = None,
        init_resp: Any = None,
        **kwargs: Any,
    ) -> EMResult:
        """Fit the program to data, given as the program's own arguments.

        init_params : {site: array} for every latent site; one run that begins at the E-step.
        init_resp : responsibilities (N, K); one run that begins at the M-step.

        Raises ValueError for data or starts that do not fit the program, in one sentence.
        """
        began = time.perf_counter()
        seed = seed_of(key)
        mixture = trace(self.program, *args, **kwargs)
        if init_params is not None and init_resp is not None:
            raise ValueError("give init_params or init_resp, not both")
        with jax.enable_x64(self.dtype == "float64" or has_family(mixture)):
            _check_size(mixture)
            density, data = density_of(mixture), data_of(mixture, self.dtype)
            engine = Engine(density, plan_for(mixture), self.accelerate, self.max_steps)
            runs = [
                self._finish(engine, mixture, state, data)
                for state in self._states(engine, mixture, data, seed, init_params, init_resp)
            ]
        return self._result(mixture, runs, seed, began)

    def _states(
        self,
        engine: Engine,
        mixture: Mixture,
        data: Data,
        seed: np.random.SeedSequence,
        init_params: Params | None,
        init_resp: Any,
    ) -> Any:
        """The first state of each start."""
        if init_params is not None:
            yield from_params(engine, _as_arrays(_checked_params(mixture, init_params)), data)
            return
        if init_resp is not None:
            resp = _checked_resp(mixture, init_resp)
            yield from_resp(engine, _weighted(mixture, engine, resp), data)
            return
        each = starts(mixture, np.random.default_rng(seed), self.restarts)
        for resp in _progress(each, self.restarts, self.progress_bar):
            yield from_resp(engine, _weighted(mixture, engine, resp), data)

    def _finish(self, engine: Engine, mixture: Mixture, state: EMState, data: Data) -> Run:
        """Run one start to its stop, in pieces, so that an interrupt is heard."""
        leaves: Params = {}
        while int(state.stop) == RUNNING:
            state, leaves = run(engine, state, data, self.tol, int(state.steps) + 100)
        stop, steps = int(state.stop), int(state.steps)
        best = _unflatten(mixture, np.asarray(state.point, np.float64))
        mode = judge(
            mixture,
            {name: best[name] for name in mixture.sites},
            log_joint=float(state.log_joint),
            log_likelihood=float(state.log_likelihood),
            counts=_counts(engine.density, state.statistics),
            leaves={name: np.asarray(value, np.float64) for name, value in leaves.items()},
            degenerate=stop == DEGENERATE,
        )
        return Run(mode, stop, steps, np.asarray(state.history, np.float64)[:steps])

    def _floor(self, log_joint: float) -> float:
        """What rounding hides of the log joint, in nats."""
        return ROUNDING * float(np.finfo(self.dtype).eps) * (1 + abs(log_joint))

    def _result(
        self, mixture: Mixture, runs: list[Run], seed: np.random.SeedSequence, began: float
    ) -> EMResult:
        finite = [each for each in runs if np.isfinite(each.mode.log_joint)]
        if not finite:
            raise ValueError(_nowhere(mixture))
        modes = atlas([each.mode for each in finite])
        best = modes[0]
        found = next(each for each in finite if each.mode.params is best.params)
        notes = [*boundedness(mixture)]
        if not best.regular:
            notes.append(f"no start reached a regular mode; of the one returned, {best.reason}")
        return EMResult(
            mixture=mixture,
            params=best.params,
            log_joint=best.log_joint,
            log_likelihood=best.log_likelihood,
            history=found.history,
            converged=found.stop == CONVERGED,
            stop=SENTENCES[found.stop].format(
                tol=max(self.tol, self._floor(best.log_joint)), max_steps=self.max_steps
            ),
            steps=found.steps,
            modes=modes,
            notes=tuple(notes),
            seconds=time.perf_counter() - began,
            seed=str(seed.entropy),
            settings={
                "restarts": len(runs),
                "max_steps": self.max_steps,
                "tol": self.tol,
                "accelerate": self.accelerate,
                "dtype": self.dtype,
            },
        )


def _counts(density: Density, statistics: Any) -> np.ndarray:
    """Rows (sum of weighted responsibilities) in each cluster, (K,)."""
    if density.family:
        return np.asarray(statistics.mass, np.float64)
    return np.asarray(statistics, np.float64).reshape(-1, density.K).sum(0)


def _unflatten(mixture: Mixture, flat: np.ndarray) -> dict[str, np.ndarray]:
    """{site: value} of a flat vector, whose sites stand in sorted order."""
    names = sorted(mixture.sites)
    sizes = [math.prod(mixture.sites[name].shape) for name in names]
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return {n: part.reshape(mixture.sites[n].shape) for n, part in zip(names, parts, strict=True)}


def _check_size(mixture: Mixture) -> None:
    """Refuse data whose squares overflow, and fewer rows than a flat prior can be fitted to."""
    family = density_of(mixture).family
    if family is not None and family.location_scale:
        x = np.asarray(mixture.value, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            size = np.abs(x - x.mean(tuple(range(len(mixture.rows))))).max()
        if not size < 1e150 or 0 < size < 1e-150:
            raise ValueError(
                f"site {mixture.name!r}: the data spread over {size:.3g}, whose square is outside "
                "float64: rescale them"
            )
    improper = [s.name for s in mixture.sites.values() if s.improper and s.links]
    if improper and mixture.N < mixture.K:
        raise ValueError(
            f"site {mixture.name!r} has {mixture.N} rows for {mixture.K} clusters: with the flat "
            f"prior on {improper[0]!r} there must be at least one row per cluster"
        )


def _checked_params(mixture: Mixture, params: Params) -> Params:
    missing = [name for name in mixture.sites if name not in params]
    extra = [name for name in params if name not in mixture.sites]
    if missing or extra:
        raise ValueError(
            f"init_params must name every latent site: missing {missing}, unknown {extra}"
        )
    for name, site in mixture.sites.items():
        shape = np.shape(params[name])
        if shape != site.shape:
            raise ValueError(
                f"init_params[{name!r}] has shape {shape} but site {name!r} has shape {site.shape}"
            )
        if not np.isfinite(np.asarray(params[name])).all():
            raise ValueError(f"init_params[{name!r}] has a value that is not finite")
    density, data = density_of(mixture), data_of(mixture)
    for name, transform in density.transforms(data).items():
        inside = np.asarray(transform.codomain(jnp.asarray(params[name], float)))
        if not inside.all():
            raise ValueError(
                f"init_params[{name!r}] is outside the support of its prior ({transform.codomain})"
            )
    return {name: params[name] for name in mixture.sites}


def _checked_resp(mixture: Mixture, resp: Any) -> np.ndarray:
    resp = np.asarray(resp, np.float64)
    shape = (mixture.N, mixture.K)
    if resp.reshape(-1, resp.shape[-1] if resp.ndim else 1).shape != shape:
        raise ValueError(f"init_resp has shape {resp.shape}; it must be {shape}, rows by clusters")
    resp = resp.reshape(shape)
    if not np.isfinite(resp).all() or (resp < 0).any():
        raise ValueError("init_resp must be finite and not negative")
    bad = np.abs(resp.sum(1) - 1) > 1e-6
    if bad.any():
        raise ValueError(
            f"init_resp: row {int(bad.argmax())} sums to {resp[bad.argmax()].sum():.6g}, not 1"
        )
    return resp


def _weighted(mixture: Mixture, engine: Engine, resp: np.ndarray) -> np.ndarray:
    """Responsibilities as the M-step wants them: (N, K) for a sweep, else weighted, by row."""
    if engine.density.family:
        return resp
    shaped = resp.reshape(*mixture.rows, mixture.K)
    return shaped if mixture.weights is None else shaped * mixture.weights[..., None]


def _nowhere(mixture: Mixture) -> str:
    """Why the log joint is not finite at any start, as far as the data tell."""
    start = f"site {mixture.name!r}: the log joint is not finite at any of the starts: "
    x = np.asarray(mixture.value, np.float64).reshape(mixture.N, -1)
    if mixture.N == 1:
        return start + "there is only one row"
    constant = np.flatnonzero(np.ptp(x, axis=0) == 0)
    if len(constant):
        column = int(constant[0])
        label = repr(mixture.columns[column]) if mixture.columns else str(column)
        return start + f"column {label} is constant ({x[0, column]:g}), leave it out"
    with jax.enable_x64(True):
        density = density_of(mixture)
        pointwise = np.asarray(log_density(mixture, density.centre(data_of(mixture))))
    impossible = ~np.isfinite(pointwise) | (pointwise <= np.finfo(float).min)
    if impossible.any():
        row = np.argwhere(impossible)[0]
        value = mixture.value[tuple(row)]
        return start + (
            f"row {', '.join(map(str, row))}, {value}, has density 0 or infinity under every "
            "component"
        )
    return start + (
        "columns may be collinear, or there are too few rows for K and the number of columns"
    )


def _progress(items: Any, total: int, shown: bool) -> Any:
    if not shown:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, total=total, desc="EM", unit="start", leave=False)
