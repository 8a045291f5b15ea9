"""EM's uncertainty by the weighted likelihood bootstrap: EM again and again on reweighted rows.

Each replicate maximises log prior + sum_n w_n log f(x_n) with random row weights w, from EM's mode
on. Replicates are lanes of one compiled loop. A lane is brought close by quasi-Newton steps that
begin with the inverse information at the mode, and finished by EM itself, whose stop decides; lanes
that need longer are gathered and go on together, so that few wait for the slowest.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.arguments import seed_of
from bayesmix.carry import own_fields
from bayesmix.coordinates import constrain, free
from bayesmix.curvature import SMALLEST, bend_at, free_vector
from bayesmix.density import Data, Density, data_of, density_of, row_weights
from bayesmix.draws import draw_responsibilities
from bayesmix.engine import CONVERGED, DEGENERATE, RUNNING, Engine, from_params
from bayesmix.estimate import EMResult
from bayesmix.modes import judge
from bayesmix.mstep import plan_for
from bayesmix.mstep.ascent import climb
from bayesmix.portrait import portrait
from bayesmix.program import Mixture, Params
from bayesmix.relabel.blocks import Responsibilities
from bayesmix.relabel.methods import align, disagreement
from bayesmix.sheet import Sheet, Shown, Table
from bayesmix.symmetry import exchangeable, permute_draws

WEIGHTS = ("dirichlet", "multinomial")
LANES = 32
CELLS = 2**22
TRIES = 150
FIRST_STEPS = 16
TOL = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class BootstrapResult(Shown):
    """Replicates of EM's estimate: ``params`` {site: (draw, *shape)}, NumPy, float64.

    Clusters carry the names of EM's MAP in every replicate. ``sample_stats`` holds "converged" and
    "n_steps", each (draw,). Replicates that ended at a mode that is not regular are left out, and
    ``notes`` say so.
    """

    mixture: Mixture
    params: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    start: EMResult
    notes: tuple[str, ...]
    seconds: float
    seed: str
    settings: dict[str, Any]

    __getstate__ = own_fields

    @property
    def start_policy(self) -> str:
        return (
            f"replicates of EM on {self.settings['weights']} row weights, each from EM's best mode;"
            " other modes are not represented"
        )

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree of one chain; see ``bayesmix.posterior.independent_tree``."""
        from bayesmix.posterior import independent_tree

        facts = {"row_weights": self.settings["weights"]}
        return independent_tree(self, "bootstrap", facts, **kwargs)

    @cached_property
    def _tree(self) -> Any:
        return self.to_datatree()

    def summary(self) -> Any:
        """ArviZ's mean, sd and interval of the replicates: a DataFrame."""
        import arviz_stats

        return arviz_stats.summary(self._tree, kind="stats", round_to="none")

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """{site: array} as EM's params: standard deviations of the replicates."""
        return {name: value.std(0, ddof=1) for name, value in self.params.items()}

    @property
    def _sheet(self) -> Sheet:
        draws = len(self.sample_stats["converged"])
        tables, left = portrait(self.mixture, self.standard_errors, self.start.modes[0].counts)
        lines: list[str | Table] = [
            f"Bootstrap of {self.mixture.name!r}: {self.mixture.K} {self.mixture.family}, "
            f"{self.mixture.N} rows",
            f"{draws} replicates in {self.seconds:.2f} s, row weights {self.settings['weights']}",
            "standard errors:",
            *tables,
            *left,
            *(f"note: {note}" for note in self.notes),
        ]
        return Sheet(tuple(lines))


def bootstrap(
    key: Any, em: EMResult, draws: int = 200, *, weights: str = "dirichlet"
) -> BootstrapResult:
    """EM's estimate on reweighted rows, ``draws`` times, with the clusters' names of the MAP.

    weights : "dirichlet", N times a flat Dirichlet (the weighted likelihood bootstrap, Newton &
        Raftery 1994, JRSS B 56, whose draws approximate a posterior: with priors the weighted
        Bayesian bootstrap of Newton, Polson & Xu 2021, Canad. J. Statist. 49, prior weight 1), or
        "multinomial", rows drawn with replacement (Efron 1979: sampling variation of EM's MAP).
        A row of weight m counts as m rows in both. Priors scaled by the data stay as they are.

    A replicate stops when EM promises less than 1e-6 nats, about 1e-3 of a standard error.
    Raises ValueError where EM's own mode is not regular.
    """
    began = time.perf_counter()
    seed = seed_of(key)
    if not isinstance(draws, int | np.integer) or isinstance(draws, bool) or draws < 1:
        raise ValueError(f"draws must be a positive whole number, not {draws!r}")
    if weights not in WEIGHTS:
        raise ValueError(f'weights must be "dirichlet" or "multinomial", not {weights!r}')
    if not em.modes[0].regular:
        raise ValueError(f"EM reached no regular mode to start from: {em.modes[0].reason}")
    with jax.enable_x64(True):
        ended = _replicates(em, seed.spawn(int(draws)), weights)
        kept, notes = _regular(em.mixture, ended)
    params = {name: ended.params[name][kept] for name in em.mixture.sites}
    return BootstrapResult(
        mixture=em.mixture,
        params=_named_like(em, params),
        sample_stats={
            "converged": ended.stop[kept] == CONVERGED,
            "n_steps": ended.steps[kept],
        },
        start=em,
        notes=tuple(notes),
        seconds=time.perf_counter() - began,
        seed=str(seed.entropy),
        settings={"draws": int(draws), "weights": weights},
    )


# ------------------------------------------------------------------------------------- the lanes


class Ended(NamedTuple):
    """Where each replicate ended, by draw: ``params`` {site: (draw, *shape)}, and the rest."""

    params: Params
    log_joint: Any
    log_likelihood: Any
    counts: Any
    leaves: Params
    stop: Any
    steps: Any


@partial(jax.jit, static_argnums=0)
def _lanes(
    engine: Engine, params: Params, factors: Any, data: Data, near: Any, tries: Any, until: Any
) -> Ended:
    """EM on every lane's own row weights, at most ``until`` steps from its own params."""

    def one(params: Params, factor: jax.Array) -> Ended:
        density = engine.density
        own = density.reweighted(data, factor)
        begin = _approach(density, params, own, near, tries)
        state = jax.lax.while_loop(
            lambda state: (state.stop == RUNNING) & (state.steps < until),
            lambda state: engine.step(state, own, TOL),
            from_params(engine, begin, own),
        )
        there = engine.params(state.point)
        return Ended(
            there,
            state.log_joint,
            state.log_likelihood,
            density.counts(state.statistics),
            density.leaves(there, own) if density.family else {},
            state.stop,
            state.steps,
        )

    return jax.vmap(one)(params, factors)


def _approach(density: Density, params: Params, data: Data, near: Any, tries: Any) -> Params:
    """Quasi-Newton steps on the log joint, begun with the inverse information at the mode."""

    def height(z: jax.Array) -> jax.Array:
        return density.log_joint(constrain(density, z, data), data)

    z = free(density, params, data)
    last = climb(jax.value_and_grad(height), z, near, tries)
    moved, stayed = constrain(density, last.z, data), jnp.all(last.z == z)
    return {name: jnp.where(stayed, value, moved[name]) for name, value in params.items()}


def _replicates(em: EMResult, seeds: Sequence[Any], weights: str) -> Ended:
    """Every replicate from EM's mode to its stop, in batches of lanes.

    A batch runs a few steps; the lanes that need more are gathered and go on together.
    """
    mixture, most = em.mixture, int(em.settings["max_steps"])
    density, data = density_of(mixture), data_of(mixture)
    engine = Engine(density, plan_for(mixture))
    base = row_weights(mixture)
    size = int(np.clip(CELLS // base.size, 1, LANES))
    near, tries = _inverse_information(mixture, em.params)
    ended: dict[int, Any] = {}
    begin = dict.fromkeys(range(len(seeds)), em.params)
    until, taken = FIRST_STEPS, 0
    while begin:
        for batch in _batches(sorted(begin), size):
            params = {n: np.stack([begin[i][n] for i in batch]) for n in mixture.sites}
            factors = np.stack([_factors(seeds[i], base, weights) for i in batch])
            found = _lanes(engine, params, factors, data, near, tries, until)
            found = jax.tree.map(np.asarray, found)
            for lane, number in enumerate(batch):
                ended[number] = jax.tree.map(lambda value: value[lane], found)  # noqa: B023
        taken += until
        begin = {
            number: ended[number].params
            for number in begin
            if ended[number].stop == RUNNING and taken < most
        }
        until, tries = 4 * until, 0
    return jax.tree.map(lambda *values: np.stack(values), *(ended[i] for i in sorted(ended)))


def _batches(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of one size; the last is filled up with its own last number."""
    for start in range(0, len(numbers), size):
        batch = list(numbers[start : start + size])
        yield batch + batch[-1:] * (size - len(batch))


def _factors(seed: np.random.SeedSequence, base: np.ndarray, weights: str) -> np.ndarray:
    """What each row's weight is multiplied by in one replicate; their sum keeps its value."""
    rng, total = np.random.default_rng(seed), base.sum()
    drawn = (
        rng.standard_gamma(base)
        if weights == "dirichlet"
        else rng.multinomial(round(total), (base / total).ravel()).reshape(base.shape)
    )
    scaled = drawn * (total / drawn.sum())
    return np.divide(scaled, base, out=np.zeros(base.shape), where=base > 0)


def _inverse_information(mixture: Mixture, params: Params) -> tuple[np.ndarray, int]:
    """Inverse information in unconstrained coordinates, and how many points to try with it.

    None where it is not positive definite or the mode lies on the boundary of a support.
    """
    z = free_vector(mixture, params)
    if np.isfinite(z).all():
        found = bend_at(mixture, z, jacobian=False)
        if found.finite and not found.flat.any():
            curvature, axes, units = found.principal()
            if curvature.min() > SMALLEST:
                factor = units[:, None] * axes / np.sqrt(curvature)
                return factor @ factor.T, TRIES
    return np.zeros((z.size, z.size)), 0


# ------------------------------------------------------------------------------ what is returned


def _regular(mixture: Mixture, ended: Ended) -> tuple[np.ndarray, list[str]]:
    """Numbers of the replicates that ended at a regular mode; and notes about the others."""
    reasons = {}
    for number in range(len(ended.stop)):
        one = jax.tree.map(lambda value: value[number], ended)  # noqa: B023
        mode = judge(
            mixture,
            one.params,
            log_joint=float(one.log_joint),
            log_likelihood=float(one.log_likelihood),
            counts=one.counts,
            leaves=one.leaves,
            degenerate=int(one.stop) == DEGENERATE,
        )
        if not mode.regular:
            reasons[number] = mode.reason
    kept = np.array([number for number in range(len(ended.stop)) if number not in reasons], int)
    total, notes = len(ended.stop), []
    if not kept.size:
        raise ValueError(f"no replicate ended at a regular mode; of the first, {reasons[0]}")
    if reasons:
        notes.append(
            f"{len(reasons)} of {total} replicates ended at a mode that is not regular and are "
            f"left out, so the others understate the uncertainty (the first: "
            f"{next(iter(reasons.values()))})"
        )
    slow = int((ended.stop[kept] != CONVERGED).sum())
    if slow:
        notes.append(f"{slow} of {total} replicates did not converge: raise EM's max_steps")
    return kept, notes


def _named_like(em: EMResult, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The replicates with the names of EM's clusters: the best agreement of responsibilities."""
    mixture = em.mixture
    draws = len(next(iter(params.values())))
    weights = np.ones(mixture.N) if mixture.weights is None else mixture.weights.reshape(-1)

    def resp_of(some: np.ndarray) -> np.ndarray:
        return draw_responsibilities(mixture, {name: v[some] for name, v in params.items()})

    resp = Responsibilities(resp_of, (draws, mixture.N, mixture.K), weights)
    loss = disagreement(em.responsibilities.reshape(-1, mixture.K))
    return permute_draws(
        mixture, params, align(resp, loss, exchangeable(mixture, em.params))[0].perm
    )
