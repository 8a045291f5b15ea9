"""What there is to draw: results and trees, seen as the same arrays.

Draws of NUTS are relabelled here, so that a colour is one cluster throughout.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.predict import with_data

if TYPE_CHECKING:
    import xarray

PROB = 0.95
ENGINES = {"em": "EM", "nuts": "NUTS", "smc": "SMC", "laplace": "Laplace", "bootstrap": "bootstrap"}
GRID_DRAWS = 200  # posterior draws evaluated on a grid
GAUSSIAN = (
    "Normal",
    "MultivariateNormal",
    "AlignedNormal",
    "EllipsoidalNormal",
    "LowRankMultivariateNormal",
    "StudentT",
    "MultivariateStudentT",
)


@dataclass(frozen=True)
class View:
    """A result or tree as arrays; clusters carry one name in all draws.

    draws : site -> (S, *shape). resp : (S, N, K) or None where too large. mean_resp : (N, K).
    data : (N, D) or (N,), of groups their means. columns : names of the data's columns. levels :
    {column: categories}, of which the data hold the numbers.
    """

    method: str
    draws: dict[str, np.ndarray]
    dims: dict[str, tuple[str, ...]]
    resp: np.ndarray | None
    mean_resp: np.ndarray
    data: np.ndarray
    columns: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    site: str
    family: str
    K: int
    tree: Any
    mixture: Any

    @property
    def S(self) -> int:
        """Number of draws."""
        return len(next(iter(self.draws.values())))

    @property
    def said(self) -> str:
        """Where the numbers come from, for a subtitle."""
        return "EM's MAP" if self.method == "em" else f"{self.engine}, {self.S} draws"

    @property
    def engine(self) -> str:
        """Name of what made the draws."""
        return ENGINES.get(self.method, self.method)

    def thin(self, most: int) -> np.ndarray:
        """Indices of at most `most` evenly spread draws."""
        return np.unique(np.linspace(0, self.S - 1, min(most, self.S)).astype(int))


def view_of(source: Any, data: Any = None) -> View:
    """The view of a result or tree; data : what to show in place of the observed data."""
    if isinstance(source, View):
        return source
    tree = relabelled_tree(source)
    posterior = tree.children["posterior"].to_dataset(inherit=False)
    draws = {
        str(n): (v := x.to_numpy()).reshape(-1, *v.shape[2:])
        for n, x in posterior.data_vars.items()
    }
    site = str(tree.attrs["site"])
    observed = _observed(tree, site)
    mixture: Any = getattr(source, "mixture", None)
    if data is not None and mixture is not None and mixture.levels:
        observed, data = observed.copy(data=with_data(mixture, (data,), {}).value), None
    grouped = data is None and mixture is not None and mixture.observed[0].group is not None
    values = np.asarray(mixture.value if grouped else observed.to_numpy() if data is None else data)
    rows = len(_row_dims(tree, site))
    resp, mean = _resp(source, tree, mixture)
    return View(
        method=str(tree.attrs["inference_method"]),
        draws=draws,
        dims={str(n): tuple(map(str, x.dims[2:])) for n, x in posterior.data_vars.items()},
        resp=resp,
        mean_resp=mean,
        data=values.reshape(len(mean), *values.shape[values.ndim - (observed.ndim - rows) :]),
        columns=_columns(observed, rows, data, mixture, site),
        levels=_levels(tree, mixture),
        site=site,
        family=str(tree.attrs.get("family", "")),
        K=int(tree.attrs["n_clusters"]),
        tree=tree,
        mixture=mixture,
    )


def relabelled_tree(source: Any) -> xarray.DataTree:
    """The relabelled tree of a result or tree."""
    from xarray import DataTree

    from bayesmix.relabel import relabel

    tree = source if isinstance(source, DataTree) else None
    if hasattr(source, "to_datatree"):
        tree = source.to_datatree()
    if tree is None or "posterior" not in tree.children or "inference_method" not in tree.attrs:
        raise ValueError(
            f"cannot draw {type(source).__name__}: pass a result of EM or NUTS, or its DataTree"
        )
    if tree.attrs["inference_method"] == "em" or "relabelled" in tree.attrs:
        return tree
    return relabel(tree, mixture=getattr(source, "mixture", None))


def observed_in(data: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values (N, *E) and columns' names of a DataFrame, Series, array, tree or result."""
    from xarray import DataTree

    tree = data.to_datatree() if hasattr(data, "to_datatree") else data
    if not isinstance(tree, DataTree):
        values = np.asarray(data)
        if values.ndim not in (1, 2):
            raise ValueError(
                f"data has shape {values.shape}: pass a table, one row per observation"
            )
        if hasattr(data, "columns"):
            return values, tuple(map(str, data.columns))
        if values.ndim == 1:
            return values, (str(getattr(data, "name", None) or "x"),)
        return values, tuple(f"x[{i}]" for i in range(values.shape[1]))
    if "observed_data" not in tree.children:
        raise ValueError("the tree has no group 'observed_data': pass the data")
    site = str(tree.attrs.get("site", next(iter(tree.children["observed_data"].data_vars))))
    rows = len(_row_dims(tree, site))
    observed = _observed(tree, site)
    values = observed.to_numpy()
    flat = values.reshape(-1, *values.shape[rows:])
    return flat, _columns(observed, rows, None, getattr(data, "mixture", None), site)


def _observed(tree: xarray.DataTree, site: str) -> xarray.DataArray:
    """The data of the mixture's site; where several sites share an assignment, their columns."""
    from xarray import DataArray

    group = tree.children["observed_data"].to_dataset(inherit=False)
    if site in group:
        return group[site]
    rows = _row_dims(tree, site)
    columns, names = [], []
    for name, each in group.data_vars.items():
        values = each.to_numpy().reshape(*(each.sizes[dim] for dim in rows), -1).astype(float)
        columns.append(values)
        wide = values.shape[-1] > 1
        names += [f"{name}[{i}]" if wide else str(name) for i in range(values.shape[-1])]
    return DataArray(
        np.concatenate(columns, -1), dims=(*rows, "feature"), coords={"feature": names}
    )


def _row_dims(tree: xarray.DataTree, site: str) -> tuple[str, ...]:
    """Dims that count observations; what the observed data have besides is one observation's."""
    pointwise = tree.children["log_likelihood"].to_dataset(inherit=False)[site]
    return tuple(str(dim) for dim in pointwise.dims[2:])


def _columns(observed: Any, rows: int, data: Any, mixture: Any, site: str) -> tuple[str, ...]:
    if hasattr(data, "columns"):
        return tuple(map(str, data.columns))
    if getattr(data, "name", None) is not None:
        return (str(data.name),)
    if getattr(mixture, "columns", None):
        return tuple(map(str, mixture.columns))
    if observed.ndim > rows:
        labels = observed[observed.dims[-1]].to_numpy()
        return tuple(f"{site}[{i}]" if labels.dtype.kind in "iu" else str(i) for i in labels)
    return (site,)


def _levels(tree: xarray.DataTree, mixture: Any) -> dict[str, tuple[str, ...]]:
    """Categories of columns by their numbers; a tree has them as coordinates."""
    if mixture is not None:
        return {name: tuple(map(str, own)) for name, own in mixture.levels.items()}
    coords = tree.children["posterior"].to_dataset(inherit=False).coords
    named = {str(dim): coord.to_numpy() for dim, coord in coords.items()}
    return {
        dim.removesuffix("_level"): tuple(map(str, own))
        for dim, own in named.items()
        if dim.endswith("_level") and own.dtype.kind not in "iu"
    }


def _resp(source: Any, tree: Any, mixture: Any) -> tuple[np.ndarray | None, np.ndarray]:
    if "responsibilities" in tree.children:
        resp = tree["responsibilities"]["resp"].to_numpy()
        resp = resp.reshape(resp.shape[0] * resp.shape[1], -1, resp.shape[-1])
        return resp, resp.mean(0)
    known = getattr(source, "responsibilities", None)
    if known is not None:
        return None, np.asarray(known).reshape(-1, np.shape(known)[-1])
    raise ValueError(
        "the tree has no group 'responsibilities' (it is left out above 256 MB): thin the draws "
        "before to_datatree()"
    )


def same_names(views: list[View]) -> list[View]:
    """The second view with its exchangeable clusters named as in the first."""
    if len(views) < 2:
        return views

    from scipy.optimize import linear_sum_assignment

    first, second = views
    perm = np.arange(second.K)
    shared = first.mean_resp.T @ second.mean_resp
    for members in map(np.asarray, json.loads(second.tree.attrs["exchangeable"])):
        block = shared[np.ix_(members, members)]
        perm[members] = members[linear_sum_assignment(block, maximize=True)[1]]
    resp = None if second.resp is None else second.resp[..., perm]
    return [first, replace(second, resp=resp, mean_resp=second.mean_resp[:, perm])]


def row_names(view: View, rows: np.ndarray) -> list[str]:
    """What the data call these observations."""
    dims = _row_dims(view.tree, view.site)
    observed = view.tree.children["observed_data"].to_dataset(inherit=False)
    if len(dims) == 1 and dims[0] in observed.coords:
        return [str(label) for label in observed[dims[0]].to_numpy()[rows]]
    return [str(row) for row in rows]


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the 95 % interval over draws."""
    lo, hi = np.quantile(values, [(1 - PROB) / 2, (1 + PROB) / 2], axis=0)
    return lo, hi


# Parameters of the components.


def moments_of(view: View) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Centres (S, K, D) and covariances (S, K, D, D) of the components; None where unknown.

    From the components' own parameters where there is a result. A tree does not say which site is
    which parameter, so there sites are told by name and shape.
    """
    D = view.data.shape[1]
    leaves = _leaves(view) if view.mixture is not None else view.draws
    find = partial(_find, view, leaves)
    loc = find(("loc", "mean", "means", "mu", "locs", "rate", "probs"), (D,))
    if loc is None:
        return None
    if view.family and not view.family.startswith(GAUSSIAN):
        return loc, None
    tril = find(("scale_tril", "chol", "L"), (D, D))
    if tril is not None:
        return loc, tril @ np.swapaxes(tril, -1, -2)
    cov = find(("covariance_matrix", "cov", "covariance", "sigma"), (D, D))
    if cov is not None:
        return loc, cov
    precision = find(("precision_matrix", "precision"), (D, D))
    if precision is not None:
        return loc, np.linalg.inv(precision)
    scale = find(("scale", "sd", "sigma", "scales"), (D,))
    var = find(("var", "variance", "sigma2"), (D,)) if scale is None else scale**2
    return loc, None if var is None else var[..., None] * np.eye(D)


def _leaves(view: View) -> dict[str, np.ndarray]:
    """Parameters of the components for every draw, (S, K, *event), in data units."""
    import jax

    from bayesmix.density import data_of, density_of

    with jax.enable_x64(True):
        density, data = density_of(view.mixture), data_of(view.mixture)
        found = jax.jit(jax.vmap(lambda params: density.leaves(params, data)))(view.draws)
        return {name: np.asarray(value) for name, value in found.items()}


def _find(
    view: View, values: dict[str, np.ndarray], names: Sequence[str], event: tuple[int, ...]
) -> np.ndarray | None:
    """The first of these names as (S, K, *event); tied and scalar ones are repeated."""
    for name in (n for n in names if n in values):
        found = values[name]
        if view.mixture is None and "cluster" not in view.dims[name]:
            found = np.repeat(found[:, None], view.K, axis=1)
        if found.shape[1:] == (view.K,) and len(event) == 1:
            found = np.repeat(found[..., None], event[0], axis=-1)
        if found.shape[1:] == (view.K, *event):
            return found
    return None


# Densities at new points.


def component_densities(view: View, grid: np.ndarray) -> np.ndarray:
    """weight_k f_k(x) for thinned draws: (S, G, K)."""
    from bayesmix.draws import evaluate_draws

    # Three observed rows ride along: a program that rescales its data would not agree on them.
    known = view.data[:3].reshape(-1)
    there = _at_new_points(view, np.concatenate([known, grid]))
    at = view.thin(GRID_DRAWS)
    draws = {site: values[None, at] for site, values in view.draws.items()}
    found = evaluate_draws(there, draws)
    G = len(known) + len(grid)
    total = np.exp(np.asarray(found["log_likelihood"])[0]).reshape(len(at), G, 1)
    resp = np.asarray(found["responsibilities"])[0].reshape(len(at), G, view.K)
    if not np.allclose(resp[:, : len(known)].mean(0), _resp_of(view, at, len(known)), atol=1e-6):
        raise ValueError(
            "the program transforms its data by what it learns from them: its density at new "
            "points cannot be told"
        )
    return (total * resp)[:, len(known) :]


def _at_new_points(view: View, points: np.ndarray) -> Any:
    """The program read again, with new data in the place of the observed."""
    from bayesmix.program import mixture_of

    arguments = view.mixture.arguments
    if len(arguments.arrays) != 1 or arguments.arrays[0].shape != view.data.shape:
        raise ValueError(
            "the program cannot be evaluated at new points: density needs a program whose one "
            "array argument is the data"
        )
    (known,) = arguments.arrays
    new = points.reshape(-1, *view.data.shape[1:])
    leaves = tuple(new if leaf is known else leaf for leaf in arguments.leaves)
    return mixture_of(view.mixture.program, replace(arguments, leaves=leaves, index=None))


def _resp_of(view: View, at: np.ndarray, rows: int) -> np.ndarray:
    resp = view.mean_resp[None] if view.resp is None else view.resp[at]
    return resp[:, :rows].mean(0)
