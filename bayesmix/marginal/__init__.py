"""Explicit assignments summed out: a program with a site ``z`` as one without it.

The program is run once with every value of z at once, along a new leftmost axis, as NumPyro's own
parallel enumeration does; so whatever uses z by broadcasting or indexing gains that axis. Each
observed site that has it is a mixture given the observed sites before it: by the chain rule the
first is sum_k w_k f(x | k), and those after it have for weights the responsibilities so far. Their
product is the joint density with z summed out, and sampling them in turn samples the joint.

Lives here: `marginal`. `assignment` finds the site among NumPyro's messages, `sum_out` runs the
program, `assigned` is the mixture that an observed site becomes, `powers` the weights of its rows.
No funsor; knows NumPyro's messages, nothing of graphs or of inference.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger

from bayesmix.marginal.assigned import Assigned
from bayesmix.marginal.assignment import (
    OBSERVED,
    UNOBSERVED,
    assignment_of,
    is_assignment,
    is_grouped,
    nesting,
    partial_labels,
    row_axes,
)
from bayesmix.marginal.sum_out import IMPOSSIBLE, SumOut
from bayesmix.missing import integrated

__all__ = [
    "IMPOSSIBLE",
    "OBSERVED",
    "UNOBSERVED",
    "Assigned",
    "SumOut",
    "assignment_of",
    "is_assignment",
    "is_grouped",
    "marginalize",
    "nesting",
    "partial_labels",
    "row_axes",
]


def marginalize(program: Callable[..., Any]) -> Callable[..., Any]:
    """The same NumPyro program with its assignment site summed out.

    For programs with one latent ``numpyro.sample("z", dist.Categorical(w))``, in the plate of the
    observations or of groups of them, and observed sites that use z. The result has the same sites
    but z, no discrete latent ones, and the same arguments: use it with MCMC, SVI, Predictive or
    ``log_density``; funsor is not needed. Observed sites keep their names and shapes; with several,
    each is conditional on those before it, so that together they have the joint density.

    Partial labels, ``obs=labels, obs_mask=labels >= 0``, are kept: a row with a label has the
    log density log w[label] + log f(x | label). Missing cells that the program declares
    (infer={"missing": "marginal"}) are integrated out. A program with neither comes back as it is.

    Raises ValueError, when run, for uses of z that have no such sum.
    """

    @wraps(program)
    def marginal(*args: Any, **kwargs: Any) -> Any:
        with validation_enabled(is_validate=False):
            sites = _survey(program, args, kwargs)
        name = assignment_of(sites)
        if name is None:
            return integrated(program)(*args, **kwargs)
        summed = SumOut(name, nesting(sites), grouped=is_grouped(sites, name), holes=True)
        with summed:
            result = program(*args, **kwargs)
        summed.check()
        return result

    return marginal


def _survey(program: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The program's sites, run on stand-ins unseen by outer handlers; only shapes are meant."""
    with handlers.block(), handlers.trace() as sites, _StandIns():
        program(*args, **kwargs)
    return sites


class _StandIns(Messenger):
    """Gives zeros for whatever would be sampled."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["value"] is not None:
            return
        if msg["type"] == "sample":
            shape = msg["fn"].shape(msg["kwargs"].get("sample_shape", ()))
            discrete = msg["fn"].support is not None and msg["fn"].support.is_discrete
            msg["value"] = jnp.zeros(shape, int if discrete else float)
        elif msg["type"] == "plate":
            size, part = msg["args"][:2]
            msg["value"] = jnp.arange(size if part is None else part)
        elif msg["type"] == "prng_key":
            msg["value"] = jax.random.key(0)
