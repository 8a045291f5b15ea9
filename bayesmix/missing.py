"""Missing values: densities of NumPyro distributions with the NaN cells integrated out.

A site declares them, ``infer={"missing": "marginal"}``; a NaN then stands for a cell that was not
observed (missing at random: that it is missing says nothing about its value). The density of a row
is that of its observed cells: in a product the cell contributes nothing, in a multivariate normal
the rows and columns of the covariance matrix go, in a multivariate Student-t those of the scale
matrix, with the same degrees of freedom. A row without any observed cell has density 1.

Knows distributions, nothing of data layouts or of inference.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.util import sum_rightmost
from numpyro.primitives import Messenger

from bayesmix.vector_mixture import VectorMixture

MARGINAL = "marginal"
AT_ONCE = 4096  # rows with a covariance matrix of their own
NORMAL = (dist.MultivariateNormal, dist.LowRankMultivariateNormal)
SUM = "the cells of a row have a fixed sum, which a row with a gap does not tell"
WHY_NOT = {dist.MultinomialProbs: SUM, dist.MultinomialLogits: SUM, dist.Dirichlet: SUM}


def declared(site: dict[str, Any]) -> bool:
    """Whether an observed site says that its NaN cells are to be integrated out."""
    said = (site["infer"] or {}).get("missing")
    if said not in (None, MARGINAL):
        raise ValueError(
            f"site {site['name']!r} has infer={{'missing': {said!r}}}: write "
            "infer={'missing': 'marginal'}, which integrates NaN cells out"
        )
    return said == MARGINAL


def holes_in(value: Any) -> bool:
    """Whether some of these values are NaN, as far as they are known (no tracer is)."""
    if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct) or value is None:
        return False
    array = np.asarray(value)
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


_PROMISED: ContextVar[bool] = ContextVar("_PROMISED", default=False)


@contextmanager
def promised(complete: bool) -> Iterator[None]:
    """Inside, a program's abstract values stand for data of which this is known."""
    token = _PROMISED.set(complete)
    try:
        yield
    finally:
        _PROMISED.reset(token)


def may_have_holes(value: Any) -> bool:
    """Whether some of these values may be NaN: what is known of them, or was `promised`.

    A summary of complete data is then plain arithmetic, although a program that is being read does
    not see its values.
    """
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return False
    if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
        return not _PROMISED.get()
    return holes_in(value)


class Incomplete(dist.Distribution):
    """``base_dist``, with a density for values of which some cells are NaN.

    Samples are complete. ``log_prob`` is that of the observed cells, in nats.
    """

    pytree_data_fields = ("base_dist",)

    def __init__(self, base_dist: dist.Distribution) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self.base_dist.support

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        return self.base_dist.sample(key, sample_shape)

    def log_prob(self, value: Any) -> jax.Array:
        return observed_log_prob(self.base_dist, value)


class IntegrateOut(Messenger):
    """Gives the sites of a program that declare missing values a density for NaN cells."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and declared(msg):
            msg["fn"] = Incomplete(msg["fn"])


def integrated(program: Callable[..., Any]) -> Callable[..., Any]:
    """The program with the densities that it declares: NumPyro itself knows nothing of NaN."""

    @wraps(program)
    def known(*args: Any, **kwargs: Any) -> Any:
        with IntegrateOut():
            return program(*args, **kwargs)

    return known


def observed_log_prob(fn: Any, value: Any) -> jax.Array:
    """Log density of the cells of ``value`` that are not NaN, shape (*batch), in nats.

    Raises ValueError for distributions of vectors other than the multivariate normal and Student-t:
    the density of a part of such a value has no closed form here.
    """
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return fn.log_prob(value)
    if isinstance(fn, Incomplete):
        return observed_log_prob(fn.base_dist, value)
    if isinstance(fn, dist.Independent):
        return sum_rightmost(observed_log_prob(fn.base_dist, value), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        rows = value.shape[: value.ndim - fn.event_dim]
        shape = jnp.broadcast_shapes(fn.batch_shape, rows)
        return jnp.broadcast_to(observed_log_prob(fn.base_dist, value), shape)
    if isinstance(fn, dist.MaskedDistribution):
        return jnp.where(fn._mask, observed_log_prob(fn.base_dist, value), 0.0)
    if hasattr(fn, "component_log_probs"):
        return jax.nn.logsumexp(observed_components(fn, value), -1)
    if fn.event_dim == 0:
        return _of_cells(fn, value)
    if isinstance(fn, (*NORMAL, dist.MultivariateStudentT)):
        return _of_vectors(fn, value)
    why = WHY_NOT.get(type(fn))
    raise ValueError(
        f"missing cells cannot be integrated out of {type(fn).__name__} components"
        + (f" ({why})" if why else "")
        + ": leave out the rows with missing values, and infer={'missing': 'marginal'}"
    )


def observed_components(mixture: Any, value: jax.Array) -> jax.Array:
    """log w_k + log density of the observed cells under component k, (*rows, K), in nats."""
    log_weights = jax.nn.log_softmax(mixture.mixing_distribution.logits)
    if isinstance(mixture, dist.MixtureGeneral):
        parts = [_inside(part, value) for part in mixture.component_distributions]
        return log_weights + jnp.stack(parts, -1)
    components = mixture.component_distribution
    value = jnp.expand_dims(value, -mixture.event_dim - 1)
    if isinstance(mixture, VectorMixture):
        return log_weights + _inside(components, value)
    return log_weights + observed_log_prob(components, value)


def _inside(fn: Any, value: jax.Array) -> jax.Array:
    """The same density, -inf where an observed cell is outside of the support."""
    shape = jnp.broadcast_shapes(value.shape, fn.shape())
    legal = fn.support.feasible_like(jnp.zeros(shape, value.dtype))
    inside = fn.support(jnp.where(jnp.isnan(value), legal, value))
    held = inside.reshape(*inside.shape, *(1,) * fn.event_dim) | jnp.isnan(value)
    return jnp.where(inside, observed_log_prob(fn, jnp.where(held, value, legal)), -jnp.inf)


def _of_cells(fn: Any, value: jax.Array) -> jax.Array:
    """Univariate: 0 for a missing cell, which is given a legal value to keep gradients finite."""
    missing = jnp.isnan(value)
    shape = jnp.broadcast_shapes(value.shape, fn.batch_shape)
    filled = jnp.where(missing, fn.support.feasible_like(jnp.zeros(shape, value.dtype)), value)
    if fn.support.is_discrete:
        filled = filled.astype(int)
    return jnp.where(missing, 0.0, fn.log_prob(filled))


def _of_vectors(fn: Any, value: jax.Array) -> jax.Array:
    """Multivariate normal or t, every row with a matrix of its own, some at a time."""
    batch = jnp.broadcast_shapes(value.shape[:-1], fn.batch_shape)
    D = value.shape[-1]
    rows = jnp.broadcast_to(value, (*batch, D)).reshape(-1, D)
    loc = jnp.broadcast_to(fn.loc, (*fn.batch_shape, D)).reshape(-1, D)
    df = getattr(fn, "df", None)
    matrix = scatter_of(fn)
    matrix = jnp.broadcast_to(matrix, (*fn.batch_shape, D, D)).reshape(-1, D, D)
    tails = None if df is None else jnp.broadcast_to(df, fn.batch_shape).reshape(-1)
    which = np.arange(len(loc)).reshape(fn.batch_shape)
    which = np.broadcast_to(which, batch).reshape(-1)

    def one(each: tuple[jax.Array, Any]) -> jax.Array:
        x, k = each
        return _of_vector(loc[k], matrix[k], x, None if tails is None else tails[k])

    terms = jax.lax.map(one, (rows, jnp.asarray(which)), batch_size=min(len(rows), AT_ONCE))
    return terms.reshape(batch)


def scatter_of(fn: Any) -> jax.Array:
    """The covariance matrix of a multivariate normal, the scale matrix of a Student-t."""
    if isinstance(fn, dist.MultivariateStudentT):
        return fn.scale_tril @ jnp.swapaxes(fn.scale_tril, -1, -2)
    return jnp.asarray(fn.covariance_matrix)


def _of_vector(loc: jax.Array, matrix: jax.Array, value: jax.Array, df: Any) -> jax.Array:
    """Missing cells get variance 1, no covariance and no deviation; ``df`` None: normal."""
    seen = ~jnp.isnan(value)
    scale_tril = jnp.linalg.cholesky(masked_covariance(matrix, seen))
    deviation = jnp.where(seen, value - loc, 0.0)
    white = jax.scipy.linalg.solve_triangular(scale_tril, deviation, lower=True)
    log_det = jnp.log(jnp.diagonal(scale_tril)).sum()
    if df is None:
        return -0.5 * white @ white - log_det - 0.5 * np.log(2 * np.pi) * seen.sum()
    half = 0.5 * (df + seen.sum())
    constant = jax.lax.lgamma(half) - jax.lax.lgamma(0.5 * df)
    constant -= 0.5 * jnp.log(df * np.pi) * seen.sum()
    return constant - log_det - half * jnp.log1p(white @ white / df)


def masked_covariance(covariance: jax.Array, seen: jax.Array) -> jax.Array:
    """(..., D, D) with the rows and columns of unseen cells replaced by those of the identity.

    Its Cholesky factor is that of the observed block, with ones for the rest; one shape serves
    every pattern.
    """
    pair = seen[..., :, None] & seen[..., None, :]
    return jnp.where(pair, covariance, jnp.eye(seen.shape[-1], dtype=covariance.dtype))
