"""The observed side laid out for the sweep: which family, which columns, which rows."""

from typing import Any

import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.families import Family, find
from bayesmix.families.normal import Normal
from bayesmix.families.product import Labels, Product
from bayesmix.graph import same_along
from bayesmix.merge import SAMPLE, Merged, merge
from bayesmix.program import Mixture
from bayesmix.reader import Reading


def family_of(mixture: Mixture) -> Family | None:
    """The family whose sweep fits: registered families, parameters that no row changes."""
    if mixture.by_row or mixture.general:
        return None
    several = len(mixture.observed) > 1 or mixture.labels is not None
    found: list[tuple[str, Any, int]] = []
    for site in mixture.observed:
        family = find(site.components[0], _shapes(mixture, site.name), site.value)
        if family is None or (several and hasattr(family, "scores")):
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
    return family_of(mixture) is not None


def is_tied(family: Family, reading: Reading) -> bool:
    """Whether one spread, shared by all clusters, decides all natural parameters beyond x's own."""
    if not (family.location_scale and family.spread):
        return False
    return same_along(reading.leaves[0][family.spread], 0)


def columns_of(mixture: Mixture) -> tuple[Any, np.ndarray | None]:
    """Observed values (N, D) in their own dtype, or Blocks, and row weights (N,) or None.

    Numbers of trials follow the columns of their site; known labels come last.
    """
    weights = None if mixture.weights is None else mixture.weights.reshape(-1)
    if isinstance(mixture.value, Blocks):
        return mixture.value, weights
    columns = [
        site.of_rows(array, mixture.rows)
        for site in mixture.observed
        for array in (site.value, *site.given.values())
    ]
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
