"""What a NumPyro distribution was given: its parameters, by name, behind its wrappers."""

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

from bayesmix.missing import Incomplete

# Parameters that a distribution computes from what it was given, and that families and closed forms
# ask for.
DERIVED = {
    dist.BetaProportion: ("mean",),
    dist.NegativeBinomial2: ("mean",),
    dist.InverseWishart: ("concentration", "scale_matrix"),
    dist.Wishart: ("concentration", "scale_tril"),
}

# Those that a distribution computes and does not name among its arguments.
MADE = {dist.LowRankMultivariateNormal: {"scale_tril": dist.constraints.lower_cholesky}}

# Parameters that are data: how many trials the successes were counted in, row by row.
GIVEN = {
    dist.BinomialProbs: ("total_count",),
    dist.BinomialLogits: ("total_count",),
    dist.BetaBinomial: ("total_count",),
    dist.MultinomialProbs: ("total_count",),
    dist.MultinomialLogits: ("total_count",),
}

# Distributions around another one whose zeros have a rule of their own, and the general class of
# each.
GATED = {
    dist.ZeroInflatedProbs: dist.ZeroInflatedProbs,
    dist.ZeroInflatedLogits: dist.ZeroInflatedLogits,
    dist.ZeroInflatedPoisson: dist.ZeroInflatedProbs,
    dist.HurdleProbs: dist.HurdleProbs,
    dist.HurdleLogits: dist.HurdleLogits,
    dist.HurdlePoisson: dist.HurdleProbs,
    dist.HurdleGamma: dist.HurdleProbs,
    dist.HurdleLogNormal: dist.HurdleProbs,
}

WRAPPERS = (
    dist.ExpandedDistribution,
    dist.Independent,
    dist.MaskedDistribution,
    Incomplete,
)


def unwrap(fn: Any) -> tuple[Any, list[Any]]:
    """The distribution inside Expanded, Independent, Masked and Incomplete wrappers, and masks."""
    masks = []
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, dist.MaskedDistribution):
            masks.append(fn._mask)
        fn = fn.base_dist
    return fn, masks


def peel(fn: Any) -> Any:
    """The distribution inside Expanded, Independent and Masked wrappers."""
    return unwrap(fn)[0]


def kind(fn: Any) -> type:
    """The class of the distribution inside the wrappers.

    Of a zero-inflated or hurdle distribution a class that stands for the pair: ``outer`` and
    ``inner`` are NumPyro's own two.
    """
    base = peel(fn)
    if type(base) not in GATED:
        return type(base)
    return _pair(GATED[type(base)], _public(type(peel(base.base_dist))))


def _public(distribution: type) -> type:
    """NumPyro's own class that a private one of NumPyro differs from in its constraints alone."""
    private = distribution.__name__.startswith("_")
    own = private and distribution.__module__.startswith("numpyro.")
    return distribution.__mro__[1] if own else distribution


@cache
def _pair(outer: type, inner: type) -> type:
    name = outer.__name__.removesuffix("Probs").removesuffix("Logits") + inner.__name__
    return type(name, (outer,), {"outer": outer, "inner": inner})


def parameters(fn: Any) -> dict[str, Any]:
    """The parameters that a distribution was given, broadcast to (*batch, *event).

    The axes of a parameter that is itself a vector or a matrix come last.
    """
    base = peel(fn)
    batch = tuple(fn.batch_shape) + tuple(fn.event_shape[: fn.event_dim - base.event_dim])
    return {
        name: jnp.broadcast_to(value, batch + value.shape[value.ndim - event_dim :])
        for name, (value, event_dim) in own_parameters(base).items()
    }


def own_parameters(base: Any) -> dict[str, tuple[Any, int]]:
    """The parameters as they were given, each with its number of event axes."""
    found = {}
    made = MADE.get(type(base), {})
    for name, constraint in (base.arg_constraints | made).items():
        value = vars(base).get(name)
        if value is None and (name in made or name in DERIVED.get(_public(type(base)), ())):
            value = getattr(base, name)
        if value is None and isinstance(base, dist.InverseGamma | dist.LogNormal):
            value = vars(base.base_dist).get(name)
        if value is not None and not isinstance(value, int | str):
            found[name] = (jnp.asarray(value, float), _event_dim(constraint, base))
        elif isinstance(value, int):
            found[name] = (jnp.asarray(value, float), 0)
    if type(base) in GATED:
        inside = parameters(base.base_dist)
        found |= {name: (inside[name], 0) for name in inside if name not in found}
    return found


def _event_dim(constraint: Any, base: Any) -> int:
    """Event axes of a parameter; of one that is the value itself (Delta) those of the value."""
    try:
        return constraint.event_dim
    except NotImplementedError:
        return base.event_dim
