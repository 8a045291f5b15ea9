"""Rows that are read from Blocks at every pass, and the pass over them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.device import on_cpu
from bayesmix.families import Family
from bayesmix.sweep.chunks import scan_chunks, total_base, total_squares
from bayesmix.sweep.rows import Rows, chunk_rows
from bayesmix.sweep.standard import spread_of


@jax.tree_util.register_static
class Streamed:
    """Stands in ``Rows.z`` for rows that are read from Blocks at every pass.

    ``size`` : rows of a chunk. ``largest`` : the largest |z|.
    """

    def __init__(
        self, blocks: Blocks, shift: Any, scale: Any, size: int, dtype: str, largest: float
    ) -> None:
        self.blocks, self.shift, self.scale = blocks, shift, scale
        self.size, self.dtype, self.largest = size, np.dtype(dtype), largest
        self.shape = (-(-len(blocks) // size), int(np.prod(blocks.shape[1:])), size)


@on_cpu()
def streamed_rows(blocks: Blocks, family: Family, K: int, dtype: str, tied: bool) -> Rows:
    """The rows of Blocks; what needs all of them is gathered in one pass, or two if ``tied``.

    Blocks are added up on the host, where they are read: on an accelerator, the compiled code that
    asks for a block would hold up the code that adds it up.
    """
    shift, variance, low, high = moments(blocks)
    if family.location_scale:
        spread = spread_of(np.sqrt(variance), family)
    else:
        shift, spread = np.zeros_like(shift), np.ones_like(shift)
    far = float(np.max(np.maximum(abs(low - shift), abs(high - shift)) / spread))
    stream = Streamed(blocks, shift, spread, chunk_rows(family, len(shift), K, dtype), dtype, far)
    base, squares = -len(blocks) * float(np.log(spread).sum()), np.zeros(())
    for block in blocks:
        chunks = _laid_out(stream, block)
        base += float(_block_base(family, chunks, shift, spread))
        squares = squares + np.asarray(_block_squares(family, chunks)) if tied else squares
    shared = jnp.asarray(squares) if tied else None
    return Rows(stream, np.ones(()), shift, spread, base, shared)


def moments(blocks: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance, minimum and maximum of each column, in one pass.

    Source: Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance, The
    American Statistician 37, eq. 2.1.
    """
    count, mean, square, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    for block in blocks:
        x = np.asarray(block, np.float64).reshape(len(block), -1)
        middle = x.mean(0)
        total = count + len(x)
        step = middle - mean
        square = square + ((x - middle) ** 2).sum(0) + step**2 * (count * len(x) / total)
        mean = mean + step * (len(x) / total)
        low, high = np.minimum(low, x.min(0)), np.maximum(high, x.max(0))
        count = total
    return np.asarray(mean), np.asarray(square / count), np.asarray(low), np.asarray(high)


def largest(z: Any) -> Any:
    """The largest |z|."""
    return z.largest if isinstance(z, Streamed) else jnp.nanmax(jnp.abs(z))


def scan_blocks(by: Any, full: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """``scan_chunks`` of blocks that are read as it goes, by a call from compiled code.

    Numbers cross as their bits: JAX makes the call in a thread of its own, without float64.
    """
    stream = rows.z
    dtype, (K, F) = np.dtype(full.dtype), full.shape
    bits = jax.eval_shape(_bits, jax.ShapeDtypeStruct((1 + K * F,), dtype))

    def read(given: Any) -> np.ndarray:
        coefficients = np.asarray(given).view(dtype).reshape(K, F)
        sums = np.zeros(1 + K * F, dtype)
        with on_cpu(), jax.enable_x64(dtype == np.float64):
            for block in stream.blocks:
                laid_out = _laid_out(stream, block)
                sums += np.asarray(_block(by, coefficients, laid_out))
        return sums.view(np.uint32).reshape(bits.shape)

    found = jax.pure_callback(read, bits, _bits(full), vmap_method="sequential")
    sums = jax.lax.bitcast_convert_type(found, dtype)
    return sums[0], sums[1:].reshape(K, F)


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


@partial(jax.jit, static_argnums=0)
def _block(by: Any, full: jax.Array, chunks: tuple[jax.Array, jax.Array]) -> Any:
    """Value and statistics of one block in one vector."""
    value, total = scan_chunks(by, full, _unscaled(*chunks))
    return jnp.concatenate([value[None], total.ravel()])


def _unscaled(z: jax.Array, weights: jax.Array) -> Rows:
    return Rows(z, weights, None, None, 0.0, plain=())


def _laid_out(stream: Streamed, block: np.ndarray) -> Any:
    """A block as chunks z (C, D, n) with row weights (C, n)."""
    x = block.reshape(len(block), -1)
    return _chunks(stream.size, stream.dtype.name, x, stream.shift, stream.scale)


@partial(jax.jit, static_argnums=(0, 1))
def _chunks(size: int, dtype: str, x: jax.Array, shift: Any, scale: Any) -> Any:
    N, D = x.shape
    C = -(-N // size)
    z = jnp.pad((x - shift) / scale, ((0, C * size - N), (0, 0))).astype(dtype)
    weights = (jnp.arange(C * size) < N).astype(dtype)
    return z.reshape(C, size, D).transpose(0, 2, 1), weights.reshape(C, size)


@partial(jax.jit, static_argnums=0)
def _block_base(family: Family, chunks: Any, shift: Any, scale: Any) -> jax.Array:
    return total_base(family, _unscaled(*chunks)._replace(shift=shift, scale=scale))


@partial(jax.jit, static_argnums=0)
def _block_squares(family: Family, chunks: Any) -> jax.Array:
    return total_squares(family, _unscaled(*chunks))
