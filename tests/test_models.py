"""The ready-made programs against SciPy, against mclust's written-out prior, and at the edges."""

from functools import cache, partial
from math import lgamma

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pandas as pd
import pytest
from numpyro.infer import Predictive
from numpyro.infer.util import log_density, potential_energy, unconstrain_fn
from scipy import stats
from scipy.special import logsumexp

from bayesmix import datasets, models

N, D, K = 40, 3, 2
RNG = np.random.default_rng(11)
TABLE = RNG.normal(size=(N, D)) @ RNG.normal(size=(D, D)) + [3.0, -1.0, 50.0]
COUNTS = RNG.poisson([[0.3, 4.0, 30.0]], size=(N, D)).astype(float)
ANSWERS = (RNG.random((N, D)) < [0.1, 0.5, 0.9]).astype(float)

COVARIANCES = ("full", "tied", "diag", "spherical")
PRIORS = ("default", "flat", "mclust")
GAUSSIANS = [(c, p) for c in COVARIANCES for p in PRIORS]


@cache
def compiled(program):
    """The program's log joint, compiled: seven times cheaper than eager, and shared by tests."""
    return jax.jit(lambda x, params: log_density(program, (x,), {}, params)[0])


def joint(program, x, params):
    """NumPyro's own log joint of the program, a float."""
    return float(compiled(program)(x, params))


# SciPy's side: the log joint written out a second time, from `bayesmix.models`' page alone.


def random_params(covariance, columns, rng):
    weights = rng.dirichlet(np.full(K, 5.0))
    loc = rng.normal(size=(K, *columns))
    clusters = () if covariance == "tied" else (K,)
    if columns and covariance in ("full", "tied"):
        root = rng.normal(size=(*clusters, *columns, 2 * columns[0]))
        return {"weights": weights, "loc": loc, "cov": root @ np.swapaxes(root, -1, -2)}
    shape = (*clusters, *columns) if covariance == "diag" else clusters
    return {"weights": weights, "loc": loc, "var": rng.gamma(3.0, 1.0, size=shape)}


def cluster_cov(covariance, columns, params):
    """The covariance matrix of each cluster, (K, D, D)."""
    size = columns[0] if columns else 1
    if "cov" in params:
        return np.broadcast_to(params["cov"], (K, size, size))
    var = params["var"]
    if not columns or covariance == "spherical":
        var = np.asarray(var)[..., None]
    return np.stack([np.diag(v) for v in np.broadcast_to(var, (K, size))])


def scipy_gaussian(covariance, prior, x, params):
    """Log joint of the Gaussian program, from SciPy."""
    columns = x.shape[1:]
    rows = x.reshape(N, -1)
    size = rows.shape[1]
    loc = params["loc"].reshape(K, size)
    covs = cluster_cov(covariance, columns, params)
    terms = [stats.multivariate_normal(loc[k], covs[k]).logpdf(rows) for k in range(K)]
    total = logsumexp(np.log(params["weights"])[:, None] + terms, axis=0).sum()
    concentration = 2.0 if prior == "default" else 1.0
    total += stats.dirichlet(np.full(K, concentration)).logpdf(params["weights"])
    if prior == "flat":
        return total
    total += scipy_spread(covariance, prior, rows, columns, params)
    total += sum(
        stats.multivariate_normal(rows.mean(0), m).logpdf(loc[k])
        for k, m in enumerate(scipy_loc_cov(covariance, prior, rows, columns, covs))
    )
    return total


def damped(rows):
    S = np.cov(rows.T).reshape(rows.shape[1], -1)
    return np.where(np.eye(len(S), dtype=bool), S, 0.9 * S)


def scipy_loc_cov(covariance, prior, rows, columns, covs):
    if prior == "mclust":
        return covs / 0.01
    var = rows.var(0, ddof=1)
    if columns and covariance in ("full", "tied"):
        return [9 * damped(rows)] * K
    if columns and covariance == "spherical":
        var = np.full_like(var, var.mean())
    return [9 * np.diag(var)] * K


def scipy_spread(covariance, prior, rows, columns, params):
    size = rows.shape[1]
    share = K ** (-2 / size)
    if "cov" in params:
        scale = share * (damped(rows) if prior == "default" else np.cov(rows.T))
        each = params["cov"].reshape(-1, size, size)
        return sum(stats.invwishart(df=size + 2, scale=scale).logpdf(m) for m in each)
    var = rows.var(0, ddof=1)
    if columns and (covariance == "spherical" or prior == "mclust"):
        var = np.full_like(var, var.mean())
    if covariance == "spherical" or not columns:
        var = var[0]
    shape = 1.5 if prior == "default" else (size + 2) / 2
    return stats.invgamma(shape, scale=share * var / 2).logpdf(params["var"]).sum()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("columns", [(D,), (1,), ()], ids=["N_x_3", "N_x_1", "N"])
@pytest.mark.parametrize("covariance,prior", GAUSSIANS)
def test_gaussian_is_what_its_page_says(covariance, prior, columns):
    x = TABLE[:, : columns[0]] if columns else TABLE[:, 0]
    program = models.gaussian(K, covariance=covariance, prior=prior)
    rng = np.random.default_rng(5)
    for _ in range(3):
        params = random_params(covariance, columns, rng)
        ours = joint(program, x, params)
        theirs = scipy_gaussian(covariance, prior, x, params)
        assert abs(ours - theirs) < 1e-10 * abs(theirs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("x", [COUNTS, COUNTS[:, 1], np.zeros((N, 2))], ids=["table", "one", "0"])
def test_poisson_is_what_its_page_says(x):
    rng = np.random.default_rng(6)
    params = {"weights": rng.dirichlet([5.0] * K), "rate": rng.gamma(2.0, 3.0, (K, *x.shape[1:]))}
    s = ((x**2).sum(0) + 1) / (x.sum(0) + 1)
    prior = stats.gamma(2, scale=s / 2).logpdf(params["rate"]).sum()
    terms = [stats.poisson(rate).logpmf(x).reshape(N, -1).sum(1) for rate in params["rate"]]
    assert_joint(models.poisson(K), x, params, prior, terms)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("x", [ANSWERS, ANSWERS[:, 1], np.ones((N, 2))], ids=["table", "one", "1"])
def test_bernoulli_is_what_its_page_says(x):
    rng = np.random.default_rng(7)
    params = {"weights": rng.dirichlet([5.0] * K), "probs": rng.beta(2, 2, (K, *x.shape[1:]))}
    m = (x.sum(0) + 0.5) / (N + 1)
    prior = stats.beta(1 + m, 2 - m).logpdf(params["probs"]).sum()
    terms = [stats.bernoulli(p).logpmf(x).reshape(N, -1).sum(1) for p in params["probs"]]
    assert_joint(models.bernoulli(K), x, params, prior, terms)


def assert_joint(program, x, params, prior, terms):
    theirs = prior + stats.dirichlet([2.0] * K).logpdf(params["weights"])
    theirs += logsumexp(np.log(params["weights"])[:, None] + np.array(terms), axis=0).sum()
    assert abs(joint(program, x, params) - theirs) < 1e-10 * abs(theirs)


# mclust's prior, as R applied it.

MAPS = ["faithful_G2", "faithful_G3", "galaxies_mass_per1000_G3", "galaxies_mass_per1000_G4"]
MAPS += ["iris_G2", "iris_G3"]


def data_of(name):
    if name.startswith("galaxies"):
        return datasets.load_galaxies()["velocity_mass"].to_numpy()
    frame = getattr(datasets, f"load_{name.split('_')[0]}")()
    return frame.select_dtypes("number").to_numpy(float)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MAPS)
def test_mclust_prior_gives_the_objective_of_its_map(name, reference):
    """R's file omits the constant lgamma(G) of the flat Dirichlet prior on the weights."""
    facts = reference(f"ml/map_{name}.json")
    G, one_column = facts["G"], facts["d"] == 1
    at = {key: np.array(value) for key, value in facts["parameters"].items()}
    params = {"weights": at["weights"], "loc": at["mean"], "cov": at["Sigma"]}
    if one_column:
        params = {"weights": at["weights"], "loc": at["mean"].ravel(), "var": at["Sigma"].ravel()}
    theirs = facts["objective"]["log_posterior_unnormalised"] + lgamma(G)
    ours = joint(models.gaussian(G, prior="mclust"), data_of(name), params)
    # The file has 13 digits of parameters at which the objective is stationary: what is left is
    # the rounding of its 12-decimal hyperparameters.
    assert abs(ours - theirs) < 1e-9 * abs(theirs)


def map_em_variances(x, resp, covariance, steps):
    """mclust's MAP-EM for "tied", "diag" and "spherical" under its prior; a second derivation."""
    (n, size), G = x.shape, resp.shape[1]
    kappa, nu, mean = 0.01, size + 2, x.mean(0)
    S = G ** (-2 / size) * np.cov(x.T)
    for _ in range(steps):
        mass = resp.sum(0)
        centre = resp.T @ x / mass[:, None]
        loc = (mass[:, None] * centre + kappa * mean) / (mass + kappa)[:, None]
        W = np.einsum("nk,nki,nkj->kij", resp, *2 * [x[:, None] - centre])
        gap = centre - mean
        W += (kappa * mass / (kappa + mass))[:, None, None] * gap[:, :, None] * gap[:, None, :]
        inner, s = np.einsum("kii->ki", W), np.trace(S) / size
        if covariance == "tied":
            spread = (S + W.sum(0)) / (n + G + nu + size + 1)
            covs = np.broadcast_to(spread, (G, size, size))
        elif covariance == "diag":
            spread = (s + inner) / (mass[:, None] + nu + 3)
            covs = spread[:, :, None] * np.eye(size)
        else:
            spread = (s + inner.sum(1)) / ((mass + 1) * size + nu + 2)
            covs = spread[:, None, None] * np.eye(size)
        params = {"weights": mass / n, "loc": loc, "cov" if covariance == "tied" else "var": spread}
        terms = [stats.multivariate_normal(loc[k], covs[k]).logpdf(x) for k in range(G)]
        terms = np.log(mass / n)[:, None] + terms
        loglik = logsumexp(terms, axis=0)
        resp = np.exp(terms - loglik).T
    return params, loglik.sum()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "covariance,model", [("tied", "EEE"), ("diag", "VVI"), ("spherical", "VII")]
)
@pytest.mark.parametrize("G", [1, 2])
def test_mclust_prior_of_the_other_structures(covariance, model, G, reference):
    """The MAP that R reports is a stationary point of our log joint, along every free direction.

    R gives its log likelihood at the MAP (it stops early: 1e-5 relative); our own EM with mclust's
    formulas goes there, and at its end the gradient of the program's log joint is zero.
    """
    x = data_of("faithful")
    late = (x[:, 0] > 3).astype(float)
    resp = np.stack([1 - late, late], 1) if G == 2 else np.ones((len(x), 1))
    params, loglik = map_em_variances(x, resp, covariance, steps=1 if G == 1 else 400)
    table = reference("ml/mclust_faithful_priorControl.json")["table"]
    (theirs,) = [row["loglik"] for row in table if (row["model"], row["G"]) == (model, G)]
    assert abs(loglik - theirs) < 1e-5 * abs(theirs)

    program = models.gaussian(G, covariance=covariance, prior="mclust")
    free = {name: value for name, value in params.items() if name != "weights"}
    slope = jax.jit(jax.grad(lambda free: log_density(program, (x,), {}, params | free)[0]))(free)
    for name, value in free.items():
        # times the value: change of the log joint, in nats, per relative change of the parameter
        assert np.abs(slope[name] * value).max() < 1e-6, name


# Priors move with the data.


def moved(covariance, params, a, b):
    """The parameters after x -> a x + b, and the log volume by which the move stretches them."""
    params = dict(params)
    columns = params["loc"].shape[1:]
    log_a = np.log(np.abs(np.broadcast_to(a, columns)))
    params["loc"] = a * params["loc"] + b
    stretch = K * log_a.sum()
    if "cov" in params:
        params["cov"] = np.outer(a, a) * params["cov"]
        stretch += (1 if covariance == "tied" else K) * (len(log_a) + 1) * log_a.sum()
    else:
        size = params["var"].size
        params["var"] = np.square(a) * params["var"]
        stretch += 2 * log_a.mean() * size
    return params, stretch


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("columns", [(D,), ()], ids=["N_x_3", "N"])
@pytest.mark.parametrize("a,b", [((-3.0, 0.5, 20.0), (7.0, 1e3, -4.0)), (1.0, 1e7)])
@pytest.mark.parametrize("covariance,prior", [g for g in GAUSSIANS if g[1] != "mclust"])
def test_priors_follow_shift_and_scale(covariance, prior, a, b, columns):
    x = np.round(TABLE * 1024) / 1024  # so that x + 1e7 is exact and only the priors are tested
    if not columns:
        x = x[:, 0]
    if np.ndim(a) and (not columns or covariance == "spherical"):
        a, b = a[0], b[0] if not columns else np.array(b)
    a, b = np.array(a), np.array(b)
    if columns:
        a = np.broadcast_to(a, columns) if covariance != "spherical" else a
    params = random_params(covariance, columns, np.random.default_rng(8))
    params["loc"] = np.round(params["loc"] * 1024) / 1024
    there, stretch = moved(covariance, params, a, b)
    if prior == "flat":
        stretch = 0.0
    stretch += N * np.log(np.abs(np.broadcast_to(a, columns))).sum()
    program = models.gaussian(K, covariance=covariance, prior=prior)
    before, after = joint(program, x, params), joint(program, a * x + b, there)
    # The mean of x + 1e7 is rounded at 2e-9; elsewhere the arithmetic is relative to the total.
    assert abs(after + stretch - before) < 1e-9 * abs(before)


# The log joint is bounded: a cluster that collapses onto a row must lose.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("prior", PRIORS)
def test_collapse_pays_only_under_flat_priors(covariance, prior):
    if covariance == "tied" and prior == "flat":
        return  # one matrix for all clusters cannot collapse onto a row
    params = random_params(covariance, (D,), np.random.default_rng(9))
    params["loc"][0] = TABLE[4]
    program = models.gaussian(K, covariance=covariance, prior=prior)
    site = "cov" if "cov" in params else "var"
    start, path = params[site].copy(), []
    for factor in (1e-8, 1e-10, 1e-12):
        shrunk = start * factor
        if covariance != "tied":
            shrunk[1:] = start[1:]
        path.append(joint(program, TABLE, params | {site: shrunk}))
    rises = path[0] < path[1] < path[2]
    falls = path[0] > path[1] > path[2]
    assert rises if prior == "flat" else falls


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_default_prior_stands_collinear_columns(covariance):
    thin = np.column_stack([TABLE, TABLE.sum(1)])  # exactly collinear
    wide = RNG.normal(size=(4, 9))  # more columns than rows
    for x in (thin, wide):
        params = random_params(covariance, x.shape[1:], np.random.default_rng(10))
        assert np.isfinite(joint(models.gaussian(K, covariance=covariance), x, params))


# Plain NumPyro runs them.

PROPER = [
    *[(models.gaussian(K, covariance=c, prior=p), TABLE) for c, p in GAUSSIANS if p != "flat"],
    *[(models.gaussian(K, covariance=c), TABLE[:, 0]) for c in COVARIANCES],
    (models.poisson(K), COUNTS),
    (models.poisson(K), COUNTS[:, 0]),
    (models.bernoulli(K), ANSWERS),
    (models.bernoulli(K), ANSWERS[:, 0]),
]
SMOOTH = (models.gaussian(K, prior="mclust"), models.gaussian(K, covariance="spherical"))
SMOOTH += (models.poisson(K), models.bernoulli(K))
by_name = partial(pytest.mark.parametrize, ids=lambda v: getattr(v, "__name__", None))


@by_name("program,x", PROPER)
def test_prior_draws_have_the_shapes_of_the_page(program, x):
    draws = jax.eval_shape(Predictive(program, num_samples=5), jax.random.key(0), x)
    columns = x.shape[1:]
    clusters = () if "tied" in program.__name__ else (K,)
    centre = next(name for name in ("loc", "rate", "probs") if name in draws)
    shapes = {"weights": (K,), centre: (K, *columns), "x": x.shape}
    if "cov" in draws:
        shapes["cov"] = (*clusters, *columns, *columns)
    if "var" in draws:
        shapes["var"] = clusters if "spherical" in program.__name__ else (*clusters, *columns)
    assert {name: leaf.shape[1:] for name, leaf in draws.items()} == shapes


@pytest.mark.usefixtures("x64")
@by_name("program,x", [row for row in PROPER if row[0] in SMOOTH and row[1].ndim == 2])
def test_the_potential_of_nuts_has_a_gradient(program, x):
    def potential(free):
        return potential_energy(program, (x,), {}, free)

    def start(key):  # a draw from the prior
        draws = Predictive(program, num_samples=1)(key, x)
        latent = {name: draws[name][0] for name in draws if name != "x"}
        return unconstrain_fn(program, (x,), {}, latent)

    value, slope = jax.jit(lambda key: jax.value_and_grad(potential)(start(key)))(jax.random.key(1))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


# Kinds of data.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "convert",
    [np.int64, bool, np.float16, np.uint8, pd.DataFrame, jnp.asarray, np.ndarray.tolist],
    ids=["int64", "bool", "float16", "uint8", "frame", "jax", "lists"],
)
def test_data_of_any_number_type(convert):
    x = ANSWERS.astype(convert) if isinstance(convert, type) and convert is not pd.DataFrame else 0
    x = x if isinstance(x, np.ndarray) else convert(ANSWERS)
    seen = observed(models.bernoulli(K), x, lambda sites: sites["x"]["value"])
    assert seen.dtype == jnp.float64
    assert (seen == ANSWERS).all()


def test_integers_do_not_overflow():
    x = np.array([2**20, 2**20 + 3, 5, 7])
    rate = observed(models.poisson(K), x, lambda sites: sites["rate"]["fn"].base_dist.rate)
    assert np.allclose(rate, 2 / 2**20, rtol=1e-4)


def observed(program, x, read):
    """Whatever `read` takes from the trace of the program at x."""
    seeded = numpyro.handlers.seed(program, jax.random.key(0))
    return jax.jit(lambda: read(numpyro.handlers.trace(seeded).get_trace(x)))()


# Arguments.

FACTORIES = (models.gaussian, models.poisson, models.bernoulli)
FACTORIES += (models.log_normal, models.gamma, models.inverse_gamma, models.weibull, models.beta)
FACTORIES += (models.von_mises, models.geometric, models.negative_binomial, models.dirichlet)
FACTORIES += (models.multinomial,)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize(
    "K", [0, -1, 2.5, float("nan"), float("inf"), "2", None, True, [2], 2 + 0j]
)
def test_K_is_refused_by_name(factory, K):
    with pytest.raises(ValueError, match="K must be a positive integer, got"):
        factory(K)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("K", [3, 3.0, np.int64(3), np.float32(3), np.array(3)])
def test_K_may_be_any_integral_number(factory, K):
    assert factory(K) is factory(3)


@pytest.mark.parametrize("argument", ["covariance", "prior"])
@pytest.mark.parametrize("value", ["Full", "", None, 1, ["full"]])
def test_names_are_refused_with_the_choices(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be one of '.*', got"):
        models.gaussian(2, **{argument: value})


@pytest.mark.parametrize(
    "x,sentence",
    [
        (np.float64(3.0), r"shape \(N,\) or \(N, D\), got shape \(\)"),
        (np.zeros((2, 2, 2)), r"shape \(N,\) or \(N, D\), got shape \(2, 2, 2\)"),
        (np.zeros((4, 0)), "at least one column"),
        (np.zeros((0, 2)), "at least one row"),
    ],
)
@pytest.mark.parametrize("factory", FACTORIES)
def test_data_of_another_shape_are_refused(factory, x, sentence):
    with pytest.raises(ValueError, match=f"x must have .*{sentence}|x must have {sentence}"):
        joint(factory(2), x, {})


@pytest.mark.parametrize("covariance,prior", GAUSSIANS)
def test_a_program_says_its_name_and_prior(covariance, prior):
    program = models.gaussian(2, covariance=covariance, prior=prior)
    assert program.__name__ == f"gaussian_{covariance}_{prior}"
    for word in ("weights ~ Dirichlet", covariance, prior, "loc"):
        assert word in program.__doc__
