"""The climb from the prior to the posterior: begin, and one step from a temperature to the next."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from bayesmix.coordinates import unraveller
from bayesmix.density import Data, Density, data_of, density_of
from bayesmix.program import Mixture
from bayesmix.smc import cloud, kernel
from bayesmix.smc.naming import Places, Symmetry, places_of, symmetry_of
from bayesmix.smc.prior import draw_prior
from bayesmix.symmetry import exchangeable, log_order, permute_draws

ISLAND = 32  # survivors that an island needs
ISLANDS = (4, 16)
LOOKED_AT = 1024  # particles whose names and covariance are taken
LENGTH = 1.5  # of a trajectory, in standard deviations
LONGEST = 64  # leapfrog steps
TARGET = 0.8  # acceptance
GAIN = 4.0
ROUNDS = 8
LOST = 0.01  # share of the prior's mass, and so of the evidence, that rounding may take


class Frame(NamedTuple):
    """How particles move at one temperature: the places of names, the factor of coordinates."""

    places: Places
    factor: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """What stays the same: the densities, how many particles, and how they are laid out."""

    mixture: Mixture
    density: Density
    data: Data
    particles: int
    lanes: int
    size: int
    symmetry: Symmetry

    @cached_property
    def survivors(self) -> int:
        return self.particles // kernel.STEPS

    @cached_property
    def islands(self) -> int:
        return int(np.clip(self.survivors // ISLAND, *ISLANDS))

    def frame(self, key: Any, z: np.ndarray) -> Frame:
        """Names and coordinates for particles like these (S, n), from the first of them."""
        some = jnp.asarray(z[:LOOKED_AT], float)
        if self.symmetry.trivial:
            return Frame(Places(0.0, 1.0), cloud.factor_of(z[:LOOKED_AT]))
        found = np.asarray(kernel.looked_at(self.density, self.symmetry, some, self.data)[1])
        places = jax.tree.map(
            lambda part: jnp.asarray(part, float), places_of(found, self.symmetry.classes)
        )
        return Frame(places, cloud.factor_of(self.named(key, z[:LOOKED_AT], places)))

    def named(self, key: Any, z: np.ndarray, places: Places) -> np.ndarray:
        """The particles (S, n) under names drawn from p(names | particle)."""
        if self.symmetry.trivial:
            return z
        points = jnp.asarray(z, float)
        found = kernel.named(self.density, self.symmetry, key, points, places, self.data)
        return np.asarray(found, np.float64)

    def weigh(self, z: np.ndarray, places: Places) -> tuple[np.ndarray, np.ndarray]:
        """Log posterior of points (S, n) with Jacobian, and that of named points times |G|, nats.

        Neither is normalised; the mass of both is the evidence.
        """
        points = jnp.asarray(z, float)
        found = kernel.weigh(self.density, self.lanes, self.symmetry, points, places, self.data)
        lp, chance = (np.asarray(part, np.float64) for part in found)
        return lp, lp + chance + log_order(self.symmetry.classes)


class State(NamedTuple):
    """Particles at one temperature: z (J, m, n), ``prior`` and ``rest`` (J, m) of J islands.

    ``log_evidence`` (J,) of each island so far, nats. ``step_size`` is for the next temperature;
    ``acceptance`` and ``rounds`` tell how the particles came here from the one before.
    """

    key: Any
    temperature: float
    z: np.ndarray
    prior: np.ndarray
    rest: np.ndarray
    log_evidence: np.ndarray
    step_size: float
    acceptance: float
    rounds: int


def begin(mixture: Mixture, key: Any, particles: int) -> tuple[Problem, State]:
    """Draws from the prior: the posterior at temperature 0.

    Raises ValueError, naming a site, where many of them are too small or large for the precision.
    """
    density, data = density_of(mixture), data_of(mixture)
    key, key_prior = jax.random.split(key)
    drawn = {n: jnp.asarray(v, float) for n, v in draw_prior(mixture, key_prior, particles).items()}
    lanes = kernel.lanes_of(mixture, data, particles // kernel.STEPS)
    z, heights = jax.tree.map(_on_host, kernel.begin(density, lanes, drawn, data))
    held = np.isfinite(z).all(1) & np.isfinite(heights.prior)
    _refuse_lost(density, data, z, held)
    rest = np.where(held & np.isfinite(heights.rest), heights.rest, -np.inf)
    best = {name: np.asarray(value[rest.argmax()], np.float64) for name, value in drawn.items()}
    symmetry = symmetry_of(mixture, exchangeable(mixture, best))
    problem = Problem(mixture, density, data, particles, lanes, z.shape[1], symmetry)
    shape = (problem.islands, -1)
    return problem, State(
        key=key,
        temperature=0.0,
        z=z.reshape(*shape, z.shape[1]),
        prior=heights.prior.reshape(shape),
        rest=rest.reshape(shape),
        log_evidence=np.zeros(problem.islands),
        step_size=z.shape[1] ** -0.25,
        acceptance=1.0,
        rounds=0,
    )


def _refuse_lost(density: Density, data: Data, z: np.ndarray, held: np.ndarray) -> None:
    """Draws (S, n) that are not ``held`` (S,) cannot move: without many, the prior is another."""
    share = 1 - held.mean()
    if share <= LOST:
        return
    loose = unraveller(density, data)(jnp.asarray(z[~held][0], float))
    names = [name for name, value in loose.items() if not np.isfinite(value).all()]
    raise ValueError(
        f"{share:.0%} of the draws from the prior of site {', '.join(map(repr, names or loose))} "
        "are too near the edge of its support for the precision, so the evidence would be wrong: "
        'use dtype="float64", or a prior with less mass at the edge (Dirichlet or Gamma with a '
        "larger concentration)"
    )


def step(problem: Problem, state: State, rng: np.random.Generator) -> State:
    """Reweight to the next temperature, resample within islands, and move.

    The survivors move STEPS times and all their states are particles of the next temperature
    (waste-free). Until they have forgotten where they began, they move STEPS times more.
    Source: Dau & Chopin (2022), J. R. Stat. Soc. B 84(1), algorithm 2; islands: Verge et al.
    (2015), Stat. Comput. 25.
    """
    share = state.log_evidence - logsumexp(state.log_evidence)
    temperature = cloud.next_temperature(state.temperature, share, state.rest)
    log_weight = (temperature - state.temperature) * state.rest
    gained = logsumexp(log_weight, axis=1) - np.log(log_weight.shape[1])
    here = cloud.survivors(rng, log_weight, problem.survivors // problem.islands)
    z = np.take_along_axis(state.z, here[..., None], 1).reshape(-1, problem.size)
    key, key_frame = jax.random.split(state.key)
    frame = problem.frame(key_frame, rng.permutation(z))
    origin, step_size, rounds, forgotten = None, state.step_size, 0, False
    while not forgotten and rounds < ROUNDS:
        key, key_move = jax.random.split(key)
        moved = _move(problem, key_move, z, temperature, frame, step_size)
        origin = moved.start if origin is None else origin
        acceptance = float(moved.acceptance.mean())
        step_size *= float(np.exp(GAIN * (acceptance - TARGET)))
        forgotten = cloud.settled(origin, moved.z, frame.factor)
        z, rounds = moved.z[:, -1], rounds + 1
    shape = (problem.islands, -1)
    return State(
        key=key,
        temperature=temperature,
        z=moved.z.reshape(*shape, problem.size),
        prior=moved.heights.prior.reshape(shape),
        rest=moved.heights.rest.reshape(shape),
        log_evidence=state.log_evidence + gained,
        step_size=step_size,
        acceptance=acceptance,
        rounds=rounds,
    )


def _move(
    problem: Problem, key: Any, z: np.ndarray, temperature: float, frame: Frame, size: float
) -> kernel.Moved:
    leaps = int(np.clip(np.ceil(LENGTH / size), 1, LONGEST))
    numbers = (jnp.asarray(part, float) for part in (temperature, frame.factor, size))
    moved = kernel.move(
        problem.density,
        problem.lanes,
        problem.symmetry,
        key,
        jnp.asarray(z, float),
        frame.places,
        *numbers,
        leaps,
        problem.data,
    )
    return jax.tree.map(_on_host, moved)


def _on_host(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64)


def last(
    problem: Problem, key: Any, z: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Points (S, n) of the posterior as {site: (S, *shape)}, and the factor of their coordinates.

    Names that the program lets clusters exchange are drawn anew, all alike likely.
    """
    density, symmetry, data = problem.density, problem.symmetry, problem.data
    drawn = kernel.looked_at(density, symmetry, jnp.asarray(z, float), data)[0]
    params = {name: np.asarray(drawn[name], np.float64) for name in problem.mixture.sites}
    perm = np.tile(np.arange(problem.mixture.K), (len(z), 1))
    for members in map(list, symmetry.classes):
        perm[:, members] = rng.permuted(perm[:, members], axis=1)
    return permute_draws(problem.mixture, params, perm), problem.frame(key, z).factor
