"""A NumPyro program and its data, read as a mixture.

``trace`` runs the program once on abstract values (nothing is sampled, nothing is compiled) and
returns a ``Mixture``: the latent sites with their priors, the one observed mixture site, which
parameter of the components each site feeds, and the arithmetic of all log densities as a graph.
Everything that fits a mixture works on that graph, so the objective is the program's own, never a
second version of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

from bayesmix.arguments import Arguments, read_arguments
from bayesmix.checks import check_data
from bayesmix.graph import Axes, Node, axes, core, evaluate, unary_map
from bayesmix.reader import NEEDS_VALUES, Found, Reading, peel, read, unwrap, x64

Params = dict[str, Any]


@dataclass(frozen=True)
class Link:
    """How a latent site enters one parameter of the components.

    ``map`` is "identity", "sqrt", "rsqrt", "exp" or "cholesky" where the parameter is just the
    site up to broadcasts, and None for any other arithmetic. ``axes``: for each axis of the
    parameter, shape (K, *event), the axis of the site along it, or None where it is shared.
    """

    leaf: str
    map: str | None
    axes: tuple[int | None, ...]


@dataclass(frozen=True)
class Site:
    """A latent site: its prior, its shape, and where its value goes.

    ``dims`` names every axis; ``cluster_axis`` is the one along the clusters, or None for a site
    that all clusters share. ``fed_priors`` are the sites whose prior this site is part of;
    ``weighted`` says that handlers.scale or a mask changes the prior.
    """

    name: str
    shape: tuple[int, ...]
    prior: str
    support: Any  # a tree definition: jax.tree.unflatten(support, bounds) is the constraint
    dims: tuple[str, ...]
    cluster_axis: int | None
    links: tuple[Link, ...]
    fed_priors: tuple[str, ...]
    weighted: bool

    @property
    def feeds(self) -> tuple[str, ...]:
        """Names of the component parameters (and "weights") that the site enters."""
        return tuple(link.leaf for link in self.links)

    @property
    def improper(self) -> bool:
        return self.prior == "ImproperUniform"


@dataclass(frozen=True, eq=False)
class Mixture:
    """What ``trace`` found in a program. Printing it shows the sites and the plan for EM."""

    program: Callable[..., Any]
    arguments: Arguments = field(repr=False)
    name: str
    K: int
    sites: dict[str, Site]
    family: str
    components: tuple[type, ...] = field(repr=False)
    supports: tuple[Any, ...] = field(repr=False)
    component_rank: int
    mixture_event_dim: int
    value: np.ndarray = field(repr=False)
    weights: np.ndarray | None = field(repr=False)
    row_dims: tuple[str, ...]
    event_dims: tuple[str, ...]
    cluster_dim: str
    static_data: bool
    _readings: dict[bool, Reading] = field(repr=False)
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> tuple[int, ...]:
        """Shape of the observations, usually (N,)."""
        return self.value.shape[: self.value.ndim - self.mixture_event_dim]

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.value.shape[self.value.ndim - self.mixture_event_dim :]

    @property
    def N(self) -> int:
        return int(np.prod(self.rows))

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the observed columns, where the data came as a table that has them."""
        names = self.arguments.columns
        width = self.event_shape[-1] if self.event_shape else 1
        return names if names is not None and len(names) == width else None

    @property
    def index(self) -> Any:
        """The row labels of the table that the data came in, or None."""
        index = self.arguments.index
        return index if index is not None and len(index) == self.rows[0] else None

    @property
    def reading(self) -> Reading:
        """The graph in the ambient precision (float64 under ``jax.enable_x64``)."""
        key = x64()
        if key not in self._readings:
            self._readings[key] = read(self.program, self.arguments, self.static_data)[0]
        return self._readings[key]

    @cached_property
    def _text(self) -> str:
        from bayesmix.mstep import describe

        return describe(self)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text


def trace(program: Callable[..., Any], *args: Any, **kwargs: Any) -> Mixture:
    """Read a NumPyro program and its data as a mixture.

    The program is run once with abstract values: nothing is sampled or compiled. Arrays, tables
    and lists among the arguments are data; Python numbers and strings are static.

    Raises ValueError, naming the site, what was found and what to write instead, when there is no
    observed mixture site or more than one, when a discrete latent site is not summed out, when a
    plate is subsampled, and when the data do not match the program.
    """
    if not callable(program):
        raise ValueError(f"program must be a NumPyro program (a function), not {program!r}")
    arguments = read_arguments(args, kwargs)
    with jax.enable_x64(True):
        try:
            reading, found = read(program, arguments, static_data=False)
            static_data = False
        except NEEDS_VALUES:
            reading, found = read(program, arguments, static_data=True)
            static_data = True
        mixture = _assemble(program, arguments, reading, found, static_data)
    check_data(mixture)
    return mixture


def _assemble(
    program: Callable[..., Any],
    arguments: Arguments,
    reading: Reading,
    found: Found,
    static_data: bool,
) -> Mixture:
    mixture = found.mixture
    name, K = found.site["name"], int(mixture.mixture_size)
    memo: dict[int, Axes] = {}
    paths = _cluster_axes(reading, found, K, memo)
    links = _links(reading, found, memo)
    plates = {n: _plate_dims(s) for n, s in found.latent.items()}
    named = (plates[n][axis] for n, axis in paths.items() if axis is not None)
    cluster_dim = next((name for name in named if name is not None), "cluster")
    value = _concrete(reading, reading.value)
    event_dims = _event_dims(mixture.event_dim, found.site)
    sites = {
        n: _site(n, s, reading, paths[n], links.get(n, ()), plates[n], cluster_dim, value, found)
        for n, s in found.latent.items()
    }
    weights = None if reading.scale is None else _concrete(reading, reading.scale)
    parts = (
        mixture.component_distributions
        if isinstance(mixture, dist.MixtureGeneral)
        else [mixture.component_distribution]
    )
    return Mixture(
        program=program,
        arguments=arguments,
        name=name,
        K=K,
        sites=sites,
        family=_family_name(mixture),
        components=tuple(type(peel(part)) for part in parts),
        supports=tuple(part.support for part in parts),
        component_rank=len(parts[0].batch_shape),
        mixture_event_dim=mixture.event_dim,
        value=value,
        weights=weights,
        row_dims=_row_dims(found.site, value.ndim - mixture.event_dim),
        event_dims=event_dims,
        cluster_dim=cluster_dim,
        static_data=static_data,
        _readings={True: reading},
    )


def _family_name(mixture: Any) -> str:
    if isinstance(mixture, dist.MixtureGeneral):
        return " | ".join(type(peel(c)).__name__ for c in mixture.component_distributions)
    return type(peel(mixture.component_distribution)).__name__


def _concrete(reading: Reading, node: Node) -> np.ndarray:
    """The value of a node that is data; only data that the program computes are evaluated."""
    if node.depends:
        raise ValueError(
            "the data or the scale of the mixture site depend on latent sites: they must be fixed"
        )
    source = core(node)
    if source.number in reading.data and source.shape == node.shape:
        return reading.data[source.number]
    if source.label == "literal" or (source.number in reading.data and not source.shape):
        value = source.value if source.label == "literal" else reading.data[source.number]
        return np.full(node.shape, value.item(), float)
    return np.asarray(evaluate([node], dict(reading.data))[0])


def _cluster_axes(
    reading: Reading, found: Found, K: int, memo: dict[int, Axes]
) -> dict[str, int | None]:
    """For each latent site the axis that runs along the clusters, or None.

    Followed from the weights and the components' parameters through the program's arithmetic, then
    from the priors of the sites found so; ``infer={"event_dims": [...]}`` that names "cluster"
    decides where the arithmetic cannot tell.
    """
    labels: set[tuple[str, int]] = set()
    if not isinstance(found.mixture, dist.MixtureGeneral):
        component = found.mixture.component_distribution
        lead = len(component.batch_shape) - 1
        for node in reading.leaves[0].values():
            labels |= axes(node, memo)[lead]
        labels |= axes(reading.components, memo)[-1]
    labels |= axes(reading.weights, memo)[-1] if reading.weights.shape[-1] == K else set()
    pending = list(labels)
    while pending:
        site, axis = pending.pop()
        for node in reading.priors[site].values():
            for label in axes(node, memo)[axis] if axis < len(node.shape) else ():
                if label not in labels:
                    labels.add(label)
                    pending.append(label)
    result: dict[str, int | None] = {}
    for name, latent in found.latent.items():
        declared = (latent["infer"] or {}).get("event_dims", ())
        shape = tuple(latent["fn"].shape())
        if "cluster" in declared:
            result[name] = len(shape) - len(declared) + list(declared).index("cluster")
            continue
        along = sorted(axis for other, axis in labels if other == name and shape[axis] == K)
        result[name] = along[0] if len(along) == 1 else None
    return result


def _links(reading: Reading, found: Found, memo: dict[int, Axes]) -> dict[str, tuple[Link, ...]]:
    links: dict[str, list[Link]] = {}
    families = reading.leaves if len(reading.leaves) > 1 else reading.leaves[:1]
    leaves = [("weights", reading.weights)]
    for number, family in enumerate(families):
        suffix = f"[{number}]" if len(families) > 1 else ""
        leaves += [(leaf + suffix, node) for leaf, node in family.items()]
    for leaf, node in leaves:
        if leaf == "scale_tril" and {"covariance_matrix", "precision_matrix"} & set(families[0]):
            continue  # computed from the matrix that the program gave
        mapped = unary_map(node)
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


def _plate_dims(site: dict[str, Any]) -> list[str | None]:
    """Names of a site's axes that are plates; None for the others."""
    fn = site["fn"]
    names: list[str | None] = [None] * (len(fn.batch_shape) + fn.event_dim)
    for frame in site["cond_indep_stack"]:
        names[len(fn.batch_shape) + frame.dim] = frame.name
    return names


def _event_dims(event_dim: int, site: dict[str, Any]) -> tuple[str, ...]:
    declared = tuple((site["infer"] or {}).get("event_dims", ()))
    if len(declared) == event_dim:
        return declared
    return ("feature", "feature_2", "feature_3")[:event_dim]


def _row_dims(site: dict[str, Any], ndim: int) -> tuple[str, ...]:
    names: list[str] = ["obs_id"] if ndim == 1 else [f"obs_id_{i}" for i in range(ndim)]
    for frame in site["cond_indep_stack"]:
        names[ndim + frame.dim] = frame.name
    return tuple(names)


def _site(
    name: str,
    site: dict[str, Any],
    reading: Reading,
    cluster_axis: int | None,
    links: tuple[Link, ...],
    plates: list[str | None],
    cluster_dim: str,
    value: np.ndarray,
    found: Found,
) -> Site:
    fn = site["fn"]
    shape = tuple(fn.shape())
    declared = list((site["infer"] or {}).get("event_dims", ()))
    dims = list(plates)
    if declared:
        dims[len(dims) - len(declared) :] = declared
    if cluster_axis is not None:
        dims[cluster_axis] = cluster_dim
    width = value.shape[-1] if found.mixture.event_dim else None
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
