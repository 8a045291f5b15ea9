"""Columns of different kinds in one mixture: numbers, counts, answers, read from a table by name.

Given the cluster the columns are independent, except those of one Gaussian block. Each kind is a
row of the table `KINDS`; the priors are those of the models for one kind.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bayesmix.carry import once
from bayesmix.models.categories import categories_prior, whole
from bayesmix.models.columns import FORMS as SINGLE
from bayesmix.models.columns import Form
from bayesmix.models.forms import FORMS
from bayesmix.models.inputs import cluster_count, one_of
from bayesmix.models.skew import FORM as SKEW
from bayesmix.models.student import COLUMN as STUDENT
from bayesmix.models.summaries import MISSING, size, total
from bayesmix.models.zeros import FORMS as ZEROS

CONCENTRATION = {"default": 2.0, "flat": 1.0}  # of the Dirichlet on the weights
PRIORS = ("default", "flat")
FLAT = ("exponential",)  # of the kinds below those that have a flat prior
COLUMNS = {**SINGLE, **ZEROS, "skew_normal": SKEW, "student_t": STUDENT}

Block = tuple[tuple[str, ...], str]  # columns, kind
Program = Callable[..., None]


def mixed(columns: Mapping[Any, str], K: int, *, prior: str = "default") -> Program:
    """A mixture over columns of different kinds: the NumPyro program `program(table)`.

        bm.models.mixed(
            {("height", "weight"): "gaussian", "visits": "poisson", "smoker": "bernoulli",
             "region": "categorical"}, K=3)

    columns : column name -> its kind; several names together are one block.
        "normal"       a number; sites `height_loc`, `height_var` (K,)
        "gaussian"     a block with a full covariance matrix; `height_weight_loc`, `..._cov`
        "poisson"      a count; `visits_rate` (K,)
        "exponential"  a waiting time; `wait_rate` (K,)
        "log_normal", "gamma", "inverse_gamma", "weibull"   a positive number
        "beta"         a share between 0 and 1
        "von_mises"    an angle in radians, from -π to π
        "geometric", "negative_binomial"   a count
        "zero_inflated_poisson", "zero_inflated_negative_binomial", "hurdle_poisson",
        "hurdle_negative_binomial"   a count whose zeros have a rule of their own
        "skew_normal", "student_t"   a number: with a slant, or with outliers
            with the sites of `bm.models.gamma` and so on: `dose_mean`, `dose_concentration` (K,);
            a gate or df for each cluster
        "bernoulli"    0 and 1, True and False, or text with two values; `smoker_probs` (K,)
        "categorical"  codes or text; `region_probs` (K, levels)
    prior : "default" (those of `bm.models.gaussian`, `poisson`, `gamma` and so on; rate of a
        waiting time ~ Gamma(2, 2 x mean)) or "flat" (maximum likelihood; not for the kinds that
        have sites of `bm.models.gamma` and so on).

    table : a DataFrame with these columns, or {name: values}; other columns are left alone. Text
    and categories are numbered in sorted order (a pandas Categorical keeps its own), and new data
    are numbered in the same way; results are labelled with them. `weights` (K,) ~
    Dirichlet(2, ...).

    Missing values (NaN, None, NA) are integrated out. Raises ValueError naming the column: not
    there, not a number, without any value, a third value in a "bernoulli" column, a category that
    the fit has not seen.

    The same arguments give the same program object, so that nothing compiles twice.
    """
    if not isinstance(columns, Mapping) or not columns:
        raise ValueError(f'columns must be a dict such as {{"height": "normal"}}, got {columns!r}')
    blocks = tuple(
        (
            names if isinstance(names, tuple) else (names,),
            one_of(f"columns[{names!r}]", kind, CHOICES),
        )
        for names, kind in columns.items()
    )
    for names, kind in blocks:
        taken = [name for name in names if name in OWN]
        if taken or not all(isinstance(name, str) for name in names):
            found = (taken or [name for name in names if not isinstance(name, str)])[0]
            raise ValueError(
                f"column {found!r} cannot give its sites their names: rename it, as in "
                f"table.rename(columns={{{found!r}: 'column_{found}'}})"
            )
        if len(names) > 1 and kind != "gaussian":
            raise ValueError(
                f"columns {names} are one block, which must be 'gaussian', not {kind!r}: give each "
                "column its own entry"
            )
        if kind in COLUMNS and kind not in FLAT and prior == "flat":
            raise ValueError(
                f"column {names[0]!r} is {kind!r}, which has no flat prior: use prior='default'"
            )
    _check_names(blocks)
    return _mixed(blocks, cluster_count(K), one_of("prior", prior, PRIORS))


def _check_names(blocks: tuple[Block, ...]) -> None:
    """Every site has one owner: a column `a` has a site `a_loc`, and so would a column `a_loc`."""
    owners: dict[str, str] = {}
    for names, kind in blocks:
        block = "_".join(names)
        said = f"column {names[0]!r}" if len(names) == 1 else f"block {names}"
        for site in (block, *(f"{block}_{own}" for own in KINDS[kind].names)):
            other = "the program itself" if site in OWN else owners.get(site)
            if other is not None:
                raise ValueError(
                    f"{said} and {other} would both have a site {site!r}: rename a column, as in "
                    f"table.rename(columns={{{names[0]!r}: '{names[0]}_'}})"
                )
            owners[site] = said


OWN = ("weights", "z", "cluster", "obs_id")  # what the program itself calls so


@once
def _mixed(blocks: tuple[Block, ...], K: int, prior: str) -> Program:
    def program(
        table: Mapping[str, Any],
        levels: Mapping[str, Any] | None = None,
        coords: Mapping[str, Any] | None = None,
    ) -> None:
        """Independent columns given the assignment z; `levels`: the categories by column, `coords`:
        what the axes of sites are called.
        """
        levels = levels or {}
        data = {names: _values(table, names, kind) for names, kind in blocks}
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        parameters = {}
        with numpyro.plate("cluster", K):
            for names, kind in blocks:
                count = len(levels[names[0]]) if names[0] in levels else None
                parameters[names] = KINDS[kind].sites("_".join(names), data[names], K, prior, count)
        with numpyro.plate("obs_id", len(next(iter(data.values())))):
            z = numpyro.sample(
                "z", dist.Categorical(probs=weights), infer={"enumerate": "parallel"}
            )
            for names, kind in blocks:
                own = {site: value[z] for site, value in parameters[names].items()}
                component = KINDS[kind].component(**own)
                numpyro.sample("_".join(names), component, obs=data[names], infer=MISSING)

    def prepare(table: Any, levels: Mapping[str, Any] | None = None) -> Any:
        """The program's arguments: the columns as numbers, and the categories they stand for."""
        known = dict(levels or {})
        numbers = _numbers(table, blocks, known)
        return (numbers,), {"levels": known, "coords": _coords(blocks, known)}

    program.prepare = prepare  # type: ignore[attr-defined]
    program.__name__ = program.__qualname__ = "mixed"
    return program


# ------------------------------------------------------------------------------------- the kinds


class Kind(NamedTuple):
    """``names`` of the sites, behind the column's; ``sites(name, x, K, prior, levels)`` draws these
    parameters, (K, ...) each, in the cluster plate, by name; ``component(**parameters)`` is the
    distribution of the column.
    """

    names: tuple[str, ...]
    sites: Callable[..., dict[str, jax.Array]]
    component: Callable[..., dist.Distribution]


def _gaussian_sites(form: str) -> Callable[..., dict[str, jax.Array]]:
    def sites(name: str, x: jax.Array, K: int, prior: str, levels: None) -> dict[str, jax.Array]:
        own = FORMS[form]
        axes = [f"{name}_column", f"{name}_column_2"] if x.ndim > 1 else []
        spread = numpyro.sample(
            f"{name}_{own.site}", own.spread[prior](x, K), infer={"event_dims": axes}
        )
        loc = numpyro.sample(
            f"{name}_loc", own.loc[prior](x, spread), infer={"event_dims": axes[:1]}
        )
        return {"loc": loc, own.site: spread}

    return sites


def _count_sites(name: str, x: jax.Array, K: int, prior: str, levels: None) -> dict[str, jax.Array]:
    scale = (total(x**2) + 1) / (total(x) + 1)
    own = dist.Gamma(2.0, 2.0 / scale) if prior == "default" else _positive()
    return {"rate": numpyro.sample(f"{name}_rate", own)}


def _time_sites(name: str, x: jax.Array, K: int, prior: str, levels: None) -> dict[str, jax.Array]:
    own = COLUMNS["exponential"].sites["rate"](x, K) if prior == "default" else _positive()
    return {"rate": numpyro.sample(f"{name}_rate", own)}


def _positive() -> dist.Distribution:
    return dist.ImproperUniform(dist.constraints.positive, (), ())


def _answer_sites(name: str, x: jax.Array, K: int, prior: str, levels: Any) -> dict[str, jax.Array]:
    share = (total(x) + 0.5) / (size(x) + 1)
    own = dist.Beta(1 + share, 2 - share) if prior == "default" else dist.Uniform(0.0, 1.0)
    return {"probs": numpyro.sample(f"{name}_probs", own)}


def _category_sites(
    name: str, x: jax.Array, K: int, prior: str, levels: int
) -> dict[str, jax.Array]:
    own, axes = categories_prior(x, levels, prior), [f"{name}_level"]
    return {"probs": numpyro.sample(f"{name}_probs", own, infer={"event_dims": axes})}


def _column_sites(form: Form) -> Callable[..., dict[str, jax.Array]]:
    def sites(name: str, x: jax.Array, K: int, prior: str, levels: None) -> dict[str, jax.Array]:
        return {
            site: numpyro.sample(f"{name}_{site}", make(x, K)) for site, make in form.sites.items()
        }

    return sites


def _normal(loc: jax.Array, var: jax.Array) -> dist.Distribution:
    return dist.Normal(loc, jnp.sqrt(var))


KINDS = {
    "normal": Kind(("loc", "var"), _gaussian_sites("univariate"), _normal),
    "gaussian": Kind(("loc", "cov"), _gaussian_sites("full"), FORMS["full"].component),
    "poisson": Kind(("rate",), _count_sites, dist.Poisson),
    "bernoulli": Kind(("probs",), _answer_sites, lambda probs: dist.Bernoulli(probs=probs)),
    "categorical": Kind(("probs",), _category_sites, lambda probs: dist.Categorical(probs=probs)),
    **{
        kind: Kind(tuple(form.sites), _column_sites(form), form.component)
        for kind, form in COLUMNS.items()
    },
    "exponential": Kind(("rate",), _time_sites, dist.Exponential),
}
CHOICES = tuple(KINDS)


# -------------------------------------------------------------------------------- reading a table


def _values(table: Mapping[str, Any], names: tuple[str, ...], kind: str) -> jax.Array:
    """The columns of one block: (N,), or (N, D) for a Gaussian block."""
    if kind == "categorical":
        return whole(jnp.asarray(table[names[0]]))
    columns = [jnp.asarray(table[n], float) for n in names]
    return columns[0] if kind != "gaussian" else jnp.stack(columns, -1)


def _coords(blocks: tuple[Block, ...], levels: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """{axis: labels}: the columns of the table and of each block of several, the categories."""
    found = {"feature": tuple(str(name) for names, _ in blocks for name in names)}
    for names, kind in blocks:
        block, own = "_".join(map(str, names)), tuple(map(str, names))
        if kind == "gaussian":
            found |= dict.fromkeys((f"{block}_column", f"{block}_column_2", f"{block}_dim_0"), own)
        elif kind == "categorical":
            found[f"{block}_level"] = tuple(map(str, levels[names[0]]))
    return found


def _numbers(table: Any, blocks: tuple[Block, ...], levels: dict[str, Any]) -> dict[str, Any]:
    """{column: numbers}; fills `levels` with the categories, or numbers by those it has."""
    found = {}
    for names, kind in blocks:
        for name in names:
            values = _column(table, name)
            text = values.dtype.kind in "OUST" and not _gone(values).all()
            if kind == "categorical" or (kind == "bernoulli" and text):
                if name not in levels:
                    levels[name] = _categories(table, name, values)
                own = levels[name]
                values = _coded(name, values, own)
                if kind == "bernoulli" and len(own) > 2:
                    raise ValueError(
                        f"column {name!r} is 'bernoulli' but has {len(own)} values "
                        f"({', '.join(map(repr, own[:4]))}{', ...' * (len(own) > 4)}): make it "
                        "'categorical'"
                    )
            found[name] = _checked(name, values)
    sizes = {name: len(values) for name, values in found.items()}
    if not all(sizes.values()):
        raise ValueError("the table must have at least one row, got none")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the columns differ in their number of rows: {sizes}")
    return found


def _column(table: Any, name: str) -> np.ndarray:
    try:
        column = table[name]
    except (KeyError, IndexError, TypeError):
        known = list(getattr(table, "columns", table if isinstance(table, Mapping) else ()))
        raise ValueError(
            f"the data have no column {name!r}; they have {', '.join(map(repr, known)) or 'none'}"
        ) from None
    values = np.asarray(column)
    if values.dtype.kind in "mMc":
        raise ValueError(
            f"column {name!r} holds {values.dtype.name} values: make numbers of them, or text that "
            "stands for categories"
        )
    if values.dtype.kind == "O":
        values = values.copy()
        values[_gone(values)] = np.nan  # None, pandas' NA
    return values


def _gone(values: np.ndarray) -> np.ndarray:
    """Which values are missing."""
    import pandas as pd

    return np.asarray(pd.isna(values))


def _categories(table: Any, name: str, values: np.ndarray) -> tuple[Any, ...]:
    """The categories of a column in their order: a pandas Categorical's own, or sorted."""
    own = getattr(getattr(table[name], "dtype", None), "categories", None)
    seen = set(values[~_gone(values)].tolist())
    found = list(own) if own is not None else sorted(seen, key=_by_kind)
    if not found:
        raise ValueError(f"column {name!r} has no value at all: leave it out")
    return tuple(value.item() if isinstance(value, np.generic) else value for value in found)


def _by_kind(value: Any) -> tuple[str, Any]:
    return ("" if isinstance(value, int | float) else type(value).__name__, value)


def _coded(name: str, values: np.ndarray, categories: tuple[Any, ...]) -> np.ndarray:
    code = {value: number for number, value in enumerate(categories)}
    gone = _gone(values)
    unknown = [n for n, value in enumerate(values.tolist()) if value not in code and not gone[n]]
    if unknown:
        raise ValueError(
            f"column {name!r} has {values[unknown[0]]!r} at row {unknown[0]}, which is none of the "
            f"categories of the fit ({', '.join(map(repr, categories[:6]))})"
        )
    if not gone.any():
        return np.array([code[value] for value in values.tolist()])
    return np.array([code.get(value, np.nan) for value in values.tolist()], float)


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    if values.ndim != 1:
        raise ValueError(f"column {name!r} has shape {values.shape}, it must be one value per row")
    if values.dtype.kind == "O":
        values = np.array([_number(name, row, value) for row, value in enumerate(values)])
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"column {name!r} is text ({str(values[0])!r}, ...): make it 'categorical', or leave "
            "it out"
        )
    return values


def _number(name: str, row: int, value: Any) -> Any:
    if isinstance(value, bool | int | float | np.number):
        return value
    raise ValueError(
        f"column {name!r} has {value!r} at row {row}, which is not a number: make the column "
        "'categorical', or leave it out"
    )
