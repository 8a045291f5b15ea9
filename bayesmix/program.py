"""A NumPyro program and its data, read as a mixture.

``trace`` runs the program once on abstract values (nothing is sampled, nothing is compiled) and
returns a ``Mixture``: the latent sites with their priors, the observed mixture, which parameter
of the components each site feeds, and the arithmetic of all log densities as a graph. Everything
that fits a mixture works on that graph, so the objective is the program's own, never a second
version of it.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from numpyro import primitives

from bayesmix.arguments import Arguments, read_arguments, row_labels_of
from bayesmix.blocks import Blocks
from bayesmix.checks import check_data
from bayesmix.graph import Axes, Node, ancestors, axes, core, evaluate, unary_map
from bayesmix.groups import check_groups, group_means
from bayesmix.linear import of_clusters
from bayesmix.lookups import lookups, nesting
from bayesmix.marginal import marginalize
from bayesmix.missing import declared, holes_in
from bayesmix.observed import Found, Part
from bayesmix.parameters import kind, peel, unwrap
from bayesmix.reader import NEEDS_VALUES, Reading, read, x64
from bayesmix.sheet import Sheet

Params = dict[str, Any]

# Settings of JAX that show in a graph.
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_disable_jit",
    "jax_default_prng_impl",
    "jax_high_dynamic_range_gumbel",
)

# Parameters that a distribution computes where it was given one of these instead.
COMPUTED = {
    "scale_tril": ("covariance_matrix", "precision_matrix", "volume", "cov_factor"),
    "scale": ("volume",),
}


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
class Observed:
    """An observed site of the mixture.

    ``value`` has the rows first, then the axes of plates within a row, then the event's
    (``event_dim`` of them); ``given`` are parameters that are data (numbers of trials), in the same
    shape. ``group`` is the group of each row where groups share an assignment (the mixture's own
    rows are then the groups), ``plate`` names these rows, and ``powers`` are the weights, if any,
    of the rows within their groups. ``components`` are the distributions'
    classes, one per family, and ``supports`` their supports. ``declared``: NaN stands for missing.
    """

    name: str
    value: Any = field(repr=False)  # an array, or Blocks
    given: dict[str, np.ndarray] = field(repr=False)
    event_dim: int
    components: tuple[type, ...]
    supports: tuple[Any, ...] = field(repr=False)
    plate: str = "obs_id"
    group: np.ndarray | None = field(default=None, repr=False)
    powers: np.ndarray | None = field(default=None, repr=False)
    declared: bool = False

    def of_rows(self, values: np.ndarray, rows: tuple[int, ...]) -> np.ndarray:
        """Values of the site by the mixture's rows, (*rows, ...); means over groups."""
        return values if self.group is None else group_means(values, self.group, rows[0])

    @cached_property
    def missing(self) -> np.ndarray:
        """Which cells are NaN and are integrated out, in the shape of ``value``."""
        if not self.declared or self.value.dtype.kind != "f":
            return np.zeros(self.value.shape, bool)
        return np.isnan(self.value)

    @property
    def partial(self) -> bool:
        """Whether cells are missing, and are integrated out."""
        return self.declared and not isinstance(self.value, Blocks) and bool(self.missing.any())

    @property
    def family(self) -> str:
        """Names of the families, without NumPyro's endings for a parametrisation."""
        names = (component.__name__ for component in self.components)
        return " | ".join(name.removesuffix("Probs").removesuffix("Logits") for name in names)


@dataclass(frozen=True, eq=False)
class Mixture:
    """What ``trace`` found in a program. Printing it shows the sites and the plan for EM.

    ``observed`` are its observed sites: one, or those that share an assignment, whose site is
    ``assignment``. ``value`` are the data: those of the one site, or all columns side by side;
    where rows are of groups, the groups' means.
    ``weights`` and ``labels`` (the known assignments, -1 for none) are by row, or None. ``by_row``:
    whether weights or parameters of components differ by row. ``masked``: whether a mask lies on
    components.
    """

    program: Callable[..., Any]
    arguments: Arguments = field(repr=False)
    name: str
    K: int
    sites: dict[str, Site]
    observed: tuple[Observed, ...]
    assignment: str | None
    by_row: bool
    masked: bool
    mixture_event_dim: int
    value: Any = field(repr=False)  # an array, or Blocks
    weights: np.ndarray | None = field(repr=False)
    labels: np.ndarray | None = field(repr=False)
    row_dims: tuple[str, ...]
    event_dims: tuple[str, ...]
    cluster_dim: str
    static_data: bool
    _readings: dict[bool, Reading] = field(repr=False)
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def family(self) -> str:
        """Names of the components' families."""
        return ", ".join(dict.fromkeys(site.family for site in self.observed))

    @property
    def general(self) -> bool:
        """Whether the clusters are of families of their own (MixtureGeneral)."""
        return len(self.observed[0].components) > 1

    @cached_property
    def background(self) -> tuple[int, ...]:
        """Clusters of a MixtureGeneral that nothing is fitted to: noise, a fixed value."""
        if not self.general:
            return ()
        fixed = [
            not any(node.depends for node in leaves.values()) for leaves in self.reading.leaves
        ]
        return () if all(fixed) else tuple(k for k, known in enumerate(fixed) if known)

    @cached_property
    def marginal(self) -> Callable[..., Any]:
        """The program as NumPyro can run it: its assignment and missing cells summed out."""
        plain = self.assignment is None and not self.partial
        return self.program if plain else marginalize(self.program)

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
    def partial(self) -> bool:
        """Whether cells are missing, and are integrated out."""
        return any(site.partial for site in self.observed)

    @cached_property
    def missing(self) -> np.ndarray:
        """Which cells are missing, in the shape of ``value``."""
        return np.isnan(self.value) if self.partial else np.zeros(self.value.shape, bool)

    @property
    def gaps(self) -> str:
        """How many cells are missing, in words; "" if none are."""
        if not self.partial:
            return ""
        cells = sum(int(site.missing.sum()) for site in self.observed)
        empty = int(self.missing.reshape(self.N, -1).all(1).sum())
        some = np.zeros(self.N, bool)
        for site in self.observed:
            gone = site.missing.reshape(len(site.value) if site.group is not None else self.N, -1)
            some[np.flatnonzero(gone.any(1)) if site.group is None else site.group[gone.any(1)]] = (
                True
            )
        rows = int(some.sum())
        text = f"{cells} missing cells in {rows} of {self.N} rows are integrated out"
        return text + (f"; rows without any value: {empty}" if empty else "")

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the observed columns, where the data came as a table that has them."""
        names = self.arguments.columns
        width = self.event_shape[-1] if self.event_shape else 1
        return names if names is not None and len(names) == width else None

    @property
    def coords(self) -> dict[str, tuple[str, ...]]:
        """{dim: labels} of the sites' axes, from a program that names them as it reads tables."""
        named = self.arguments.rebuild(self.arguments.arrays)[1].get("coords")
        return named if hasattr(self.program, "prepare") and named else {}

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
    def _sheet(self) -> Sheet:
        from bayesmix.mstep import describe

        return describe(self)

    def __repr__(self) -> str:
        return str(self._sheet)

    def _repr_html_(self) -> str:
        return self._sheet.markup()


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
    prepare = getattr(program, "prepare", None)  # a program that reads tables in its own way
    if prepare is None:
        arguments = read_arguments(args, kwargs)
    else:
        _check_call(program, prepare, args, kwargs)
        labels = row_labels_of(args, kwargs)
        arguments = replace(read_arguments(*prepare(*args, **kwargs)), index=labels)
    key = _key_of(program, arguments)
    with jax.enable_x64(True):
        kept = None if key is None else _kept.get(key)
        if kept is not None:
            mixture = _dressed(kept, program, arguments)
        else:
            mixture = _read_anew(program, arguments)
            if key is not None and not mixture.static_data:
                _keep(key, mixture)
        check_data(mixture)
    return mixture


def _check_call(program: Any, prepare: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Data that a program which reads tables cannot be called with."""
    signature = inspect.signature(prepare)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        needed = [
            name for name, p in signature.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        raise ValueError(
            f"{program.__name__} takes its data as ({', '.join(needed)}): {error}"
        ) from None


KEPT = 64
_kept: dict[Any, Mixture] = {}  # without data


def _key_of(program: Callable[..., Any], arguments: Arguments) -> Any:
    """What decides how a program is read; None where a reading may not be used again.

    Shapes, dtypes and whether values are missing, of the data; all that the program looks up; the
    settings of JAX that show in a graph. A program that looks up anything that may change unseen,
    or that is run inside NumPyro's handlers, is read anew every time.
    """
    if primitives._PYRO_STACK or any(isinstance(leaf, Blocks) for leaf in arguments.leaves):
        return None
    leaves = tuple(
        (leaf.shape, leaf.dtype.str, holes_in(leaf))
        if isinstance(leaf, np.ndarray)
        else lookups(leaf)
        for leaf in arguments.leaves
    )
    keys = lookups(program), nesting(arguments.treedef), *leaves
    if None in keys:
        return None
    return keys, tuple(getattr(jax.config, name) for name in SETTINGS)


def _keep(key: Any, mixture: Mixture) -> None:
    """Keep a mixture's structure; the data go, and the oldest structure where there are many."""
    for oldest in list(_kept)[: max(0, len(_kept) - KEPT + 1)]:
        _kept.pop(oldest, None)  # another thread may have been faster
    reading = mixture.reading
    _kept[key] = replace(
        mixture,
        arguments=replace(mixture.arguments, leaves=(), columns=None, index=None, mesh=None),
        observed=tuple(
            replace(site, value=None, given={}, group=None, powers=None)
            for site in mixture.observed
        ),
        value=None,
        weights=None,
        labels=None,
        _readings={True: reading.of([None] * len(mixture.arguments.arrays))},
        cache={},
    )


def _dressed(kept: Mixture, program: Callable[..., Any], arguments: Arguments) -> Mixture:
    """A kept structure with the data that are given now."""
    reading = kept.reading.of(arguments.arrays)
    group = _known(reading, reading.group)
    observed = tuple(
        replace(site, value=value, given=given, group=group, powers=powers)
        for site, (value, given, powers) in zip(kept.observed, _given_data(reading), strict=True)
    )
    return replace(
        kept,
        program=program,
        arguments=arguments,
        observed=observed,
        value=_side_by_side(observed, reading.components.shape[:-1])[0],
        weights=_known(reading, reading.scale),
        labels=_known(reading, reading.labels),
        _readings={True: reading},
        cache={},
    )


def _read_anew(program: Callable[..., Any], arguments: Arguments) -> Mixture:
    """The program run on abstract values, or on the data as constants where it needs them."""
    try:
        reading, found = read(program, arguments, static_data=False)
        static_data = False
    except NEEDS_VALUES as error:
        if any(isinstance(array, Blocks) for array in arguments.arrays):
            raise ValueError(
                "the program needs the data's values to run, and Blocks are never held: give "
                "such numbers (how many groups, say) to the program as an argument"
            ) from error
        reading, found = read(program, arguments, static_data=True)
        static_data = True
    return _assemble(program, arguments, reading, found, static_data)


def _assemble(
    program: Callable[..., Any],
    arguments: Arguments,
    reading: Reading,
    found: Found,
    static_data: bool,
) -> Mixture:
    memo: dict[int, Axes] = {}
    paths = _cluster_axes(reading, found, memo)
    links = _links(reading, memo)
    plates = {n: _plate_dims(s) for n, s in found.latent.items()}
    named = (plates[n][axis] for n, axis in paths.items() if axis is not None)
    cluster_dim = next((name for name in named if name is not None), "cluster")
    group = _known(reading, reading.group)
    observed = tuple(
        _observed(part, value, given, group, powers)
        for part, (value, given, powers) in zip(found.parts, _given_data(reading), strict=True)
    )
    value, event_dim = _side_by_side(observed, reading.components.shape[:-1])
    width = value.shape[-1] if event_dim else None
    sites = {
        n: _site(n, s, reading, paths[n], links.get(n, ()), plates[n], cluster_dim, width)
        for n, s in found.latent.items()
    }
    return Mixture(
        program=program,
        arguments=arguments,
        name="+".join(part.name for part in found.parts),
        K=found.K,
        sites=sites,
        observed=observed,
        assignment=found.assignment,
        by_row=found.by_row,
        masked=found.masked,
        mixture_event_dim=event_dim,
        value=value,
        weights=_known(reading, reading.scale),
        labels=_known(reading, reading.labels),
        row_dims=found.row_dims,
        event_dims=_event_dims(event_dim, found.parts),
        cluster_dim=cluster_dim,
        static_data=static_data,
        _readings={True: reading},
    )


def _observed(
    part: Part,
    value: np.ndarray,
    given: dict[str, np.ndarray],
    group: np.ndarray | None,
    powers: np.ndarray | None,
) -> Observed:
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


def _given_data(
    reading: Reading,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]]:
    """Values, given parameters and weights within groups of each observed site."""
    for node, own, powers in zip(reading.values, reading.givens, reading.powers, strict=True):
        given = {name: _concrete(reading, g) for name, g in own.items()}
        yield _concrete(reading, node), given, _known(reading, powers)


def _known(reading: Reading, node: Node | None) -> np.ndarray | None:
    """The value of a node that is data, None where there is none."""
    return None if node is None else _concrete(reading, node)


def _side_by_side(observed: tuple[Observed, ...], rows: tuple[int, ...]) -> tuple[np.ndarray, int]:
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


def _cluster_axes(reading: Reading, found: Found, memo: dict[int, Axes]) -> dict[str, int | None]:
    """For each latent site the axis that runs along the clusters, or None.

    Followed from the weights and the components' parameters through the program's arithmetic, then
    from the priors of the sites found so; ``infer={"event_dims": [...]}`` that names "cluster"
    decides where the arithmetic cannot tell.
    """
    labels: set[tuple[str, int]] = set()
    K = found.K
    if not found.general:
        leads = {part.name: part.lead for part in found.parts}
        for leaf, node in reading.leaves[0].items():
            lead = leads.get(leaf[:-1].partition("[")[2], found.parts[0].lead)
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


def _links(reading: Reading, memo: dict[int, Axes]) -> dict[str, tuple[Link, ...]]:
    links: dict[str, list[Link]] = {}
    families = reading.leaves if len(reading.leaves) > 1 else reading.leaves[:1]
    leaves = [("weights", reading.weights)]
    for number, family in enumerate(families):
        suffix = f"[{number}]" if len(families) > 1 else ""
        leaves += [(leaf + suffix, node) for leaf, node in family.items()]
    for leaf, node in leaves:
        plain, bracket, part = leaf.partition("[")
        given = {source + bracket + part for source in COMPUTED.get(plain, ())}
        if given & set(families[0]):
            continue  # computed from what the program gave
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


def _plate_dims(site: dict[str, Any]) -> list[str | None]:
    """Names of a site's axes that are plates; None for the others."""
    fn = site["fn"]
    names: list[str | None] = [None] * (len(fn.batch_shape) + fn.event_dim)
    for frame in site["cond_indep_stack"]:
        names[len(fn.batch_shape) + frame.dim] = frame.name
    return names


def _event_dims(event_dim: int, parts: tuple[Part, ...]) -> tuple[str, ...]:
    declared = tuple((parts[0].site["infer"] or {}).get("event_dims", ()))
    if len(parts) == 1 and len(declared) == event_dim:
        return declared
    return ("feature", "feature_2", "feature_3")[:event_dim]


def _site(
    name: str,
    site: dict[str, Any],
    reading: Reading,
    cluster_axis: int | None,
    links: tuple[Link, ...],
    plates: list[str | None],
    cluster_dim: str,
    width: int | None,
) -> Site:
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
