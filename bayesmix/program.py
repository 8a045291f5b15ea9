"""A NumPyro program and its data, read as a mixture.

``trace`` runs the program once on abstract values (nothing is sampled, nothing is compiled) and
returns a ``Mixture``: the latent sites with their priors, the one observed mixture site, which
parameter of the components each site feeds, and the arithmetic of all log densities as a graph.
Everything that fits a mixture works on that graph, so the objective is the program's own, never a
second version of it. This is the only room that knows NumPyro's handlers.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger

from bayesmix.arguments import Arguments, read_arguments
from bayesmix.graph import Axes, Graph, Node, axes, core, evaluate, symbol, unary_map

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
    prior_args: tuple[str, ...]
    support: Any  # a tree definition: jax.tree.unflatten(support, bounds) is the constraint
    dims: tuple[str, ...]
    cluster_axis: int | None
    links: tuple[Link, ...]
    fed_priors: tuple[str, ...]
    weighted: bool
    distribution: Any = field(repr=False)

    @property
    def feeds(self) -> tuple[str, ...]:
        """Names of the component parameters (and "weights") that the site enters."""
        return tuple(link.leaf for link in self.links)

    @property
    def improper(self) -> bool:
        return self.prior == "ImproperUniform"


@dataclass(frozen=True)
class Reading:
    """The program's values as nodes of one graph, in one precision.

    ``leaves``: parameters of the components, (*rows or nothing, K, *event), one dict per component
    family; ``components``: log weight + log density, (*rows, K); ``terms``: the log density of
    every other site, summed; ``priors``: the parameters of each latent site's prior;
    ``supports``: the numbers in its support (the bounds of an interval); ``centres``: its mean,
    where it has one.
    """

    value: Node
    scale: Node | None
    weights: Node
    log_weights: Node
    leaves: tuple[dict[str, Node], ...]
    components: Node
    terms: dict[str, Node]
    priors: dict[str, dict[str, Node]]
    supports: dict[str, list[Node]]
    centres: dict[str, Node]
    sites: dict[str, Node]
    data: dict[int, np.ndarray]


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
            self._readings[key] = _read(self.program, self.arguments, self.static_data)[0]
        return self._readings[key]

    @cached_property
    def _text(self) -> str:
        from bayesmix.mstep import describe

        return describe(self)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text


def x64() -> bool:
    """Whether the ambient precision is float64."""
    return jnp.result_type(float) == jnp.float64


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
            reading, found = _read(program, arguments, static_data=False)
            static_data = False
        except _NEEDS_VALUES:
            reading, found = _read(program, arguments, static_data=True)
            static_data = True
        mixture = _assemble(program, arguments, reading, found, static_data)
    _check_data(mixture)
    return mixture


_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerBoolConversionError,
)


# ------------------------------------------------------------------------- running the program


@dataclass
class _Found:
    """Static facts noted while the program ran."""

    latent: dict[str, dict[str, Any]] = field(default_factory=dict)
    site: dict[str, Any] = field(default_factory=dict)
    mixture: Any = None


class _Abstract(Messenger):
    """Gives every latent site a symbolic value instead of a sample, and notes what it meets."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__(fn)
        self.met: list[tuple[str, tuple[int, ...]]] = []

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate" and msg["args"][1] not in (None, msg["args"][0]):
            size, part = msg["args"][:2]
            raise ValueError(
                f"plate {msg['name']!r} is subsampled ({part} of {size} rows): fit all rows, "
                "without subsample_size"
            )
        if msg["type"] == "param":
            raise ValueError(
                f"site {msg['name']!r} is a numpyro.param: write it as numpyro.sample with a "
                "prior (dist.ImproperUniform for none)"
            )
        if msg["type"] != "sample" or msg["value"] is not None:
            return
        if msg["is_observed"]:
            return
        shape = msg["fn"].shape(msg["kwargs"].get("sample_shape", ()))
        if msg["fn"].support is not None and msg["fn"].support.is_discrete:
            raise ValueError(_discrete_message(msg["name"], msg["fn"]))
        self.met.append((msg["name"], tuple(shape)))
        msg["value"] = symbol(msg["name"], shape, jnp.result_type(float))


def _discrete_message(name: str, fn: Any) -> str:
    if name.endswith("_unobserved"):
        return (
            f"site {name.removesuffix('_unobserved')!r} uses obs_mask, which leaves missing values "
            "as latent sites: leave those rows out"
        )
    kind = type(peel(fn)).__name__
    return (
        f"site {name!r} is a latent discrete variable ({kind}): sum it out by writing the observed "
        "site as dist.MixtureSameFamily(dist.Categorical(weights), components)"
    )


def _read(
    program: Callable[..., Any], arguments: Arguments, static_data: bool
) -> tuple[Reading, _Found]:
    """The program's log densities as a graph, and the static facts met on the way."""
    found = _Found()

    def run(arrays: list[Any]) -> dict[str, Any]:
        args, kwargs = arguments.rebuild(arguments.arrays if static_data else arrays)
        recorder = _Abstract(program)
        with validation_enabled(is_validate=False), _errors_named(recorder):
            sites = handlers.trace(recorder).get_trace(*args, **kwargs)
        with validation_enabled(is_validate=False):
            return _collect(sites, found)

    arrays = arguments.arrays
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(arrays)
    graph = Graph()
    inputs = [graph.data(array.shape) for array in arrays]
    nodes = jax.tree.unflatten(jax.tree.structure(shapes), graph.read(closed, inputs))
    data = {node.number: array for node, array in zip(inputs, arrays, strict=True)}
    data |= {node.number: np.asarray(node.value) for node in graph.captured}
    reading = Reading(
        **{name: nodes[name] for name in ("value", "scale", "weights", "log_weights")},
        leaves=tuple(nodes["leaves"]),
        components=nodes["components"],
        terms=nodes["terms"],
        priors=nodes["priors"],
        supports=nodes["supports"],
        centres=nodes["centres"],
        sites=graph.sites,
        data=data,
    )
    return reading, found


@contextmanager
def _errors_named(recorder: _Abstract) -> Iterator[None]:
    """Errors of the user's program, as a sentence that says which sites had been met."""
    try:
        yield
    except _NEEDS_VALUES:
        raise
    except ValueError as error:
        if error.__traceback__ is not None and _raised_here(error):
            raise
        raise ValueError(_program_message(error, recorder.met)) from error
    except Exception as error:
        raise ValueError(_program_message(error, recorder.met)) from error


def _raised_here(error: BaseException) -> bool:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_code.co_filename == __file__


def _program_message(error: Exception, met: list[tuple[str, tuple[int, ...]]]) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    shapes = ", ".join(f"{name!r} {shape}" for name, shape in met) or "none"
    return (
        f"the program could not be run on these data: {text} (latent sites so far, with shapes: "
        f"{shapes}; components and weights must agree on K, plates and data on the rows)"
    )


def _unwrap(fn: Any) -> tuple[Any, list[Any]]:
    """The distribution inside Expanded, Independent and Masked wrappers, and the masks."""
    masks = []
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        if isinstance(fn, dist.MaskedDistribution):
            masks.append(fn._mask)
        fn = fn.base_dist
    return fn, masks


def peel(fn: Any) -> Any:
    """The distribution inside Expanded, Independent and Masked wrappers."""
    return _unwrap(fn)[0]


def _as_data(value: Any) -> jax.Array:
    """Observed values in the ambient precision, also those the program closed over."""
    if isinstance(value, np.ndarray):
        value = value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
    return jnp.asarray(value)


def _is_mixture(fn: Any) -> bool:
    return hasattr(peel(fn), "component_log_probs")


def _collect(sites: dict[str, Any], found: _Found) -> dict[str, Any]:
    """The arrays that a mixture is made of, from the program's executed sites."""
    samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
    found.latent = {n: s for n, s in samples.items() if not s["is_observed"]}
    name = _mixture_site(samples)
    found.site = site = samples[name]
    found.mixture, masks = _unwrap(site["fn"])
    mixture = found.mixture
    value = _as_data(site["value"])
    _check_shapes(name, site, mixture)
    rows = value.shape[: value.ndim - mixture.event_dim]
    return {
        "value": value,
        "scale": _row_scale(site, masks, rows),
        "weights": _mixing_values(mixture.mixing_distribution),
        "log_weights": jax.nn.log_softmax(mixture.mixing_distribution.logits),
        "leaves": _leaves(mixture),
        "components": mixture.component_log_probs(value),
        "terms": {n: _log_prob(s) for n, s in samples.items() if n != name},
        "priors": {n: _prior_args(s["fn"]) for n, s in found.latent.items()},
        "supports": {
            n: [jnp.asarray(leaf, float) for leaf in jax.tree.leaves(s["fn"].support)]
            for n, s in found.latent.items()
        },
        "centres": {
            n: centre for n, s in found.latent.items() if (centre := _mean(s["fn"])) is not None
        },
    }


def _mean(fn: Any) -> Any:
    """The mean of a prior, where NumPyro knows it."""
    try:
        return jnp.broadcast_to(fn.mean, fn.shape())
    except NotImplementedError:
        return None


def _mixture_site(samples: dict[str, Any]) -> str:
    mixtures = [name for name, site in samples.items() if _is_mixture(site["fn"])]
    observed = [name for name in mixtures if samples[name]["is_observed"]]
    if len(observed) > 1:
        raise ValueError(
            f"the program has {len(observed)} observed mixture sites ({_quoted(observed)}): "
            "bayesmix fits one; put the columns into one site with .to_event(1)"
        )
    if observed:
        latent = [name for name in mixtures if name not in observed]
        if latent:
            raise ValueError(
                f"site {latent[0]!r} is a mixture without data: only one mixture site, the "
                "observed one, can be fitted"
            )
        return observed[0]
    if mixtures:
        raise ValueError(
            f"mixture site {mixtures[0]!r} has no data: pass them with obs=, or wrap the program "
            f"in numpyro.handlers.condition(program, {{{mixtures[0]!r}: data}})"
        )
    kinds = [f"{n!r} ({type(peel(s['fn'])).__name__})" for n, s in samples.items()]
    raise ValueError(
        f"no site of the program is a mixture (found {', '.join(kinds) or 'no sample sites'}): "
        "write the observed site as dist.MixtureSameFamily(dist.Categorical(weights), components)"
    )


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _check_shapes(name: str, site: dict[str, Any], mixture: Any) -> None:
    expected, value = tuple(site["fn"].shape()), jnp.shape(site["value"])
    if value != expected:
        raise ValueError(
            f"site {name!r} describes data of shape {expected} (rows, then columns) but its data "
            f"have shape {value}: check the plate's size and the number of columns"
        )
    if len(value) == mixture.event_dim:
        raise ValueError(
            f"site {name!r} has one observation and no rows: put it into numpyro.plate("
            "'obs_id', len(x))"
        )


def _row_scale(site: dict[str, Any], masks: list[Any], rows: tuple[int, ...]) -> Any:
    """Weight of each row: handlers.scale times the masks, or None when all are one."""
    factors = [] if site["scale"] is None else [jnp.asarray(site["scale"], float)]
    factors += [jnp.asarray(mask, float) for mask in masks if mask is not True]
    if not factors:
        return None
    return jnp.broadcast_to(reduce(operator.mul, factors), rows)


def _mixing_values(mixing: Any) -> Any:
    """The mixing distribution's own parameter: probabilities if it has them, else logits."""
    return mixing.probs if "probs" in vars(mixing) else mixing.logits


def _leaves(mixture: Any) -> list[dict[str, Any]]:
    if isinstance(mixture, dist.MixtureGeneral):
        return [_parameters(component) for component in mixture.component_distributions]
    return [_parameters(mixture.component_distribution)]


def _parameters(component: Any) -> dict[str, Any]:
    """The parameters that a component distribution was given, broadcast to (*batch, *event)."""
    base = peel(component)
    reinterpreted = component.event_dim - base.event_dim
    batch = tuple(component.batch_shape) + tuple(component.event_shape[:reinterpreted])
    return {
        name: jnp.broadcast_to(value, batch + value.shape[value.ndim - event_dim :])
        for name, (value, event_dim) in _own_parameters(base).items()
    }


def _prior_args(fn: Any) -> dict[str, Any]:
    """The parameters of a prior, broadcast to the shape of its site (per event dimension)."""
    base = peel(fn)
    batch = tuple(fn.batch_shape) + tuple(fn.event_shape[: fn.event_dim - base.event_dim])
    return {
        name: jnp.broadcast_to(value, batch + value.shape[value.ndim - event_dim :])
        for name, (value, event_dim) in _own_parameters(base).items()
    }


# Parameters that a distribution computes from what it was given, and that closed forms ask for.
DERIVED = {
    dist.InverseWishart: ("concentration", "scale_matrix"),
    dist.Wishart: ("concentration", "scale_tril"),
}


def _own_parameters(base: Any) -> dict[str, tuple[Any, int]]:
    found = {}
    for name, constraint in base.arg_constraints.items():
        value = vars(base).get(name)
        if value is None and name in DERIVED.get(type(base), ()):
            value = getattr(base, name)
        if value is None and isinstance(base, dist.InverseGamma | dist.LogNormal):
            value = vars(base.base_dist).get(name)
        if value is not None and not isinstance(value, int | str):
            found[name] = (jnp.asarray(value, float), constraint.event_dim)
        elif isinstance(value, int):
            found[name] = (jnp.asarray(value, float), 0)
    return found


def _log_prob(site: dict[str, Any]) -> Any:
    log_prob = site["fn"].log_prob(site["value"])
    if site["scale"] is not None:
        log_prob = site["scale"] * log_prob
    return jnp.sum(log_prob)


# ------------------------------------------------------------------------- what the graph says


def _assemble(
    program: Callable[..., Any],
    arguments: Arguments,
    reading: Reading,
    found: _Found,
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
    reading: Reading, found: _Found, K: int, memo: dict[int, Axes]
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


def _links(reading: Reading, found: _Found, memo: dict[int, Axes]) -> dict[str, tuple[Link, ...]]:
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
    found: _Found,
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
        prior_args=tuple(reading.priors[name]),
        support=jax.tree.structure(fn.support),
        dims=tuple(str(d) for d in dims),
        cluster_axis=cluster_axis,
        links=links,
        fed_priors=fed,
        weighted=site["scale"] is not None or bool(_unwrap(fn)[1]),
        distribution=type(base),
    )


# ------------------------------------------------------------------------------ data, checked


def _check_data(mixture: Mixture) -> None:
    name = mixture.name
    if mixture.N == 0:
        raise ValueError(f"site {name!r} has no rows: the data are empty")
    used = np.ones(mixture.rows, bool) if mixture.weights is None else mixture.weights != 0
    if mixture.weights is not None and not (
        np.isfinite(mixture.weights).all() and (mixture.weights >= 0).all()
    ):
        raise ValueError(f"site {name!r} has a row weight that is negative or not finite")
    _refuse(np.isnan, "is missing (NaN)", mixture, used, "remove the row or fill it in")
    _refuse(np.isinf, "is infinite", mixture, used, "remove the row or the value")
    for array in mixture.arguments.arrays:
        if array is not mixture.value and array.dtype.kind == "f" and np.isnan(array).any():
            row = ", ".join(map(str, np.argwhere(np.isnan(array))[0]))
            raise ValueError(
                f"an argument of the program of shape {array.shape} has a missing value (NaN) at "
                f"row {row}: remove the row or fill it in"
            )
    _check_support(mixture, used)


def _refuse(test: Any, what: str, mixture: Mixture, used: np.ndarray, remedy: str) -> None:
    if mixture.value.dtype.kind != "f":
        return
    bad = test(mixture.value)
    bad &= used.reshape(used.shape + (1,) * mixture.mixture_event_dim)
    if bad.any():
        count = int(bad.any(axis=tuple(range(len(mixture.rows), bad.ndim))).sum())
        raise ValueError(
            f"site {mixture.name!r}: {place(mixture, np.argwhere(bad)[0])} {what}"
            f" ({count} of {mixture.N} rows): {remedy}"
        )


def place(mixture: Mixture, position: np.ndarray) -> str:
    """Where a value of the data is, in words: its row and, if it has one, its column."""
    rows = len(mixture.rows)
    row = ", ".join(str(int(i)) for i in position[:rows])
    if len(position) == rows:
        return f"row {row}"
    column = int(position[-1])
    label = repr(mixture.columns[column]) if mixture.columns else str(column)
    return f"row {row}, column {label}"


def _check_support(mixture: Mixture, used: np.ndarray) -> None:
    """Refuse values that no component can produce, where the supports are fixed."""
    if any(map(_depends_on_parameters, mixture.supports)):
        return
    inside = np.zeros(mixture.rows, bool)
    for support in mixture.supports:
        inside |= np.asarray(support(mixture.value)).reshape(mixture.rows)
    if (inside | ~used).all():
        return
    position = np.argwhere(~inside & used)[0]
    value = mixture.value[tuple(position)]
    if mixture.event_shape and not _row_support(mixture):
        column = next(
            j
            for j, cell in enumerate(value)
            if not np.all(mixture.supports[0].base_constraint(cell))
        )
        position, value = np.array([*position, column]), value[column]
    supports = " or ".join(dict.fromkeys(map(_support_name, mixture.supports)))
    raise ValueError(
        f"site {mixture.name!r}: {place(mixture, position)} is {value}, outside the support of "
        f"{mixture.family} ({supports})"
    )


def _row_support(mixture: Mixture) -> bool:
    """Whether the support is of a row as a whole, not of its columns one by one."""
    return (
        not isinstance(mixture.supports[0], type(constraints.independent(constraints.real, 1)))
        or len(mixture.event_shape) > 1
    )


def _support_name(support: Any) -> str:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return str(support)


def _depends_on_parameters(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(support))
