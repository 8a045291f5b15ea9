"""One tree for each engine's result, put together from its groups and attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.draws import evaluate_draws
from bayesmix.posterior.attributes import left_out, plain, provenance, structure
from bayesmix.posterior.groups import (
    data_groups,
    invariant,
    pivot_group,
    pivot_of,
    requested,
    resp_group,
    stat,
)
from bayesmix.posterior.layout import layout_of

if TYPE_CHECKING:
    import xarray


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
    layout = layout_of(mixture)
    found = evaluate_draws(mixture, draws)
    pivot = pivot_of(mixture, draws, found, start)
    groups = {
        "posterior": layout.sites(draws),
        "sample_stats": layout.group({name: stat(name, v) for name, v in stats.items()}),
        "invariant": layout.group(invariant(found), {"sorted_weights": ("rank",)}),
        "log_likelihood": layout.group(
            {layout.observed: found["log_likelihood"]}, {layout.observed: layout.rows}
        ),
        "log_prior": layout.group(
            {layout.names[site]: found["log_prior"][site] for site in mixture.sites}
        ),
        **resp_group(layout, found["responsibilities"]),
        "pivot": pivot_group(layout, pivot),
        **data_groups(layout, mixture),
        **requested(layout, mixture, draws, prior_key, predictive_key),
    }
    tree = DataTree.from_dict(groups, name="bayesmix")
    attrs = {
        **provenance(result, method),
        **structure(mixture, layout, pivot["params"]),
        **extra,
        **left_out(found["responsibilities"], mixture, draws),
    }
    tree.attrs = {name: plain(value) for name, value in attrs.items() if value is not None}
    return tree
