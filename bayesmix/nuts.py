"""NUTS: the full posterior of any traced mixture, on the same log joint as EM.

The kernel is NumPyro's; its potential runs through the fast sweep. Chains start around EM's regular
modes, spread by the local curvature, and move in coordinates whitened by the Hessian at the best
mode, so that a short warm-up of the step size is enough. Functions are compiled once per program
and shapes: another run, or another data set of the same shape, compiles nothing.
"""

import time
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from bayesmix.coordinates import free_log_density, from_free, to_free
from bayesmix.curvature import evaluate
from bayesmix.density import Data, Density, data_of, density_of
from bayesmix.draws import evaluate_draws
from bayesmix.effort import SAMPLE, cells_of, compiled
from bayesmix.em import EM
from bayesmix.estimate import EMResult
from bayesmix.laplace import geometry_at, refuse_improper
from bayesmix.predict import Simulated, brought_near, simulate_posterior, with_data
from bayesmix.program import Mixture, trace
from bayesmix.symmetry import aligned, permute_draws

BLOCK = 100
COMPARABLE = np.log(100.0)
ADAPTED_WARMUP = 300
PLAIN_WARMUP = 1000

STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "lp": "potential_energy",
    "n_steps": "num_steps",
    "acceptance_rate": "accept_prob",
}


@dataclass(frozen=True)
class Frame:
    """Affine coordinates u of the sampler: z = centre + factor u."""

    centre: np.ndarray
    factor: np.ndarray


@lru_cache(maxsize=32)
def _machine(density: Density, warmup: int, target: float) -> tuple[Any, Any]:
    """Compiled (begin, advance) of all chains for one program; they hold no data."""

    def potential(data: Data, centre: Any, factor: Any) -> Any:
        return lambda u: -free_log_density(density, centre + factor @ u, data)

    init_kernel, sample_kernel = hmc(potential_fn_gen=potential, algo="NUTS")

    @compiled(lambda keys, start, data, *_: cells_of(data), static=(), effort=SAMPLE)
    def begin(keys: Any, start: ParamInfo, data: Data, centre: Any, factor: Any) -> Any:
        def one(key: Any, start: ParamInfo) -> Any:
            return init_kernel(
                start,
                warmup,
                step_size=0.5,
                target_accept_prob=target,
                model_args=(data, centre, factor),
                rng_key=key,
            )

        return jax.vmap(one)(keys, start)

    @compiled(lambda states, count, data, *_: cells_of(data), static=(), effort=SAMPLE)
    def advance(states: Any, count: Any, data: Data, centre: Any, factor: Any) -> Any:
        """``count`` (at most BLOCK) transitions of every chain; draws (BLOCK, chain, ...)."""

        def once(i: Any, carry: Any) -> Any:
            states, kept = carry
            states = jax.vmap(lambda s: sample_kernel(s, (data, centre, factor)))(states)
            return states, jax.tree.map(lambda a, b: a.at[i].set(b), kept, _noted(states))

        like = jax.tree.map(lambda a: jnp.zeros((BLOCK, *a.shape), a.dtype), _noted(states))
        return jax.lax.fori_loop(0, count, once, (states, like))

    return begin, advance


def _noted(states: Any) -> dict[str, Any]:
    noted = {name: getattr(states, source) for name, source in STATS.items()}
    return noted | {"u": states.z, "step_size": states.adapt_state.step_size}


@lru_cache(maxsize=32)
def _constrainer(density: Density) -> Any:
    @compiled(lambda u, data, *_: cells_of(data), static=())
    def constrain(u: Any, data: Data, centre: Any, factor: Any) -> Any:
        return jax.lax.map(lambda one: from_free(density, centre + factor @ one, data), u)

    return constrain


@dataclass(frozen=True, eq=False)
class NUTSResult:
    """Posterior draws: ``samples`` {site: (chain, draw, *shape)}, NumPy, float64.

    ``sample_stats`` holds "lp" (the log density the sampler saw, Jacobian included, nats),
    "diverging", "energy", "n_steps", "acceptance_rate", "step_size", each (chain, draw).
    ``start_policy`` says how the chains began, which is what R-hat must be read with.
    """

    mixture: Mixture
    samples: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    start: EMResult | None
    start_policy: str
    notes: tuple[str, ...]
    seconds: float
    seed: str
    settings: dict[str, Any] = field(repr=False)

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """{site: (chain * draw, *shape)}, or (chain, draw, *shape) with ``group_by_chain``."""
        if group_by_chain:
            return dict(self.samples)
        return {name: v.reshape(-1, *v.shape[2:]) for name, v in self.samples.items()}

    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree with original labels; see ``bayesmix.posterior.nuts_tree``."""
        from bayesmix.posterior import nuts_tree

        return nuts_tree(self, **kwargs)

    @cached_property
    def _relabelled(self) -> Any:
        """The DataTree with every draw's clusters named as the pivot's."""
        from bayesmix.relabel import relabel

        return relabel(self.to_datatree(), mixture=self.mixture)

    def summary(self) -> Any:
        """ArviZ's summary of the relabelled draws: a DataFrame."""
        from bayesmix.diagnose.numbers import summary

        return summary(self._relabelled)

    def report(self) -> str:
        """Whether the draws may be trusted, in words; `bm.diagnose` gives the numbers as well."""
        from bayesmix.diagnose import diagnose

        return str(diagnose(self._relabelled, mixture=self.mixture))

    def predict_proba(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Responsibilities averaged over the relabelled posterior, (*rows, K); new data as args."""
        new = brought_near(with_data(self.mixture, args, kwargs))
        return evaluate_draws(new, self._aligned())["mean_responsibilities"]

    def _aligned(self) -> dict[str, np.ndarray]:
        """The samples with every draw's clusters named as the pivot's."""
        perm = np.asarray(self._relabelled["relabelling"]["permutation"])
        return permute_draws(self.mixture, self.samples, perm)

    def log_density(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Log posterior predictive density of each row of new data, (*rows), in nats."""
        new = with_data(self.mixture, args, kwargs)
        pointwise = evaluate_draws(new, self.samples)["log_likelihood"]
        return np.logaddexp.reduce(pointwise, axis=(0, 1)) - np.log(np.prod(pointwise.shape[:2]))

    def sample(self, key: Any, n: int) -> Simulated:
        """``n`` new observations from the posterior predictive, (n, *event), in data units.

        {observed site: array} where several share an assignment.
        """
        return simulate_posterior(key, self.mixture, self.samples, n)

    def __repr__(self) -> str:
        lines = [
            f"NUTS of {self.mixture.name!r}: {self.mixture.K} {self.mixture.family}, "
            f"{self.mixture.N} rows",
            f"{_shape(self)} draws in {self.seconds:.1f} s, "
            f"{int(self.sample_stats['diverging'].sum())} divergences",
            self.start_policy,
            *(f"note: {note}" for note in self.notes),
            "summary() for the relabelled posterior, report() for the verdict, "
            "to_datatree() for ArviZ",
        ]
        return "\n".join(lines)


def _shape(result: NUTSResult) -> str:
    chains, draws = next(iter(result.samples.values())).shape[:2]
    return f"{chains} chains x {draws}"


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
        frame, points, policy, notes = self._starts(mixture, em, key_start)
        with jax.enable_x64(self.dtype == "float64"):
            samples, stats = self._sample(key, mixture, frame, points, em is not None)
        notes += _divergences(stats)
        return NUTSResult(
            mixture=mixture,
            samples=samples,
            sample_stats=stats,
            start=em,
            start_policy=policy,
            notes=tuple(notes),
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

    def _starts(
        self, mixture: Mixture, em: EMResult | None, key: Any
    ) -> tuple[Frame, np.ndarray, str, list[str]]:
        """The sampler's coordinates, every chain's first point there, and the words for it."""
        with jax.enable_x64(True):
            if em is None:
                return _from_prior(mixture, key, self.chains)
            return _from_modes(mixture, em, key, self.chains)

    def _sample(
        self, key: Any, mixture: Mixture, frame: Frame, points: np.ndarray, geometry: bool
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        density, data = density_of(mixture), data_of(mixture)
        warmup = self._warmup(geometry)
        begin, advance = _machine(density, warmup, self.target_accept)
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
        flat = _constrainer(density)(u.reshape(-1, u.shape[-1]), data, centre, factor)
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


# ------------------------------------------------------------------------------------- starts


def _from_prior(
    mixture: Mixture, key: Any, chains: int
) -> tuple[Frame, np.ndarray, str, list[str]]:
    density, data = density_of(mixture), data_of(mixture)
    args, kwargs = mixture.arguments.rebuild(mixture.arguments.arrays)

    def one(key: Any) -> jax.Array:
        hidden = [site.name for site in mixture.observed]
        seeded = handlers.seed(handlers.block(mixture.marginal, hide=hidden), key)
        found = handlers.trace(seeded).get_trace(*args, **kwargs)
        return to_free(density, {name: found[name]["value"] for name in mixture.sites}, data)

    points = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, chains)))
    n = points.shape[1]
    policy = (
        f"starts: {chains} draws from the prior, ordinary adaptation; R-hat compares chains that "
        "began far apart"
    )
    return Frame(np.zeros(n), np.eye(n)), points, policy, []


def _from_modes(
    mixture: Mixture, em: EMResult, key: Any, chains: int
) -> tuple[Frame, np.ndarray, str, list[str]]:
    """Chains shared out over EM's regular modes of comparable mass, spread by their curvature."""
    regular = [mode for mode in em.modes if mode.regular] or [em.modes[0]]
    found = [(mode, geometry_at(mixture, mode.params)) for mode in regular[:8]]
    known = [(mode, geometry) for mode, geometry in found if geometry is not None]
    if not known:
        return _without_curvature(mixture, em, key, chains)
    top = max(geometry.log_evidence for _, geometry in known)
    known = [pair for pair in known if pair[1].log_evidence > top - COMPARABLE]
    known.sort(key=lambda pair: -pair[1].log_evidence)
    best = known[0][1]
    share = _shares([geometry.log_evidence for _, geometry in known], chains)
    inverse = np.linalg.inv(best.factor)
    points = []
    for number, chain_key in zip(share, jax.random.split(key, chains), strict=True):
        geometry = known[number][1]
        if number:
            same_names = aligned(mixture, geometry.params, em.params)
            geometry = geometry_at(mixture, same_names) or geometry
        spread = geometry.factor @ np.asarray(jax.random.normal(chain_key, (geometry.z.size,)))
        points.append(inverse @ (geometry.z + spread - best.z))
    policy = _policy(len(known), chains)
    return Frame(best.z, best.factor), np.stack(points), policy, []


def _policy(modes: int, chains: int) -> str:
    where = (
        "around EM's best mode"
        if modes == 1
        else f"shared out over EM's {modes} modes of comparable mass"
    )
    return (
        f"starts: {chains} chains {where}, spread by the local curvature; R-hat then says nothing "
        'about modes that EM never saw (start="prior" begins far apart)'
    )


def _without_curvature(
    mixture: Mixture, em: EMResult, key: Any, chains: int
) -> tuple[Frame, np.ndarray, str, list[str]]:
    density, data = density_of(mixture), data_of(mixture)
    z = np.asarray(to_free(density, {n: jnp.asarray(v) for n, v in em.params.items()}, data))
    points = z + 0.01 * np.asarray(jax.random.normal(key, (chains, z.size)))
    note = (
        "the log density has no proper maximum near EM's mode (its Hessian is not negative "
        "definite), so the chains use NumPyro's ordinary adaptation"
    )
    return Frame(np.zeros(z.size), np.eye(z.size)), points, _policy(1, chains), [note]


def _shares(log_evidence: list[float], chains: int) -> list[int]:
    """Which mode each chain starts at: one each while there are chains, the rest by mass."""
    mass = np.exp(np.array(log_evidence) - max(log_evidence))
    counts = np.zeros(len(mass), int)
    for _ in range(chains):
        counts[np.argmax(mass / mass.sum() * chains - counts + (counts == 0) * chains)] += 1
    return [int(number) for number in np.repeat(np.arange(len(mass)), counts)]


def _divergences(stats: dict[str, np.ndarray]) -> list[str]:
    count = int(stats["diverging"].sum())
    if count == 0:
        return []
    return [
        f"{count} of {stats['diverging'].size} transitions diverged: the sampler could not follow "
        "the density somewhere, often where a scale goes to zero; a prior that vanishes at 0 or a "
        "higher target_accept helps"
    ]
