"""EM: the maximum a posteriori estimate of any traced mixture, in constrained space.

One step is E (a sweep over the data at the current params: log joint and statistics) and M (the
plan's blocks in turn). The loop is compiled once per program and shapes; a start is a matrix of
responsibilities; runs from several starts become an atlas of modes, of which the best regular one
is the result. What is maximised is the density over the constrained sites, without a Jacobian.
"""

import math
import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayesmix.accelerate import extrapolate
from bayesmix.coordinates import constrain, free, free_size
from bayesmix.density import (
    Data,
    Density,
    data_of,
    density_of,
    log_density,
    responsibilities,
)
from bayesmix.modes import Mode, Modes, atlas, judge
from bayesmix.mstep import Plan, m_step, plan_for
from bayesmix.mstep.bounds import boundedness
from bayesmix.predict import brought_near, simulate, with_data
from bayesmix.program import Mixture, Params, trace
from bayesmix.start import starts
from bayesmix.sweep import statistics_of

ROUNDING = 64
EVALUATIONS = 12
FIRST_EVALUATIONS = 200

RUNNING, CONVERGED, MAX_STEPS, DEGENERATE, FELL = range(5)


class EMState(NamedTuple):
    """What the next step needs: the current params, flat, with what the E-step gave there.

    ``phase`` 0 begins a cycle of two plain steps, 1 takes the second and leaps (``base`` is where
    the cycle began, in free coordinates), 2 takes a plain step after a leap that was refused.
    """

    point: jax.Array
    log_joint: jax.Array
    log_likelihood: jax.Array
    statistics: Any
    gain: jax.Array
    rate: jax.Array
    calm: jax.Array
    phase: jax.Array
    base: jax.Array
    inverse: jax.Array
    steps: jax.Array
    stop: jax.Array
    history: jax.Array


@dataclass(frozen=True)
class Engine:
    """One program's EM step as pure functions; hashable, so static under jit."""

    density: Density
    plan: Plan
    accelerate: bool
    max_steps: int

    def init(self, params: Params, statistics: Any, data: Data) -> EMState:
        """The state before the first M-step, which takes ``statistics`` from wherever they came.

        ``params`` need only be legal: they are the start of updates that depend on other sites.
        """
        flat = ravel_pytree(params)[0]
        minus, zero = jnp.array(-jnp.inf, flat.dtype), jnp.zeros((), flat.dtype)
        count = jnp.zeros((), jnp.int32)
        base = jnp.zeros(free_size(self.density, data) if self.accelerate else 0, flat.dtype)
        ascent = free_size(self.density, data, self.plan.ascent)
        inverse = jnp.zeros((ascent, ascent), flat.dtype)
        history = jnp.full(self.max_steps, jnp.nan, flat.dtype)
        return EMState(
            flat, minus, minus, statistics, zero, zero, count, count + 2, base, inverse, count,
            count, history,
        )  # fmt: skip

    def params(self, flat: jax.Array) -> Params:
        """{site: value} of a flat vector."""
        like = {name: jnp.zeros(shape) for name, shape in self.density.sites.items()}
        return ravel_pytree(like)[1](flat)

    def e_step(self, params: Params, data: Data) -> tuple[Any, Any, Any]:
        """Log joint, log likelihood and statistics at ``params``."""
        log_likelihood, statistics = self.density.e_step(params, data)
        log_joint = log_likelihood + self.density.log_prior(params, data)
        return log_joint, log_likelihood, statistics

    def m_step(self, params: Params, statistics: Any, inverse: Any, data: Data, first: Any) -> Any:
        """Params after one M-step, and the ascent's inverse Hessian."""
        evaluations = jnp.where(first, FIRST_EVALUATIONS, EVALUATIONS)
        return m_step(self.density, self.plan, params, inverse, statistics, data, evaluations)

    def step(self, state: EMState, data: Data, tol: Any) -> EMState:
        """M-step, perhaps a leap beyond it, E-step there; kept unless the log joint falls."""
        here, first = self.params(state.point), jnp.isneginf(state.log_joint)
        after, inverse = self.m_step(here, state.statistics, state.inverse, data, first)
        flat, base, rate, leaps = self._propose(state, here, after, data)
        value, log_likelihood, statistics = self.e_step(self.params(flat), data)
        noise = ROUNDING * jnp.finfo(value.dtype).eps * (1 + jnp.abs(value))
        gain, finite = value - state.log_joint, jnp.isfinite(value)
        accepted = finite & (gain >= jnp.where(leaps, 0.0, -noise))
        moved = state._replace(
            point=flat,
            log_joint=jnp.maximum(value, state.log_joint),
            log_likelihood=log_likelihood,
            statistics=statistics,
            gain=gain,
            rate=rate,
            base=base,
            inverse=inverse,
            calm=jnp.where(leaps, state.calm, self._calm(state, gain, rate, tol, noise)),
            phase=jnp.where((state.phase == 0) & self.accelerate, 1, 0).astype(state.phase.dtype),
        )
        refused = state._replace(phase=jnp.full_like(state.phase, 2))
        new = jax.tree.map(partial(jnp.where, accepted), moved, refused)
        stop = jnp.select(
            [
                (new.calm >= 3) | (~accepted & ~leaps & (gain >= -tol)),
                ~accepted & ~leaps & finite,
                ~finite & ~leaps,
                state.steps + 1 >= self.max_steps,
            ],
            [CONVERGED, FELL, DEGENERATE, MAX_STEPS],
            RUNNING,
        )
        history = state.history.at[state.steps].set(new.log_joint)
        return new._replace(stop=stop.astype(jnp.int32), steps=state.steps + 1, history=history)

    def _propose(
        self, state: EMState, here: Params, after: Params, data: Data
    ) -> tuple[Any, Any, Any, Any]:
        """The next point to evaluate, the cycle's base and rate, and whether it is a leap."""
        flat = ravel_pytree(after)[0]
        if not self.accelerate:
            return flat, state.base, state.rate, jnp.array(False)
        z, z2 = (free(self.density, params, data) for params in (here, after))
        second = state.phase == 1
        jump, rate = extrapolate(state.base, z, z2)
        far = ravel_pytree(constrain(self.density, jump, data))[0]
        leaps = second & jnp.all(jnp.isfinite(far))
        return (
            jnp.where(leaps, far, flat),
            jnp.where(second, state.base, z),
            jnp.where(second, rate, state.rate),
            leaps,
        )

    def _calm(self, state: EMState, gain: Any, rate: Any, tol: Any, noise: Any) -> Any:
        """How many plain steps in a row promise less than ``tol`` nats in all that remains.

        With geometric convergence at rate c gains shrink by c^2 and sum to gain / (1 - c^2)
        (Aitken). The rate is read off the path when accelerated, off the last two gains otherwise.
        """
        ratio = jnp.clip(gain / jnp.where(state.gain > 0, state.gain, jnp.inf), 0.0, 1.0)
        shrink = rate**2 if self.accelerate else ratio
        remaining = gain / jnp.maximum(1 - shrink, 1e-6)
        small = (remaining < tol) | (gain <= noise)
        return jnp.where(small & jnp.isfinite(gain), state.calm + 1, 0)


@partial(jax.jit, static_argnums=0)
def _run(engine: Engine, state: EMState, data: Data, tol: Any, until: Any) -> Any:
    """Steps until a stop, or until ``until`` steps have been taken; and the components there."""
    last = jax.lax.while_loop(
        lambda s: (s.stop == RUNNING) & (s.steps < until),
        lambda s: engine.step(s, data, tol),
        state,
    )
    density = engine.density
    leaves = density.leaves(engine.params(last.point), data) if density.family else {}
    return last, leaves


@partial(jax.jit, static_argnums=0)
def _from_resp(engine: Engine, resp: Any, data: Data) -> EMState:
    """The state before the first M-step, from responsibilities: (N, K), or weighted and by row."""
    density = engine.density
    statistics = statistics_of(density.family, resp, data.rows) if density.family else resp
    return engine.init(density.centre(data), statistics, data)


@partial(jax.jit, static_argnums=0)
def _from_params(engine: Engine, params: Params, data: Data) -> EMState:
    """The state after an E-step at ``params``."""
    log_joint, log_likelihood, statistics = engine.e_step(params, data)
    state = engine.init(params, statistics, data)
    return state._replace(
        log_joint=log_joint,
        log_likelihood=log_likelihood,
        phase=jnp.zeros_like(state.phase),
        steps=jnp.ones_like(state.steps),
        stop=jnp.where(jnp.isfinite(log_joint), RUNNING, DEGENERATE).astype(jnp.int32),
        history=state.history.at[0].set(log_joint),
    )


@partial(jax.jit, static_argnums=0)
def _one_step(engine: Engine, params: Params, data: Data) -> Params:
    state = engine.init(params, None, data)
    statistics = engine.e_step(params, data)[2]
    return engine.m_step(params, statistics, state.inverse, data, False)[0]


def step(mixture: Mixture, params: Params) -> dict[str, np.ndarray]:
    """The params after one plain EM step from ``params``; the log joint does not fall."""
    with jax.enable_x64(True):
        engine = Engine(density_of(mixture), plan_for(mixture), False, 1)
        after = _one_step(engine, _as_arrays(params), data_of(mixture))
        return {name: np.asarray(after[name]) for name in mixture.sites}


def _as_arrays(params: Params) -> Params:
    return {name: jnp.asarray(value, float) for name, value in params.items()}


# --------------------------------------------------------------------------------------- results


SENTENCES = {
    CONVERGED: "converged: what remains to be gained is estimated to be below {tol:.1g} nats",
    MAX_STEPS: "not converged: stopped after {max_steps} steps; raise max_steps",
    DEGENERATE: "stopped: the log joint is no longer finite, a cluster has become singular",
    FELL: "stopped: the log joint fell by more than rounding; the params are the last good ones",
}


@dataclass(frozen=True, eq=False)
class EMResult:
    """The MAP estimate and everything EM found on the way.

    ``params`` {site: array} maximise the log joint over the constrained sites (no Jacobian);
    ``log_joint`` and ``log_likelihood`` (nats) belong to them. ``history`` is the log joint after
    each step of the run that found them. ``modes`` lists every distinct optimum. ``aic``, ``bic``
    and ``icl`` are to be minimised. Arrays are NumPy, float64.
    """

    mixture: Mixture
    params: dict[str, np.ndarray]
    log_joint: float
    log_likelihood: float
    history: np.ndarray
    converged: bool
    stop: str
    steps: int
    modes: Modes
    notes: tuple[str, ...]
    seconds: float
    seed: str
    settings: dict[str, Any] = field(repr=False)

    @property
    def plan(self) -> str:
        """Which update EM used for each site."""
        return str(plan_for(self.mixture))

    @cached_property
    def responsibilities(self) -> np.ndarray:
        """p(z_n = k | x_n) at the MAP, (*rows, K)."""
        with jax.enable_x64(True):
            return np.asarray(responsibilities(self.mixture, self.params))

    @cached_property
    def n_parameters(self) -> int:
        """Number of free parameters of the mixture: unconstrained coordinates of linked sites."""
        linked = tuple(name for name, site in self.mixture.sites.items() if site.links)
        with jax.enable_x64(True):
            return free_size(density_of(self.mixture), data_of(self.mixture), linked)

    @property
    def aic(self) -> float:
        """2 p - 2 log likelihood; smaller is better."""
        return 2 * self.n_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """p log N - 2 log likelihood; smaller is better (mclust reports the negative)."""
        weights = self.mixture.weights
        N = self.mixture.N if weights is None else float(weights.sum())
        return self.n_parameters * float(np.log(N)) - 2 * self.log_likelihood

    @property
    def icl(self) -> float:
        """BIC - 2 sum_n log max_k r_nk, as mclust's with the sign turned; smaller is better."""
        certain = np.log(self.responsibilities.max(-1))
        weights = 1.0 if self.mixture.weights is None else self.mixture.weights
        return self.bic - 2 * float((weights * certain).sum())

    def predict_proba(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Responsibilities of new data, given as the program's own arguments, (*rows, K)."""
        new = brought_near(with_data(self.mixture, args, kwargs))
        with jax.enable_x64(True):
            return np.asarray(responsibilities(new, self.params))

    def predict(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """The most probable cluster of each row of new data, (*rows); integers from 0."""
        return self.predict_proba(*args, **kwargs).argmax(-1)

    def log_density(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """log sum_k w_k f(x_n | k) of new data, (*rows), in nats."""
        new = with_data(self.mixture, args, kwargs)
        with jax.enable_x64(True):
            return np.asarray(log_density(new, self.params))

    def sample(self, key: Any, n: int) -> np.ndarray:
        """``n`` new observations simulated at the MAP, (n, *event), in data units."""
        return simulate(key, self.mixture, self.params, n)

    def summary(self) -> Any:
        """A DataFrame with one row per element of every site at the MAP."""
        import pandas as pd

        return pd.DataFrame({"map": dict(_elements(self.mixture, self.params))})

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree of one chain and one draw; see ``bayesmix.posterior.em_tree``."""
        from bayesmix.posterior import em_tree

        return em_tree(self, **kwargs)

    def __repr__(self) -> str:
        width = max(len(name) for name, _ in _elements(self.mixture, self.params))
        lines = [
            f"EM of {self.mixture.name!r}: {self.mixture.K} {self.mixture.family}, "
            f"{self.mixture.N} rows",
            f"log joint {self.log_joint:.6f}, log likelihood {self.log_likelihood:.6f} (nats)",
            f"{self.stop} ({self.steps} steps, {self.seconds:.2f} s)",
            "",
            *(f"{name:<{width}}  {value: .6g}" for name, value in self._shown()),
            "",
            repr(self.modes),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _shown(self) -> list[tuple[str, float]]:
        elements = list(_elements(self.mixture, self.params))
        return elements if len(elements) <= 60 else elements[:60]


def _elements(mixture: Mixture, params: Params) -> Any:
    """(name[labels], value) of every element of every site, with the columns' names."""
    for name, value in params.items():
        site = mixture.sites[name]
        for position, element in np.ndenumerate(value):
            labels = [
                mixture.columns[i] if dim.startswith("feature") and mixture.columns else str(i)
                for i, dim in zip(position, site.dims, strict=True)
            ]
            yield f"{name}[{', '.join(labels)}]" if labels else name, float(element)


# ----------------------------------------------------------------------------------- the engine


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
    dtype : "float64", or "float32" for speed at about 1e-6 relative accuracy.
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
        seed = _seed(key)
        mixture = trace(self.program, *args, **kwargs)
        if init_params is not None and init_resp is not None:
            raise ValueError("give init_params or init_resp, not both")
        with jax.enable_x64(self.dtype == "float64"):
            _check_size(mixture)
            density, data = density_of(mixture), data_of(mixture)
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
            yield _from_params(engine, _as_arrays(_checked_params(mixture, init_params)), data)
            return
        if init_resp is not None:
            resp = _checked_resp(mixture, init_resp)
            yield _from_resp(engine, _weighted(mixture, engine, resp), data)
            return
        each = starts(mixture, np.random.default_rng(seed), self.restarts)
        for resp in _progress(each, self.restarts, self.progress_bar):
            yield _from_resp(engine, _weighted(mixture, engine, resp), data)

    def _finish(self, engine: Engine, mixture: Mixture, state: EMState, data: Data) -> Run:
        """Run one start to its stop, in pieces, so that an interrupt is heard."""
        leaves: Params = {}
        while int(state.stop) == RUNNING:
            state, leaves = _run(engine, state, data, self.tol, int(state.steps) + 100)
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
        finite = [run for run in runs if np.isfinite(run.mode.log_joint)]
        if not finite:
            raise ValueError(_nowhere(mixture))
        modes = atlas([run.mode for run in finite])
        best = modes[0]
        run = next(run for run in finite if run.mode.params is best.params)
        notes = [*boundedness(mixture)]
        if not best.regular:
            notes.append(f"no start reached a regular mode; of the one returned, {best.reason}")
        return EMResult(
            mixture=mixture,
            params=best.params,
            log_joint=best.log_joint,
            log_likelihood=best.log_likelihood,
            history=run.history,
            converged=run.stop == CONVERGED,
            stop=SENTENCES[run.stop].format(
                tol=max(self.tol, self._floor(best.log_joint)), max_steps=self.max_steps
            ),
            steps=run.steps,
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


def _seed(key: Any) -> np.random.SeedSequence:
    """A NumPy seed from a JAX key; the same key gives the same starts."""
    if isinstance(key, int | np.integer):
        raise ValueError(
            f"the first argument of run is a random key: jax.random.key({key}), not {key}"
        )
    try:
        words = np.asarray(jax.random.key_data(key))
    except (TypeError, ValueError, AttributeError):
        raise ValueError(
            "the first argument of run is a random key, jax.random.key(0), not "
            f"{type(key).__name__}"
        ) from None
    return np.random.SeedSequence([int(word) for word in words.ravel()])


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
