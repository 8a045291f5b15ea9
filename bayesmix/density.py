"""The densities of a mixture: log joint, responsibilities, and the expectation that EM maximises.

A ``Density`` is the arithmetic of one program as pure functions of (params, data), read from the
program's graph. It holds no data: two readings of the same program with data of the same shapes are
equal and share compiled code. What depends on data alone (means, covariances that scale a prior) is
computed once, when the data are prepared. The public functions are the same arithmetic on one
mixture.
"""

from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from bayesmix.families import Family, find
from bayesmix.graph import evaluate, fingerprint, frontier
from bayesmix.program import Mixture, Params, Reading
from bayesmix.sweep import Rows, log_likelihood, rows_of, scan_rows, total_base

RESPONSIBILITIES_LIMIT = 256e6
BLOCK = 2**22


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
    rows: Rows | None
    base: Any


class Density:
    """Pure, traceable functions of one program's arithmetic; hashable, so static under jit."""

    def __init__(self, mixture: Mixture) -> None:
        reading = mixture.reading
        self.sites = {name: site.shape for name, site in mixture.sites.items()}
        self.supports = {name: site.support for name, site in mixture.sites.items()}
        self.K = mixture.K
        self.family = _family_of(mixture)
        self._terms, self._priors = reading.terms, reading.priors
        self._bounds, self._scale = reading.supports, reading.scale
        self._leaves, self._log_weights = reading.leaves[0], reading.log_weights
        self._components, self._centres = reading.components, reading.centres
        fit = (self._leaves, self._log_weights) if self.family else (self._components, self._scale)
        self._piece = Piece(
            (self._terms, self._priors, self._bounds, self._centres, fit), reading
        )
        self._key = (
            self._piece,
            self.family.name if self.family else None,
            tuple((name, shape, str(self.supports[name])) for name, shape in self.sites.items()),
            bool(jax.config.jax_enable_x64),
        )
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Density) and self._key == other._key)

    def prepare(self, mixture: Mixture) -> Data:
        """The data of a mixture whose Density this is."""
        rows = None
        if self.family:
            rows = rows_of(mixture.value, mixture.weights, mixture.mixture_event_dim, self.family)
        source = tuple(sorted(mixture.reading.data))
        arrays = [mixture.reading.data[number] for number in source]
        return _prepare(self, source, arrays, rows)

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
        return params

    # ----------------------------------------------------------------------------- densities

    def natural(self, params: Params, data: Data) -> tuple[jax.Array, jax.Array]:
        """eta (K, F) and log w - A (K,) in the sweep's coordinates."""
        leaves, log_weights = self._piece((self._leaves, self._log_weights), params, data.known)
        if self.family.location_scale:
            leaves = self.family.standardise(leaves, data.rows.shift, data.rows.scale)
        eta, normaliser = self.family.natural(leaves)
        return eta, log_weights - normaliser

    def log_prior(self, params: Params, data: Data) -> jax.Array:
        """Log density of all sites but the mixture's, in nats."""
        return sum(self.terms(params, data).values(), jnp.zeros(()))

    def log_likelihood(self, params: Params, data: Data) -> jax.Array:
        """The observed site's log density with the assignments summed out, in nats."""
        if self.family:
            return data.base + log_likelihood(self.family, *self.natural(params, data), data.rows)
        components, scale = self._piece((self._components, self._scale), params, data.known)
        return jnp.sum(_weighted(jax.nn.logsumexp(_safe(components), -1), scale))

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
        components, scale = self._piece((self._components, self._scale), params, data.known)
        components = _safe(components)
        value = jnp.sum(_weighted(jax.nn.logsumexp(components, -1), scale))
        resp = jax.nn.softmax(components, -1)
        return value, resp if scale is None else resp * scale[..., None]

    def expected(self, params: Params, statistics: Any, data: Data) -> jax.Array:
        """Q(params | statistics), in nats: expected log density of data and assignments."""
        if self.family:
            eta, offset = self.natural(params, data)
            fit = data.base + _dot(statistics.mass, offset) + jnp.sum(statistics.features * eta)
        else:
            fit = _dot(statistics, self._piece(self._components, params, data.known))
        return self.log_prior(params, data) + fit


def _safe(components: jax.Array) -> jax.Array:
    """Keep rows that no component can reach away from inf - inf."""
    return jnp.where(jnp.isneginf(components), jnp.finfo(components.dtype).min, components)


def _weighted(value: jax.Array, scale: Any) -> jax.Array:
    return value if scale is None else jnp.where(scale > 0, scale * value, 0.0)


def _dot(weight: jax.Array, value: jax.Array) -> jax.Array:
    """sum(weight * value), where weight 0 switches off infinite values."""
    return jnp.sum(weight * jnp.where(weight > 0, value, 0.0))


@partial(jax.jit, static_argnums=(0, 1))
def _prepare(density: Density, source: tuple[int, ...], arrays: list[Any], rows: Any) -> Data:
    """Everything that depends on the data alone, in one compiled call."""
    known = evaluate(density._piece.frontier, dict(zip(source, arrays, strict=True)))
    base = total_base(density.family, rows) if density.family else jnp.zeros(())
    return Data(known, jax.tree.map(jnp.asarray, rows), base)


def _family_of(mixture: Mixture) -> Family | None:
    """The family whose sweep fits: one registered family, parameters that no row changes."""
    if len(mixture.components) > 1:
        return None
    one_row = mixture.component_rank == 1 and len(mixture.reading.log_weights.shape) == 1
    return find(mixture.components[0]) if one_row else None


def _cached(mixture: Mixture, name: str, make: Any) -> Any:
    """Made once per mixture and precision, from values, even when called under a trace."""
    key = (name, bool(jax.config.jax_enable_x64))
    if key not in mixture.cache:
        _ = mixture.reading
        with jax.ensure_compile_time_eval():
            mixture.cache[key] = make()
    return mixture.cache[key]


def density_of(mixture: Mixture) -> Density:
    """The mixture's Density in the ambient precision."""
    return _cached(mixture, "density", lambda: Density(mixture))


def data_of(mixture: Mixture) -> Data:
    """The mixture's data, prepared for its Density, in the ambient precision."""
    return _cached(mixture, "data", lambda: density_of(mixture).prepare(mixture))


# --------------------------------------------------------------------- by row, from the program


def _row_piece(mixture: Mixture) -> tuple[Piece, list[Any]]:
    def make() -> tuple[Piece, list[Any]]:
        reading = mixture.reading
        piece = Piece((reading.components, reading.scale), reading)
        return piece, piece.summarise(reading.data)

    return _cached(mixture, "rows", make)


@partial(jax.jit, static_argnums=0)
def _by_row(piece: Piece, params: Params, known: list[Any]) -> tuple[jax.Array, jax.Array]:
    """Log density of each row, weighted, and its responsibilities."""
    components, scale = piece(piece.nodes, params, known)
    components = _safe(components)
    pointwise = _weighted(jax.nn.logsumexp(components, -1), scale)
    return pointwise, jax.nn.softmax(components, -1)


# ------------------------------------------------------------------------------ public functions


_log_joint = jax.jit(Density.log_joint, static_argnums=0)
_terms = jax.jit(Density.terms, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _expected(density: Density, params: Params, at: Params, data: Data) -> jax.Array:
    return density.expected(params, density.e_step(at, data)[1], data)


def log_joint(mixture: Mixture, params: Params) -> jax.Array:
    """Log density of all sites of the program at constrained ``params``, in nats.

    Equal to ``numpyro.infer.util.log_density(program, args, kwargs, params)[0]``, without a
    Jacobian. Traceable; in the ambient precision.
    """
    return _log_joint(density_of(mixture), params, data_of(mixture))


def responsibilities(mixture: Mixture, params: Params) -> jax.Array:
    """p(z_n = k | x_n, params), shape (*rows, K); rows sum to 1. Traceable."""
    piece, known = _row_piece(mixture)
    return _by_row(piece, params, known)[1]


def log_density(mixture: Mixture, params: Params) -> jax.Array:
    """log sum_k w_k f(x_n | k) of every observation, times its weight, (*rows), in nats."""
    piece, known = _row_piece(mixture)
    return _by_row(piece, params, known)[0]


def log_prior(mixture: Mixture, params: Params) -> dict[str, jax.Array]:
    """Log density of every site but the mixture's, summed over its elements, in nats."""
    return _terms(density_of(mixture), params, data_of(mixture))


def expected_log_joint(mixture: Mixture, params: Params, at: Params) -> jax.Array:
    """Q(params | at): the log joint of data and assignments expected under p(z | x, at), in nats.

    Q(theta | theta) plus the entropy of the responsibilities is ``log_joint(theta)``. Traceable.
    """
    return _expected(density_of(mixture), params, at, data_of(mixture))


# ---------------------------------------------------------------------------------- permutations


def permute(mixture: Mixture, params: Params, perm: Any) -> Params:
    """``params`` with the clusters renamed: new cluster k is old cluster ``perm[k]``.

    A site without a cluster axis is shared and stays as it is.
    """
    return {
        name: value
        if mixture.sites[name].cluster_axis is None
        else value.take(np.asarray(perm), axis=mixture.sites[name].cluster_axis)
        for name, value in params.items()
    }


def exchangeable(mixture: Mixture, params: Params) -> tuple[tuple[int, ...], ...]:
    """Classes of clusters that may change places without changing the log joint.

    Checked numerically at ``params``, which should be a generic point: two clusters are in one
    class when swapping them leaves the log joint as it is, to rounding, here and at a point moved
    away from here. ((0, 1, 2),) is full symmetry, ((0,), (1,), (2,)) none.
    """
    pairs = list(combinations(range(mixture.K), 2))
    perms = np.tile(np.arange(mixture.K), (len(pairs) + 1, 1))
    for row, (i, j) in enumerate(pairs, start=1):
        perms[row, [i, j]] = j, i
    axes = tuple((name, site.cluster_axis) for name, site in mixture.sites.items())
    with jax.enable_x64(True):
        values = _permuted(density_of(mixture), axes, params, data_of(mixture), perms)
    same = np.isclose(values, values[0], rtol=1e-9, atol=1e-9 * mixture.N).all(1)
    return _classes(mixture.K, [pair for pair, kept in zip(pairs, same[1:], strict=True) if kept])


@partial(jax.jit, static_argnums=(0, 1))
def _permuted(density: Density, axes: Any, params: Params, data: Data, perms: Any) -> jax.Array:
    """Log joints (permutation, point) at ``params`` and at a point moved away from there."""

    def values(perm: jax.Array) -> jax.Array:
        def at(step: float) -> jax.Array:
            moved = _moved(density, params, data, step)
            return density.log_joint(
                {n: v if axis is None else v.take(perm, axis=axis)
                 for (n, axis), v in ((a, moved[a[0]]) for a in axes)}, data
            )  # fmt: skip

        return jnp.stack([at(0.0), at(0.1)])

    return jax.lax.map(values, perms)


def _moved(density: Density, params: Params, data: Data, step: float) -> Params:
    """``params``, each site moved by different amounts in its unconstrained coordinates."""
    moved = {}
    for number, (name, transform) in enumerate(density.transforms(data).items()):
        free = transform.inv(jnp.asarray(params[name], float))
        ripple = jnp.cos(1.0 + number + jnp.arange(free.size)).reshape(free.shape)
        moved[name] = transform(free + step * ripple)
    return moved


def _classes(K: int, swaps: list[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    label = list(range(K))
    for i, j in swaps:
        label = [label[i] if other == label[j] else other for other in label]
    return tuple(
        tuple(k for k in range(K) if label[k] == name) for name in dict.fromkeys(label)
    )


# ----------------------------------------------------------------------------------- many draws


def evaluate_draws(mixture: Mixture, draws: dict[str, Any]) -> dict[str, Any]:
    """Densities of draws {site: (chain, draw, *shape)}, as NumPy arrays in float64.

    "log_joint" (chain, draw); "log_prior" {site: (chain, draw)}; "log_likelihood"
    (chain, draw, *rows), in nats; "responsibilities" (chain, draw, *rows, K), or None where they
    would take more than 256 MB; "mean_responsibilities" (*rows, K), averaged over the draws;
    "weights" (chain, draw, K), averaged over rows where they differ by row; "entropy"
    (chain, draw), the mean over rows of the entropy of the responsibilities, in nats.
    """
    lead = next(iter(draws.values())).shape[:2]
    total = lead[0] * lead[1]
    flat = {n: np.asarray(v, np.float64).reshape(total, *v.shape[2:]) for n, v in draws.items()}
    keep = total * mixture.N * mixture.K * 8 <= RESPONSIBILITIES_LIMIT
    block = max(1, min(total, BLOCK // (mixture.N * mixture.K)))
    parts, mean = [], np.zeros((*mixture.rows, mixture.K))
    with jax.enable_x64(True):
        density, data = density_of(mixture), data_of(mixture)
        piece, known = _row_piece(mixture)
        weights = _weights_piece(mixture)
        for start in range(0, total, block):
            some = {name: value[start : start + block] for name, value in flat.items()}
            size = min(block, total - start)
            some = {n: np.concatenate([v, v[:1].repeat(block - size, 0)]) for n, v in some.items()}
            part = _many(density, piece, weights[0], some, data, known, weights[1])
            part = jax.tree.map(lambda value: np.asarray(value)[:size], part)  # noqa: B023
            mean += part["responsibilities"].sum(0) / total
            if not keep:
                part["responsibilities"] = None
            parts.append(part)
    stacked = jax.tree.map(lambda *values: np.concatenate(values), *parts)
    result = jax.tree.map(lambda value: value.reshape(*lead, *value.shape[1:]), stacked)
    return result | {"mean_responsibilities": mean}


def _weights_piece(mixture: Mixture) -> tuple[Piece, list[Any]]:
    def make() -> tuple[Piece, list[Any]]:
        piece = Piece(mixture.reading.log_weights, mixture.reading)
        return piece, piece.summarise(mixture.reading.data)

    return _cached(mixture, "weights", make)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _many(
    density: Density,
    piece: Piece,
    weights: Piece,
    draws: Params,
    data: Data,
    known: list[Any],
    weights_known: list[Any],
) -> dict[str, Any]:
    def one(params: Params) -> dict[str, Any]:
        terms = density.terms(params, data)
        pointwise, resp = _by_row(piece, params, known)
        shares = jnp.exp(weights(weights.nodes, params, weights_known))
        entropy = -jnp.sum(jax.scipy.special.xlogy(resp, resp), -1)
        return {
            "log_joint": sum(terms.values(), pointwise.sum()),
            "log_prior": terms,
            "log_likelihood": pointwise,
            "responsibilities": resp,
            "weights": shares.reshape(-1, density.K).mean(0),
            "entropy": entropy.mean(),
        }

    return jax.lax.map(one, draws)


def mixing_weights(mixture: Mixture, params: Params) -> np.ndarray:
    """The mixing weights (K,), averaged over rows where they differ by row."""
    with jax.enable_x64(True):
        shares = np.exp(np.asarray(_whole(*_weights_piece(mixture), params)))
    return shares.reshape(-1, mixture.K).mean(0)


@partial(jax.jit, static_argnums=0)
def _whole(piece: Piece, known: list[Any], params: Params) -> Any:
    return piece(piece.nodes, params, known)
