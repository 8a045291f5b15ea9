"""Where the chains begin, and the coordinates in which they move."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from bayesmix.coordinates import free, to_free
from bayesmix.curvature import free_vector
from bayesmix.density import data_of, density_of
from bayesmix.density.layout import kink_movers
from bayesmix.estimate import EMResult
from bayesmix.expansion import Progress
from bayesmix.laplace import KINK, Geometry, geometry_at
from bayesmix.program import Mixture
from bayesmix.smc import SMCResult
from bayesmix.symmetry import aligned

COMPARABLE = np.log(100.0)
MOST = 8  # modes whose shape is looked at
IMPROPER = "the log density has no proper maximum near it (its Hessian is not negative definite)"


class Frame(NamedTuple):
    """Affine coordinates u of the sampler: z = centre + factor u."""

    centre: np.ndarray
    factor: np.ndarray


class Starts(NamedTuple):
    """The sampler's coordinates, every chain's first point there, and the words for it.

    points : (chain, n). whitened : whether the coordinates have about unit scale.
    policy : how the chains began. notes : what the user should know.
    """

    frame: Frame
    points: np.ndarray
    whitened: bool
    policy: str
    notes: tuple[str, ...] = ()

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, as a record keeps it."""
        return {
            "centre": self.frame.centre,
            "factor": self.frame.factor,
            "points": self.points,
            "whitened": np.array(self.whitened),
            "policy": np.array(self.policy),
            "notes": np.array(self.notes, dtype=str),
        }

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "Starts":
        """The inverse of ``arrays``."""
        frame = Frame(arrays["centre"], arrays["factor"])
        return cls(
            frame,
            arrays["points"],
            bool(arrays["whitened"]),
            str(arrays["policy"]),
            tuple(arrays["notes"].tolist()),
        )


def words_of(key: Any) -> list[int]:
    """A JAX random key as whole numbers, which seed NumPy's generators."""
    return np.asarray(jax.random.key_data(key)).ravel().tolist()


def starts_of(
    mixture: Mixture,
    known: EMResult | SMCResult | None,
    key: Any,
    chains: int,
    progress: Progress,
) -> Starts:
    """First points around EM's modes, or at SMC's particles; without either, from the prior."""
    with jax.enable_x64(True):
        if known is None:
            return _from_prior(mixture, key, chains)
        if isinstance(known, SMCResult):
            return _from_particles(mixture, known, key, chains)
        return _from_modes(mixture, known, key, chains, progress)


def _from_particles(mixture: Mixture, smc: SMCResult, key: Any, chains: int) -> Starts:
    """Particles at random, so that each mode gets chains by its probability, on average."""
    count = len(smc.sample_stats["lp"])
    rng = np.random.default_rng(words_of(key))
    chosen = rng.choice(count, chains, replace=chains > count)
    z = np.stack(
        [free_vector(mixture, {n: v[one] for n, v in smc.params.items()}) for one in chosen]
    )
    frame = Frame(z.mean(0), smc.factor)
    policy = (
        f"starts: {chains} particles of SMC; the chains sit in each mode by its probability only "
        "as far as so few can"
    )
    return Starts(frame, np.linalg.solve(smc.factor, (z - frame.centre).T).T, True, policy)


def _from_prior(mixture: Mixture, key: Any, chains: int) -> Starts:
    density, data = density_of(mixture), data_of(mixture)
    args, kwargs = mixture.arguments.rebuild(mixture.arguments.arrays)

    def one(key: Any) -> jax.Array:
        hidden = [site.name for site in mixture.observed]
        seeded = handlers.seed(handlers.block(mixture.marginal, hide=hidden), key)
        found = handlers.trace(seeded).get_trace(*args, **kwargs)
        return free(density, {name: found[name]["value"] for name in mixture.sites}, data)

    points = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, chains)))
    n = points.shape[1]
    policy = (
        f"starts: {chains} draws from the prior, ordinary adaptation; R-hat compares chains that "
        "began far apart"
    )
    return Starts(Frame(np.zeros(n), np.eye(n)), points, False, policy)


def _from_modes(
    mixture: Mixture, em: EMResult, key: Any, chains: int, progress: Progress
) -> Starts:
    """Chains shared out over EM's regular modes of comparable mass, spread by their curvature."""
    if kink_movers(mixture):
        return _without_curvature(mixture, em, key, chains, KINK)
    known, left_out = _shapes(mixture, em, progress)
    if not known:
        return _without_curvature(mixture, em, key, chains, IMPROPER)
    best = known[0]
    share = _shares([geometry.log_evidence for geometry in known], chains)
    inverse = np.linalg.inv(best.factor)
    points = []
    rng = np.random.default_rng(words_of(key))
    for number in share:
        geometry = known[number]
        if number:
            same_names = aligned(mixture, geometry.params, em.params)
            geometry = geometry_at(mixture, same_names, progress) or geometry
        spread = geometry.factor @ rng.standard_normal(geometry.z.size)
        points.append(inverse @ (geometry.z + spread - best.z))
    policy = _policy(len(known), chains) + left_out
    return Starts(Frame(best.z, best.factor), np.stack(points), True, policy)


def _shapes(mixture: Mixture, em: EMResult, progress: Progress) -> tuple[list[Geometry], str]:
    """The shapes of EM's regular modes of comparable mass, the heaviest first; and, in words, the
    modes that were not looked at.

    Around a mode the likelihood is averaged over the prior, so its mass is at most its likelihood
    (exactly so where both are Gaussian). Modes whose likelihood is below a hundredth of another's
    evidence are passed over.
    """
    regular = [number for number, mode in enumerate(em.modes) if mode.regular] or [0]
    found: list[Geometry] = []
    top, light = -np.inf, []
    for place, number in enumerate(regular[:MOST]):
        if em.modes[number].log_likelihood < top - COMPARABLE:
            light.append(number)
            continue
        text = f"mode {place + 1} of {min(len(regular), MOST)}"
        named = partial(_of_mode, progress, text)
        geometry = geometry_at(mixture, em.modes[number].params, named)
        if geometry is not None:
            found.append(geometry)
            top = max(top, geometry.log_evidence)
    heavy = [geometry for geometry in found if geometry.log_evidence > top - COMPARABLE]
    said = _left_out(light, top - max((em.modes[n].log_likelihood for n in light), default=0))
    if len(regular) > MOST:
        said += f"; of {len(regular)} regular modes the {MOST} highest were looked at"
    return sorted(heavy, key=lambda geometry: -geometry.log_evidence), said


def _of_mode(progress: Progress, mode: str, items: Any, text: str) -> Any:
    return progress(items, f"{text} of {mode}")


def _left_out(numbers: list[int], nats: float) -> str:
    if not numbers:
        return ""
    which = ", ".join(map(str, numbers))
    modes, whose = ("mode", "its likelihood is") if len(numbers) == 1 else ("modes", "theirs are")
    return (
        f"; no chain begins at EM's {modes} {which}: the mass of a mode is at most its likelihood, "
        f"and {whose} at least {nats:.0f} nats below the best mode's mass"
    )


def _policy(modes: int, chains: int, spread: str = "spread by the local curvature") -> str:
    where = (
        "around EM's best mode"
        if modes == 1
        else f"shared out over EM's {modes} modes of comparable mass"
    )
    return (
        f"starts: {chains} chains {where}, {spread}; R-hat then says nothing about modes that EM "
        'never saw (start="prior" begins far apart)'
    )


def _without_curvature(mixture: Mixture, em: EMResult, key: Any, chains: int, why: str) -> Starts:
    density, data = density_of(mixture), data_of(mixture)
    z = np.asarray(to_free(density, {n: jnp.asarray(v) for n, v in em.params.items()}, data))
    points = z + 0.01 * np.random.default_rng(words_of(key)).standard_normal((chains, z.size))
    note = f"EM's mode: {why}, so the chains use NumPyro's ordinary adaptation"
    frame = Frame(np.zeros(z.size), np.eye(z.size))
    return Starts(frame, points, False, _policy(1, chains, "close together"), (note,))


def _shares(log_evidence: list[float], chains: int) -> list[int]:
    """Which mode each chain starts at: one each while there are chains, the rest by mass."""
    mass = np.exp(np.array(log_evidence) - max(log_evidence))
    counts = np.zeros(len(mass), int)
    for _ in range(chains):
        counts[np.argmax(mass / mass.sum() * chains - counts + (counts == 0) * chains)] += 1
    return [int(number) for number in np.repeat(np.arange(len(mass)), counts)]
