"""Data held against the program: missing, infinite or impossible values, by row and column."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayesmix.blocks import Blocks
from bayesmix.graph import ancestors, evaluate

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
MULTINOMIAL = (dist.MultinomialProbs, dist.MultinomialLogits)


def check_data(mixture: "Mixture") -> None:
    """Raise ValueError for data that no component could have produced, in one sentence."""
    name = mixture.name
    if mixture.N == 0:
        raise ValueError(f"site {name!r} has no rows: the data are empty")
    if isinstance(mixture.value, Blocks):
        _check_blocks(mixture, mixture.value)
        return
    used = np.ones(mixture.rows, bool) if mixture.weights is None else mixture.weights != 0
    for weights in (mixture.weights, *(site.powers for site in mixture.observed)):
        if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(f"site {name!r} has a row weight that is negative or not finite")
    for site in mixture.observed:
        some = _used(site, used)
        _refuse(np.isnan, "is missing (NaN)", mixture, site, some, _remedy(site))
        _refuse(np.isinf, "is infinite", mixture, site, some, "remove the row or the value")
    own = _observed_arrays(mixture)
    for array in mixture.arguments.arrays:
        known = any(array is value for value in own)
        if not known and array.dtype.kind == "f" and np.isnan(array).any():
            row = ", ".join(map(str, np.argwhere(np.isnan(array))[0]))
            raise ValueError(
                f"an argument of the program of shape {array.shape} has a missing value (NaN) at "
                f"row {row}: remove the row or fill it in"
            )
    _check_possible(mixture, used)
    _check_labels(mixture)


def check_idle_rows(mixture: "Mixture") -> None:
    """Raise ValueError where a row of weight 0 has a value that no component could have produced.

    Components fitted by their own log_prob have no slope there, and 0 times that is none either.
    """
    every = np.ones(mixture.rows, bool)
    try:
        for site in mixture.observed:
            some = _used(site, every)
            _refuse(np.isnan, "is missing (NaN)", mixture, site, some, _remedy(site))
            _refuse(np.isinf, "is infinite", mixture, site, some, "remove the row or the value")
        _check_possible(mixture, every)
    except ValueError as error:
        raise ValueError(
            f"{error}; its weight of 0 does not help here, where the components' own log_prob is "
            "differentiated"
        ) from None


def _check_possible(mixture: "Mixture", used: np.ndarray) -> None:
    for site in mixture.observed:
        _check_trials(mixture, site, _used(site, used))
        _check_support(mixture, site, _used(site, used))


def _used(site: "Observed", used: np.ndarray) -> np.ndarray:
    """Which rows of a site count: those of positive weight, or of groups of positive weight."""
    return used if site.group is None else used[site.group]


def _remedy(site: "Observed") -> str:
    return (
        "remove the row, fill it in, or have it integrated out: numpyro.sample("
        f"{site.name!r}, ..., infer={{'missing': 'marginal'}})"
    )


def _observed_arrays(mixture: "Mixture") -> list[Any]:
    """The arguments that are observed values, whose missing cells have been dealt with."""
    values = [site.value for site in mixture.observed]
    reading = mixture.reading
    for site, node in zip(mixture.observed, reading.values, strict=True):
        if site.declared:
            inputs = {source.number for source in ancestors([node])}
            values += [array for number, array in reading.data.items() if number in inputs]
            if mixture.static_data:  # then the graph does not tell from which argument they came
                values += [a for a in mixture.arguments.arrays if _equal(a, site.value)]
    return values


def _equal(array: np.ndarray, value: np.ndarray) -> bool:
    return array.dtype.kind == value.dtype.kind == "f" and np.array_equal(
        array, value, equal_nan=True
    )


def check_gaps(mixture: "Mixture") -> None:
    """Raise ValueError where too much is missing to fit: a whole column, a NaN in a prior.

    New rows, for which something is predicted, may have such gaps.
    """
    if mixture.partial:
        for site in mixture.observed:
            _check_columns(mixture, site)
        with jax.enable_x64(True):
            _check_priors(mixture)


def _check_columns(mixture: "Mixture", site: "Observed") -> None:
    """Refuse columns without a single value."""
    ranks = len(mixture.rows) if site.group is None else 1
    gone = site.missing.reshape(int(np.prod(site.value.shape[:ranks])), -1).all(0)
    if gone.any():
        position = np.array([0] * ranks + [int(gone.argmax())])
        where = place(mixture, site, position).partition(", ")[2] or "the data"
        raise ValueError(f"site {site.name!r}: {where} has no value at all: leave it out")


def _check_priors(mixture: "Mixture") -> None:
    """Refuse priors that are NaN because they are made from data with missing cells."""
    fixed = {
        (name, leaf): node
        for name, args in mixture.reading.priors.items()
        for leaf, node in args.items()
        if not node.depends
    }
    for (name, leaf), value in zip(
        fixed, evaluate(list(fixed.values()), mixture.reading.data), strict=True
    ):
        if np.isnan(np.asarray(value)).any():
            raise ValueError(
                f"site {name!r}: its prior's {leaf!r} is NaN, because it is made from data with "
                "missing values: use jnp.nanmean, jnp.nanvar and the like there, and leave out "
                "columns with a single value"
            )


def _check_blocks(mixture: "Mixture", blocks: Blocks) -> None:
    """The same in one pass over Blocks."""
    if mixture.weights is not None or mixture.labels is not None or mixture.observed[0].given:
        raise ValueError(
            f"site {mixture.name!r}: rows of Blocks have no weights, masks, labels or trials yet"
        )
    supports = mixture.observed[0].supports
    open_support = any(map(_depends_on_parameters, supports))
    start = 0
    for block in blocks:
        bad = ~np.isfinite(block)
        if bad.any():
            first = np.argwhere(bad)[0]
            what = "is missing (NaN)" if np.isnan(block[tuple(first)]) else "is infinite"
            position = np.array([first[0] + start, *first[1:]])
            where = place(mixture, mixture.observed[0], position)
            raise ValueError(
                f"site {mixture.name!r}: {where} {what}: remove it or fill it in (cells that are "
                "missing from Blocks are not integrated out)"
            )
        inside = np.logical_or.reduce([np.asarray(s(block)) for s in supports])
        if not (open_support or inside.all()):
            row = int(np.argmin(inside))
            raise ValueError(
                f"site {mixture.name!r}: row {start + row} is {block[row]}, outside the support of "
                f"{mixture.family}"
            )
        start += len(block)


def _refuse(
    test: Any, what: str, mixture: "Mixture", site: "Observed", used: np.ndarray, remedy: str
) -> None:
    if site.value.dtype.kind != "f":
        return
    bad = test(site.value) & ~site.missing
    bad &= used.reshape(used.shape + (1,) * (bad.ndim - used.ndim))
    if bad.any():
        count = int(bad.any(axis=tuple(range(len(mixture.rows), bad.ndim))).sum())
        raise ValueError(
            f"site {site.name!r}: {place(mixture, site, np.argwhere(bad)[0])} {what}"
            f" ({count} of {used.size} rows): {remedy}"
        )


def place(mixture: "Mixture", site: "Observed", position: np.ndarray) -> str:
    """Where a value of the data is, in words: its row and, if it has one, its column."""
    rows = len(mixture.rows)
    row = ", ".join(str(int(i)) for i in position[:rows])
    if len(position) == rows:
        return f"row {row}"
    column = int(position[-1])
    named = mixture.columns if len(mixture.observed) == 1 else None
    label = repr(named[column]) if named else str(column)
    return f"row {row}, column {label}"


def _check_support(mixture: "Mixture", site: "Observed", used: np.ndarray) -> None:
    """Refuse values that no component can produce, where the supports are fixed."""
    if any(map(_depends_on_parameters, site.supports)) or any(map(_is_real, site.supports)):
        return  # finite numbers were asked for already
    cells = site.value.shape[: site.value.ndim - site.event_dim]
    inside = np.zeros(cells, bool)
    accepted = _accepted(site)
    for support in accepted:
        inside |= _inside(support, site).reshape(cells)
    if site.components == (dist.Dirichlet,):
        inside &= (site.value > 0).all(-1)
    counted = np.broadcast_to(used.reshape(used.shape + (1,) * (len(cells) - used.ndim)), cells)
    if (inside | ~counted).all():
        return
    position = np.argwhere(~inside & counted)[0]
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
        f"site {site.name!r}: {place(mixture, site, position)} is {value}, outside the support of "
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
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    seen = np.asarray(support(np.where(site.missing, 0.0, site.value))) | site.missing
    return seen.all(tuple(range(seen.ndim - site.event_dim, seen.ndim)))


def _check_trials(mixture: "Mixture", site: "Observed", used: np.ndarray) -> None:
    """Refuse more successes than trials, and numbers that are not whole or negative."""
    trials = site.given.get("total_count")
    if trials is None:
        return
    x = site.value
    if site.components[0] in MULTINOMIAL:
        _check_totals(mixture, site, used, trials)
        return
    bad = (x > trials) | (x < 0) | (x != np.floor(x)) | (trials != np.floor(trials))
    bad &= used.reshape(used.shape + (1,) * (x.ndim - used.ndim)) & ~site.missing
    if bad.any():
        position = np.argwhere(bad)[0]
        successes, count = x[tuple(position)], trials[tuple(position)]
        raise ValueError(
            f"site {site.name!r}: {place(mixture, site, position)} has {successes:g} successes in "
            f"{count:g} trials; they must be whole numbers from 0 to the number of trials"
        )


def _check_totals(
    mixture: "Mixture", site: "Observed", used: np.ndarray, trials: np.ndarray
) -> None:
    """Refuse counts that are not whole, negative, or do not sum to the row's number of trials."""
    x = site.value
    counted = used.reshape(used.shape + (1,) * (x.ndim - used.ndim))
    bad = ((x < 0) | (x != np.floor(x))) & counted
    if bad.any():
        position = np.argwhere(bad)[0]
        raise ValueError(
            f"site {site.name!r}: {place(mixture, site, position)} is {x[tuple(position)]:g}, but "
            "the counts of a Multinomial are whole numbers from 0"
        )
    off = (x.sum(-1) != trials[..., 0]) & counted[..., 0]
    if off.any():
        position = np.argwhere(off)[0]
        row, total = tuple(position), trials[..., 0]
        raise ValueError(
            f"site {site.name!r}: row {position[0]} has counts that sum to {x.sum(-1)[row]:g}, but "
            f"its total_count is {total[row]:g}"
        )


def _check_labels(mixture: "Mixture") -> None:
    """Refuse known assignments that are not clusters."""
    if mixture.labels is None:
        return
    outside = (mixture.labels >= mixture.K) | (mixture.labels < -1)
    if outside.any():
        row = np.argwhere(outside)[0]
        raise ValueError(
            f"site {mixture.assignment!r}: row {', '.join(map(str, row))} has the label "
            f"{mixture.labels[tuple(row)]:g}, but the clusters are 0 to {mixture.K - 1}"
        )


def _row_support(site: "Observed") -> bool:
    """Whether the support is of a row as a whole, not of its columns one by one."""
    independent = type(constraints.independent(constraints.real, 1))
    return not isinstance(site.supports[0], independent) or site.event_dim > 1


def _support_name(support: Any) -> str:
    """The values of a support in words; NumPyro's own name for one that has none here."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        return f"whole numbers from {support.lower_bound} to {support.upper_bound}"
    known = (words for other, words in WORDS if type(other) is type(support) and other == support)
    return next(known, str(support))


def _depends_on_parameters(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(support))
