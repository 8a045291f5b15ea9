"""Certification: does bayesmix fit the very density that the program states?

``certify`` compares, on the user's own program and data, the log joint and its gradient with
NumPyro's ``log_density``, the gradient of Q with that of the log joint (Fisher's identity), and the
density that NUTS samples with the log joint plus the log Jacobian, from NumPyro's own potential.

Lives here: `certify`. `reference` asks NumPyro, `sizes` says how far rounding enters.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.distribution import validation_enabled

from bayesmix.arguments import check_dtype
from bayesmix.certify.reference import as_array, numpyros
from bayesmix.certify.sizes import sizes
from bayesmix.coordinates import constrain, free_log_density, to_free
from bayesmix.density import Data, Density, data_of, density_of, has_family
from bayesmix.effort import cells_of, compiled
from bayesmix.program import Mixture, Params

POINTS = 4
ROUNDING = 1e-9  # of float64, relative to the sum of the terms' sizes
UNITS = 16  # float32 roundings by which a score or a term may be off: about a dozen steps make it
CHECKS = {
    "value": "value: log joint = NumPyro's log_density",
    "gradient": "gradient of the log joint",
    "fisher": "Fisher's identity: gradient of Q = gradient of log joint",
    "potential": "NUTS: log joint + Jacobian = NumPyro's potential",
    "potential_gradient": "gradient of NUTS's density",
}

Values = dict[str, Any]  # by name of a check


@dataclass(frozen=True)
class Check:
    """One comparison: the largest difference found, and what rounding allows."""

    name: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Certificate:
    """The checks on one program; printing it shows them as a table."""

    site: str
    points: int
    checks: tuple[Check, ...]
    jacobian: float
    dtype: str

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def __repr__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [
            f"certificate of {self.site!r}, {self.points} points in {self.dtype}: "
            + ("all agree to rounding" if self.passed else "NOT the program's density"),
            "",
            f"{'check':<{width}}  largest difference     allowed",
            *(
                f"{c.name:<{width}}  {c.difference:18.2e}  {c.allowed:10.2e}  "
                + ("ok" if c.passed else "FAILED")
                for c in self.checks
            ),
            "",
            "EM maximises the density over the constrained sites; NUTS samples the same density in",
            "unconstrained coordinates, where it gains the log Jacobian of the constraining maps",
            f"({self.jacobian:+.4f} nats at the first point): their modes are different points.",
        ]
        return "\n".join(lines)


def certify(
    key: Any, mixture: Mixture, points: int = POINTS, *, dtype: str = "float64"
) -> Certificate:
    """Compare the mixture's densities with NumPyro's at random points of the support.

    The points are standard normal in unconstrained coordinates about the centre of the priors, and
    gradients are in those coordinates, where they are unique on simplices and symmetric matrices.
    An explicit assignment is summed out by NumPyro's own traces with all rows in one cluster;
    missing cells by distributions of the observed ones alone, NumPyro's of fewer dimensions.

    dtype : "float64", or "float32": then the first three checks are of what ``EM(dtype="float32")``
        computes, the last two of ``NUTS(dtype="float32")``, against NumPyro's in float64.

    Differences of values are relative to the sum of the terms' sizes, of gradients to the largest
    component, so ``allowed`` is a bound on rounding; in float32 they are relative to how far
    rounding enters at the point itself, see ``bayesmix.certify.sizes``. Returns a Certificate;
    raises nothing when a check fails: look at ``.passed``.
    """
    check_dtype(dtype)
    with jax.enable_x64(True), validation_enabled(is_validate=False):
        density, data = density_of(mixture), data_of(mixture)
        centre = to_free(density, _centre(density, data), data)
        z = centre + jax.random.normal(key, (points, centre.size), dtype=centre.dtype)
        z = z.astype(dtype).astype(centre.dtype)
        theirs = numpyros(mixture, density, data)
        compare = _double if dtype == "float64" else _single
        found = [compare(mixture, density, data, theirs(point), point) for point in z]
        jacobian = float(_ours(density, data, z[0])["jacobian"])
    allowed = ROUNDING if dtype == "float64" else UNITS * float(np.finfo(dtype).eps)
    checks = tuple(
        Check(text, float(np.max([each[name] for each in found])), allowed)  # NaN, if any is
        for name, text in CHECKS.items()
    )
    return Certificate(mixture.name, points, checks, jacobian, dtype)


_centre = jax.jit(Density.centre, static_argnums=0)


def _double(mixture: Mixture, density: Density, data: Data, theirs: Values, z: jax.Array) -> Values:
    """The differences in float64, relative to the sizes of what was added up."""
    ours = _ours(density, data, z)
    gaps = _gaps(ours, theirs)
    size = dict.fromkeys(("value", "potential"), ours["size"])
    for name in ("gradient", "potential_gradient"):
        size[name] = jnp.maximum(jnp.max(jnp.abs(theirs[name])), 1.0)
    size["fisher"] = size["gradient"]
    return {name: jnp.max(gap / size[name]) for name, gap in gaps.items()}


def _single(mixture: Mixture, density: Density, data: Data, theirs: Values, z: jax.Array) -> Values:
    """The differences of float32 from float64, relative to how far rounding enters."""
    with jax.enable_x64(has_family(mixture)):  # as in EM
        rows = data_of(mixture, "float32")
        ours = dict(_ours(density_of(mixture), rows, as_array(np.asarray(z))))
    with jax.enable_x64(False):  # as in NUTS
        drawn = _ours(density_of(mixture), data_of(mixture), as_array(np.asarray(z)))
    ours |= {name: drawn[name] for name in ("potential", "potential_gradient")}
    gaps = _gaps({name: np.asarray(value, np.float64) for name, value in ours.items()}, theirs)
    found = _sizes(mixture, density, data, z)
    size = {
        "value": found.value,
        "gradient": found.gradient,
        "fisher": found.gradient,
        "potential": found.value + found.jacobian,
        "potential_gradient": found.gradient + found.jacobian_gradient,
    }
    return {name: jnp.max(gap / jnp.maximum(size[name], 1.0)) for name, gap in gaps.items()}


def _sizes(mixture: Mixture, density: Density, data: Data, z: jax.Array) -> Any:
    at = compiled(lambda z: cells_of(data), static=())(lambda z: sizes(mixture, density, data, z))
    return at(z)


def _gaps(ours: Values, theirs: Values) -> Values:
    return {
        name: jnp.abs(ours[name] - theirs["gradient" if name == "fisher" else name])
        for name in CHECKS
    }


@compiled(lambda density, data, z: cells_of(data))
def _ours(density: Density, data: Data, z: jax.Array) -> Values:
    """What bayesmix computes at unconstrained ``z``, in the ambient precision."""

    def at(z: jax.Array) -> Params:
        return constrain(density, z, data)

    value, gradient = jax.value_and_grad(lambda z: density.log_joint(at(z), data))(z)
    statistics = jax.lax.stop_gradient(density.e_step(at(z), data)[1])
    potential, slope = jax.value_and_grad(free_log_density, argnums=1)(density, z, data)
    return {
        "value": value,
        "gradient": gradient,
        "fisher": jax.grad(lambda z: density.expected(at(z), statistics, data))(z),
        "potential": potential,
        "potential_gradient": slope,
        "jacobian": potential - value,
        "size": sum(map(jnp.abs, density.terms(at(z), data).values()), 1 + jnp.abs(value)),
    }
