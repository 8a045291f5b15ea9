"""The program's log densities as a graph."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from numpyro.distributions.distribution import validation_enabled

from bayesmix.arguments import Arguments
from bayesmix.blocks import Blocks
from bayesmix.device import whole_products
from bayesmix.graph import Graph, Node
from bayesmix.missing import holes_in, promised
from bayesmix.observed import Found
from bayesmix.reader.running import executed
from bayesmix.reader.sites import collected


@dataclass(frozen=True)
class Reading:
    """The program's values as nodes of one graph, in one precision.

    ``values``: the data, by observed site, (*rows, ...), ``givens``: parameters that are data, too
    (numbers of trials), each in the same shape; ``scale``: weights of the rows; ``powers``: those
    within groups, (N,) or None; ``group``: the group of each row, where rows are of groups that
    share an assignment; ``labels``: known assignments, -1 where there is none; ``leaves``:
    parameters of the components, (*rows or nothing, K, *event), one dict per component family;
    ``components``: log weight + log density, (*rows, K); ``terms``: the log density of every other
    site, summed; ``priors``: the parameters of each latent site's prior; ``supports``: the numbers
    in its support (the bounds of an interval); ``centres``: its mean, where it has one.
    """

    values: tuple[Node, ...]
    givens: tuple[dict[str, Node], ...]
    scale: Node | None
    powers: tuple[Node | None, ...]
    labels: Node | None
    group: Node | None
    weights: Node
    log_weights: Node
    leaves: tuple[dict[str, Node], ...]
    components: Node
    terms: dict[str, Node]
    priors: dict[str, dict[str, Node]]
    supports: dict[str, list[Node]]
    centres: dict[str, Node]
    sites: dict[str, Node]
    data: dict[int, Any]  # arrays, or Blocks: the arguments in their order, then what is captured

    def of(self, arrays: list[Any]) -> "Reading":
        """The same reading of other arguments of the same shapes."""
        return replace(self, data=self.data | dict(zip(self.data, arrays, strict=False)))


def read(
    program: Callable[..., Any], arguments: Arguments, static_data: bool
) -> tuple[Reading, Found]:
    """The program's log densities as a graph, and the static facts met on the way."""
    found = Found(holes=any(map(_has_holes, arguments.arrays)))

    def run(arrays: list[Any]) -> dict[str, Any]:
        args, kwargs = arguments.rebuild(arguments.arrays if static_data else arrays)
        with promised(not found.holes):
            sites, summed = executed(program, args, kwargs, found.holes)
        with validation_enabled(is_validate=False):
            return collected(sites, summed, found)

    arrays = arguments.arrays
    with whole_products():  # which the arithmetic that is recorded keeps
        closed, shapes = jax.make_jaxpr(run, return_shape=True)([_abstract(a) for a in arrays])
    graph = Graph()
    inputs = [graph.data(array.shape) for array in arrays]
    nodes = jax.tree.unflatten(jax.tree.structure(shapes), graph.read(closed, inputs))
    data = {node.number: array for node, array in zip(inputs, arrays, strict=True)}
    data |= {node.number: np.asarray(node.value) for node in graph.captured}
    scales = nodes.pop("scales")
    if any(scale is not scales[0] for scale in scales):
        raise ValueError(
            f"handlers.scale gives the rows of {found.assignment!r} other weights than those of "
            "the observed sites that use it: put them all inside the same handlers.scale"
        )
    return Reading(**nodes, scale=scales[0], sites=graph.sites, data=data), found


def _has_holes(array: Any) -> bool:
    return not isinstance(array, Blocks) and holes_in(array)


def _abstract(array: Any) -> Any:
    """Blocks as a shape and a dtype; an array as it is."""
    if not isinstance(array, Blocks):
        return array
    return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))


def x64() -> bool:
    """Whether the ambient precision is float64."""
    return bool(jax.config.read("jax_enable_x64"))
