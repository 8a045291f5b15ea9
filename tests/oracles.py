"""Independent answers: enumeration, NumPyro's own log density, and the one false-alarm rate.

Nothing here imports bayesmix. Everything that is a number comes out in float64 as NumPy.
"""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density
from programs import BY_ID
from scipy.special import logsumexp
from scipy.stats import norm
from scipy.stats import t as student

# Chance that a correct library fails anywhere among the Monte-Carlo comparisons of the suite.
# The issue asks for 4 standard errors, which is this rate spread over 400 comparisons.
FALSE_ALARM = 0.025
COMPARISONS = 400
Z = float(norm.isf(FALSE_ALARM / COMPARISONS / 2))


def t_bound(replicates):
    """As Z, for a standard error that was estimated from so many replicates."""
    return float(student.isf(FALSE_ALARM / COMPARISONS / 2, replicates - 1))


# Rounding of a float64 sum, relative to the sum of the absolute values of its terms.
ROUNDING = 1e-10


def x64():
    """Context in which JAX computes in float64."""
    return jax.enable_x64(True)


# -------------------------------------------------------------------------- parameters of a program


def _is_latent(site):
    return site["type"] == "sample" and not site["is_observed"]


def _is_assignment(site):
    return _is_latent(site) and site["fn"].support.is_discrete


def numpyro_trace(program, args=(), kwargs=None, params=None, cluster=0):
    """NumPyro's trace at the given params, every row being in ``cluster``, where rows have one."""

    def value(site):
        if site["type"] == "sample" and _is_assignment(site):
            return jnp.full(site["fn"].shape(), cluster)
        return params.get(site["name"])

    held = handlers.substitute(program, substitute_fn=value)
    return handlers.trace(held).get_trace(*args, **(kwargs or {}))


@cache
def _latent(row_id):
    """{site: (support, unconstrained shape)}, read from an abstract run of the program."""
    row, found = BY_ID[row_id], {}

    def fill(site):
        if site["type"] != "sample" or not _is_latent(site):
            return None
        fn = site["fn"]
        if fn.support.is_discrete:
            return jnp.zeros(fn.shape(), int)
        to_support = biject_to(fn.support)
        found[site["name"]] = fn.support, to_support.inverse_shape(fn.shape())
        return to_support(jnp.zeros(found[site["name"]][1]))

    def run(*args):
        handlers.trace(handlers.substitute(row.program, substitute_fn=fill)).get_trace(
            *args, **row.kwargs
        )

    with x64():
        arrays = [a for a in row.args if isinstance(a, np.ndarray)]
        others = [a for a in row.args if not isinstance(a, np.ndarray)]
        jax.eval_shape(lambda *given: run(*given, *others), *arrays)
    return found


def supports(row):
    """{site: NumPyro constraint} of the latent sites."""
    return {name: support for name, (support, _) in _latent(row.id).items()}


def draw_free(row, seed=0):
    """Unconstrained coordinates of every latent site: 0.6 x unit normals, whatever the prior."""
    rng = np.random.default_rng(seed)
    return {n: 0.6 * rng.standard_normal(shape) for n, (_, shape) in _latent(row.id).items()}


def draw_params(row, seed=0):
    """One valid value of every latent site, {site: float64 array}, in the constrained space."""
    maps, free = supports(row), draw_free(row, seed)
    with x64():
        params = jax.jit(lambda u: from_free(maps, u))(free)
        return {name: np.asarray(value) for name, value in params.items()}


def to_free(row, params):
    """Unconstrained coordinates of params."""
    with x64():
        inverse = {n: biject_to(support).inv for n, support in supports(row).items()}
        free = jax.jit(lambda p: {n: inverse[n](v) for n, v in p.items()})(dict(params))
        return {name: np.asarray(value) for name, value in free.items()}


def from_free(maps, free):
    """Constrained params from unconstrained ones; traceable. maps: the result of `supports`."""
    return {name: biject_to(maps[name])(value) for name, value in free.items()}


def compiled(function):
    """jit without the expensive passes of the compiler: these graphs run only a few times."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


# ---------------------------------------------------------------------------- NumPyro's own answers


def numpyro_log_joint(row, params, args=None):
    """NumPyro's log_density of the program at constrained params; traceable."""
    args = row.args if args is None else args
    if row.z is None and "missing" not in row.id:
        return log_density(row.program, args, row.kwargs, params)[0]
    rows = jax.nn.logsumexp(numpyro_component_log_probs(row, params, args), -1)
    return other_terms(row, params, args) + jnp.sum(_explicit_weights(row, params, args) * rows)


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
    if row.z is not None:
        every = [_rows_in(row, params, args, cluster) for cluster in range(row.K)]
        return jnp.stack(every, -1)
    trace = numpyro_trace(row.program, row.args if args is None else args, row.kwargs, params)
    _, site, mixture = mixture_site(trace)
    if "missing" in (site["infer"] or {}):
        value = np.expand_dims(site["value"], -mixture.event_dim - 1)
        log_weights = jax.nn.log_softmax(mixture.mixing_distribution.logits)
        return log_weights + observed_log_prob(mixture.component_distribution, value)
    return mixture.component_log_probs(jnp.asarray(site["value"]))


def observed_log_prob(fn, value):
    """Log density of the cells that are not NaN, pattern by pattern, from those cells alone."""
    if np.issubdtype(value.dtype, np.integer):
        return fn.log_prob(value)
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    shape = np.broadcast_shapes(value.shape, fn.shape())
    value, batch = np.broadcast_to(value, shape), shape[: len(shape) - fn.event_dim]
    total, gone = jnp.zeros(batch), np.isnan(value)
    for pattern in np.unique(gone.reshape(-1, *shape[len(batch) :]), axis=0):
        seen = np.nonzero(np.atleast_1d(~pattern))[0]
        own = (gone == pattern).all(tuple(range(len(batch), len(shape))))
        if base.event_dim == 0:  # what is put into the other cells is not looked at
            filled = np.where(gone, 1.0, value)
            filled = filled.astype(int) if base.support.is_discrete else filled
            cells = base.log_prob(filled)
            part = cells[..., seen].sum(-1) if fn.event_dim else cells * len(seen)
        elif len(seen):
            part = dist.MultivariateNormal(
                base.loc[..., seen], base.covariance_matrix[..., seen, :][..., seen]
            ).log_prob(np.where(gone, 0.0, value)[..., seen])
        else:
            part = 0.0
        total = jnp.where(own, part, total)
    return total


def _explicit_trace(row, params, args, cluster=0):
    args = row.args if args is None else args
    return numpyro_trace(row.program, args, row.kwargs, params, cluster)


def _assignment_names(row):
    return (row.z, f"{row.z}_observed", f"{row.z}_unobserved")


def _rows_in(row, params, args, cluster):
    """Log density of each row with its assignment, all rows being in one cluster.

    -inf where a label says otherwise. Whatever stands in plates inside a row is summed.
    """
    trace = _explicit_trace(row, params, args, cluster)
    total = 0.0
    for name in (*_assignment_names(row), *row.observed):
        if name in trace and trace[name]["type"] == "sample":
            site = trace[name]
            if "missing" in (site["infer"] or {}):
                term = observed_log_prob(site["fn"], site["value"])
            else:
                term = site["fn"].log_prob(site["value"])
            total = total + (term if row.id != "explicit_groups" else term.sum(-1))
    if f"{row.z}_observed" in trace:
        labels = trace[f"{row.z}_observed"]["value"]
        total = jnp.where((labels >= 0) & (labels != cluster), -jnp.inf, total)
    return total


def _explicit_weights(row, params, args):
    if row.z is None:
        return 1.0
    scale = _explicit_trace(row, params, args)[row.observed[0]]["scale"]
    return 1.0 if scale is None else scale


def other_terms(row, params, args=None, latent=True):
    """Log probability of every site but the mixture: priors, factors, other observations."""
    trace = numpyro_trace(row.program, row.args if args is None else args, row.kwargs, params)
    if row.z is None:
        inside = (mixture_site(trace)[0],)
    else:
        inside = (*_assignment_names(row), *row.observed)
    total = 0.0
    for name, site in trace.items():
        if site["type"] != "sample" or name in inside or (_is_latent(site) and not latent):
            continue
        term = jnp.sum(site["fn"].log_prob(site["value"]))
        total = total + (term if site["scale"] is None else site["scale"] * term)
    return total


# -------------------------------------------------------------------------------------- enumeration


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


# ------------------------------------------------------------------------------------- permutations


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
