"""Names that a tree gives to what is in a mixture: variables, dims, coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray

SAMPLE = ("chain", "draw")
# Dims that ArviZ uses itself; an axis of the program that carries such a name is renamed.
# `column` is one: its forest and ridge plots lay out their panels along it.
RESERVED = frozenset({*SAMPLE, "sample", "quantile", "ci_bound", "plot_axis", "rank", "column"})


@dataclass(frozen=True)
class Layout:
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


def layout_of(mixture: Any) -> Layout:
    """The program's own names, changed only where xarray, netCDF or ArviZ cannot take them."""
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
    return Layout(names[mixture.name], names, dims, rows, data, cluster, coords)


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
        index = row_labels(mixture.index)
        if len(index) == sizes[rows[0]] == len(np.unique(index)):
            coords[rows[0]] = index
    return coords


def row_labels(index: Any) -> np.ndarray:
    """Row labels that netCDF can hold: numbers and dates as they are, all else as text."""
    labels = np.asarray(index)
    if labels.ndim == 1 and labels.dtype.kind in "iufM":
        return labels
    return np.array([str(label) for label in index])
