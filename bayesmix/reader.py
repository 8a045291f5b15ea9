"""Running a program on abstract values: its log densities as a graph, and the facts met on the way.

Latent sites get symbols for values, so nothing is sampled and nothing compiled. This is the only
room that knows NumPyro's handlers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger

from bayesmix.arguments import Arguments
from bayesmix.blocks import Blocks
from bayesmix.device import whole_products
from bayesmix.graph import Graph, Node, symbol
from bayesmix.marginal import (
    OBSERVED,
    UNOBSERVED,
    Assigned,
    SumOut,
    assignment_of,
    is_assignment,
    is_grouped,
    nesting,
)
from bayesmix.missing import holes_in, promised
from bayesmix.observed import Found, assigned_arrays, mixture_arrays
from bayesmix.parameters import parameters, peel

PACKAGE = str(Path(__file__).parent)
NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerBoolConversionError,
)

AGREEING = "components and weights must agree on K, plates and data on the rows"
BRANCHING = (
    "a Python `if` cannot branch on an assignment, which has every value at once: write "
    "jnp.where(z == 0, a, b), or loc[z]"
)


@dataclass(frozen=True)
class Reading:
    """The program's values as nodes of one graph, in one precision.

    ``values``: the data, by observed site, (*rows, ...), ``givens``: parameters that are data, too
    (numbers of trials), each in the same shape; ``scale``: weights of the rows; ``powers``: those
    within groups, (N,) or None;
    ``group``: the group of each row, where rows are of groups that share an assignment;
    ``labels``: known assignments, -1 where there is none; ``leaves``: parameters of the
    components, (*rows or nothing, K, *event), one dict per component family; ``components``: log
    weight + log density, (*rows, K); ``terms``: the log density of every other site, summed;
    ``priors``: the parameters of each latent site's prior; ``supports``: the numbers in its support
    (the bounds of an interval); ``centres``: its mean, where it has one.
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
        if is_assignment(msg) or isinstance(msg["fn"], Assigned):
            msg["value"] = jnp.zeros(shape, int)  # a stand-in: the assignment is summed out later
            return
        if msg["fn"].support is not None and msg["fn"].support.is_discrete:
            raise ValueError(_discrete_message(msg["name"], msg["fn"]))
        self.met.append((msg["name"], tuple(shape)))
        msg["value"] = symbol(msg["name"], shape, jnp.result_type(float))


def _discrete_message(name: str, fn: Any) -> str:
    if name.endswith(UNOBSERVED):
        return (
            f"site {name.removesuffix(UNOBSERVED)!r} uses obs_mask, which leaves missing values "
            "as latent sites: leave those rows out"
        )
    kind = type(peel(fn)).__name__
    instead = ""
    if kind.startswith("Bernoulli"):
        instead = "; write dist.Categorical(probs=jnp.stack([1 - p, p], -1)) for Bernoulli(p)"
    return (
        f"site {name!r} is a latent discrete variable ({kind}): only an assignment, a Categorical "
        f"site, can be summed out{instead}"
    )


def read(
    program: Callable[..., Any], arguments: Arguments, static_data: bool
) -> tuple[Reading, Found]:
    """The program's log densities as a graph, and the static facts met on the way."""
    found = Found(holes=any(map(_has_holes, arguments.arrays)))

    def run(arrays: list[Any]) -> dict[str, Any]:
        args, kwargs = arguments.rebuild(arguments.arrays if static_data else arrays)
        with promised(not found.holes):
            sites, summed = _executed(program, args, kwargs, found.holes)
        with validation_enabled(is_validate=False):
            return _collect(sites, summed, found)

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
    nodes |= {"scale": scales[0], "values": tuple(nodes["values"])}
    nodes["givens"] = tuple(nodes["givens"])
    nodes["leaves"] = tuple(nodes["leaves"])
    return Reading(**nodes, sites=graph.sites, data=data), found


def _executed(
    program: Callable[..., Any], args: Any, kwargs: Any, holes: bool
) -> tuple[dict[str, Any], SumOut | None]:
    """The program's sites, run on symbols; its assignment, if it has one, summed out."""
    with validation_enabled(is_validate=False):
        recorder = _Abstract(program)
        with _errors_named(recorder):
            sites = handlers.trace(recorder).get_trace(*args, **kwargs)
            name = assignment_of(sites)
        if name is None:
            return sites, None
        summed = SumOut(name, nesting(sites), program, grouped=is_grouped(sites, name), holes=holes)
        recorder = _Abstract(summed)
        with _errors_named(recorder):
            sites = handlers.trace(recorder).get_trace(*args, **kwargs)
        summed.check()
    return sites, summed


def _has_holes(array: Any) -> bool:
    return not isinstance(array, Blocks) and holes_in(array)


def _abstract(array: Any) -> Any:
    """Blocks as a shape and a dtype; an array as it is."""
    if not isinstance(array, Blocks):
        return array
    return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))


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
    return last is not None and last.tb_frame.f_code.co_filename.startswith(PACKAGE)


def _program_message(error: Exception, met: list[tuple[str, tuple[int, ...]]]) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    shapes = ", ".join(f"{name!r} {shape}" for name, shape in met) or "none"
    advice = BRANCHING if "truth value" in text else AGREEING
    return (
        f"the program could not be run on these data: {text} (latent sites so far, with shapes: "
        f"{shapes}; {advice})"
    )


def _is_mixture(fn: Any) -> bool:
    return hasattr(peel(fn), "component_log_probs")


def _collect(sites: dict[str, Any], summed: SumOut | None, found: Found) -> dict[str, Any]:
    """The arrays that a mixture is made of, from the program's executed sites."""
    samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
    found.latent = {n: s for n, s in samples.items() if not s["is_observed"]}
    if summed is None:
        name = _mixture_site(samples)
        arrays, own = mixture_arrays(name, samples[name], found), {name}
    else:
        own = _assigned_sites(samples, summed)
        arrays = assigned_arrays(samples, summed, found)
    return arrays | {
        "terms": {n: _log_prob(s) for n, s in samples.items() if n not in own},
        "priors": {n: parameters(s["fn"]) for n, s in found.latent.items()},
        "supports": {
            n: [jnp.asarray(leaf, float) for leaf in jax.tree.leaves(s["fn"].support)]
            for n, s in found.latent.items()
        },
        "centres": {
            n: centre for n, s in found.latent.items() if (centre := _mean(s["fn"])) is not None
        },
    }


def _assigned_sites(samples: dict[str, Any], summed: SumOut) -> set[str]:
    """The sites whose densities are inside the sum over the assignment."""
    latent = [name for name in summed.used if not samples[name]["is_observed"]]
    if latent:
        raise ValueError(
            f"site {latent[0]!r} uses the assignment {summed.name!r} but has no data: pass them "
            "with obs= (a latent site may not depend on the assignment)"
        )
    mixtures = [name for name, site in samples.items() if _is_mixture(site["fn"])]
    others = [name for name in mixtures if name not in summed.used]
    if others:
        raise ValueError(
            f"the program has an assignment, {summed.name!r}, and a mixture site, {others[0]!r}: "
            "bayesmix fits one mixture"
        )
    return {*summed.used, summed.name + OBSERVED}


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
            "bayesmix fits one; let them share an assignment, z ~ dist.Categorical(weights)"
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
        "write the observed site as dist.MixtureSameFamily(dist.Categorical(weights), components), "
        "or index its parameters by an assignment z ~ dist.Categorical(weights)"
    )


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _log_prob(site: dict[str, Any]) -> Any:
    log_prob = site["fn"].log_prob(site["value"])
    if site["scale"] is not None:
        log_prob = site["scale"] * log_prob
    return jnp.sum(log_prob)


def x64() -> bool:
    """Whether the ambient precision is float64."""
    return bool(jax.config.read("jax_enable_x64"))
