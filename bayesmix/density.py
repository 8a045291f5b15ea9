"""The densities of a mixture: log joint, responsibilities, and the expectation that EM maximises.

A ``Density`` is the arithmetic of one program as pure functions of (params, data), read from the
program's graph. It holds no data: two readings of the same program with data of the same shapes are
equal and share compiled code. What depends on data alone (means, covariances that scale a prior) is
computed once, when the data are prepared. The public functions are the same arithmetic on one
mixture.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.distributions.transforms import IdentityTransform, IndependentTransform

from bayesmix.blocks import Blocks
from bayesmix.effort import cells_of, compiled
from bayesmix.families import Family, find
from bayesmix.families.normal import Normal
from bayesmix.families.product import Labels, Product, located
from bayesmix.graph import evaluate, fingerprint, frontier, same_along
from bayesmix.merge import SAMPLE, Merged, merge
from bayesmix.program import Mixture, Params
from bayesmix.reader import Reading, x64
from bayesmix.rowwise import summarise
from bayesmix.sweep import (
    Streamed,
    largest,
    log_likelihood,
    merged_rows,
    responsibilities_of,
    rows_of,
    scan_rows,
    sharded,
    streamed_rows,
    total_base,
    total_squares,
)

# Nats of a row's score that may be lost before the sweep gives way, by precision.
CANCELLATION = {"float64": 1e-8, "float32": 1e-3}


class Piece:
    """A part of a program's arithmetic, ``nodes``, as a function of params and data summaries.

    Hashable by its arithmetic, so that it can be static under ``jax.jit``.
    """

    def __init__(self, nodes: Any, reading: Reading) -> None:
        self.nodes = nodes
        flat = jax.tree.leaves(nodes)
        self.frontier = frontier(flat)
        self._sites = {name: node.number for name, node in reading.sites.items()}
        self._key = (fingerprint([*flat, *self.frontier]), str(jax.tree.structure(nodes)))
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Piece) and self._key == other._key)

    def __call__(self, nodes: Any, params: Params, known: list[Any]) -> Any:
        """Values of some of the nodes, in their own structure."""
        given = {node.number: value for node, value in zip(self.frontier, known, strict=True)}
        given |= {self._sites[name]: v for name, v in params.items() if name in self._sites}
        flat, tree = jax.tree.flatten(nodes)
        return jax.tree.unflatten(tree, evaluate(flat, given))

    def summarise(self, data: dict[int, Any]) -> list[Any]:
        """What the nodes need of the data, given the data by node number."""
        source = tuple(sorted(data))
        return _summaries(self, source, [data[number] for number in source])


@partial(jax.jit, static_argnums=(0, 1))
def _summaries(piece: Piece, source: tuple[int, ...], arrays: list[Any]) -> list[Any]:
    return evaluate(piece.frontier, dict(zip(source, arrays, strict=True)))


class Data(NamedTuple):
    """All that a Density needs of the data: summaries for the program's arithmetic, and rows."""

    known: list[Any]
    rows: Any  # Rows; for the general sweep None, or factors of the row weights (*rows)
    base: Any


class Density:
    """Pure, traceable functions of one program's arithmetic; hashable, so static under jit."""

    def __init__(self, mixture: Mixture) -> None:
        reading = mixture.reading
        self.sites = {name: site.shape for name, site in mixture.sites.items()}
        self.supports = {name: site.support for name, site in mixture.sites.items()}
        self.K = mixture.K
        self.family = _family_of(mixture)
        self.tied = self.family is not None and _is_tied(self.family, reading)
        self._terms, self._priors = reading.terms, reading.priors
        self._bounds, self._scale = reading.supports, reading.scale
        self._leaves, self._log_weights = reading.leaves[0], reading.log_weights
        self._components, self._centres = reading.components, reading.centres
        fit = (self._leaves, self._log_weights) if self.family else (self._components, self._scale)
        self._piece = Piece((self._terms, self._priors, self._bounds, self._centres, fit), reading)
        self._key = (
            self._piece,
            (self.family, self.tied),
            tuple((name, shape, str(self.supports[name])) for name, shape in self.sites.items()),
            x64(),
        )
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Density) and self._key == other._key)

    def prepare(self, mixture: Mixture, dtype: str) -> Data:
        """The data of a mixture whose Density this is; ``dtype`` is the precision of the sweep."""
        rows = None
        if isinstance(mixture.value, Blocks):
            return self._prepare_blocks(mixture, mixture.value, dtype)
        if self.family:
            merged = merged_of(mixture)
            if merged is not None:
                rows = merged_rows(merged, self.family, self.K, dtype)
            else:
                rows = rows_of(*columns_of(mixture), self.family, self.K, dtype)
                if spread_out(mixture):
                    rows = sharded(rows, mixture.arguments.mesh)
        source = tuple(sorted(mixture.reading.data))
        arrays = [mixture.reading.data[number] for number in source]
        return _prepare(self, source, arrays, rows)

    def _prepare_blocks(self, mixture: Mixture, blocks: Blocks, dtype: str) -> Data:
        """The same for data that are never held: summaries and moments by passes over them."""
        if self.family is None:
            raise ValueError(
                f"site {mixture.name!r}: {mixture.family} components have no sweep of their own, "
                "so their rows cannot be given as Blocks"
            )
        data = dict(mixture.reading.data)
        source = next(number for number, array in data.items() if array is blocks)
        del data[source]
        known = summarise(self._piece.frontier, source, data, blocks)
        rows = streamed_rows(blocks, self.family, self.K, dtype, self.tied)
        return Data([jnp.asarray(value) for value in known], rows, jnp.asarray(rows.base, float))

    # ------------------------------------------------------------------ values of the program

    def terms(self, params: Params, data: Data) -> dict[str, jax.Array]:
        """Log density of every site but the mixture's, summed over its elements, in nats."""
        return self._piece(self._terms, params, data.known)

    def prior(self, name: str, params: Params, data: Data) -> dict[str, jax.Array]:
        """The parameters of a latent site's prior at ``params``."""
        return self._piece(self._priors[name], params, data.known)

    def leaves(self, params: Params, data: Data) -> dict[str, jax.Array]:
        """The parameters of the components, each (K, *event), in data units."""
        return self._piece(self._leaves, params, data.known)

    def transforms(self, data: Data) -> dict[str, Any]:
        """The bijection from unconstrained coordinates to each site's support."""
        bounds = self._piece(self._bounds, {}, data.known)
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
            mean = self._piece(node, params, data.known)
            inside = jnp.all(jnp.isfinite(transforms[name].inv(mean)))
            params[name] = jnp.where(inside, mean, params[name])
        return {
            name: _off_zero(value) if _is_unbounded(transforms[name]) else value
            for name, value in params.items()
        }

    # ----------------------------------------------------------------------------- densities

    def natural(self, params: Params, data: Data) -> tuple[jax.Array, jax.Array]:
        """eta (K, F) and log w - A (K,) in the sweep's coordinates."""
        assert self.family is not None
        leaves, log_weights = self._piece((self._leaves, self._log_weights), params, data.known)
        if self.family.location_scale:
            leaves = self.family.standardise(leaves, data.rows.shift, data.rows.scale)
        eta, normaliser = self.family.natural(leaves)
        return eta, log_weights - normaliser

    def cancels(self, params: Params, data: Data) -> jax.Array:
        """Whether a component is so narrow that x^2, x loc and loc^2 cancel in the sweep's score.

        Their size, precision * z^2, costs that many times the rounding unit; more than 1e-8 nats
        (a scale of about 1e-4 of the data's in float64) is too much.
        """
        assert self.family is not None
        precision = data.rows.z.dtype
        eta, z = self.natural(params, data)[0], data.rows.z
        if not isinstance(z, Streamed):
            eta, z = located(self.family, eta, z)
        size = jnp.max(jnp.abs(eta)) * jnp.maximum(1.0, largest(z)) ** 2
        return ~(size * jnp.finfo(precision).eps < CANCELLATION[precision.name])

    def rounding(self, data: Data) -> float:
        """The rounding unit of the pass over the data."""
        precision = data.rows.z.dtype if self.family else jnp.result_type(float)
        return float(jnp.finfo(precision).eps)

    def log_prior(self, params: Params, data: Data) -> jax.Array:
        """Log density of all sites but the mixture's, in nats."""
        return sum(self.terms(params, data).values(), jnp.zeros(()))

    def log_likelihood(self, params: Params, data: Data) -> jax.Array:
        """The observed site's log density with the assignments summed out, in nats."""
        if self.family:
            return data.base + log_likelihood(self.family, *self.natural(params, data), data.rows)
        components, scale = self._by_row(params, data)
        return jnp.sum(_weighted(jax.nn.logsumexp(components, -1), scale))

    def log_joint(self, params: Params, data: Data) -> jax.Array:
        """Log density of all sites of the program, in nats."""
        return self.log_prior(params, data) + self.log_likelihood(params, data)

    def e_step(self, params: Params, data: Data) -> tuple[jax.Array, Any]:
        """The log likelihood and what the M-step needs.

        Statistics of the sweep, or the weighted responsibilities (*rows, K) of the general sweep.
        """
        if self.family:
            value, statistics = scan_rows(self.family, *self.natural(params, data), data.rows)
            return data.base + value, statistics
        components, scale = self._by_row(params, data)
        value = jnp.sum(_weighted(jax.nn.logsumexp(components, -1), scale))
        resp = jax.nn.softmax(components, -1)
        return value, resp if scale is None else resp * scale[..., None]

    def _by_row(self, params: Params, data: Data) -> tuple[jax.Array, Any]:
        """The components' log densities (*rows, K) and the row weights, or None."""
        components, scale = self._piece((self._components, self._scale), params, data.known)
        if data.rows is not None:
            scale = data.rows if scale is None else data.rows * scale
        return _safe(components), scale

    def reweighted(self, data: Data, factors: jax.Array) -> Data:
        """The data with every row's weight multiplied by a factor, laid out as ``row_weights``.

        What the priors take from the data stays as it is. Traceable.
        """
        if self.family is None:
            return data._replace(rows=factors)
        rows = data.rows._replace(weights=data.rows.weights * factors)
        if self.tied:
            rows = rows._replace(shared=total_squares(self.family, rows))
        return data._replace(rows=rows, base=total_base(self.family, rows))

    def resp(self, params: Params, data: Data) -> jax.Array:
        """Responsibilities of the rows as ``data`` holds them, (n, K); padding rows may follow."""
        if self.family:
            return responsibilities_of(self.family, *self.natural(params, data), data.rows)
        return jax.nn.softmax(self._by_row(params, data)[0], -1).reshape(-1, self.K)

    def expected(self, params: Params, statistics: Any, data: Data) -> jax.Array:
        """Q(params | statistics), in nats: expected log density of data and assignments."""
        if self.family:
            eta, offset = self.natural(params, data)
            fit = data.base + _dot(statistics.mass, offset) + jnp.sum(statistics.features * eta)
        else:
            fit = _dot(statistics, self._piece(self._components, params, data.known))
        return self.log_prior(params, data) + fit


def _is_unbounded(transform: Any) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, IdentityTransform)


def _off_zero(value: jax.Array) -> jax.Array:
    """A value a little off 0, where NumPyro's Binomial by logit has a kink instead of a slope."""
    return jnp.where(value == 0, 0.01, value)


def _safe(components: jax.Array) -> jax.Array:
    """Keep rows that no component can reach away from inf - inf."""
    return jnp.where(jnp.isneginf(components), jnp.finfo(components.dtype).min, components)


def _weighted(value: jax.Array, scale: Any) -> jax.Array:
    return value if scale is None else jnp.where(scale > 0, scale * value, 0.0)


def _dot(weight: jax.Array, value: jax.Array) -> jax.Array:
    """sum(weight * value), where weight 0 switches off infinite values."""
    return jnp.sum(weight * jnp.where(weight > 0, value, 0.0))


@compiled(lambda density, source, arrays, rows: cells_of(arrays), static=(0, 1))
def _prepare(density: Density, source: tuple[int, ...], arrays: list[Any], rows: Any) -> Data:
    """Everything that depends on the data alone, in one compiled call."""
    known = evaluate(density._piece.frontier, dict(zip(source, arrays, strict=True)))
    if density.family is None:
        return Data(known, rows, jnp.zeros(()))
    return _on_rows(density, known, rows)


@partial(jax.jit, static_argnums=0)
def _on_rows(density: Density, known: list[Any], rows: Any) -> Data:
    """The data of a sweep: what the rows alone decide is added up once."""
    assert density.family is not None
    base = total_base(density.family, rows)
    if density.tied:
        rows = rows._replace(shared=total_squares(density.family, rows))
    return Data(known, jax.tree.map(jnp.asarray, rows), base)


def _family_of(mixture: Mixture) -> Family | None:
    """The family whose sweep fits: registered families, parameters that no row changes."""
    if mixture.by_row or mixture.general:
        return None
    found: list[tuple[str, Any, int]] = []
    for site in mixture.observed:
        family = find(site.components[0], _shapes(mixture, site.name))
        if family is None:
            return None
        width = int(np.prod(site.value.shape[len(mixture.rows) :]))
        found.append((site.name, family, width * (1 + len(site.given))))
    if mixture.labels is not None:
        found.append(("", Labels(mixture.K), 1))
    if len(found) > 1:
        return Product(found)
    if isinstance(found[0][1], Normal) and len(mixture.event_shape) == 1:
        return Normal(isotropic=same_along(mixture.reading.leaves[0]["scale"], 1))
    return found[0][1]


def _shapes(mixture: Mixture, site: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of an observed site's components."""
    leaves = mixture.reading.leaves[0]
    return {
        leaf.removesuffix(f"[{site}]"): node.shape
        for leaf, node in leaves.items()
        if "[" not in leaf or leaf.endswith(f"[{site}]")
    }


def has_family(mixture: Mixture) -> bool:
    """Whether the exponential-family sweep fits the mixture."""
    return _family_of(mixture) is not None


def _is_tied(family: Family, reading: Reading) -> bool:
    """Whether one spread, shared by all clusters, decides all natural parameters beyond x's own."""
    if not family.location_scale or isinstance(family, Product):
        return False
    return same_along(reading.leaves[0][family.spread], 0)


def columns_of(mixture: Mixture) -> tuple[Any, np.ndarray | None]:
    """Observed values (N, D) in their own dtype, or Blocks, and row weights (N,) or None.

    Numbers of trials follow the columns of their site; known labels come last.
    """
    weights = None if mixture.weights is None else mixture.weights.reshape(-1)
    if isinstance(mixture.value, Blocks):
        return mixture.value, weights
    columns = [array for site in mixture.observed for array in (site.value, *site.given.values())]
    columns += [] if mixture.labels is None else [mixture.labels]
    flat = [column.reshape(mixture.N, -1) for column in columns]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, 1), weights


def spread_out(mixture: Mixture) -> bool:
    """Whether the rows are shared out among the devices that the data came from."""
    many = mixture.arguments.mesh is not None and mixture.N > SAMPLE
    return many and has_family(mixture) and merged_of(mixture) is None


def merged_of(mixture: Mixture) -> Merged | None:
    """The distinct rows of a mixture, where they repeat enough and no parameter differs by row."""
    if "merged" not in mixture.cache:
        whole = has_family(mixture) and not isinstance(mixture.value, Blocks)
        mixture.cache["merged"] = merge(*columns_of(mixture)) if whole else None
    return mixture.cache["merged"]


def cached(mixture: Mixture, name: str, make: Any) -> Any:
    """Made once per mixture and precision, from values, even when called under a trace."""
    key = (name, x64())
    if key not in mixture.cache:
        _ = mixture.reading
        tracing = isinstance(jnp.zeros(()), jax.core.Tracer)
        with jax.ensure_compile_time_eval() if tracing else nullcontext():
            mixture.cache[key] = make()
    return mixture.cache[key]


def density_of(mixture: Mixture) -> Density:
    """The mixture's Density in the ambient precision."""
    return cached(mixture, "density", lambda: Density(mixture))


def data_of(mixture: Mixture, dtype: str | None = None) -> Data:
    """The mixture's data, prepared for its Density, in the ambient precision.

    dtype : the precision of the pass over the rows, if it is to be lower than the ambient one.
    """
    dtype = dtype or jnp.result_type(float).name
    return cached(mixture, f"data {dtype}", lambda: density_of(mixture).prepare(mixture, dtype))


def sample_of(
    mixture: Mixture, data: Data, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, Data, bool]:
    """At most ``most`` of the rows, (n, D), the data of these alone, and whether they are all.

    Merged rows count once. Weights are raised to the weight of all; priors stay as the whole data
    made them. The general sweep keeps all rows.
    """
    density, merged = density_of(mixture), merged_of(mixture)
    x, weights = columns_of(mixture) if merged is None else (merged.x, merged.weights)
    if density.family is None:
        return np.asarray(x, np.float64), data, True
    if len(x) <= most:
        rows = data.rows._replace(place=None, counts=None)
        return np.asarray(x, np.float64), data._replace(rows=rows), True
    counted = np.arange(len(x)) if weights is None else np.flatnonzero(weights > 0)
    index = np.sort(rng.choice(counted, min(most, len(counted)), replace=False))
    some = np.asarray(x[index], np.float64).reshape(len(index), -1)
    raised = np.ones(len(index)) if weights is None else weights[index]
    total = len(x) if weights is None else weights.sum()
    raised = raised * (total / raised.sum())
    rows = rows_of(some, raised, density.family, mixture.K, data.rows.z.dtype.name)
    return some, _on_rows(density, data.known, rows), False


def row_weights(mixture: Mixture) -> np.ndarray:
    """Row weights as the sweep holds them, padding rows 0; (*rows) for the general sweep."""
    if density_of(mixture).family:
        return np.asarray(data_of(mixture).rows.weights, np.float64)
    return np.ones(mixture.rows) if mixture.weights is None else np.asarray(mixture.weights)


# --------------------------------------------------------------------- by row, from the program


def row_piece(mixture: Mixture) -> tuple[Piece, list[Any]]:
    """The program's components by row, as a function, with what it needs of the data."""
    if isinstance(mixture.value, Blocks):
        raise ValueError(
            "one number for every row of Blocks is not held: ask for some of the rows, as in "
            "em.predict_proba(rows) or em.log_density(rows)"
        )

    def make() -> tuple[Piece, list[Any]]:
        reading = mixture.reading
        piece = Piece((reading.components, reading.scale), reading)
        return piece, piece.summarise(reading.data)

    return cached(mixture, "rows", make)


@partial(jax.jit, static_argnums=0)
def by_row(piece: Piece, params: Params, known: list[Any]) -> tuple[jax.Array, jax.Array]:
    """Log density of each row, weighted, and its responsibilities."""
    components, scale = piece(piece.nodes, params, known)
    components = _safe(components)
    pointwise = _weighted(jax.nn.logsumexp(components, -1), scale)
    return pointwise, jax.nn.softmax(components, -1)


# ------------------------------------------------------------------------------ public functions


@partial(jax.jit, static_argnums=(0, 1))
def _log_joint(
    density: Density, piece: Piece, params: Params, data: Data, known: list[Any]
) -> jax.Array:
    """The log joint by the sweep; by the components' own densities where the sweep would cancel."""
    if density.family is None or not density.family.location_scale:
        return density.log_joint(params, data)

    def by_components() -> jax.Array:
        return density.log_prior(params, data) + by_row(piece, params, known)[0].sum()

    def by_sweep() -> jax.Array:
        return density.log_joint(params, data)

    return jax.lax.cond(density.cancels(params, data), by_components, by_sweep)


_log_joint_of_sweep = jax.jit(Density.log_joint, static_argnums=0)
_terms = jax.jit(Density.terms, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _expected(density: Density, params: Params, at: Params, data: Data) -> jax.Array:
    return density.expected(params, density.e_step(at, data)[1], data)


def log_joint(mixture: Mixture, params: Params) -> jax.Array:
    """Log density of all sites of the program at constrained ``params``, in nats.

    Equal to ``numpyro.infer.util.log_density(program, args, kwargs, params)[0]``, without a
    Jacobian. Traceable; in the ambient precision.
    """
    if isinstance(mixture.value, Blocks):
        return _log_joint_of_sweep(density_of(mixture), params, data_of(mixture))
    row = row_piece(mixture)
    return _log_joint(density_of(mixture), row[0], params, data_of(mixture), row[1])


def responsibilities(mixture: Mixture, params: Params) -> jax.Array:
    """p(z_n = k | x_n, params), shape (*rows, K); rows sum to 1. Traceable."""
    piece, known = row_piece(mixture)
    return by_row(piece, params, known)[1]


def log_density(mixture: Mixture, params: Params) -> jax.Array:
    """log sum_k w_k f(x_n | k) of every observation, times its weight, (*rows), in nats."""
    piece, known = row_piece(mixture)
    return by_row(piece, params, known)[0]


def log_prior(mixture: Mixture, params: Params) -> dict[str, jax.Array]:
    """Log density of every site but the mixture's, summed over its elements, in nats."""
    return _terms(density_of(mixture), params, data_of(mixture))


def expected_log_joint(mixture: Mixture, params: Params, at: Params) -> jax.Array:
    """Q(params | at): the log joint of data and assignments expected under p(z | x, at), in nats.

    Q(theta | theta) plus the entropy of the responsibilities is ``log_joint(theta)``. Traceable.
    """
    return _expected(density_of(mixture), params, at, data_of(mixture))
