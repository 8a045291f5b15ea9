"""EM: the maximum a posteriori estimate of any traced mixture, in constrained space.

One step is E (a sweep over the data at the current params: log joint and statistics) and M (the
plan's blocks in turn). The loop is compiled once per program and shapes; a start is a matrix of
responsibilities; runs from several starts become an atlas of modes, of which the best regular one is
the result. The density that is maximised is the one over the constrained sites, without a Jacobian.
"""

import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayesmix.accelerate import extrapolate
from bayesmix.density import (
    Data,
    Density,
    data_of,
    density_of,
    log_density,
    responsibilities,
)
from bayesmix.modes import Modes, atlas, judge
from bayesmix.mstep import Plan, free_size, m_step, plan_for
from bayesmix.mstep.bounds import boundedness
from bayesmix.predict import simulate, with_data
from bayesmix.program import Mixture, Params, trace
from bayesmix.start import starts
from bayesmix.sweep import statistics_of

EVALUATIONS = 12
FIRST_EVALUATIONS = 200
FIRST_PASSES = 3

RUNNING, CONVERGED, MAX_STEPS, DEGENERATE, FELL = range(5)


class EMState(NamedTuple):
    """What the next step needs.

    ``point`` is evaluated next; ``best`` was evaluated last and accepted, with ``log_joint``.
    ``phase`` 0 and 1 are the two plain steps of a cycle, 2 an extrapolated point whose ``fallback``
    is the plain one. ``base`` and ``inner`` are the cycle's points in free coordinates.
    """

    point: Params
    best: Params
    fallback: Params
    log_joint: jax.Array
    gain: jax.Array
    rate: jax.Array
    calm: jax.Array
    phase: jax.Array
    base: jax.Array
    inner: jax.Array
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

    def init(self, params: Params, inverse: Any, data: Data) -> EMState:
        """The state before the first E-step at ``params``."""
        z = self.free(params, data)
        minus, zero = jnp.array(-jnp.inf, z.dtype), jnp.zeros((), z.dtype)
        count = jnp.zeros((), jnp.int32)
        return EMState(
            params, params, params, minus, zero, zero, count, count, z, z, inverse, count, count,
            jnp.full(self.max_steps, jnp.nan, z.dtype),
        )  # fmt: skip

    def free(self, params: Params, data: Data) -> jax.Array:
        """Unconstrained coordinates of the params, in one vector."""
        transforms = self.density.transforms(data)
        return ravel_pytree({n: transforms[n].inv(v) for n, v in params.items()})[0]

    def constrain(self, z: jax.Array, like: Params, data: Data) -> Params:
        transforms = self.density.transforms(data)
        unravel = ravel_pytree({n: transforms[n].inv(v) for n, v in like.items()})[1]
        return {name: transforms[name](value) for name, value in unravel(z).items()}

    def em_step(self, params: Params, inverse: Any, data: Data) -> tuple[Any, Params, Any]:
        """Log joint at ``params``, and the params after one E- and M-step."""
        log_likelihood, statistics = self.density.e_step(params, data)
        value = log_likelihood + self.density.log_prior(params, data)
        after, inverse = m_step(
            self.density, self.plan, params, inverse, statistics, data, EVALUATIONS
        )
        return value, after, inverse

    def step(self, state: EMState, data: Data, tol: Any) -> EMState:
        """Evaluate the point, accept or reject it, and choose the next one."""
        value, after, inverse = self.em_step(state.point, state.inverse, data)
        noise = 8 * jnp.finfo(value.dtype).eps * (1 + jnp.abs(value))
        finite = jnp.isfinite(value)
        jumped = state.phase == 2
        accepted = finite & ((value >= state.log_joint) | (~jumped & (value >= state.log_joint - noise)))
        gain = value - state.log_joint
        moved = self._next(state, value, after, data) if self.accelerate else self._plain(after, state)
        kept = moved._replace(
            best=state.point,
            log_joint=jnp.maximum(value, state.log_joint),
            gain=gain,
            inverse=inverse,
        )
        rejected = state._replace(point=state.fallback, phase=jnp.zeros_like(state.phase))
        new = _where(accepted, kept, rejected)
        calm = jnp.where(accepted & ~jumped, self._calm(state, new, gain, tol, noise), state.calm)
        stop = jnp.select(
            [
                calm >= 3,
                ~accepted & ~jumped & finite,
                ~finite & ~jumped,
                state.steps + 1 >= self.max_steps,
            ],
            [CONVERGED, FELL, DEGENERATE, MAX_STEPS],
            RUNNING,
        )
        history = state.history.at[state.steps].set(new.log_joint)
        return new._replace(
            calm=calm, stop=stop.astype(jnp.int32), steps=state.steps + 1, history=history
        )

    def _calm(self, state: EMState, new: EMState, gain: Any, tol: Any, noise: Any) -> Any:
        """How many plain steps in a row promise less than ``tol`` nats in all that remains.

        With geometric convergence at rate c gains shrink by c^2 and sum to gain / (1 - c^2)
        (Aitken). The rate is read off the path when accelerated, off the last two gains otherwise.
        """
        ratio = jnp.clip(gain / jnp.where(state.gain > 0, state.gain, jnp.inf), 0.0, 1.0)
        shrink = new.rate**2 if self.accelerate else ratio
        remaining = gain / jnp.maximum(1 - shrink, 1e-6)
        small = (remaining < tol) | (gain <= noise)
        return jnp.where(small & jnp.isfinite(gain), state.calm + 1, 0)

    def _plain(self, after: Params, state: EMState) -> EMState:
        return state._replace(point=after)

    def _next(self, state: EMState, value: Any, after: Params, data: Data) -> EMState:
        """The cycle of SQUAREM: a plain step, a second one, then the extrapolated point."""
        z = self.free(state.point, data)
        second = state.phase == 1
        z2 = self.free(after, data)
        jump, rate = extrapolate(state.base, z, z2)
        far = _where(second, self.constrain(jump, after, data), after)
        sound = jnp.all(jnp.array([jnp.all(jnp.isfinite(v)) for v in jax.tree.leaves(far)]))
        point = _where(second & sound, far, after)
        return state._replace(
            point=point,
            fallback=after,
            base=jnp.where(second, state.base, z),
            phase=jnp.where(second, 2, 1).astype(state.phase.dtype),
            rate=jnp.where(second, rate, state.rate),
        )


def _where(condition: Any, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


@partial(jax.jit, static_argnums=0)
def _run(engine: Engine, state: EMState, data: Data, tol: Any, until: Any) -> EMState:
    """Steps until a stop, or until ``until`` steps have been taken."""
    return jax.lax.while_loop(
        lambda s: (s.stop == RUNNING) & (s.steps < until),
        lambda s: engine.step(s, data, tol),
        state,
    )


@partial(jax.jit, static_argnums=0)
def _from_resp(engine: Engine, params: Params, resp: Any, data: Data) -> EMState:
    """The state after the first M-step from responsibilities (N, K)."""
    density, plan = engine.density, engine.plan
    statistics = (
        statistics_of(density.family, resp, data.rows) if density.family else resp
    )
    n = free_size(density, plan.ascent, data)
    inverse = jnp.zeros((n, n), jnp.result_type(float))

    def once(_: Any, carry: Any) -> Any:
        return m_step(density, plan, *carry, statistics, data, FIRST_EVALUATIONS)

    params, inverse = jax.lax.fori_loop(0, FIRST_PASSES, once, (params, inverse))
    return engine.init(params, jnp.zeros_like(inverse), data)


@partial(jax.jit, static_argnums=0)
def _from_params(engine: Engine, params: Params, data: Data) -> EMState:
    n = free_size(engine.density, engine.plan.ascent, data)
    return engine.init(params, jnp.zeros((n, n), jnp.result_type(float)), data)


_em_step = jax.jit(Engine.em_step, static_argnums=0)


def step(mixture: Mixture, params: Params) -> dict[str, np.ndarray]:
    """The params after one plain EM step from ``params``; the log joint does not fall."""
    with jax.enable_x64(True):
        engine = Engine(density_of(mixture), plan_for(mixture), False, 1)
        data = data_of(mixture)
        state = _from_params(engine, _as_arrays(params), data)
        return _as_numpy(_em_step(engine, state.point, state.inverse, data)[1])


def _as_numpy(params: Params) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in params.items()}


def _as_arrays(params: Params) -> Params:
    return {name: jnp.asarray(value, float) for name, value in params.items()}


# --------------------------------------------------------------------------------------- results


SENTENCES = {
    CONVERGED: "converged: what remains to be gained is estimated to be below {tol:g} nats",
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
            return free_size(density_of(self.mixture), linked, data_of(self.mixture))

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
        new = with_data(self.mixture, args, kwargs)
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

        return pd.DataFrame(
            {"map": {name: value for name, value in _elements(self.mixture, self.params)}}
        )

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
        _check_size(mixture)
        if init_params is not None and init_resp is not None:
            raise ValueError("give init_params or init_resp, not both")
        with jax.enable_x64(self.dtype == "float64"):
            density, data = density_of(mixture), data_of(mixture)
            engine = Engine(density, plan_for(mixture), self.accelerate, self.max_steps)
            finals = [
                self._finish(engine, state, data)
                for state in self._states(engine, mixture, data, seed, init_params, init_resp)
            ]
        return self._result(mixture, finals, seed, began)

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
        centre = _centre(engine.density, data)
        if init_resp is not None:
            resp = _checked_resp(mixture, init_resp)
            yield _from_resp(engine, centre, _weighted(mixture, engine, resp), data)
            return
        each = starts(mixture, np.random.default_rng(seed), self.restarts)
        for resp in _progress(each, self.restarts, self.progress_bar):
            yield _from_resp(engine, centre, _weighted(mixture, engine, resp), data)

    def _finish(self, engine: Engine, state: EMState, data: Data) -> EMState:
        """Run one start to its stop, in pieces, so that an interrupt is heard."""
        while int(state.stop) == RUNNING:
            state = _run(engine, state, data, self.tol, int(state.steps) + 100)
        return state

    def _result(
        self, mixture: Mixture, finals: list[EMState], seed: np.random.SeedSequence, began: float
    ) -> EMResult:
        finite = [state for state in finals if np.isfinite(float(state.log_joint))]
        if not finite:
            raise ValueError(_nowhere(mixture))
        runs = [self._judged(mixture, state) for state in finite]
        modes = atlas(runs)
        best = modes[0]
        state = finite[next(i for i, run in enumerate(runs) if run.params is best.params)]
        notes = [*boundedness(mixture)]
        if not best.regular:
            notes.append(f"no start reached a regular mode; of the one returned, {best.reason}")
        history = np.asarray(state.history)[: int(state.steps)]
        return EMResult(
            mixture=mixture,
            params=best.params,
            log_joint=best.log_joint,
            log_likelihood=best.log_likelihood,
            history=history,
            converged=int(state.stop) == CONVERGED,
            stop=best.stop,
            steps=best.steps,
            modes=modes,
            notes=tuple(notes),
            seconds=time.perf_counter() - began,
            seed=str(seed.entropy),
            settings={
                "restarts": len(finals),
                "max_steps": self.max_steps,
                "tol": self.tol,
                "accelerate": self.accelerate,
                "dtype": self.dtype,
            },
        )

    def _judged(self, mixture: Mixture, state: EMState) -> Any:
        params = {n: np.asarray(state.best[n], np.float64) for n in mixture.sites}
        stop = SENTENCES[int(state.stop)].format(tol=self.tol, max_steps=self.max_steps)
        return judge(
            mixture,
            params,
            float(state.log_joint),
            stop,
            int(state.steps),
            int(state.stop) == DEGENERATE,
        )


_centre = jax.jit(Density.centre, static_argnums=0)


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
            f"the first argument of run is a random key, jax.random.key(0), not {type(key).__name__}"
        ) from None
    return np.random.SeedSequence([int(word) for word in words.ravel()])


def _check_size(mixture: Mixture) -> None:
    """Refuse data whose squares overflow, and fewer rows than a flat prior can be fitted to."""
    x = np.asarray(mixture.value, np.float64)
    rows = len(mixture.rows)
    centred = x - x.mean(tuple(range(rows))) if x.size else x
    family = density_of(mixture).family
    if family is not None and family.location_scale:
        with np.errstate(over="ignore", invalid="ignore"):
            size = np.abs(centred).max()
        if not size < 1e150 or (0 < size < 1e-150):
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
    x = np.asarray(mixture.value, np.float64).reshape(mixture.N, -1)
    constant = np.flatnonzero(np.ptp(x, axis=0) == 0)
    if len(constant):
        column = int(constant[0])
        label = repr(mixture.columns[column]) if mixture.columns else str(column)
        return (
            f"site {mixture.name!r}: column {label} is constant ({x[0, column]:g}), so the log "
            "joint is not finite anywhere: leave the column out"
        )
    return (
        f"the log joint of site {mixture.name!r} is not finite at any of the starts: columns may be "
        "collinear, or there are too few rows for K and the number of columns"
    )


def _progress(items: Any, total: int, shown: bool) -> Any:
    if not shown:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, total=total, desc="EM", unit="start", leave=False)
