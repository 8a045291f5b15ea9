"""The assignment among the sites of a trace: which site it is, its axes, its known labels.

Reads NumPyro's messages only.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from bayesmix.parameters import peel

OBSERVED, UNOBSERVED = "_observed", "_unobserved"  # what NumPyro makes of a site with obs_mask


def assignment_of(sites: dict[str, Any]) -> str | None:
    """Name of the latent Categorical site of a trace, or None; ValueError for more than one.

    Where some are declared with infer={"enumerate": "parallel"}, only those count.
    """
    names = [name for name, site in sites.items() if is_assignment(site)]
    declared = [n for n in names if (sites[n]["infer"] or {}).get("enumerate") == "parallel"]
    names = declared or names
    if len(names) > 1:
        quoted = ", ".join(repr(own_name(name)) for name in names)
        raise ValueError(
            f"the program has {len(names)} assignment sites ({quoted}): bayesmix sums out one; "
            "write their combinations as the categories of a single site"
        )
    return names[0] if names else None


def is_assignment(site: dict[str, Any]) -> bool:
    """Whether a message is a latent Categorical site."""
    if site["type"] != "sample" or site["is_observed"]:
        return False
    return isinstance(peel(site["fn"]), dist.CategoricalProbs | dist.CategoricalLogits)


def own_name(name: str) -> str:
    """The name that the program gives an assignment; NumPyro renames one with obs_mask."""
    return name.removesuffix(UNOBSERVED)


def row_axes(site: dict[str, Any]) -> tuple[int, ...]:
    """The axes of an assignment, counted from the right: its plates, or else its whole batch."""
    frames = sorted(frame.dim for frame in site["cond_indep_stack"])
    return tuple(frames) or tuple(range(-len(site["fn"].batch_shape), 0))


def nesting(sites: dict[str, Any]) -> int:
    """How many axes plates and batches take at most: the values of z go to the left of them."""
    used = [site for site in sites.values() if site["type"] == "sample"]
    used = [site for site in used if site["is_observed"] or is_assignment(site)]
    return max(len(site["fn"].batch_shape) for site in used)


def is_grouped(sites: dict[str, Any], name: str) -> bool:
    """Whether observed sites stand outside the assignment's plate, so that they must index it."""
    own = {frame.name for frame in sites[name]["cond_indep_stack"]}
    later = list(sites)[list(sites).index(name) + 1 :]
    outside = (
        own - {frame.name for frame in sites[other]["cond_indep_stack"]}
        for other in later
        if sites[other]["type"] == "sample" and sites[other]["is_observed"]
    )
    return any(outside)


def partial_labels(
    site: dict[str, Any], batch_shape: tuple[int, ...], rows: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """The labels of an assignment with obs_mask, and which rows have one: both (*rows,)."""
    fn, mask = site["fn"], jnp.array(True)
    while not isinstance(fn, dist.CategoricalProbs | dist.CategoricalLogits):
        if isinstance(fn, dist.MaskedDistribution):
            mask = mask & fn._mask
        fn = fn.base_dist
    shape = [batch_shape[axis] for axis in rows]
    return (
        jnp.broadcast_to(site["value"], batch_shape).reshape(shape),
        jnp.broadcast_to(mask, batch_shape).reshape(shape),
    )
