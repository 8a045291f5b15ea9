"""Attributes of a tree: where it comes from, and what other rooms need to know of its mixture.

Numbers and text only, as netCDF holds nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from bayesmix import draws as evaluated
from bayesmix.posterior.layout import Layout
from bayesmix.symmetry import exchangeable


def provenance(result: Any, method: str) -> dict[str, Any]:
    """Who made the numbers, when, how long it took, and with which settings."""
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


def structure(mixture: Any, layout: Layout, params: dict[str, Any]) -> dict[str, Any]:
    """What relabelling and plots must know: sizes, axes of clusters, which may be permuted."""
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


def left_out(
    resp: np.ndarray | None, mixture: Any, draws: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """The reason why a tree has no responsibilities, where it has none."""
    if resp is not None:
        return {}
    shape = next(iter(draws.values())).shape[:2]
    size = 8 * math.prod(shape) * mixture.N * mixture.K / 1e6
    limit = evaluated.RESPONSIBILITIES_LIMIT / 1e6
    return {"responsibilities_left_out": f"{size:.0f} MB, above the limit of {limit:.0f} MB"}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def plain(value: Any) -> int | float | str:
    """A value as netCDF can hold it: a number, a text, or anything else as JSON."""
    if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float | str) else json.dumps(value, default=_listed)


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
