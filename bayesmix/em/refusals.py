"""What EM refuses: sizes it cannot square, starts that do not fit, and data without a density."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bayesmix.blocks import Blocks
from bayesmix.climb import Climber
from bayesmix.density import columns_of, data_of, density_of, log_density
from bayesmix.program import Mixture, Params


def check_size(mixture: Mixture) -> None:
    """Refuse data whose squares overflow, and fewer rows than a flat prior can be fitted to."""
    family = density_of(mixture).family
    if family is not None and family.location_scale and not isinstance(mixture.value, Blocks):
        size = _size(columns_of(mixture)[0])
        if not size < 1e150 or 0 < size < 1e-150:
            raise ValueError(
                f"site {mixture.name!r}: the data spread over {size:.3g}, whose square is outside "
                "float64: rescale them"
            )
    improper = [s.name for s in mixture.sites.values() if s.improper and s.links]
    if improper and mixture.N < mixture.K:
        raise ValueError(
            f"site {mixture.name!r} has {mixture.N} rows for {mixture.K} clusters: with the flat "
            f"prior on {improper[0]!r} there must be at least one row per cluster"
        )


def _size(x: np.ndarray) -> float:
    """The largest distance from the mean of its column; where a glance shows that it is neither
    huge nor tiny, the range of some rows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        some = float(np.ptp(x[:1000].astype(float), 0).max())
        if some > 1e-140 and x.min() > -1e149 and x.max() < 1e149:  # NaN is neither
            return some
        middle = (np.nanmean if np.isnan(x).any() else np.mean)(x, 0, np.float64)
        low, high = np.fmin.reduce(x, 0), np.fmax.reduce(x, 0)
        return float(np.nanmax(np.maximum(high - middle, middle - low)))


def checked_params(mixture: Mixture, params: Params) -> Params:
    """``init_params`` as arrays. Refuses a missing or unknown site, another shape, no number."""
    missing = [name for name in mixture.sites if name not in params]
    extra = [name for name in params if name not in mixture.sites]
    if missing or extra:
        raise ValueError(
            f"init_params must name every latent site: missing {missing}, unknown {extra}"
        )
    for name, site in mixture.sites.items():
        shape = np.shape(params[name])
        if shape != site.shape:
            raise ValueError(
                f"init_params[{name!r}] has shape {shape} but site {name!r} has shape {site.shape}"
            )
        if not np.isfinite(np.asarray(params[name])).all():
            raise ValueError(f"init_params[{name!r}] has a value that is not finite")
    return {name: np.asarray(params[name], float) for name in mixture.sites}


def check_supports(climber: Climber, inside: Mapping[str, Any]) -> None:
    """Refuse ``init_params`` of which a site is not ``inside`` its prior's support."""
    outside = [name for name, holds in inside.items() if not holds]
    if outside:
        transforms = climber.engine.density.transforms(climber.data)
        raise ValueError(
            f"init_params[{outside[0]!r}] is outside the support of its prior "
            f"({transforms[outside[0]].codomain})"
        )


def checked_resp(mixture: Mixture, resp: Any) -> np.ndarray:
    """``init_resp`` as (N, K). Refuses another shape, and rows that are no probabilities."""
    resp = np.asarray(resp, np.float64)
    shape = (mixture.N, mixture.K)
    if resp.reshape(-1, resp.shape[-1] if resp.ndim else 1).shape != shape:
        raise ValueError(f"init_resp has shape {resp.shape}; it must be {shape}, rows by clusters")
    resp = resp.reshape(shape)
    if not np.isfinite(resp).all() or (resp < 0).any():
        raise ValueError("init_resp must be finite and not negative")
    bad = np.abs(resp.sum(1) - 1) > 1e-6
    if bad.any():
        raise ValueError(
            f"init_resp: row {int(bad.argmax())} sums to {resp[bad.argmax()].sum():.6g}, not 1"
        )
    return resp


def nowhere(mixture: Mixture) -> str:
    """Why the log joint is not finite at any start, as far as the data tell."""
    start = f"site {mixture.name!r}: the log joint is not finite at any of the starts: "
    if isinstance(mixture.value, Blocks):
        return start + "columns may be constant or collinear"
    x = np.asarray(mixture.value, np.float64).reshape(mixture.N, -1)
    if mixture.N == 1:
        return start + "there is only one row"
    constant = np.flatnonzero(np.nanmax(x, 0) == np.nanmin(x, 0))
    if len(constant):
        column = int(constant[0])
        label = repr(mixture.columns[column]) if mixture.columns else str(column)
        return start + f"column {label} is constant ({np.nanmax(x[:, column]):g}), leave it out"
    with jax.enable_x64(True):
        density = density_of(mixture)
        pointwise = np.asarray(log_density(mixture, density.centre(data_of(mixture))))
    impossible = ~np.isfinite(pointwise) | (pointwise <= np.finfo(float).min)
    if impossible.any():
        row = np.argwhere(impossible)[0]
        value = mixture.value[tuple(row)]
        return start + (
            f"row {', '.join(map(str, row))}, {value}, has density 0 or infinity under every "
            "component"
        )
    return start + (
        "columns may be collinear, or there are too few rows for K and the number of columns"
    )
