"""NumPyro's own answers about a program, for ``certify``: shares nothing with the sweep."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.util import log_density, potential_energy

from bayesmix.coordinates import constrain, unraveller
from bayesmix.density import Data, Density
from bayesmix.effort import cells_of, compiled
from bayesmix.groups import by_group
from bayesmix.marginal import OBSERVED, UNOBSERVED, row_axes
from bayesmix.parameters import peel, unwrap
from bayesmix.program import Mixture, Params


def numpyros(mixture: Mixture, density: Density, data: Data) -> Any:
    """Log joint and NUTS's density with their gradients, as a function of unconstrained ``z``."""
    args, kwargs = mixture.arguments.rebuild(mixture.arguments.arrays)
    if not mixture.static_data:
        args, kwargs = jax.tree.map(as_array, (args, kwargs))
    unravel = unraveller(density, data)

    def value(z: jax.Array) -> jax.Array:
        params = constrain(density, z, data)
        if mixture.assignment is not None:
            return _summed_over_clusters(mixture, args, kwargs, params)
        if mixture.partial:
            return _of_observed_cells(mixture, args, kwargs, params)
        return log_density(mixture.program, args, kwargs, params)[0]

    def potential(z: jax.Array) -> jax.Array:
        return -potential_energy(mixture.marginal, args, kwargs, unravel(z))

    @compiled(lambda z: cells_of(args), static=())
    def both(z: jax.Array) -> dict[str, Any]:
        found = jax.value_and_grad(value)(z) + jax.value_and_grad(potential)(z)
        names = ("value", "gradient", "potential", "potential_gradient")
        return dict(zip(names, found, strict=True))

    return both


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
        if observed is not None and observed.group is not None:
            log_prob = by_group(_times(site["scale"], log_prob), observed.group, len(rows))
            log_prob = log_prob / _times(z["scale"], jnp.ones(len(rows)))
        elif observed is not None and observed.powers is not None:
            own = _times(z["scale"], jnp.ones(z["fn"].batch_shape))
            log_prob = _times(site["scale"], log_prob) / own
        within = tuple(a for a in range(-log_prob.ndim, 0) if a not in axes)
        rows += log_prob.sum(within)
    return others, rows, 1.0 if mixture.weights is None else jnp.asarray(mixture.weights)


def as_array(leaf: Any) -> Any:
    """A NumPy array in the ambient precision; anything else as it is."""
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
