"""The densities of one mixture at given params: the public functions."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bayesmix.blocks import Blocks
from bayesmix.density.arithmetic import Density
from bayesmix.density.byrow import by_row, row_piece
from bayesmix.density.chunks import weighted
from bayesmix.density.data import Data
from bayesmix.density.piece import Piece
from bayesmix.density.prepared import data_of, density_of
from bayesmix.device import whole_products
from bayesmix.program import Mixture, Params


@partial(jax.jit, static_argnums=(0, 1))
def _log_joint(
    density: Density, piece: Piece, params: Params, data: Data, known: list[Any]
) -> jax.Array:
    """The log joint by the sweep; by the components' own densities where the sweep would cancel."""

    def by_components() -> jax.Array:
        return density.log_prior(params, data) + by_row(piece, params, known)[0].sum()

    def by_sweep() -> jax.Array:
        return density.log_joint(params, data)

    return jax.lax.cond(density.cancels(params, data), by_components, by_sweep)


_log_joint_of_sweep = jax.jit(Density.log_joint, static_argnums=0)
_terms = jax.jit(Density.terms, static_argnums=0)
_by_portion = jax.jit(Density.by_portion, static_argnums=0)
_expected_at = jax.jit(Density.expected_at, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _expected(density: Density, params: Params, at: Params, data: Data) -> jax.Array:
    return density.expected(params, density.e_step(at, data)[1], data)


@partial(jax.jit, static_argnums=(0, 1))
def _expected_by_row(
    density: Density, piece: Piece, params: Params, at: Params, data: Data, known: list[Any]
) -> jax.Array:
    """The same where the sweep's statistics are of more than the assignments."""
    components, scale = piece(piece.nodes, params, known)
    resp = by_row(piece, at, known)[1]
    fit = jnp.sum(weighted(jnp.sum(jnp.where(resp > 0, resp * components, 0.0), -1), scale))
    return density.log_prior(params, data) + fit


@whole_products()
def log_joint(mixture: Mixture, params: Params) -> jax.Array:
    """Log density of all sites of the program at constrained ``params``, in nats.

    Equal to ``numpyro.infer.util.log_density(program, args, kwargs, params)[0]``, without a
    Jacobian. Traceable; in the ambient precision. Like the functions below it raises ValueError
    where ``params`` lack a latent site.
    """
    _check_sites(mixture, params)
    density, data = density_of(mixture), data_of(mixture)
    if isinstance(mixture.value, Blocks) or density.patterned or not density.may_cancel:
        return _log_joint_of_sweep(density, params, data)
    row = row_piece(mixture)
    return _log_joint(density, row[0], params, data, row[1])


def _check_sites(mixture: Mixture, params: Params) -> None:
    missing = [name for name in mixture.sites if name not in params]
    if missing:
        raise ValueError(f"params need a value for every latent site: missing {missing}")


def responsibilities(mixture: Mixture, params: Params) -> jax.Array:
    """p(z_n = k | x_n, params), shape (*rows, K); rows sum to 1. Traceable."""
    return _pointwise(mixture, params)[1]


def log_density(mixture: Mixture, params: Params) -> jax.Array:
    """log sum_k w_k f(x_n | k) of every observation, times its weight, (*rows), in nats."""
    return _pointwise(mixture, params)[0]


@whole_products()
def _pointwise(mixture: Mixture, params: Params) -> tuple[jax.Array, jax.Array]:
    """Log density, weighted, and responsibilities of every observation."""
    _check_sites(mixture, params)
    if not isinstance(mixture.value, Blocks) and density_of(mixture).portion:
        found = _by_portion(density_of(mixture), params, data_of(mixture))
        return found[0][: mixture.rows[0]], found[1][: mixture.rows[0]]
    piece, known = row_piece(mixture)
    return by_row(piece, params, known)


@whole_products()
def log_prior(mixture: Mixture, params: Params) -> dict[str, jax.Array]:
    """Log density of every site but the mixture's, summed over its elements, in nats."""
    return _terms(density_of(mixture), params, data_of(mixture))


@whole_products()
def expected_log_joint(mixture: Mixture, params: Params, at: Params) -> jax.Array:
    """Q(params | at): the log joint of data and assignments expected under p(z | x, at), in nats.

    Q(theta | theta) plus the entropy of the responsibilities is ``log_joint(theta)``. Traceable.
    """
    _check_sites(mixture, params)
    _check_sites(mixture, at)
    density, data = density_of(mixture), data_of(mixture)
    if density.portion:
        return _expected_at(density, params, at, data)
    if hasattr(density.family, "scores"):
        piece, known = row_piece(mixture)
        return _expected_by_row(density, piece, params, at, data, known)
    return _expected(density, params, at, data)
