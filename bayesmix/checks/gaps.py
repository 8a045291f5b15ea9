"""What may be missing where cells are integrated out, and what may not."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from bayesmix.checks.places import place
from bayesmix.graph import evaluate

if TYPE_CHECKING:
    from bayesmix.program import Mixture, Observed


def check_gaps(mixture: "Mixture") -> None:
    """Raise ValueError where too much is missing to fit: a whole column, a NaN in a prior.

    New rows, for which something is predicted, may have such gaps.
    """
    if mixture.partial:
        for site in mixture.observed:
            _check_columns(mixture, site)
        with jax.enable_x64(True):
            _check_priors(mixture)


def _check_columns(mixture: "Mixture", site: "Observed") -> None:
    """Refuse columns without a single value."""
    ranks = len(mixture.rows) if site.group is None else 1
    gone = site.missing.reshape(int(np.prod(site.value.shape[:ranks])), -1).all(0)
    if gone.any():
        position = np.array([0] * ranks + [int(gone.argmax())])
        where = place(mixture, position).partition(", ")[2] or "the data"
        raise ValueError(f"site {site.name!r}: {where} has no value at all: leave it out")


def _check_priors(mixture: "Mixture") -> None:
    """Refuse priors that are NaN because they are made from data with missing cells."""
    fixed = {
        (name, leaf): node
        for name, args in mixture.reading.priors.items()
        for leaf, node in args.items()
        if not node.depends
    }
    for (name, leaf), value in zip(
        fixed, evaluate(list(fixed.values()), mixture.reading.data), strict=True
    ):
        if np.isnan(np.asarray(value)).any():
            raise ValueError(
                f"site {name!r}: its prior's {leaf!r} is NaN, because it is made from data with "
                "missing values: use jnp.nanmean, jnp.nanvar and the like there, and leave out "
                "columns with a single value"
            )
