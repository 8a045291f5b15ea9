"""The latent sites of a program described: cluster axes, links, names of axes, priors.

All of it is read from the graph and from what the program says of its plates; a site's value never
enters.
"""

from collections.abc import Iterator
from typing import Any

import jax

from bayesmix.graph import Axes, Node, axes, unary_map
from bayesmix.linear import of_clusters
from bayesmix.observed import Found
from bayesmix.parameters import peel, unwrap
from bayesmix.program.sites import Link, Site
from bayesmix.reader import Reading

# Parameters that a distribution computes where it was given one of these instead.
COMPUTED = {
    "scale_tril": ("covariance_matrix", "precision_matrix", "volume", "cov_factor"),
    "scale": ("volume",),
}


def cluster_axes(reading: Reading, found: Found, memo: dict[int, Axes]) -> dict[str, int | None]:
    """For each latent site the axis that runs along the clusters, or None.

    Followed from the weights and the components' parameters through the program's arithmetic, then
    from the priors of the sites found so; ``infer={"event_dims": [...]}`` that names "cluster"
    decides where the arithmetic cannot tell.
    """
    labels = _through_priors(_of_components(reading, found, memo), reading, memo)
    result: dict[str, int | None] = {}
    for name, latent in found.latent.items():
        declared = (latent["infer"] or {}).get("event_dims", ())
        shape = tuple(latent["fn"].shape())
        if "cluster" in declared:
            result[name] = len(shape) - len(declared) + list(declared).index("cluster")
            continue
        along = sorted(axis for other, axis in labels if other == name and shape[axis] == found.K)
        result[name] = along[0] if len(along) == 1 else None
    return result


def links_of(reading: Reading, memo: dict[int, Axes]) -> dict[str, tuple[Link, ...]]:
    """For each latent site the parameters of the components, and weights, that it enters."""
    links: dict[str, list[Link]] = {}
    for leaf, node in _leaves(reading):
        mapped = unary_map(of_clusters(node) or node)
        for name in sorted(node.depends):
            along = tuple(
                next((axis for other, axis in sorted(labels) if other == name), None)
                for labels in axes(node, memo)
            )
            kind = mapped[0] if mapped is not None and mapped[1] == name else None
            if kind == "cholesky":  # rows and columns of the factor are those of the matrix
                rank = len(reading.sites[name].shape)
                along = (*along[:-2], rank - 2, rank - 1)
            links.setdefault(name, []).append(Link(leaf, kind, along))
    for name in sorted(reading.components.depends - links.keys()):
        links[name] = [Link("component", None, ())]
    return {name: tuple(found_links) for name, found_links in links.items()}


def plate_dims(site: dict[str, Any]) -> list[str | None]:
    """Names of a site's axes that are plates; None for the others."""
    fn = site["fn"]
    names: list[str | None] = [None] * (len(fn.batch_shape) + fn.event_dim)
    for frame in site["cond_indep_stack"]:
        names[len(fn.batch_shape) + frame.dim] = frame.name
    return names


def latent_site(
    name: str,
    site: dict[str, Any],
    reading: Reading,
    cluster_axis: int | None,
    links: tuple[Link, ...],
    plates: list[str | None],
    cluster_dim: str,
    width: int | None,
) -> Site:
    """One latent site; an axis as long as the data are wide (``width``) is named as theirs."""
    fn = site["fn"]
    shape = tuple(fn.shape())
    declared = list((site["infer"] or {}).get("event_dims", ()))
    dims = list(plates)
    if declared:
        dims[len(dims) - len(declared) :] = declared
    if cluster_axis is not None:
        dims[cluster_axis] = cluster_dim
    spare = ["feature_2", "feature"]
    for axis, size in enumerate(shape):
        if dims[axis] is None and size == width and spare:
            dims[axis] = spare.pop()
        elif dims[axis] is None:
            dims[axis] = f"{name}_dim_{axis}"
    fed = tuple(
        other
        for other, args in reading.priors.items()
        if other != name and any(name in node.depends for node in args.values())
    )
    base = peel(fn)
    return Site(
        name=name,
        shape=shape,
        prior=type(base).__name__,
        support=jax.tree.structure(fn.support),
        dims=tuple(str(d) for d in dims),
        cluster_axis=cluster_axis,
        links=links,
        fed_priors=fed,
        weighted=site["scale"] is not None or bool(unwrap(fn)[1]),
    )


def _of_components(reading: Reading, found: Found, memo: dict[int, Axes]) -> set[tuple[str, int]]:
    """The (site, axis) pairs along the clusters of the weights and the components' parameters."""
    labels: set[tuple[str, int]] = set()
    if not found.general:
        leads = {part.name: part.lead for part in found.parts}
        for leaf, node in reading.leaves[0].items():
            lead = leads.get(leaf[:-1].partition("[")[2], found.parts[0].lead)
            labels |= axes(node, memo)[lead]
        labels |= axes(reading.components, memo)[-1]
    if reading.weights.shape[-1] == found.K:
        labels |= axes(reading.weights, memo)[-1]
    return labels


def _through_priors(
    labels: set[tuple[str, int]], reading: Reading, memo: dict[int, Axes]
) -> set[tuple[str, int]]:
    """The pairs, and those that run along them in the priors of their sites, and so on."""
    labels, pending = set(labels), list(labels)
    while pending:
        site, axis = pending.pop()
        for node in reading.priors[site].values():
            for label in axes(node, memo)[axis] if axis < len(node.shape) else ():
                if label not in labels:
                    labels.add(label)
                    pending.append(label)
    return labels


def _leaves(reading: Reading) -> Iterator[tuple[str, Node]]:
    """Names and nodes of the weights and the parameters that the program gave its components."""
    yield "weights", reading.weights
    families = reading.leaves if len(reading.leaves) > 1 else reading.leaves[:1]
    for number, family in enumerate(families):
        suffix = f"[{number}]" if len(families) > 1 else ""
        for leaf, node in family.items():
            plain, bracket, part = leaf.partition("[")
            given = {source + bracket + part for source in COMPUTED.get(plain, ())}
            if not given & set(family):  # else computed from what the program gave
                yield leaf + suffix, node
