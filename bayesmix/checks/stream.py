"""Blocks held against the program in one pass."""

from typing import TYPE_CHECKING

import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.checks.places import place
from bayesmix.checks.support import depends_on_parameters

if TYPE_CHECKING:
    from bayesmix.program import Mixture


def check_blocks(mixture: "Mixture", blocks: Blocks) -> None:
    """Raise ValueError for Blocks that no component could have produced."""
    if mixture.weights is not None or mixture.labels is not None or mixture.observed[0].given:
        raise ValueError(
            f"site {mixture.name!r}: rows of Blocks have no weights, masks, labels or trials yet"
        )
    supports = mixture.observed[0].supports
    open_support = any(map(depends_on_parameters, supports))
    start = 0
    for block in blocks:
        bad = ~np.isfinite(block)
        if bad.any():
            first = np.argwhere(bad)[0]
            what = "is missing (NaN)" if np.isnan(block[tuple(first)]) else "is infinite"
            position = np.array([first[0] + start, *first[1:]])
            where = place(mixture, position)
            raise ValueError(
                f"site {mixture.name!r}: {where} {what}: remove it or fill it in (cells that are "
                "missing from Blocks are not integrated out)"
            )
        inside = np.logical_or.reduce([np.asarray(s(block)) for s in supports])
        if not (open_support or inside.all()):
            row = int(np.argmin(inside))
            raise ValueError(
                f"site {mixture.name!r}: row {start + row} is {block[row]}, outside the support of "
                f"{mixture.family}"
            )
        start += len(block)
