"""The data of a mixture: what a reading's nodes that are data come to, site by site.

Only data that the program itself computes are evaluated; the others are the caller's own arrays.
"""

from collections.abc import Iterator

import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.graph import Node, ancestors, core, evaluate
from bayesmix.groups import check_groups
from bayesmix.missing import declared
from bayesmix.observed import Part
from bayesmix.parameters import kind
from bayesmix.program.sites import Observed
from bayesmix.reader import Reading


def observed_site(
    part: Part,
    value: np.ndarray,
    given: dict[str, np.ndarray],
    group: np.ndarray | None,
    powers: np.ndarray | None,
) -> Observed:
    """An observed site of the program, with its data."""
    frames = part.site["cond_indep_stack"]
    return Observed(
        name=part.name,
        value=value,
        given=given,
        event_dim=part.components[0].event_dim,
        components=tuple(kind(component) for component in part.components),
        supports=tuple(component.support for component in part.components),
        plate=frames[0].name if group is not None else "obs_id",
        group=group,
        powers=powers,
        declared=declared(part.site),
    )


def given_data(
    reading: Reading,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]]:
    """Values, given parameters and weights within groups of each observed site."""
    for node, own, powers in zip(reading.values, reading.givens, reading.powers, strict=True):
        given = {name: _concrete(reading, g) for name, g in own.items()}
        yield _concrete(reading, node), given, known(reading, powers)


def known(reading: Reading, node: Node | None) -> np.ndarray | None:
    """The value of a node that is data, None where there is none."""
    return None if node is None else _concrete(reading, node)


def side_by_side(observed: tuple[Observed, ...], rows: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """The data as one array, and its number of event axes: several sites become columns."""
    rank = len(rows)
    group = observed[0].group
    if group is not None:
        check_groups(observed[0].name, group, rows[0])
    if len(observed) == 1 and observed[0].group is None:
        value = observed[0].value
        return value, value.ndim - rank
    if any(isinstance(site.value, Blocks) for site in observed):
        raise ValueError("Blocks hold the columns of one observed site, not of several")
    columns = [site.of_rows(site.value, rows).reshape(*rows, -1) for site in observed]
    return np.concatenate([column.astype(float) for column in columns], -1), 1


def event_dims(event_dim: int, parts: tuple[Part, ...]) -> tuple[str, ...]:
    """Names of the event's axes: the program's own where it has one observed site."""
    declared = tuple((parts[0].site["infer"] or {}).get("event_dims", ()))
    if len(parts) == 1 and len(declared) == event_dim:
        return declared
    return ("feature", "feature_2", "feature_3")[:event_dim]


def _concrete(reading: Reading, node: Node) -> np.ndarray:
    """The value of a node that is data; only data that the program computes are evaluated."""
    if node.depends:
        raise ValueError(
            "the data, the labels or the scale of the mixture depend on latent sites: they must "
            "be fixed"
        )
    source = core(node)
    if source.number in reading.data and source.shape == node.shape:
        return reading.data[source.number]
    if source.label == "literal" or (source.number in reading.data and not source.shape):
        value = source.value if source.label == "literal" else reading.data[source.number]
        return np.full(node.shape, value.item(), float)
    if any(isinstance(reading.data.get(n.number), Blocks) for n in ancestors([source])):
        raise ValueError(
            "the observed site must be the Blocks themselves, and its rows of weight 1: transform "
            "or weigh the rows before they are stored"
        )
    return np.asarray(evaluate([node], dict(reading.data))[0])
