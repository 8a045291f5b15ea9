"""New data and simulated data under fitted parameters.

New data enter as the program's own arguments: the program is read again with them, and only its
mixture site is evaluated, never its priors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger

from bayesmix.arguments import Arguments, check_counts
from bayesmix.marginal import is_assignment, row_axes
from bayesmix.parameters import peel
from bayesmix.program import Mixture, Params, arguments_of, mixture_of

FAR = 1e150

Simulated = Any  # an array, {observed site: array}, or a pandas.DataFrame


def with_data(mixture: Mixture, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mixture:
    """The mixture read again with new data; the mixture itself when there are none.

    Raises ValueError where the new data need parameters of another shape, and where the columns of
    a table have other names, or another order, than those that were fitted.
    """
    if not args and not kwargs:
        return mixture
    new = mixture_of(mixture.program, new_arguments(mixture, args, kwargs))
    if new.event_shape != mixture.event_shape:
        raise ValueError(
            f"site {mixture.name!r} was fitted to rows of shape {mixture.event_shape} but the new "
            f"data have rows of shape {new.event_shape}"
        )
    for name, site in mixture.sites.items():
        if site.links and new.sites[name].shape != site.shape:
            raise ValueError(
                f"site {name!r} was fitted with shape {site.shape} but the new data need "
                f"{new.sites[name].shape}"
            )
    return new


def with_observed(mixture: Mixture, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mixture:
    """As ``with_data``, for data of which something is observed.

    Raises ValueError where every value is missing, as in a regression asked without y: nothing has
    a density.
    """
    new = with_data(mixture, args, kwargs)
    if new.partial and all(site.missing.all() for site in new.observed):
        names = ", ".join(repr(site.name) for site in new.observed)
        raise ValueError(
            f"the new rows have no value of {names}, and without one there is nothing to have a "
            "density: give it to log_density (predict_mean(...) and expected(...) do without)"
        )
    return new


def new_arguments(mixture: Mixture, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """New data as the program's arguments, read as those of the fit were; these, without any.

    Raises ValueError where the columns of a table have other names or another order.
    """
    if not args and not kwargs:
        return mixture.arguments
    if hasattr(mixture.program, "prepare"):  # it takes columns by name, and numbers categories
        fitted = mixture.arguments.rebuild(mixture.arguments.arrays)[1]
        return arguments_of(mixture.program, args, {"levels": fitted["levels"], **kwargs})
    found = arguments_of(mixture.program, args, kwargs)
    _check_columns(mixture.arguments, found)
    if found.treedef != mixture.arguments.treedef:
        return found
    leaves = map(_one_column, found.leaves, mixture.arguments.leaves)
    return replace(found, leaves=tuple(leaves))


def _one_column(new: Any, fitted: Any) -> Any:
    """A table of one column and a Series are the same data: the form that was fitted."""
    if not (isinstance(new, np.ndarray) and isinstance(fitted, np.ndarray)):
        return new
    if new.ndim == 2 and new.shape[1] == 1 and fitted.ndim == 1:
        return new[:, 0]
    return new[:, None] if new.ndim == 1 and fitted.shape[1:] == (1,) else new


def _check_columns(fitted: Arguments, given: Arguments) -> None:
    """Tables are read by position; a single column may have any name."""
    known, alone = dict(fitted.tables), len(fitted.tables) == len(given.tables) == 1
    for where, columns in given.tables:
        names = fitted.tables[0][1] if alone else known.get(where, columns)
        if len(names) != len(columns) or len(names) == 1:
            continue
        for number, (name, other) in enumerate(zip(names, columns, strict=True)):
            if name != other:
                table = "the new data" if alone else f"{where} of the new data"
                raise ValueError(
                    f"column {number} of {table} is {other!r}, where {name!r} was fitted: choose "
                    f"the columns {list(names)}, in this order"
                )


def brought_near(mixture: Mixture) -> Mixture:
    """The mixture with rows beyond 1e150 drawn in along their ray from the origin.

    Their squares overflow, so every component would have density 0. Responsibilities have a limit
    along a ray, and at 1e150 they have reached it. Only for data that are one of the arguments.
    """
    if mixture.value.dtype.kind != "f":
        return mixture
    columns = tuple(range(len(mixture.rows), mixture.value.ndim))
    far = np.abs(mixture.value).max(axis=columns, initial=0.0, where=~mixture.missing)
    if not (far > FAR).any():
        return mixture
    shrink = np.where(far > FAR, FAR / np.maximum(far, 1.0), 1.0)
    near = mixture.value * shrink.reshape(shrink.shape + (1,) * len(mixture.event_shape))
    leaves = tuple(near if leaf is mixture.value else leaf for leaf in mixture.arguments.leaves)
    return mixture_of(mixture.program, replace(mixture.arguments, leaves=leaves))


def simulate(key: Any, mixture: Mixture, params: Params, n: int) -> Simulated:
    """``n`` new observations, (n, *event), at fixed params; {site: array} for several sites; a
    DataFrame, with columns and categories as they were given, where the data came in one.

    Where parameters differ by row, the rows of the data are taken at random with replacement.
    """
    check_counts(n=n)
    draws = {name: np.asarray(value)[None, None] for name, value in params.items()}
    rows = jax.tree.map(lambda value: value[0, 0], replicate(key, mixture, draws, n))
    return _as_given(mixture, rows)


def simulate_posterior(
    key: Any, mixture: Mixture, draws: Mapping[str, np.ndarray], n: int
) -> Simulated:
    """As ``simulate``, each observation at its own posterior draw taken at random."""
    check_counts(n=n)
    choose, key = jax.random.split(key)
    total = int(np.prod(next(iter(draws.values())).shape[:2]))
    rows = np.asarray(jax.random.randint(choose, (n,), 0, total))
    chosen = {k: v.reshape(total, *v.shape[2:])[rows][None] for k, v in draws.items()}
    found = jax.tree.map(lambda value: value[0, :, 0], replicate(key, mixture, chosen, 1))
    return _as_given(mixture, found)


def _as_given(mixture: Mixture, values: Any) -> Simulated:
    several = isinstance(values, dict)
    if mixture.columns is None or (not several and values.ndim != 2):
        return values
    sites = [values[site.name] for site in mixture.observed] if several else [values]
    columns = [column for value in sites for column in value.reshape(len(value), -1).T]
    return as_table(mixture, columns)


def as_table(mixture: Mixture, columns: Sequence[np.ndarray], index: Any = None) -> Any:
    """Observed columns, each (rows,), as a DataFrame with the names of the fitted table; codes of
    text columns as the pandas Categoricals they stand for.
    """
    import pandas as pd

    table = pd.DataFrame(dict(enumerate(columns)), index=index)
    table.columns = list(mixture.columns or ())
    for name, levels in mixture.levels.items():
        codes = np.round(table[name].to_numpy()).astype(int)
        table[name] = pd.Categorical.from_codes(codes, categories=list(levels))
    return table


def replicate(
    key: Any, mixture: Mixture, draws: dict[str, np.ndarray], n: int | None = None
) -> np.ndarray | dict[str, np.ndarray]:
    """Data simulated at each of the draws {site: (chain, draw, *shape)}.

    Returns (chain, draw, *rows, *event): a replicate of the whole data; with ``n``,
    (chain, draw, n, *event): new rows. {observed site: array} where several share an assignment.
    """
    with jax.enable_x64(True):
        lead = next(iter(draws.values())).shape[:2]
        total = lead[0] * lead[1]
        flat = {name: jnp.asarray(v).reshape(total, *v.shape[2:]) for name, v in draws.items()}
        keys = jax.random.split(key, total)

        def one(key_and_params: Any) -> jax.Array:
            one_key, params = key_and_params
            return _draw(one_key, params, mixture, n)

        values = jax.tree.map(np.asarray, jax.jit(lambda kp: jax.lax.map(one, kp))((keys, flat)))
    return jax.tree.map(lambda value: value.reshape(*lead, *value.shape[1:]), values)


def _draw(key: Any, params: Params, mixture: Mixture, n: int | None) -> Any:
    args, kwargs = mixture.arguments.rebuild(mixture.arguments.arrays)
    if not mixture.static_data:
        args, kwargs = jax.tree.map(
            lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, (args, kwargs)
        )
    if mixture.assignment is not None:
        return _draw_assigned(key, params, mixture, args, kwargs, n)
    fixed = handlers.substitute(handlers.seed(mixture.program, key), data=params)
    with validation_enabled(is_validate=False):
        site = handlers.trace(fixed).get_trace(*args, **kwargs)[mixture.name]
        if n is None:
            return site["fn"].sample(key)
        base = peel(site["fn"])
        if base.batch_shape == ():
            return base.sample(key, (n,))
        rows, draw = jax.random.split(key)
        chosen = jax.random.randint(rows, (n,), 0, mixture.N)
        whole = jax.vmap(site["fn"].sample)(jax.random.split(draw, n))
        whole = whole.reshape(n, mixture.N, *mixture.event_shape)
        return whole[jnp.arange(n), chosen]


def _draw_assigned(
    key: Any, params: Params, mixture: Mixture, args: Any, kwargs: Any, n: int | None
) -> Any:
    """``_draw`` for a program with an assignment: z is drawn, then what depends on it.

    New rows (``n``) are rows of whole replicates; they have no known label. Where parameters
    differ by row the rows are taken at random with replacement, one from each of n replicates.
    """

    def whole(key: Any) -> dict[str, jax.Array]:
        return _replicate_assigned(key, params, mixture, args, kwargs, labelled=n is None)

    if n is None:
        values = whole(key)
    elif any(site.group is not None for site in mixture.observed):
        raise ValueError(
            f"site {mixture.name!r} has groups of rows, so there are no single new rows: simulate "
            "the whole data, as in to_datatree(predictive_key=...)"
        )
    else:
        rows, draw = jax.random.split(key)
        count = n if mixture.by_row else -(-n // mixture.N)
        many = jax.vmap(whole)(jax.random.split(draw, count))
        ranks = len(mixture.rows)
        flat = {k: v.reshape(count, mixture.N, *v.shape[1 + ranks :]) for k, v in many.items()}
        if mixture.by_row:
            chosen = jax.random.randint(rows, (n,), 0, mixture.N)
            values = {name: value[jnp.arange(n), chosen] for name, value in flat.items()}
        else:
            values = {
                name: value.reshape(count * mixture.N, *value.shape[2:])[:n]
                for name, value in flat.items()
            }
    return values if len(mixture.observed) > 1 else values[mixture.name]


def _replicate_assigned(
    key: Any, params: Params, mixture: Mixture, args: Any, kwargs: Any, labelled: bool
) -> dict[str, jax.Array]:
    """Each observed site drawn again, rows first, given assignments drawn from their weights."""
    drawn = _Drawn(mixture, key, labelled)
    with validation_enabled(is_validate=False), handlers.block(), drawn:
        handlers.substitute(mixture.program, data=params)(*args, **kwargs)
    return drawn.values


class _Drawn(Messenger):
    """Draws the assignment, then every observed site that uses it; ``values`` has those."""

    def __init__(self, mixture: Mixture, key: Any, labelled: bool) -> None:
        super().__init__()
        self.assignment, self.labelled = mixture.assignment, labelled
        self.names = {site.name for site in mixture.observed}
        self.keys = iter(jax.random.split(key, len(self.names) + 1))
        self.values: dict[str, jax.Array] = {}
        self.drawn: Any = None
        self.axes: tuple[int, ...] = ()

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "deterministic" and msg["name"] == self.assignment:
            msg["value"] = msg["value"] if self.labelled else self.drawn
        elif msg["type"] == "sample" and msg["value"] is None and is_assignment(msg):
            msg["value"] = self.drawn = msg["fn"].sample(next(self.keys))
            self.axes = row_axes(msg)
        elif msg["type"] == "sample" and msg["name"] in self.names:
            msg["value"] = value = msg["fn"].sample(next(self.keys))
            rows = [axis - msg["fn"].event_dim for axis in self.axes]
            self.values[msg["name"]] = jnp.moveaxis(value, rows, range(len(rows)))
