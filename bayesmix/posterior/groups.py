"""The groups of a tree: which numbers go where. The numbers come from `bayesmix.draws`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix import draws as evaluated
from bayesmix.posterior.layout import Layout
from bayesmix.predict import replicate

if TYPE_CHECKING:
    import xarray

# `lp` of NUTS is the density of the unconstrained sites; `log_joint` that of the constrained ones.
INTEGER_STATS = frozenset({"n_steps", "tree_depth"})


def stat(name: str, values: np.ndarray) -> np.ndarray:
    """A statistic of the sampler in the type that ArviZ expects under its name."""
    if name in ("diverging", "converged"):
        return values.astype(bool)
    return values.astype(np.int64 if name in INTEGER_STATS else np.float64)


def invariant(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Log joint (nats), mean entropy per row (nats), weights from the largest to the smallest."""
    out = {"log_joint": found["log_joint"], "entropy": found["entropy"]}
    if found.get("weights") is not None:
        out["sorted_weights"] = -np.sort(-np.asarray(found["weights"]), axis=-1)
    return out


def resp_group(layout: Layout, resp: np.ndarray | None) -> dict[str, xarray.Dataset]:
    """p(z_n = k | x_n, draw), where it was kept."""
    if resp is None:
        return {}
    return {"responsibilities": layout.group({"resp": resp}, {"resp": layout.resp})}


def pivot_of(
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
        alone = evaluated.evaluate_draws(mixture, one)["responsibilities"]
    return {
        "kind": "draw",
        "params": {site: value[0, 0] for site, value in one.items()},
        "resp": resp[best] if resp is not None else None if alone is None else alone[0, 0],
        "log_joint": float(log_joint[best]),
    }


def pivot_group(layout: Layout, pivot: Mapping[str, Any]) -> xarray.Dataset:
    """The pivot's sites and responsibilities, without chain and draw."""
    data = {layout.names[site]: value for site, value in pivot["params"].items()}
    dims = dict(layout.dims)
    if pivot["resp"] is not None and pivot["resp"].nbytes <= evaluated.RESPONSIBILITIES_LIMIT:
        data["resp"] = pivot["resp"]
        dims["resp"] = layout.resp
    attrs = {"kind": pivot["kind"], "log_joint": pivot["log_joint"]}
    return layout.group(data, dims, sample=(), attrs=attrs)


def data_groups(layout: Layout, mixture: Any) -> dict[str, xarray.Dataset]:
    """The observed sites; row weights and known labels, where there are any."""
    values = {site.name: np.asarray(site.value) for site in mixture.observed}
    groups = {"observed_data": layout.observations(values, sample=())}
    for site, levels in mixture.levels.items():
        groups["observed_data"][layout.names[site]].attrs["levels"] = [str(name) for name in levels]
    constant = {
        name: np.broadcast_to(np.asarray(value, np.float64), mixture.rows)
        for name, value in (("weights", mixture.weights), ("labels", mixture.labels))
        if value is not None
    }
    if constant:
        dims = dict.fromkeys(constant, layout.rows)
        groups["constant_data"] = layout.group(constant, dims, sample=())
    return groups


def requested(
    layout: Layout,
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
