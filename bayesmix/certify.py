"""Certification: does bayesmix fit the very density that the program states?

``certify`` compares, on the user's own program and data, the log joint and its gradient with
NumPyro's ``log_density``, the gradient of Q with that of the log joint (Fisher's identity), and the
density that NUTS samples with the log joint plus the log Jacobian, from NumPyro's own potential.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.distribution import validation_enabled
from numpyro.infer.util import log_density, potential_energy

from bayesmix.coordinates import constrain, free_log_density, to_free, unraveller
from bayesmix.density import Data, Density, data_of, density_of
from bayesmix.groups import by_group
from bayesmix.marginal import OBSERVED, UNOBSERVED, row_axes
from bayesmix.parameters import peel, unwrap
from bayesmix.program import Mixture, Params

POINTS = 4
ROUNDING = 1e-9


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

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def __repr__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [
            f"certificate of {self.site!r}, {self.points} points in float64: "
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


def certify(key: Any, mixture: Mixture, points: int = POINTS) -> Certificate:
    """Compare the mixture's densities with NumPyro's at random points of the support.

    The points are standard normal in unconstrained coordinates about the centre of the priors, and
    gradients are in those coordinates, where they are unique on simplices and symmetric matrices.
    An explicit assignment is summed out by NumPyro's own traces with all rows in one cluster;
    missing cells by distributions of the observed ones alone, NumPyro's of fewer dimensions.
    Differences of values are relative to the sum of the terms' sizes, of gradients to the largest
    component, so ``allowed`` is a bound on rounding. Returns a Certificate; raises nothing when a
    check fails: look at ``.passed``.
    """
    with jax.enable_x64(True), validation_enabled(is_validate=False):
        density, data = density_of(mixture), data_of(mixture)
        centre = to_free(density, _centre(density, data), data)
        z = centre + jax.random.normal(key, (points, centre.size), dtype=centre.dtype)
        found = [_compare(mixture, density, data, point) for point in z]
    worst = {name: max(float(each[name]) for each in found) for name in found[0]}
    jacobian = float(found[0]["jacobian"])
    names = {
        "value": "value: log joint = NumPyro's log_density",
        "gradient": "gradient of the log joint",
        "fisher": "Fisher's identity: gradient of Q = gradient of log joint",
        "potential": "NUTS: log joint + Jacobian = NumPyro's potential",
        "potential_gradient": "gradient of NUTS's density",
    }
    checks = tuple(Check(text, worst[name], ROUNDING) for name, text in names.items())
    return Certificate(mixture.name, points, checks, jacobian)


_centre = jax.jit(Density.centre, static_argnums=0)


def _compare(mixture: Mixture, density: Density, data: Data, z: jax.Array) -> dict[str, Any]:
    args, kwargs = mixture.arguments.rebuild(mixture.arguments.arrays)
    if not mixture.static_data:
        args, kwargs = jax.tree.map(_as_array, (args, kwargs))
    unravel = unraveller(density, data)

    def theirs(params: Params) -> jax.Array:
        if mixture.assignment is not None:
            return _summed_over_clusters(mixture, args, kwargs, params)
        if mixture.partial:
            return _of_observed_cells(mixture, args, kwargs, params)
        return log_density(mixture.program, args, kwargs, params)[0]

    def theirs_free(z: jax.Array) -> jax.Array:
        return -potential_energy(mixture.marginal, args, kwargs, unravel(z))

    @jax.jit
    def both(z: jax.Array) -> dict[str, Any]:
        def at(z: jax.Array) -> Params:
            return constrain(density, z, data)

        params = at(z)
        value, gradient = jax.value_and_grad(lambda z: density.log_joint(at(z), data))(z)
        reference, reference_gradient = jax.value_and_grad(lambda z: theirs(at(z)))(z)
        statistics = jax.lax.stop_gradient(density.e_step(params, data)[1])
        fisher = jax.grad(lambda z: density.expected(at(z), statistics, data))(z)
        free, free_gradient = jax.value_and_grad(free_log_density, argnums=1)(density, z, data)
        free_reference, free_reference_gradient = jax.value_and_grad(theirs_free)(z)
        size = sum(map(jnp.abs, density.terms(params, data).values()), 1 + jnp.abs(value))
        return {
            "value": jnp.abs(value - reference) / size,
            "gradient": _relative(gradient, reference_gradient),
            "fisher": _relative(fisher, gradient),
            "potential": jnp.abs(free - free_reference) / size,
            "potential_gradient": _relative(free_gradient, free_reference_gradient),
            "jacobian": free - value,
        }

    return both(z)


def _of_observed_cells(mixture: Mixture, args: Any, kwargs: Any, params: Params) -> jax.Array:
    """The log density of a mixture site of which cells are missing, and of the other sites."""
    sites = handlers.trace(handlers.substitute(mixture.program, data=params)).get_trace(
        *args, **kwargs
    )
    total = jnp.zeros(())
    for name, site in sites.items():
        if site["type"] != "sample":
            continue
        if name != mixture.name:
            log_prob = site["fn"].log_prob(site["value"])
            total += jnp.sum(_times(site["scale"], log_prob))
            continue
        fn, weights = peel(site["fn"]), mixture.weights
        value = jnp.expand_dims(site["value"], -fn.event_dim - 1)
        missing = np.expand_dims(mixture.missing, -fn.event_dim - 1)
        terms = _observed_terms(fn.component_distribution, value, missing)
        rows = jax.nn.logsumexp(jax.nn.log_softmax(fn.mixing_distribution.logits) + terms, -1)
        total += jnp.sum(_times(weights, rows))
    return total


def _times(weights: Any, log_prob: jax.Array) -> jax.Array:
    """Log densities times the weights of handlers.scale, if there are any."""
    return log_prob if weights is None else weights * log_prob


def _observed_terms(fn: Any, value: jax.Array, missing: np.ndarray) -> jax.Array:
    """log f of the cells that are not ``missing``, from distributions of these cells alone.

    Vectors with equally many observed cells are taken together: the sub-vector of the location, the
    sub-matrix of the covariance or scale matrix. An oracle: it shares nothing with
    ``bayesmix.missing``.
    """
    base, masks = unwrap(fn)
    shape = jnp.broadcast_shapes(value.shape, fn.shape())
    gone = np.broadcast_to(missing, shape)
    if base.event_dim == 0:
        legal = base.support.feasible_like(jnp.zeros(shape))
        filled = jnp.where(gone, legal, value)
        cells = base.log_prob(filled.astype(int) if base.support.is_discrete else filled)
        terms = jnp.where(gone, 0.0, cells).sum(tuple(range(-fn.event_dim, 0)))
    else:
        terms = _of_sub_vectors(base, jnp.broadcast_to(value, shape), gone)
    return jnp.where(jnp.stack(masks).all(0), terms, 0.0) if masks else terms


def _of_sub_vectors(base: Any, value: jax.Array, gone: np.ndarray) -> jax.Array:
    D = value.shape[-1]
    loc = jnp.broadcast_to(base.loc, value.shape).reshape(-1, D)
    student = isinstance(base, dist.MultivariateStudentT)
    tril = base.scale_tril
    matrix = tril @ jnp.swapaxes(tril, -1, -2) if student else base.covariance_matrix
    matrix = jnp.broadcast_to(matrix, (*value.shape, D)).reshape(-1, D, D)
    df = jnp.broadcast_to(base.df, value.shape[:-1]).reshape(-1) if student else None
    x, seen = value.reshape(-1, D), ~gone.reshape(-1, D)
    terms = jnp.zeros(len(x))
    for count in range(1, D + 1):
        rows = np.flatnonzero(seen.sum(1) == count)
        if len(rows):
            some = np.argsort(~seen[rows], axis=1, kind="stable")[:, :count]
            centre = loc[rows[:, None], some]
            block = matrix[rows[:, None, None], some[:, :, None], some[:, None, :]]
            part = (
                dist.MultivariateNormal(centre, block)
                if df is None
                else dist.MultivariateStudentT(df[rows], centre, jnp.linalg.cholesky(block))
            )
            terms = terms.at[rows].set(part.log_prob(x[rows[:, None], some]))
    return terms.reshape(value.shape[:-1])


def _summed_over_clusters(mixture: Mixture, args: Any, kwargs: Any, params: Params) -> jax.Array:
    """The log density of an explicit program, from NumPyro's traces with all rows in cluster k.

    Rows are independent given the parameters, so summing each row over k is the exact sum over all
    K^N assignments. A row with a known label is in its cluster in every one of the traces.
    """
    by_cluster = [_trace_of_cluster(mixture, args, kwargs, params, k) for k in range(mixture.K)]
    others, rows, weight = by_cluster[0]
    summed = jax.nn.logsumexp(jnp.stack([cluster[1] for cluster in by_cluster]), 0)
    if mixture.labels is not None:
        summed = jnp.where(jnp.asarray(mixture.labels) >= 0, rows, summed)
    return others + jnp.sum(weight * summed)


def _trace_of_cluster(
    mixture: Mixture, args: Any, kwargs: Any, params: Params, k: int
) -> tuple[jax.Array, jax.Array, Any]:
    """Log density of the sites without the assignment, of each row with it, and its weight."""
    names = [f"{mixture.assignment}{end}" for end in ("", UNOBSERVED)]

    def value(site: dict[str, Any]) -> Any:
        if site["type"] == "sample" and site["name"] in names and not site["is_observed"]:
            return jnp.full(site["fn"].shape(), k)
        return params.get(site["name"])

    sites = handlers.trace(handlers.substitute(mixture.program, substitute_fn=value)).get_trace(
        *args, **kwargs
    )
    samples = {n: s for n, s in sites.items() if s["type"] == "sample"}
    inside = {*names, f"{mixture.assignment}{OBSERVED}", *(s.name for s in mixture.observed)}
    z = next(samples[name] for name in names if name in samples)
    axes = row_axes(z)
    others, rows = jnp.zeros(()), jnp.zeros(mixture.rows)
    for name, site in samples.items():
        observed = next((each for each in mixture.observed if each.name == name), None)
        if observed is not None and observed.partial:
            lead = [axis - site["fn"].event_dim for axis in axes]
            gone = np.moveaxis(observed.missing, range(len(axes)), lead)
            log_prob = _observed_terms(site["fn"], site["value"], gone)
        else:
            log_prob = site["fn"].log_prob(site["value"])
        if name not in inside:
            others += jnp.sum(_times(site["scale"], log_prob))
            continue
        group = next((s.group for s in mixture.observed if s.name == name), None)
        if group is not None:
            log_prob = by_group(_times(site["scale"], log_prob), group, len(rows))
            log_prob = log_prob / _times(z["scale"], jnp.ones(len(rows)))
        within = tuple(a for a in range(-log_prob.ndim, 0) if a not in axes)
        rows += log_prob.sum(within)
    return others, rows, 1.0 if mixture.weights is None else jnp.asarray(mixture.weights)


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def _relative(a: Any, b: Any) -> jax.Array:
    """Largest difference over all leaves, relative to the largest component."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    size = jnp.max(jnp.array([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(b)]))
    gaps = [jnp.max(jnp.abs(x - y)) for x, y in pairs]
    return jnp.max(jnp.array(gaps)) / jnp.maximum(size, 1.0)
