"""How the log joint bends around a point: value, gradient and Hessian in unconstrained coordinates.

The Hessian is a difference of closed-form gradients, so that one compiled function, value and
gradient at a block of points, serves Newton's steps, Laplace's evidence, importance weights and
standard errors alike. The steps of the differences are measured, not assumed: over each of them the
log density bends by about 1e-8 nats, whatever the units of the data. Where passes over the rows are
long, the log likelihood of the differences is its expansion to second order around the point.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.coordinates import constrain_with_jacobian, from_free, to_free
from bayesmix.density import Data, Density, data_of, density_of
from bayesmix.density.layout import kink_movers
from bayesmix.effort import LONG, SAMPLE, cells_of, compiled
from bayesmix.expansion import Expansion, Progress, expandable, expanded, quiet
from bayesmix.program import Mixture, Params

BEND = 1e-8
BLOCK = 16
CELLS = 2**20
CALL = 5e7  # rows x clusters of all passes of one compiled call: about a second
FIRST_STEP = 1e-4
SHORTEST, LONGEST = 1e-12, 1e6  # steps, of the coordinate: shorter ones are lost in its rounding
ROUNDS = 12
NEWTON = 4  # blocks of points, about, that finding a mode and its curvature takes
SETTLED = 0.01
SMALLEST = 1e-8


class Bend(NamedTuple):
    """The log density around ``z`` (n,), in nats: value (), gradient (n,), hessian (n, n).

    ``params`` {site: (*shape)} are the constrained values and ``slopes`` {site: (n, *shape)} their
    derivatives; ``steps`` (n,) the steps of the differences. ``flat`` (n,): coordinates along which
    no step was found over which it bends as it should.
    """

    z: np.ndarray
    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    params: dict[str, np.ndarray]
    slopes: dict[str, np.ndarray]
    steps: np.ndarray
    flat: np.ndarray

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.gradient).all() and np.isfinite(self.hessian).all())

    def principal(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Curvatures (n,), axes (n, n) and units (n,): -hessian where its diagonal is 1."""
        units = 1 / np.sqrt(np.where(self.flat, 1.0, np.abs(np.diag(self.hessian))))
        return *np.linalg.eigh(-self.hessian * np.outer(units, units)), units

    def spread(self, factor: np.ndarray) -> dict[str, np.ndarray]:
        """Standard deviations of the constrained values when z has covariance factor factor'."""
        return {
            name: np.sqrt(np.sum(np.tensordot(factor.T, slope, 1) ** 2, axis=0))
            for name, slope in self.slopes.items()
        }


@compiled(lambda density, lanes, points, data, *_: cells_of(data), static=(0, 1), moderate=SAMPLE)
def _block(
    density: Density, lanes: int, points: Any, data: Data, jacobian: Any, near: Expansion | None
) -> Any:
    """Values, gradients and constrained params at every point, ``lanes`` points side by side.

    near : an expansion that stands for the rows.
    """

    def one(z: jax.Array) -> Any:
        def height(z: jax.Array) -> tuple[jax.Array, Params]:
            params, volume = constrain_with_jacobian(density, z, data)
            if near is None:
                return density.log_joint(params, data) + jacobian * volume, params
            fit = near(*density.natural(params, data))
            return density.log_prior(params, data) + fit + jacobian * volume, params

        return jax.value_and_grad(height, has_aux=True)(z)

    return jax.lax.map(one, points, batch_size=lanes)


def evaluate(
    mixture: Mixture,
    points: np.ndarray,
    jacobian: bool = True,
    near: Expansion | None = None,
    progress: Progress = quiet,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Log densities (m,), gradients (m, n) and constrained values at unconstrained points (m, n).

    With the log Jacobian, or without: the density of the constrained sites. In the ambient
    precision. Any number of points runs through the same compiled code, in blocks.
    """
    density, data = density_of(mixture), data_of(mixture)
    total, n = points.shape
    passed = _rows(mixture) if near is None else 1
    size, lanes = _at_once(mixture, n, passed)
    if near is not None:
        data = data._replace(rows=data.rows._replace(z=None, weights=None))
    padded = np.concatenate([points, np.repeat(points[:1], -total % size, 0)])
    weight = 1.0 if jacobian else 0.0
    work = NEWTON * (2 * n + 1) * passed * mixture.K
    blocks = progress(padded.reshape(-1, size, n), "log densities")
    parts = [
        jax.tree.map(
            np.asarray,
            _block(density, lanes, jnp.asarray(some, float), data, weight, near, work=work),
        )
        for some in blocks
    ]
    joined = jax.tree.map(lambda *values: np.concatenate(values)[:total], *parts)
    (values, params), gradients = joined
    return values, gradients, params


def seconds_of(mixture: Mixture, points: np.ndarray) -> float:
    """Seconds of one value with its gradient, measured at points (m, n) that were evaluated."""
    size = _at_once(mixture, points.shape[1], _rows(mixture))[0]
    began = time.perf_counter()
    evaluate(mixture, points)
    return (time.perf_counter() - began) / (-(-len(points) // size) * size)


def _rows(mixture: Mixture) -> int:
    """Rows of a pass: of repeated ones, the distinct ones."""
    held = np.size(getattr(data_of(mixture).rows, "weights", 0))
    return held if held > 1 else mixture.N


def _at_once(mixture: Mixture, n: int, passed: int) -> tuple[int, int]:
    """Points of one compiled call, and how many go side by side; so many rows are passed."""
    rows = min(density_of(mixture).at_once(data_of(mixture)) or passed, passed)
    size = int(np.clip(CALL // (passed * mixture.K), 1, max(2 * n + 1, BLOCK)))
    lanes = int(np.clip(CELLS // (rows * mixture.K), 1, size))
    return -(-size // lanes) * lanes, lanes


def bend_at(
    mixture: Mixture,
    z: np.ndarray,
    steps: np.ndarray | None = None,
    jacobian: bool = True,
    rows: int | None = None,
    progress: Progress = quiet,
) -> Bend:
    """The log density around ``z``. ``steps``: those that served at a point nearby.

    The relative error of the Hessian is about 1e-8 in float64, far below what whitening, Laplace or
    a standard error can feel. rows : where all of them take long, so many may tell what the unknown
    assignments add to it, which is enough for a metric; value and gradient are always of all.
    """
    size = np.maximum(1.0, np.abs(z))
    steps = FIRST_STEP * size if steps is None else steps
    near = _near(mixture, z, rows, progress)
    for _ in range(ROUNDS):
        found, bent = _differences(mixture, z, steps, jacobian, near, progress)
        target = BEND + 1e3 * np.finfo(float).eps * (1 + abs(found.value))
        found = found._replace(flat=~((bent > target / 100) & (bent < 100 * target)))
        if not (np.isfinite(found.value) and found.flat.any()):
            break
        change = np.sqrt(target / np.maximum(bent, 1e-4 * target))
        steps = steps * np.where(np.isfinite(bent), change, 1e-4)
        steps = np.clip(steps, SHORTEST * size, LONGEST * size)
    return found


def _near(
    mixture: Mixture, z: np.ndarray, rows: int | None, progress: Progress
) -> Expansion | None:
    """The expansion of the log likelihood around ``z``, where passes over the rows are long."""
    density, data = density_of(mixture), data_of(mixture)
    short = NEWTON * (2 * z.size + 1) * _rows(mixture) * mixture.K <= LONG
    if short or not expandable(density, data) or not np.isfinite(z).all():
        return None
    return expanded(density, from_free(density, z, data), data, rows, progress)


def _differences(
    mixture: Mixture,
    z: np.ndarray,
    steps: np.ndarray,
    jacobian: bool,
    near: Expansion | None,
    progress: Progress,
) -> tuple[Bend, np.ndarray]:
    """Central differences around ``z``, and how much the log density bends along each, in nats."""
    n = z.size
    points = np.concatenate([z[None], z + np.diag(steps), z - np.diag(steps)])
    values, gradients, params = evaluate(mixture, points, jacobian, near, progress)
    ahead, behind = slice(1, n + 1), slice(n + 1, None)
    width = np.diagonal(points[ahead] - points[behind])
    with np.errstate(invalid="ignore"):  # far out: NaN, which is not `finite`
        half = (gradients[ahead] - gradients[behind]) / width[:, None]
        slopes = {
            name: (params[name][ahead] - params[name][behind])
            / width.reshape(n, *[1] * (params[name].ndim - 1))
            for name in mixture.sites
        }
    found = Bend(
        z=z,
        value=float(values[0]),
        gradient=gradients[0],
        hessian=(half + half.T) / 2,
        params={name: params[name][0] for name in mixture.sites},
        slopes=slopes,
        steps=steps,
        flat=np.ones(n, bool),
    )
    second = np.abs(values[ahead] + values[behind] - 2 * values[0])
    return found, np.maximum(second, steps**2 * np.abs(np.diag(half)))


def free_vector(mixture: Mixture, params: Params) -> np.ndarray:
    """Unconstrained coordinates of ``params``, (n,); infinite on the boundary of a support."""
    arrays = {name: jnp.asarray(value, float) for name, value in params.items()}
    return np.asarray(to_free(density_of(mixture), arrays, data_of(mixture)))


def standard_errors(mixture: Mixture, params: Params) -> dict[str, np.ndarray]:
    """Standard errors of every element of every site at a maximum, {site: array}, in its units.

    Square roots of the diagonal of the inverse observed information, minus the Hessian of the log
    joint over the constrained sites: of maximum likelihood where the priors are flat, of the MAP
    otherwise. Taken in unconstrained coordinates and carried over by the delta method; at a maximum
    that is exact, and covers sites with constraints (weights, covariance matrices).

    Raises ValueError, naming the site, on the boundary of a support, and where the log density has
    a kink in it; and where the information is not positive definite or ``params`` is no maximum.
    """
    with jax.enable_x64(True):
        kinked = kink_movers(mixture)
        if kinked:
            raise ValueError(
                f"site {min(kinked)!r} moves a location at which the log density has a kink, so "
                "there is no observed information: use em.bootstrap(key) or NUTS"
            )
        z = free_vector(mixture, params)
        if not np.isfinite(z).all():
            raise ValueError(_on_the_boundary(mixture, params))
        found = bend_at(mixture, z, jacobian=False)
    if not found.finite:
        raise ValueError("the log joint is not finite around the params: a cluster is singular")
    curvature, axes, units = found.principal()
    if found.flat.any() or not curvature.min() > SMALLEST:
        raise ValueError(
            "the observed information is not positive definite, so the data and the priors leave "
            "some combination of the parameters open: there are no standard errors here"
        )
    factor = units[:, None] * axes / np.sqrt(curvature)
    left = float(np.sum((factor.T @ found.gradient) ** 2))
    if left > SETTLED:
        raise ValueError(
            f"the params are not a maximum: about {left / 2:.2g} nats remain to be gained; raise "
            "max_steps"
        )
    return found.spread(factor)


def _on_the_boundary(mixture: Mixture, params: Params) -> str:
    with jax.enable_x64(True):
        transforms = density_of(mixture).transforms(data_of(mixture))
        inside = {
            name: np.isfinite(np.asarray(transforms[name].inv(jnp.asarray(params[name], float))))
            for name in mixture.sites
        }
    name = next(name for name, finite in inside.items() if not finite.all())
    return (
        f"site {name!r} lies on the boundary of its support ({np.array2string(params[name])}), "
        "where the log joint has no curvature to take standard errors from"
    )
