"""Laplace's approximation of one mode, in unconstrained coordinates.

The density that a sampler sees is the log joint over unconstrained coordinates z, with the
Jacobian; its mode is not EM's (the mode over the constrained sites): a few Newton steps lead from
the one to the other. ``Geometry`` is that mode with the Gaussian that fits it best.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from bayesmix.coordinates import from_free, unraveller
from bayesmix.curvature import SMALLEST, Bend, bend_at, evaluate, free_vector
from bayesmix.density import cached, data_of, density_of
from bayesmix.density.layout import kink_movers
from bayesmix.expansion import Progress, quiet
from bayesmix.program import Mixture, Params
from bayesmix.saved import digest

NEWTON_STEPS = 50
HALVINGS = 30
INSIDE = 4.0
BEYOND = 1e3
FAR = 1e300
FEW = 2**16  # rows that are enough for a metric
KINK = "the log density has a kink there, at the components' location, and no curvature"


@dataclass(frozen=True)
class Geometry:
    """The unconstrained mode: ``z`` (n,), ``factor`` (n, n) with covariance factor factor'.

    ``params`` are its constrained values and ``sd`` their standard deviations by the delta method,
    {site: array}. ``log_density`` there in nats, Jacobian included; ``log_evidence`` is Laplace's
    approximation of the mass of this one mode (no factor for relabelled copies). ``condition`` is
    the condition number of the Hessian in coordinates where its diagonal is 1.
    """

    z: np.ndarray
    factor: np.ndarray
    params: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    log_density: float
    log_evidence: float
    condition: float


class Evidence(NamedTuple):
    """Laplace's evidence of one mode in nats, and how nearly singular its Hessian is.

    Where there is no proper maximum: -inf and inf, and ``reason`` says why.
    """

    log_evidence: float
    condition: float
    reason: str


def log_evidence(mixture: Mixture, params: Params) -> Evidence:
    """Mass of the mode next to ``params`` by Laplace's approximation, one copy of it, in nats.

    Add log of the number of permutations that the program allows for all its copies. A program with
    flat priors has no evidence; differences between its modes still compare their masses.
    """
    with jax.enable_x64(True):
        geometry, reason = None, KINK
        if not kink_movers(mixture):
            geometry, reason = climb(mixture, params)
    if geometry is None:
        return Evidence(-np.inf, np.inf, reason)
    return Evidence(geometry.log_evidence, geometry.condition, "")


def geometry_at(mixture: Mixture, params: Params, progress: Progress = quiet) -> Geometry | None:
    """The unconstrained mode near ``params``; None where there is no proper maximum. Needs x64.

    Climbed to once per mixture and params. Of many rows, FEW give its factor: that of a metric;
    unless they say that there is no maximum.
    """
    name = f"geometry at {digest(*(np.asarray(params[site], float) for site in mixture.sites))}"

    def climbed() -> Geometry | None:
        some = climb(mixture, params, FEW, progress)[0] if mixture.N > FEW else None
        return some or climb(mixture, params, progress=progress)[0]

    return cached(mixture, name, climbed)


def climb(
    mixture: Mixture, params: Params, rows: int | None = None, progress: Progress = quiet
) -> tuple[Geometry | None, str]:
    """The unconstrained mode near ``params``, or None and why not. Needs x64.

    Damped Newton: directions of wrong curvature are turned uphill, steps halved until the log
    density rises. rows : as in ``bend_at``.
    """
    bend = partial(bend_at, rows=rows, progress=progress)
    here = _inside(mixture, free_vector(mixture, params), bend)
    for _ in range(NEWTON_STEPS):
        if not here.finite:
            return None, "the log density is not finite there"
        if here.flat.any():
            return None, "the log density is flat in some direction: no proper maximum"
        curvature, axes, units = here.principal()
        slope = axes.T @ (units * here.gradient)
        size = np.maximum(np.abs(curvature), SMALLEST)
        there = None
        if slope @ (slope / size) >= 1e-10 * (1 + abs(here.value)):
            there = _rise(mixture, here, units * (axes @ (slope / size)), bend)
        if there is None:
            return _gaussian(here, curvature, axes, units)
        here = there
    return None, "Newton's steps did not settle on a maximum"


def _inside(mixture: Mixture, z: np.ndarray, bend: Callable[..., Bend]) -> Bend:
    """The log density around ``z``, drawn in where EM's mode has a probability of 0 or 1.

    Such a value is infinitely far out in ``z``, but the unconstrained mode is not. Other values
    that far out (a scale of 0) stay: there the cluster is singular.
    """
    if np.isfinite(z).all():
        here = bend(mixture, z)
        if not here.flat.any():
            return here
        drawn_in = here.flat & _bounded(mixture, z.size)
    else:
        drawn_in = _bounded(mixture, z.size)
    z = np.nan_to_num(z, posinf=BEYOND, neginf=-BEYOND)
    return bend(mixture, np.where(drawn_in, np.clip(z, -INSIDE, INSIDE), z))


def _bounded(mixture: Mixture, n: int) -> np.ndarray:
    """Which unconstrained coordinates belong to sites whose values are bounded, (n,)."""
    density, data = density_of(mixture), data_of(mixture)
    owner = unraveller(density, data)(np.arange(n, dtype=float))
    far = from_free(density, np.full(n, FAR), data)
    bounded = np.zeros(n, bool)
    for name in mixture.sites:
        bounded[np.asarray(owner[name], int)] = (np.abs(np.asarray(far[name])) < FAR).all()
    return bounded


def _rise(mixture: Mixture, here: Bend, move: np.ndarray, bend: Callable[..., Bend]) -> Bend | None:
    """The first of z + move, z + move / 2, ... where the log density is higher; None if none is."""
    there = bend(mixture, here.z + move, here.steps)
    if there.value > here.value:
        return there
    points = here.z + move / 2.0 ** np.arange(1, HALVINGS)[:, None]
    higher = evaluate(mixture, points)[0] > here.value
    return bend(mixture, points[higher.argmax()], here.steps) if higher.any() else None


def _gaussian(
    here: Bend, curvature: np.ndarray, axes: np.ndarray, units: np.ndarray
) -> tuple[Geometry | None, str]:
    if not curvature.min() > SMALLEST:
        return None, "the Hessian is not negative definite: no proper maximum"
    log_volume = np.log(units).sum() - 0.5 * np.log(curvature).sum()
    log_evidence = here.value + 0.5 * here.z.size * np.log(2 * np.pi) + log_volume
    factor = units[:, None] * axes / np.sqrt(curvature)
    return Geometry(
        z=here.z,
        factor=factor,
        params=here.params,
        sd=here.spread(factor),
        log_density=here.value,
        log_evidence=float(log_evidence),
        condition=float(curvature.max() / curvature.min()),
    ), ""


def unconstrained_mode(mixture: Mixture, params: Params) -> dict[str, np.ndarray] | None:
    """Where the mode over unconstrained coordinates lies, as constrained params, or None."""
    with jax.enable_x64(True):
        geometry = geometry_at(mixture, params)
    return None if geometry is None else geometry.params


def refuse_improper(mixture: Mixture, method: str) -> None:
    """Raise ValueError, naming the site, where an improper prior leaves the posterior improper."""
    for site in mixture.sites.values():
        if site.improper:
            raise ValueError(
                f"site {site.name!r} has an improper prior (ImproperUniform), so the posterior of "
                "a mixture is improper too (an empty cluster leaves it undetermined): give it a "
                f"proper prior for {method}; EM accepts it"
            )
