"""Which of a program's sites are the mixture, and the arrays of the others."""

from typing import Any

import jax
import jax.numpy as jnp

from bayesmix.marginal import OBSERVED, SumOut
from bayesmix.observed import Found, assigned_arrays, mixture_arrays
from bayesmix.parameters import parameters, peel


def collected(sites: dict[str, Any], summed: SumOut | None, found: Found) -> dict[str, Any]:
    """The arrays that a mixture is made of, from the program's executed sites."""
    samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
    found.latent = {n: s for n, s in samples.items() if not s["is_observed"]}
    if summed is None:
        name = _mixture_site(samples)
        arrays, own = mixture_arrays(name, samples[name], found), {name}
    else:
        own = _assigned_sites(samples, summed)
        arrays = assigned_arrays(samples, summed, found)
    return arrays | {
        "terms": {n: _log_prob(s) for n, s in samples.items() if n not in own},
        "priors": {n: parameters(s["fn"]) for n, s in found.latent.items()},
        "supports": {
            n: [jnp.asarray(leaf, float) for leaf in jax.tree.leaves(s["fn"].support)]
            for n, s in found.latent.items()
        },
        "centres": {
            n: centre for n, s in found.latent.items() if (centre := _mean(s["fn"])) is not None
        },
    }


def _assigned_sites(samples: dict[str, Any], summed: SumOut) -> set[str]:
    """The sites whose densities are inside the sum over the assignment."""
    latent = [name for name in summed.used if not samples[name]["is_observed"]]
    if latent:
        raise ValueError(
            f"site {latent[0]!r} uses the assignment {summed.name!r} but has no data: pass them "
            "with obs= (a latent site may not depend on the assignment)"
        )
    mixtures = [name for name, site in samples.items() if _is_mixture(site["fn"])]
    others = [name for name in mixtures if name not in summed.used]
    if others:
        raise ValueError(
            f"the program has an assignment, {summed.name!r}, and a mixture site, {others[0]!r}: "
            "bayesmix fits one mixture"
        )
    return {*summed.used, summed.name + OBSERVED}


def _mixture_site(samples: dict[str, Any]) -> str:
    mixtures = [name for name, site in samples.items() if _is_mixture(site["fn"])]
    observed = [name for name in mixtures if samples[name]["is_observed"]]
    if len(observed) > 1:
        raise ValueError(
            f"the program has {len(observed)} observed mixture sites ({_quoted(observed)}): "
            "bayesmix fits one; let them share an assignment, z ~ dist.Categorical(weights)"
        )
    if observed:
        latent = [name for name in mixtures if name not in observed]
        if latent:
            raise ValueError(
                f"site {latent[0]!r} is a mixture without data: only one mixture site, the "
                "observed one, can be fitted"
            )
        return observed[0]
    if mixtures:
        raise ValueError(
            f"mixture site {mixtures[0]!r} has no data: pass them with obs=, or wrap the program "
            f"in numpyro.handlers.condition(program, {{{mixtures[0]!r}: data}})"
        )
    kinds = [f"{n!r} ({type(peel(s['fn'])).__name__})" for n, s in samples.items()]
    raise ValueError(
        f"no site of the program is a mixture (found {', '.join(kinds) or 'no sample sites'}): "
        "write the observed site as dist.MixtureSameFamily(dist.Categorical(weights), components), "
        "or index its parameters by an assignment z ~ dist.Categorical(weights)"
    )


def _is_mixture(fn: Any) -> bool:
    return hasattr(peel(fn), "component_log_probs")


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _mean(fn: Any) -> Any:
    """The mean of a prior, where NumPyro knows it."""
    try:
        return jnp.broadcast_to(fn.mean, fn.shape())
    except NotImplementedError:
        return None


def _log_prob(site: dict[str, Any]) -> Any:
    log_prob = site["fn"].log_prob(site["value"])
    if site["scale"] is not None:
        log_prob = site["scale"] * log_prob
    return jnp.sum(log_prob)
