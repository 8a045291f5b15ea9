"""Running a program on abstract values: its log densities as a graph, and the facts met on the way.

Latent sites get symbols for values, so nothing is sampled and nothing compiled. This is the only
room that knows NumPyro's handlers.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger

from bayesmix.arguments import Arguments
from bayesmix.graph import Graph, Node, symbol

NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerBoolConversionError,
)


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


@dataclass
class Found:
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


def read(
    program: Callable[..., Any], arguments: Arguments, static_data: bool
) -> tuple[Reading, Found]:
    """The program's log densities as a graph, and the static facts met on the way."""
    found = Found()

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
    except NEEDS_VALUES:
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


def unwrap(fn: Any) -> tuple[Any, list[Any]]:
    """The distribution inside Expanded, Independent and Masked wrappers, and the masks."""
    masks = []
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        if isinstance(fn, dist.MaskedDistribution):
            masks.append(fn._mask)
        fn = fn.base_dist
    return fn, masks


def peel(fn: Any) -> Any:
    """The distribution inside Expanded, Independent and Masked wrappers."""
    return unwrap(fn)[0]


def _as_data(value: Any) -> jax.Array:
    """Observed values in the ambient precision, also those the program closed over."""
    if isinstance(value, np.ndarray):
        value = value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
    return jnp.asarray(value)


def _is_mixture(fn: Any) -> bool:
    return hasattr(peel(fn), "component_log_probs")


def _collect(sites: dict[str, Any], found: Found) -> dict[str, Any]:
    """The arrays that a mixture is made of, from the program's executed sites."""
    samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
    found.latent = {n: s for n, s in samples.items() if not s["is_observed"]}
    name = _mixture_site(samples)
    found.site = site = samples[name]
    found.mixture, masks = unwrap(site["fn"])
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


def x64() -> bool:
    """Whether the ambient precision is float64."""
    return jnp.result_type(float) == jnp.float64
