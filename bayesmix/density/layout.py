"""The observed side laid out for the sweep: which family, which columns, which rows."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpyro.distributions as dist

from bayesmix.blocks import Blocks
from bayesmix.density.chunks import portion_rows
from bayesmix.families import Family, coordinates, find
from bayesmix.families.lines import Frame, Lines, frame_of
from bayesmix.families.mvn import MultivariateNormal
from bayesmix.families.normal import Normal
from bayesmix.families.partial import cell_wise, patterned
from bayesmix.families.product import Labels, Product
from bayesmix.graph import Node, same_along
from bayesmix.linear import Predictor, of_clusters, read_predictor
from bayesmix.merge import SAMPLE, Merged, merge
from bayesmix.portion import Portion, portion_of
from bayesmix.program import Mixture, Observed
from bayesmix.reader import Reading, x64

KINKED = (dist.Laplace, dist.AsymmetricLaplace)
KINKS = dict.fromkeys((*KINKED, dist.AsymmetricLaplaceQuantile), ("loc",))


def family_of(mixture: Mixture) -> Family | None:
    """The family whose sweep fits: registered families, parameters that no row changes."""
    line = line_of(mixture)
    if line is not None:
        predictor = line[0]
        shapes = zip(predictor.shapes, predictor.axes, strict=True)
        own = sum(int(np.prod(shape)) for shape, axis in shapes if axis is not None)
        return Lines(predictor.axes, own)
    if mixture.by_row or mixture.general:
        return None
    several = len(mixture.observed) > 1 or mixture.labels is not None
    found: list[tuple[str, Any, int]] = []
    for site in mixture.observed:
        family = find(site.components[0], _shapes(mixture, site.name), site.value)
        if family is None or (several and hasattr(family, "scores")):
            return None
        cells = site.value.shape[len(mixture.rows) :]
        if site.partial:
            family = _with_missing(family, cells, len(site.given))
            if family is None:
                return None
        found.append((site.name, family, math.prod(cells) * (1 + len(site.given))))
    if mixture.labels is not None:
        found.append(("", Labels(mixture.K), 1))
    if len(found) > 1:
        return Product(found)
    if isinstance(found[0][1], Normal) and len(mixture.event_shape) == 1:
        return Normal(isotropic=same_along(mixture.reading.leaves[0]["scale"], 1))
    return found[0][1]


def portion_of_rows(mixture: Mixture) -> Portion | None:
    """The general sweep's arithmetic on a chunk of the rows; None for few rows, or where rows
    cannot be taken apart.
    """
    key = ("portion", x64())
    if key not in mixture.cache:
        cells = max(1, math.prod(mixture.event_shape))
        size = portion_rows(mixture.rows[0], mixture.K, cells)
        reading = mixture.reading
        many = mixture.rows[0] > size and not isinstance(mixture.value, Blocks)
        fixed = reading.scale is None or not reading.scale.depends
        apart = many and fixed and not mixture.static_data and reading.group is None
        given = mixture.program, mixture.arguments, reading, size
        mixture.cache[key] = portion_of(*given) if apart else None
    return mixture.cache[key]


def line_of(mixture: Mixture) -> tuple[Predictor, Node] | None:
    """Location and scale, where one Normal response lies on a line for each cluster, or None.

    The location is a linear predictor; the scale, (K,) or (), is the same for all rows.
    """
    key = ("line", x64())
    if key not in mixture.cache:
        mixture.cache[key] = _read_line(mixture) if _may_be_lines(mixture) else None
    return mixture.cache[key]


def _may_be_lines(mixture: Mixture) -> bool:
    first = mixture.observed[0]
    return (
        mixture.by_row
        and not mixture.masked
        and first.components == (dist.Normal,)
        and len(mixture.observed) == len(mixture.rows) == 1
        and mixture.labels is None
        and first.group is None
        and not mixture.event_shape
        and not isinstance(mixture.value, Blocks)
        and len(mixture.reading.log_weights.shape) == 1
    )


def _read_line(mixture: Mixture) -> tuple[Predictor, Node] | None:
    leaves = mixture.reading.leaves[0]
    if leaves["loc"].shape != (mixture.N, mixture.K):
        return None
    predictor, scale = read_predictor(leaves["loc"]), of_clusters(leaves["scale"])
    return None if predictor is None or scale is None else (predictor, scale)


def line_columns(mixture: Mixture) -> tuple[np.ndarray, Frame]:
    """The sweep's columns of a mixture of lines, (N, 1 + r), and their frame."""
    line = line_of(mixture)
    assert line is not None
    key = ("line columns", x64())
    if key not in mixture.cache:
        X, offset = line[0].design(mixture.reading.data)
        y = np.asarray(mixture.value, np.float64) - offset
        weights = _line_weights(mixture)
        counted = np.ones(len(y), bool) if weights is None else weights > 0
        columns, frame = frame_of(X[counted], y[counted])
        whole = np.zeros((len(y), columns.shape[1]))
        whole[counted] = columns
        mixture.cache[key] = whole, frame
    return mixture.cache[key]


def _line_weights(mixture: Mixture) -> np.ndarray | None:
    """Row weights of lines, (N,), or None: a row whose response is missing tells nothing."""
    gone = mixture.observed[0].missing
    if not gone.any():
        return mixture.weights
    return np.where(gone, 0.0, 1.0 if mixture.weights is None else mixture.weights)


def _with_missing(family: Any, cells: tuple[int, ...], given: int) -> Any:
    """The family for rows of which single cells are missing, or None."""
    if isinstance(family, MultivariateNormal):
        return MultivariateNormal(patterned=True)
    return cell_wise(family, cells, given)


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


def kinked_sites(mixture: Mixture) -> tuple[Observed, ...]:
    """Observed sites whose components' log density has a kink at their location, in every row.

    Those alone whose parameters are the same in all rows; they have no sweep of their own.
    """
    plain = not (mixture.by_row or mixture.general or mixture.partial) and len(mixture.rows) == 1
    if not plain or isinstance(mixture.value, Blocks):
        return ()
    return tuple(
        site for site in mixture.observed if site.group is None and site.components[0] in KINKED
    )


def movers(mixture: Mixture, leaves: Mapping[Any, tuple[str, ...]]) -> frozenset[str]:
    """Sites on which some parameters of the components depend, named by kind of component."""
    several = len(mixture.observed) > 1
    wanted = {
        f"{leaf}[{site.name}]" if several else leaf
        for site in mixture.observed
        for component in site.components
        for leaf in leaves.get(component, ())
    }
    if not wanted:
        return frozenset()
    found = [
        node.depends
        for own in mixture.reading.leaves
        for leaf, node in own.items()
        if (leaf if several else leaf.partition("[")[0]) in wanted
    ]
    return frozenset().union(*found)


def kink_movers(mixture: Mixture) -> frozenset[str]:
    """Sites that move a location at which the components' log density has a kink.

    The log joint then has a kink at every row, and at its maximum no curvature to speak of.
    """
    return movers(mixture, KINKS)


def is_tied(family: Family, reading: Reading) -> bool:
    """Whether one spread, shared by all clusters, decides all natural parameters beyond x's own."""
    if not (family.location_scale and family.spread):
        return False
    return same_along(reading.leaves[0][family.spread], 0)


def columns_of(mixture: Mixture) -> tuple[Any, np.ndarray | None]:
    """Observed values (N, D) in their own dtype, or Blocks, and row weights (N,) or None.

    Numbers of trials follow the columns of their site; known labels come last. Log-normal columns
    come as logarithms.
    """
    weights = None if mixture.weights is None else mixture.weights.reshape(-1)
    if isinstance(mixture.value, Blocks):
        change = _change(mixture.observed[0])
        blocks = mixture.value if change is None else Blocks(_Changed(mixture.value, change))
        return blocks, weights
    if line_of(mixture) is not None:
        return line_columns(mixture)[0], _line_weights(mixture)
    columns = [
        site.of_rows(array, mixture.rows)
        for site in mixture.observed
        for array in (_changed(site), *(_seen(site, given) for given in site.given.values()))
    ]
    columns += [] if mixture.labels is None else [mixture.labels]
    flat = [column.reshape(mixture.N, -1) for column in columns]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, 1), weights


def _change(site: Observed) -> Callable[[Any], Any] | None:
    """From the columns of a site to those of its family's sweep."""
    return coordinates(site.components[0]) if len(site.components) == 1 else None


def _changed(site: Observed) -> np.ndarray:
    change = _change(site)
    return site.value if change is None else change(site.value)


class _Changed:
    """Blocks with another variable in their columns, taken as they are read."""

    def __init__(self, blocks: Blocks, change: Callable[[Any], Any]) -> None:
        self.blocks, self.change = blocks, change

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.change, self.blocks)


def _seen(site: Observed, given: np.ndarray) -> np.ndarray:
    """Numbers of trials, NaN where the successes are missing."""
    return np.where(np.isnan(site.value), np.nan, given) if site.partial else given


def spread_out(mixture: Mixture) -> bool:
    """Whether the rows are shared out among the devices that the data came from."""
    many = mixture.arguments.mesh is not None and mixture.N > SAMPLE
    family = family_of(mixture) if many else None
    return family is not None and not patterned(family) and merged_of(mixture) is None


def merged_of(mixture: Mixture) -> Merged | None:
    """The distinct rows of a mixture, where they repeat enough and no parameter differs by row.

    Rows that are grouped by their pattern of missing cells are not merged as well.
    """
    if "merged" not in mixture.cache:
        family = family_of(mixture)
        whole = family is not None and not patterned(family)
        whole = whole and not isinstance(mixture.value, Blocks)
        mixture.cache["merged"] = merge(*columns_of(mixture)) if whole else None
    return mixture.cache["merged"]
