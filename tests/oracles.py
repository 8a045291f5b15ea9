"""Independent answers: enumeration, NumPyro's own log density, and the one false-alarm rate.

Nothing here imports bayesmix. Everything that is a number comes out in float64 as NumPy.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density
from scipy.special import logsumexp
from scipy.stats import norm

# Chance that a correct library fails anywhere among the Monte-Carlo comparisons of the suite.
# The issue asks for 4 standard errors, which is this rate spread over 400 comparisons.
FALSE_ALARM = 0.025
COMPARISONS = 400
Z = float(norm.isf(FALSE_ALARM / COMPARISONS / 2))

# Rounding of a float64 sum, relative to the sum of the absolute values of its terms.
ROUNDING = 1e-10


def x64():
    """Context in which JAX computes in float64."""
    return jax.enable_x64(True)


# ---------------------------------------------------------------------------- parameters of a program


def _is_latent(site):
    return site["type"] == "sample" and not site["is_observed"]


def _image_of_normals(rng):
    """Gives every latent site its support's image of 0.6 x unit normals: valid whatever the prior."""

    def substitute(site):
        if not _is_latent(site):
            return None
        fn = site["fn"]
        to_support = biject_to(fn.support)
        return to_support(
            jnp.asarray(0.6 * rng.standard_normal(to_support.inverse_shape(fn.shape())))
        )

    return substitute


def numpyro_trace(program, args=(), kwargs=None, params=None):
    """NumPyro's trace at the given params; every latent site must be given."""
    held = handlers.substitute(program, data=params)
    return handlers.trace(held).get_trace(*args, **(kwargs or {}))


def draw_params(row, seed=0):
    """One valid value of every latent site, drawn without the prior (which may be flat).

    Returns {site: float64 array}, in the constrained space.
    """
    with x64():
        fill = _image_of_normals(np.random.default_rng(seed))
        trace = handlers.trace(handlers.substitute(row.program, substitute_fn=fill)).get_trace(
            *row.args, **row.kwargs
        )
        return {
            name: np.asarray(site["value"], np.float64)
            for name, site in trace.items()
            if _is_latent(site)
        }


def supports(row, params):
    """{site: NumPyro constraint} at these params."""
    with x64():
        trace = numpyro_trace(row.program, row.args, row.kwargs, params)
        return {name: trace[name]["fn"].support for name in params}


def to_free(row, params):
    """Unconstrained coordinates of params."""
    with x64():
        maps = supports(row, params)
        return {n: np.asarray(biject_to(maps[n]).inv(jnp.asarray(v))) for n, v in params.items()}


def from_free(maps, free):
    """Constrained params from unconstrained ones; traceable. maps: the result of `supports`."""
    return {name: biject_to(maps[name])(value) for name, value in free.items()}


# ------------------------------------------------------------------------------- NumPyro's own answers


def numpyro_log_joint(row, params, args=None):
    """NumPyro's log_density of the program at constrained params; traceable."""
    args = row.args if args is None else args
    return log_density(row.program, args, row.kwargs, params)[0]


def mixture_site(trace):
    """(name, site, the distribution that has component_log_probs) of the observed mixture."""
    for name, site in trace.items():
        if site["type"] != "sample" or not site["is_observed"]:
            continue
        fn = site["fn"]
        while not hasattr(fn, "component_log_probs") and hasattr(fn, "base_dist"):
            fn = fn.base_dist
        if hasattr(fn, "component_log_probs"):
            return name, site, fn
    raise AssertionError("no observed mixture in this program")


def numpyro_component_log_probs(row, params, args=None):
    """log w_k + log f(x_n | phi_k) as NumPyro has it, rows + (K,); traceable."""
    trace = numpyro_trace(row.program, row.args if args is None else args, row.kwargs, params)
    _, site, mixture = mixture_site(trace)
    return mixture.component_log_probs(jnp.asarray(site["value"]))


def other_terms(row, params, args=None, latent=True):
    """Log probability of every site but the mixture: priors, factors, other observations."""
    trace = numpyro_trace(row.program, row.args if args is None else args, row.kwargs, params)
    mixture, _, _ = mixture_site(trace)
    total = 0.0
    for name, site in trace.items():
        if site["type"] != "sample" or name == mixture or (_is_latent(site) and not latent):
            continue
        term = jnp.sum(site["fn"].log_prob(site["value"]))
        total = total + (term if site["scale"] is None else site["scale"] * term)
    return total


# ---------------------------------------------------------------------------------------- enumeration


def enumerate_assignments(terms):
    """Exact log likelihood and responsibilities by visiting all K^N assignments.

    terms : log w_k + log f(x_n | phi_k), (N, K).  Returns (), (N, K).
    """
    N, K = terms.shape
    every = np.array(list(itertools.product(range(K), repeat=N)))
    joint = terms[np.arange(N), every].sum(-1)
    total = logsumexp(joint)
    share = np.exp(joint - total)
    resp = np.stack([share @ (every == k) for k in range(K)], -1)
    return total, resp


# --------------------------------------------------------------------------------------- permutations


def permute(params, axes, perm):
    """New cluster k is old cluster perm[k] along each site's cluster axis; tied sites stay."""
    perm = np.asarray(perm)
    return {
        name: value if axes[name] is None else np.take(value, perm, axes[name])
        for name, value in params.items()
    }


def permutations_within(classes):
    """Every permutation that only moves clusters inside a class, as a list of arrays."""
    K = sum(len(group) for group in classes)
    result = []
    for images in itertools.product(*(itertools.permutations(group) for group in classes)):
        perm = np.arange(K)
        for group, image in zip(classes, images, strict=True):
            perm[list(group)] = image
        result.append(perm)
    return result
