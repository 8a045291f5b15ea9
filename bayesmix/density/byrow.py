"""The components by row, from the program's own densities: values where no sweep is needed."""

from functools import partial
from typing import Any

import jax

from bayesmix.blocks import Blocks
from bayesmix.density.chunks import safe, weighted
from bayesmix.density.piece import Piece
from bayesmix.density.prepared import cached
from bayesmix.program import Mixture, Params


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
    components = safe(components)
    pointwise = weighted(jax.nn.logsumexp(components, -1), scale)
    return pointwise, jax.nn.softmax(components, -1)
