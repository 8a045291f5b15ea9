"""Results of EM, NUTS, Laplace and the bootstrap as one kind of ArviZ DataTree.

Idea: all engines fill the same groups with the same names, so that all that follows (ArviZ,
relabelling, the card, plots) is one path. An EM result is a tree of one chain and one draw.

Groups: posterior (the latent sites), sample_stats, invariant (log joint, entropy and sorted
weights: quantities that do not depend on the names of the clusters), log_likelihood (pointwise,
assignment summed out), log_prior (of each latent site), observed_data, constant_data (weights,
where there are any), responsibilities (`resp`), pivot (sites and `resp` of EM's MAP, or of the
draw of highest log joint); prior, prior_predictive and posterior_predictive on request.

Lives here: names of dims and coordinates, groups, attributes. Does not live here: any inference;
the numbers come from `bayesmix.draws`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.draws import evaluate_draws
from bayesmix.predict import replicate
from bayesmix.symmetry import exchangeable

if TYPE_CHECKING:
    import xarray

RESP_BYTES = 256 * 10**6
SAMPLE = ("chain", "draw")
# Dims that ArviZ uses itself; an axis of the program that carries such a name is renamed.
# `column` is one: its forest and ridge plots lay out their panels along it.
RESERVED = frozenset({*SAMPLE, "sample", "quantile", "ci_bound", "plot_axis", "rank", "column"})
# `lp` of NUTS is the density of the unconstrained sites; `log_joint` that of the constrained ones.
INTEGER_STATS = frozenset({"n_steps", "tree_depth"})


def em_tree(result: Any, *, prior_key: Any = None, predictive_key: Any = None) -> xarray.DataTree:
    """EM's MAP as a DataTree of one chain and one draw, `inference_method = "em"`.

    A point has no spread: R-hat, ESS and LOO of this tree mean nothing. The keys (JAX random
    keys) ask for `prior` and `prior_predictive`, and for `posterior_predictive`.
    """
    draws = {site: np.asarray(value)[None, None] for site, value in result.params.items()}
    stats = {"converged": result.converged, "n_steps": result.steps}
    extra = {
        "log_joint": result.log_joint,
        "log_likelihood": result.log_likelihood,
        "aic": result.aic,
        "bic": result.bic,
        "icl": result.icl,
        "n_parameters": result.n_parameters,
        "converged": result.converged,
        "stop": result.stop,
        "start_policy": _em_policy(result),
    }
    return _tree(
        result,
        "em",
        draws=draws,
        stats={name: np.asarray(value)[None, None] for name, value in stats.items()},
        start=result,
        extra=extra,
        prior_key=prior_key,
        predictive_key=predictive_key,
    )


def _em_policy(result: Any) -> str:
    starts = result.settings.get("restarts", 1)
    return f"{starts} starts, the best regular mode" if starts != 1 else "one start"


def nuts_tree(result: Any, *, prior_key: Any = None, predictive_key: Any = None) -> xarray.DataTree:
    """Draws of NUTS as a DataTree, `inference_method = "nuts"`.

    The keys (JAX random keys) ask for `prior` and `prior_predictive` (as many draws as the
    posterior has), and for `posterior_predictive` (one replicate of the data per draw).
    """
    return _tree(
        result,
        "nuts",
        draws={site: np.asarray(value) for site, value in result.samples.items()},
        stats={name: np.asarray(value) for name, value in result.sample_stats.items()},
        start=result.start,
        extra={"start_policy": result.start_policy},
        prior_key=prior_key,
        predictive_key=predictive_key,
    )


def independent_tree(
    result: Any,
    method: str,
    facts: dict[str, Any],
    *,
    prior_key: Any = None,
    predictive_key: Any = None,
) -> xarray.DataTree:
    """Draws that are no Markov chain (Laplace, bootstrap) as a DataTree of one chain.

    Groups and dims are those of NUTS. The attribute `draws_are` says "independent": R-hat and ESS
    have nothing to compare. facts : more attributes.
    """
    return _tree(
        result,
        method,
        draws={site: np.asarray(value)[None] for site, value in result.params.items()},
        stats={name: np.asarray(value)[None] for name, value in result.sample_stats.items()},
        start=result.start,
        extra={"start_policy": result.start_policy, "draws_are": "independent", **facts},
        prior_key=prior_key,
        predictive_key=predictive_key,
    )


def _tree(
    result: Any,
    method: str,
    *,
    draws: dict[str, np.ndarray],
    stats: dict[str, np.ndarray],
    start: Any,
    extra: dict[str, Any],
    prior_key: Any,
    predictive_key: Any,
) -> xarray.DataTree:
    from xarray import DataTree

    mixture = result.mixture
    layout = _layout(mixture)
    found = evaluate_draws(mixture, draws)
    pivot = _pivot(mixture, draws, found, start)
    groups = {
        "posterior": layout.sites(draws),
        "sample_stats": layout.group({name: _stat(name, v) for name, v in stats.items()}),
        "invariant": layout.group(_invariant(found), {"sorted_weights": ("rank",)}),
        "log_likelihood": layout.group(
            {layout.observed: found["log_likelihood"]}, {layout.observed: layout.rows}
        ),
        "log_prior": layout.group(
            {layout.names[site]: found["log_prior"][site] for site in mixture.sites}
        ),
        **_resp_group(layout, found["responsibilities"]),
        "pivot": _pivot_group(layout, pivot),
        **_data_groups(layout, mixture),
        **_requested(layout, mixture, draws, prior_key, predictive_key),
    }
    tree = DataTree.from_dict(groups, name="bayesmix")
    attrs = {
        **_provenance(result, method),
        **_structure(mixture, layout, pivot["params"]),
        **extra,
        **_left_out(found["responsibilities"], mixture, draws),
    }
    tree.attrs = {name: _plain(value) for name, value in attrs.items() if value is not None}
    return tree


# Names of dims and coordinates.


@dataclass(frozen=True)
class _Layout:
    """Names that the tree gives to what is in the mixture.

    names : site -> variable (a `/` from `handlers.scope` cannot stand in a DataTree, and `resp`
        is ours).
    dims : variable -> dims behind chain and draw. coords : dim -> labels.
    data : observed variable -> its dims. resp : dims of the responsibilities, the
        rows' and the clusters'.
    """

    observed: str
    names: dict[str, str]
    dims: dict[str, tuple[str, ...]]
    rows: tuple[str, ...]
    data: dict[str, tuple[str, ...]]
    cluster: str
    coords: dict[str, Any]

    def group(
        self,
        data: Mapping[str, np.ndarray],
        dims: Mapping[str, Sequence[str]] | None = None,
        *,
        sample: Sequence[str] = SAMPLE,
        attrs: dict[str, Any] | None = None,
    ) -> xarray.Dataset:
        """One group. Built one by one: the same site has other dims in other groups."""
        from arviz_base import dict_to_dataset

        return dict_to_dataset(
            dict(data),
            dims={name: list(d) for name, d in (dims or {}).items()},
            coords=self.coords,
            sample_dims=list(sample),
            attrs=attrs,
            # it warns of every run with more chains than draws
            check_conventions=False,
        )

    @property
    def resp(self) -> tuple[str, ...]:
        return (*self.rows, self.cluster)

    def observations(
        self, values: Mapping[str, np.ndarray], *, sample: Sequence[str] = SAMPLE
    ) -> xarray.Dataset:
        """Values of the observed sites, {site: (*sample, *rows, *event)}."""
        named = {self.names[site]: value for site, value in values.items()}
        dims = {name: self.data[name] for name in named}
        return self.group(named, dims, sample=sample)

    def sites(self, values: Mapping[str, np.ndarray]) -> xarray.Dataset:
        named = {self.names[site]: value for site, value in values.items()}
        return self.group(named, self.dims)


def _layout(mixture: Any) -> _Layout:
    every = (*mixture.sites, mixture.name, *(site.name for site in mixture.observed))
    names = {site: _variable(site) for site in every}
    event_shape = mixture.value.shape[len(mixture.rows) :]
    sizes: dict[str, int] = {}
    (cluster,) = _fit_dims("cluster", [mixture.cluster_dim], [mixture.K], sizes, names.values())
    rows = _fit_dims("row", mixture.row_dims, mixture.rows, sizes, names.values())
    event = _fit_dims("event", mixture.event_dims, event_shape, sizes, names.values())
    dims = {
        names[site]: _fit_dims(names[site], found.dims, found.shape, sizes, names.values())
        for site, found in mixture.sites.items()
    }
    data = {names[mixture.name]: (*rows, *event)}
    single = len(mixture.observed) == 1 and mixture.observed[0].group is None
    for site in () if single else mixture.observed:
        name, lead = names[site.name], rows
        if site.group is not None:
            lead = _fit_dims(name, [site.plate], site.value.shape[:1], sizes, names.values())
        shape = site.value.shape[len(lead) :]
        wanted = [f"{name}_dim_{axis}" for axis in range(len(shape))]
        data[name] = (*lead, *_fit_dims(name, wanted, shape, sizes, names.values()))
    coords = _coords(mixture, sizes, rows)
    return _Layout(names[mixture.name], names, dims, rows, data, cluster, coords)


def _variable(site: str) -> str:
    return "resp_site" if site == "resp" else site.replace("/", ".")


def _fit_dims(
    owner: str,
    wanted: Sequence[str],
    shape: Sequence[int],
    sizes: dict[str, int],
    taken: Iterable[str],
) -> tuple[str, ...]:
    """The wanted names, where the tree can take them; `sizes` learns the new ones.

    xarray needs one length per name, no name twice in a variable, and none that is a variable's.
    """
    fitted: list[str] = []
    for axis, (name, size) in enumerate(zip(wanted, shape, strict=True)):
        name = name.replace("/", ".")
        if name in RESERVED or name in taken:
            name = f"{name}_dim"
        if name in fitted or sizes.get(name, size) != size:
            name = f"{owner}_dim_{axis}"
        sizes[name] = size
        fitted.append(name)
    return tuple(fitted)


def _coords(mixture: Any, sizes: dict[str, int], rows: Sequence[str]) -> dict[str, np.ndarray]:
    coords = {dim: np.arange(size) for dim, size in sizes.items()}
    named = {dim: np.array(labels) for dim, labels in mixture.coords.items()}
    coords |= {dim: labels for dim, labels in named.items() if sizes.get(dim) == len(labels)}
    if mixture.columns is not None and mixture.event_dims:
        columns = np.array([str(name) for name in mixture.columns])
        for dim in (mixture.event_dims[-1], f"{mixture.event_dims[-1]}_2"):
            if sizes.get(dim) == len(columns):
                coords[dim] = columns
    if mixture.index is not None and len(rows) == 1:
        index = _labels(mixture.index)
        if len(index) == sizes[rows[0]] == len(np.unique(index)):
            coords[rows[0]] = index
    return coords


def _labels(index: Any) -> np.ndarray:
    """Row labels that netCDF can hold: numbers and dates as they are, all else as text."""
    labels = np.asarray(index)
    if labels.ndim == 1 and labels.dtype.kind in "iufM":
        return labels
    return np.array([str(label) for label in index])


# Groups.


def _stat(name: str, values: np.ndarray) -> np.ndarray:
    if name in ("diverging", "converged"):
        return values.astype(bool)
    return values.astype(np.int64 if name in INTEGER_STATS else np.float64)


def _invariant(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Log joint (nats), mean entropy per row (nats), weights from the largest to the smallest."""
    out = {"log_joint": found["log_joint"], "entropy": found["entropy"]}
    if found.get("weights") is not None:
        out["sorted_weights"] = -np.sort(-np.asarray(found["weights"]), axis=-1)
    return out


def _resp_group(layout: _Layout, resp: np.ndarray | None) -> dict[str, xarray.Dataset]:
    if resp is None:
        return {}
    return {"responsibilities": layout.group({"resp": resp}, {"resp": layout.resp})}


def _pivot(
    mixture: Any, draws: dict[str, np.ndarray], found: Mapping[str, Any], start: Any
) -> dict[str, Any]:
    """The point whose cluster names all draws are given: EM's MAP, else the best draw."""
    if start is not None:
        return {
            "kind": "em",
            "params": {site: np.asarray(value) for site, value in start.params.items()},
            "resp": np.asarray(start.responsibilities),
            "log_joint": float(start.log_joint),
        }
    log_joint = np.where(np.isfinite(found["log_joint"]), found["log_joint"], -np.inf)
    best = np.unravel_index(int(np.argmax(log_joint)), log_joint.shape)
    one = {site: value[best][None, None] for site, value in draws.items()}
    resp = found["responsibilities"]
    if resp is None:
        alone = evaluate_draws(mixture, one)["responsibilities"]
    return {
        "kind": "draw",
        "params": {site: value[0, 0] for site, value in one.items()},
        "resp": resp[best] if resp is not None else None if alone is None else alone[0, 0],
        "log_joint": float(log_joint[best]),
    }


def _pivot_group(layout: _Layout, pivot: Mapping[str, Any]) -> xarray.Dataset:
    data = {layout.names[site]: value for site, value in pivot["params"].items()}
    dims = dict(layout.dims)
    if pivot["resp"] is not None and pivot["resp"].nbytes <= RESP_BYTES:
        data["resp"] = pivot["resp"]
        dims["resp"] = layout.resp
    attrs = {"kind": pivot["kind"], "log_joint": pivot["log_joint"]}
    return layout.group(data, dims, sample=(), attrs=attrs)


def _data_groups(layout: _Layout, mixture: Any) -> dict[str, xarray.Dataset]:
    values = {site.name: np.asarray(site.value) for site in mixture.observed}
    groups = {"observed_data": layout.observations(values, sample=())}
    constant = {
        name: np.broadcast_to(np.asarray(value, np.float64), mixture.rows)
        for name, value in (("weights", mixture.weights), ("labels", mixture.labels))
        if value is not None
    }
    if constant:
        dims = dict.fromkeys(constant, layout.rows)
        groups["constant_data"] = layout.group(constant, dims, sample=())
    return groups


def _requested(
    layout: _Layout,
    mixture: Any,
    draws: dict[str, np.ndarray],
    prior_key: Any,
    predictive_key: Any,
) -> dict[str, xarray.Dataset]:
    """Prior, prior predictive and posterior predictive draws, where a key asks for them."""

    def replicates(key: Any, draws: dict[str, np.ndarray]) -> xarray.Dataset:
        values = replicate(key, mixture, draws)
        return layout.observations(values if isinstance(values, dict) else {mixture.name: values})

    out = {}
    if prior_key is not None:
        import jax

        for_sites, for_data = jax.random.split(prior_key)
        prior = _prior(for_sites, mixture, next(iter(draws.values())).shape[:2])
        out["prior"] = layout.sites(prior)
        out["prior_predictive"] = replicates(for_data, prior)
    if predictive_key is not None:
        out["posterior_predictive"] = replicates(predictive_key, draws)
    return out


def _prior(key: Any, mixture: Any, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The latent sites drawn from the program's priors, {site: (*shape, ...)}."""
    import jax
    from numpyro.infer import Predictive

    improper = [name for name, site in mixture.sites.items() if site.improper]
    if improper:
        raise ValueError(
            f"site {improper[0]!r} has an improper prior, which cannot be drawn from: leave out "
            "prior_key, or give the site a proper prior"
        )
    args, kwargs = mixture.arguments.rebuild(mixture.arguments.arrays)
    with jax.enable_x64(True):
        draw = Predictive(
            mixture.program, num_samples=math.prod(shape), return_sites=list(mixture.sites)
        )
        drawn = {site: np.asarray(value) for site, value in draw(key, *args, **kwargs).items()}
    return {site: value.reshape(*shape, *value.shape[1:]) for site, value in drawn.items()}


# Attributes: numbers and text only, as netCDF holds nothing else.


def _provenance(result: Any, method: str) -> dict[str, Any]:
    return {
        "inference_library": "bayesmix",
        "inference_library_version": _version("bayesmix"),
        "inference_method": method,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "numpyro_version": _version("numpyro"),
        "jax_version": _version("jax"),
        "seconds": result.seconds,
        "seed": result.seed,
        "settings": json.dumps(result.settings, default=str),
        "notes": "\n".join(getattr(result, "notes", ())) or None,
    }


def _structure(mixture: Any, layout: _Layout, params: dict[str, Any]) -> dict[str, Any]:
    axes = {layout.names[name]: site.cluster_axis for name, site in mixture.sites.items()}
    renamed = {site: name for site, name in layout.names.items() if site != name}
    return {
        "site": layout.observed,
        "family": mixture.family,
        "n_clusters": mixture.K,
        "cluster_dim": layout.cluster,
        "n_observations": mixture.N,
        "exchangeable": json.dumps([list(c) for c in exchangeable(mixture, params)]),
        "cluster_axes": json.dumps(axes),
        "site_names": json.dumps(renamed) if renamed else None,
    }


def _left_out(
    resp: np.ndarray | None, mixture: Any, draws: Mapping[str, np.ndarray]
) -> dict[str, str]:
    if resp is not None:
        return {}
    shape = next(iter(draws.values())).shape[:2]
    size = 8 * math.prod(shape) * mixture.N * mixture.K / 1e6
    limit = RESP_BYTES / 1e6
    return {"responsibilities_left_out": f"{size:.0f} MB, above the limit of {limit:.0f} MB"}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plain(value: Any) -> int | float | str:
    if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float | str) else json.dumps(value, default=_listed)


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
