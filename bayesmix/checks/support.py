"""Values held against the supports of the components, and what these supports are in words."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayesmix.checks.places import counted, place

if TYPE_CHECKING:
    from bayesmix.program import Mixture, Observed

HINTS = {
    dist.Dirichlet: "; here all must be positive",
    dist.VonMises: "; angles are in radians: wrap them with (x + np.pi) % (2 * np.pi) - np.pi",
}
WORDS = (
    (constraints.boolean, "0 or 1"),
    (constraints.circular, "numbers from -pi to pi"),
    (constraints.nonnegative, "numbers from 0"),
    (constraints.nonnegative_integer, "whole numbers from 0"),
    (constraints.positive, "numbers greater than 0"),
    (constraints.positive_integer, "whole numbers from 1"),
    (constraints.simplex, "rows of shares that sum to 1"),
    (constraints.unit_interval, "numbers from 0 to 1"),
    (constraints.open_interval(0.0, 1.0), "numbers strictly between 0 and 1"),
)
HURDLES = (dist.HurdleProbs, dist.HurdleLogits)


def check_support(mixture: "Mixture", site: "Observed", used: np.ndarray) -> None:
    """Refuse values that no component can produce, where the supports are fixed."""
    if any(map(depends_on_parameters, site.supports)) or any(map(_is_real, site.supports)):
        return  # finite numbers were asked for already
    cells = site.value.shape[: site.value.ndim - site.event_dim]
    inside = np.zeros(cells, bool)
    accepted = _accepted(site)
    for support in accepted:
        inside |= _inside(support, site).reshape(cells)
    if site.components == (dist.Dirichlet,):
        inside &= (site.value > 0).all(-1)
    outside = ~inside & counted(used, len(cells))
    if not outside.any():
        return
    position = np.argwhere(outside)[0]
    value = site.value[tuple(position)]
    if site.event_dim and not _row_support(site):
        column = next(
            j
            for j, cell in enumerate(value)
            if not (np.isnan(cell) or np.all(accepted[0].base_constraint(cell)))
        )
        position, value = np.array([*position, column]), value[column]
    supports = " or ".join(dict.fromkeys(map(_support_name, accepted)))
    raise ValueError(
        f"site {site.name!r}: {place(mixture, position)} is {value}, outside the support of "
        f"{site.family} ({supports}){_hint(site)}"
    )


def _is_real(support: Any) -> bool:
    return _of_cell(support) is constraints.real


def _of_cell(support: Any) -> Any:
    """The support of a single cell."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _accepted(site: "Observed") -> tuple[Any, ...]:
    """The supports as the densities have them.

    NumPyro's have 0 and 1 for a Beta, whose density there is 0 or inf, and have no 0 for a hurdle
    that is written as HurdleDistribution of positive numbers.
    """
    inner = _of_cell(site.supports[0])
    if site.components in ((dist.Beta,), (dist.BetaProportion,)):
        own: Any = constraints.open_interval(0.0, 1.0)
    elif getattr(site.components[0], "outer", None) in HURDLES and inner is constraints.positive:
        own = constraints.nonnegative
    else:
        return site.supports
    return (constraints.independent(own, site.event_dim) if site.event_dim else own,)


def _hint(site: "Observed") -> str:
    return HINTS.get(site.components[0], "") if len(site.components) == 1 else ""


def _inside(support: Any, site: "Observed") -> np.ndarray:
    """Whether each value is in the support, as far as its cells were observed."""
    if not site.partial:
        return np.asarray(support(site.value))
    seen = np.asarray(_of_cell(support)(np.where(site.missing, 0.0, site.value))) | site.missing
    return seen.all(tuple(range(seen.ndim - site.event_dim, seen.ndim)))


def _row_support(site: "Observed") -> bool:
    """Whether the support is of a row as a whole, not of its columns one by one."""
    independent = type(constraints.independent(constraints.real, 1))
    return not isinstance(site.supports[0], independent) or site.event_dim > 1


def _support_name(support: Any) -> str:
    """The values of a support in words; NumPyro's own name for one that has none here."""
    support = _of_cell(support)
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        return f"whole numbers from {support.lower_bound} to {support.upper_bound}"
    known = (words for other, words in WORDS if type(other) is type(support) and other == support)
    return next(known, str(support))


def depends_on_parameters(support: Any) -> bool:
    """Whether a bound of a support is a parameter, not a number."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(_of_cell(support)))
