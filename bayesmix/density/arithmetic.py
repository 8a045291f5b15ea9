"""The arithmetic of one program: its terms, priors and densities, free of any particular data.

A ``Density`` holds no data: two readings of the same program with data of the same shapes are
equal and share compiled code. What depends on data alone (means, covariances that scale a prior) is
computed once, when the data are prepared.
"""

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import biject_to
from numpyro.distributions.transforms import IdentityTransform, IndependentTransform

from bayesmix.density import chunks
from bayesmix.density.bent import Bent, Turn, bend_of, hessian, plain
from bayesmix.density.chunks import dot, safe, weighted
from bayesmix.density.data import Data, Partial
from bayesmix.density.layout import (
    family_of,
    is_tied,
    kinked_sites,
    line_of,
    portion_of_rows,
)
from bayesmix.density.piece import Piece
from bayesmix.factors import LowerTransform
from bayesmix.families.lines import Lines
from bayesmix.families.partial import available, complete, natural_by_pattern, patterned
from bayesmix.families.product import located
from bayesmix.program import Mixture, Params
from bayesmix.reader import x64
from bayesmix.sweep import (
    Statistics,
    Streamed,
    densities_by_pattern,
    largest,
    log_likelihood,
    responsibilities_of,
    scan_rows,
    statistics_of,
    total_base,
    total_squares,
)

# Nats of a row's score that may be lost before the sweep gives way, by precision.
CANCELLATION = {"float64": 1e-8, "float32": 1e-3}
# Rounding units by which a log joint of this size, and the sum of a score's terms, may be off.
ROUNDING = 64
PER_TERM = 4


class Density:
    """Pure, traceable functions of one program's arithmetic; hashable, so static under jit."""

    def __init__(self, mixture: Mixture) -> None:
        reading = mixture.reading
        self.sites = {name: site.shape for name, site in mixture.sites.items()}
        self.supports = {name: site.support for name, site in mixture.sites.items()}
        self.K = mixture.K
        self.family = family_of(mixture)
        self.tied = self.family is not None and is_tied(self.family, reading)
        self.patterned = self.family is not None and patterned(self.family)
        self._terms, self._priors = reading.terms, reading.priors
        self._bounds, self._scale = reading.supports, reading.scale
        self._leaves: Any = reading.leaves[0]
        self._log_weights = reading.log_weights
        line = line_of(mixture)
        if line is not None:
            self._leaves = {"coef": line[0].coefficients, "scale": line[1]}
        self._components, self._centres = reading.components, reading.centres
        self.portion = None if self.family else portion_of_rows(mixture)
        kinked = bool(self.family is None and kinked_sites(mixture))
        fit: Any = (self._components, self._scale)
        if self.family:
            fit = (self._leaves, self._log_weights)
        elif self.portion:
            fit = tuple(leaf.whole for leaf in self.portion.shared)
        if kinked:
            fit = (*fit, self._leaves)
        self.piece = Piece((self._terms, self._priors, self._bounds, self._centres, fit), reading)
        self._key = (
            self.piece,
            (self.family, self.tied, self.portion),
            tuple((name, shape, str(self.supports[name])) for name, shape in self.sites.items()),
            x64(),
        )
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Density) and self._key == other._key)

    def terms(self, params: Params, data: Data) -> dict[str, jax.Array]:
        """Log density of every site but the mixture's, summed over its elements, in nats."""
        return self.piece(self._terms, params, data.known)

    def prior(self, name: str, params: Params, data: Data) -> dict[str, jax.Array]:
        """The parameters of a latent site's prior at ``params``."""
        return self.piece(self._priors[name], params, data.known)

    def leaves(self, params: Params, data: Data) -> dict[str, jax.Array]:
        """The parameters of the components, each (K, *event), in data units.

        Lines have theirs in the sweep's coordinates.
        """
        return self._framed(self.piece(self._leaves, params, data.known), data)

    def _framed(self, leaves: Any, data: Data) -> dict[str, jax.Array]:
        if isinstance(self.family, Lines):
            return self.family.in_frame(leaves, data.frame, self.K)
        return leaves

    @property
    def may_cancel(self) -> bool:
        """Whether large terms of the sweep's score may cancel, see ``cancels``."""
        return self.family is not None and (
            bool(self.family.location_scale) or isinstance(self.family, Lines)
        )

    def transforms(self, data: Data) -> dict[str, Any]:
        """The bijection from unconstrained coordinates to each site's support."""
        bounds = self.piece(self._bounds, {}, data.known)
        return {
            name: biject_to(jax.tree.unflatten(tree, bounds[name]))
            for name, tree in self.supports.items()
        }

    def centre(self, data: Data) -> Params:
        """A legal value for every site: its prior's mean, or the middle of its free coordinates.

        A mean that depends on other sites is taken at their centres.
        """
        transforms = self.transforms(data)
        params = {
            name: transforms[name](jnp.zeros(transforms[name].inverse_shape(shape)))
            for name, shape in self.sites.items()
        }
        for name, node in self._centres.items():
            mean = self.piece(node, params, data.known)
            inside = jnp.all(jnp.isfinite(transforms[name].inv(mean)))
            params[name] = jnp.where(inside, mean, params[name])
        return {
            name: _off_zero(transforms[name], value) if _is_unbounded(transforms[name]) else value
            for name, value in params.items()
        }

    # ----------------------------------------------------------------------------- densities

    def natural(self, params: Params, data: Data) -> tuple[jax.Array, jax.Array]:
        """eta (K, F) and log w - A (K,) in the sweep's coordinates; (P, K, F) and (P, K) for rows
        with P patterns of missing cells.
        """
        assert self.family is not None
        leaves, log_weights = self._standardised(params, data)
        if self.patterned:
            eta, normaliser = natural_by_pattern(self.family, leaves, data.rows.patterns)
        else:
            eta, normaliser = self.family.natural(leaves)
        return eta, log_weights - normaliser

    def _standardised(self, params: Params, data: Data) -> tuple[dict[str, jax.Array], jax.Array]:
        """The components' parameters in the sweep's coordinates, and the log weights."""
        assert self.family is not None
        values, log_weights = self.piece((self._leaves, self._log_weights), params, data.known)
        leaves = self._framed(values, data)
        if self.family.location_scale:
            leaves = self.family.standardise(leaves, data.rows.shift, data.rows.scale)
        return leaves, log_weights

    def cancels(self, params: Params, data: Data) -> jax.Array:
        """Whether a component is so narrow that x^2, x loc and loc^2 cancel in the sweep's score.

        Their size, precision * z^2, costs that many times the rounding unit; more than 1e-8 nats
        (a scale of about 1e-4 of the data's in float64) is too much. Rows far from a robust
        family's component count by the logarithm of their distance: there z is at most about loc.
        """
        assert self.family is not None
        precision = data.rows.z.dtype
        eta, z = self.natural(params, data)[0], data.rows.z
        if self.family.robust:
            leaves = self.family.standardise(
                self.leaves(params, data), data.rows.shift, data.rows.scale
            )
            z = 2 * leaves["loc"]
        elif not isinstance(z, Streamed):
            eta, z = located(self.family, eta, z)
        size = jnp.max(jnp.abs(eta)) * jnp.maximum(1.0, largest(z)) ** 2
        return ~(size * jnp.finfo(precision).eps < CANCELLATION[precision.name])

    def noise(self, params: Params, statistics: Any, value: Any, data: Data) -> jax.Array:
        """What rounding hides of the log joint, ``value`` at ``params``, in nats.

        A family's scores are sums of terms that may be far larger than they are: x loc and loc^2 of
        a narrow cluster away from the data's centre. Their sizes, summed over the rows, are those
        of the statistics at ``params`` times the natural parameters.
        """
        precision = data.rows.z.dtype if self.family else jnp.result_type(float)
        size = ROUNDING * (1 + jnp.abs(value))
        if self.family and not self.patterned and not self.family.robust:
            eta, offset = self.natural(params, data)
            terms = jnp.sum(statistics.mass * jnp.abs(offset))
            size += PER_TERM * (terms + jnp.sum(jnp.abs(eta * statistics.features)))
        return float(jnp.finfo(precision).eps) * size

    def log_prior(self, params: Params, data: Data) -> jax.Array:
        """Log density of all sites but the mixture's, in nats."""
        return sum(self.terms(params, data).values(), jnp.zeros(()))

    def log_likelihood(self, params: Params, data: Data) -> jax.Array:
        """The observed site's log density with the assignments summed out, in nats."""
        if self.family:
            return data.base + log_likelihood(self.family, *self.natural(params, data), data.rows)
        if self.portion:
            return chunks.log_likelihood(self.portion, params, self._shared(data), data.rows)
        components, scale = self._by_row(params, data)
        return jnp.sum(weighted(jax.nn.logsumexp(components, -1), scale))

    def log_joint(self, params: Params, data: Data) -> jax.Array:
        """Log density of all sites of the program, in nats."""
        return self.log_prior(params, data) + self.log_likelihood(params, data)

    def e_step(self, params: Params, data: Data) -> tuple[jax.Array, Any]:
        """The log likelihood and what the M-step needs.

        Statistics of the sweep; of the general sweep the weighted responsibilities (*rows, K), or,
        where rows come in chunks, what they follow from.
        """
        if self.family:
            value, statistics = scan_rows(self.family, *self.natural(params, data), data.rows)
            if self.patterned:
                leaves = self._standardised(params, data)[0]
                return data.base + value, self._filled(statistics, leaves, data)
            return data.base + value, statistics
        if self.portion:
            return chunks.e_step(self.portion, params, self._shared(data), data.rows)
        components, scale = self._by_row(params, data)
        value = jnp.sum(weighted(jax.nn.logsumexp(components, -1), scale))
        resp = jax.nn.softmax(components, -1)
        return value, resp if scale is None else resp * scale[..., None]

    def bent_e_step(
        self, params: Params, data: Data, turns: tuple[Turn, ...]
    ) -> tuple[jax.Array, Bent]:
        """``e_step`` of the general sweep, and how Q goes on from there, in the same pass.

        The plan asks for it where rows come in chunks; in float32 a program may be another.
        """
        if not self.portion:
            scale = self._by_row(params, data)[1]
            value, resp, slope, products = bend_of(
                lambda params: self._by_row(params, data)[0], params, scale, turns
            )
            return value, Bent(resp, params, slope, hessian(products, turns))
        shared, portion = self._shared(data), self.portion

        def part(values: Any, weights: Any) -> Any:
            value, resp, *bend = bend_of(
                lambda params: portion(params, shared, values), params, weights, turns
            )
            return value, resp.reshape(-1, self.K).sum(0), *bend

        value, mass, slope, products = chunks.summed(part, *data.rows)
        own = chunks.Implied(params, mass)
        return value, Bent(own, params, slope, hessian(products, turns))

    def _filled(self, observed: Statistics, leaves: dict[str, jax.Array], data: Data) -> Partial:
        mass, features = complete(self.family, leaves, *observed, data.rows.patterns)
        return Partial(observed, Statistics(mass, features))

    def statistics_of(self, resp: jax.Array, data: Data) -> Any:
        """What ``e_step`` gives, from responsibilities (N, K) instead of params.

        The general sweep wants them weighted, (*rows, K), unless its rows come in chunks. Missing
        cells are then expected to be as the observed ones of their column and cluster.
        """
        if self.portion:
            return self._given(resp, data)
        if self.family is None:
            return resp
        statistics = statistics_of(self.family, resp, data.rows)
        if not self.patterned:
            return statistics
        leaves = available(self.family, *statistics, data.rows.patterns)
        return self._filled(statistics, leaves, data)

    def _given(self, resp: jax.Array, data: Data) -> chunks.Given:
        assert self.portion is not None
        weights = data.rows.weights
        rows = resp.reshape(-1, *weights.shape[2:], self.K)
        own = weights[..., None] * chunks.in_chunks(rows, 0, self.portion.size)
        return chunks.Given(own, own.reshape(-1, self.K).sum(0))

    def counts(self, statistics: Any) -> jax.Array:
        """Rows (sum of weighted responsibilities) in each cluster, (K,)."""
        statistics = plain(statistics)
        if self.family or self.portion:
            return statistics.mass
        return statistics.reshape(-1, self.K).sum(0)

    def weighted_resp(self, statistics: Any, data: Data) -> jax.Array:
        """Weighted responsibilities of the general sweep, (n, K); padding rows may follow."""
        if isinstance(statistics, chunks.Implied):
            resp = self.by_portion(statistics.at, data)[1]
            statistics = resp * data.rows.weights.reshape(*resp.shape[:-1], 1)
        elif isinstance(statistics, chunks.Given):
            statistics = statistics.resp
        return statistics.reshape(-1, self.K)

    def at_once(self, data: Data) -> int | None:
        """How many rows a pass takes at once; None for all of them."""
        if self.family:
            return data.rows.z.shape[-1]
        return self.portion.size if self.portion else None

    def _shared(self, data: Data) -> list[Any]:
        """What a portion of the rows needs of the data besides these rows."""
        assert self.portion is not None
        return self.piece([leaf.whole for leaf in self.portion.shared], {}, data.known)

    def whole(self, statistics: Any) -> Any:
        """Statistics of whole rows, on which closed forms work."""
        return statistics.completed if self.patterned else statistics

    def _by_row(self, params: Params, data: Data) -> tuple[jax.Array, Any]:
        """The components' log densities (*rows, K) and the row weights, or None."""
        components, scale = self.piece((self._components, self._scale), params, data.known)
        if data.rows is not None:
            scale = data.rows if scale is None else data.rows * scale
        return safe(components), scale

    def reweighted(self, data: Data, factors: jax.Array) -> Data:
        """The data with every row's weight multiplied by a factor, laid out as ``row_weights``.

        What the priors take from the data stays as it is. Traceable.
        """
        if self.portion:
            own = data.rows.weights * factors
            return data._replace(rows=data.rows._replace(weights=own))
        if self.family is None:
            return data._replace(rows=factors)
        rows = data.rows._replace(weights=data.rows.weights * factors, plain=None)
        if self.tied:
            rows = rows._replace(shared=total_squares(self.family, rows))
        return data._replace(rows=rows, base=total_base(self.family, rows))

    def resp(self, params: Params, data: Data) -> jax.Array:
        """Responsibilities of the rows as ``data`` holds them, (n, K); padding rows may follow."""
        if self.family:
            return responsibilities_of(self.family, *self.natural(params, data), data.rows)
        if self.portion:
            return self.by_portion(params, data)[1].reshape(-1, self.K)
        return jax.nn.softmax(self._by_row(params, data)[0], -1).reshape(-1, self.K)

    def by_rows(self, params: Params, data: Data) -> jax.Array:
        """Weighted log density of the general sweep's rows, (n,); padding rows may follow."""
        if self.portion:
            return self.by_portion(params, data)[0].reshape(-1)
        components, scale = self._by_row(params, data)
        return weighted(jax.nn.logsumexp(components, -1), scale).reshape(-1)

    def by_portion(self, params: Params, data: Data) -> tuple[jax.Array, jax.Array]:
        """Weighted log density (n, ...) and responsibilities (n, ..., K) of rows in chunks; padding
        rows may follow.
        """
        assert self.portion is not None
        return chunks.pointwise(self.portion, params, self._shared(data), data.rows)

    def by_pattern(self, params: Params, data: Data) -> tuple[jax.Array, jax.Array]:
        """Weighted log density (N,) and responsibilities (N, K) of rows grouped by pattern."""
        assert self.family is not None
        eta, offset = self.natural(params, data)
        value, resp = densities_by_pattern(self.family, eta, offset, data.rows)
        return weighted(value, data.rows.counts), resp

    def expected_at(self, params: Params, at: Params, data: Data) -> jax.Array:
        """Q(params | at) of rows in chunks, in nats; ``at`` has a gradient here, too."""
        assert self.portion is not None
        shared = self._shared(data)
        fit = chunks.expected_at(self.portion, params, at, shared, data.rows)
        return self.log_prior(params, data) + fit

    def expected(self, params: Params, statistics: Any, data: Data) -> jax.Array:
        """Q(params | statistics), in nats: expected log density of data and assignments."""
        statistics = plain(statistics)
        if self.family:
            eta, offset = self.natural(params, data)
            own = statistics.observed if self.patterned else statistics
            fit = data.base + dot(own.mass, offset) + jnp.sum(own.features * eta)
        elif self.portion:
            given = self._shared(data), data.rows
            fit = chunks.expected(self.portion, params, statistics, *given)
        else:
            fit = dot(statistics, self.piece(self._components, params, data.known))
        return self.log_prior(params, data) + fit

    def rising(self, params: Params, statistics: Any, data: Data) -> jax.Array:
        """A function with Q's gradient, the log joint's, at the params that gave the statistics."""
        if not isinstance(statistics, Bent):
            return self.expected(params, statistics, data)
        slope = sum(jnp.sum(statistics.slope[name] * params[name]) for name in params)
        return slope + self.log_prior(params, data)


def _is_unbounded(transform: Any) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, IdentityTransform | LowerTransform)


def _off_zero(transform: Any, value: jax.Array) -> jax.Array:
    """A value a little off 0, where NumPyro's Binomial by logit has a kink instead of a slope.

    Loadings of 0 are a point from which no slope leads away.
    """
    z = transform.inv(value)
    return transform(jnp.where(z == 0, 0.01, z))
