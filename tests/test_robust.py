"""Student-t components: the sum over the rows' scales, the priors, and what robustness buys."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pytest
from numpyro.infer.util import log_density
from oracles import ROUNDING, x64
from programs import BY_ID, Y
from scipy import optimize, special, stats

import bayesmix as bm
from bayesmix.density import data_of, density_of
from bayesmix.symmetry import exchangeable

_rng = np.random.default_rng(4)
TRUTH = np.repeat([0, 1], 60)
CLEAN = np.where(TRUTH[:, None] == 0, [-3.0, 0.0], [3.0, 0.0]) + _rng.standard_normal((120, 2))
SPOILT = np.concatenate([CLEAN, _rng.uniform(-40.0, 40.0, (12, 2))])

# Of the 120 rows a rule that cuts between the groups errs on Phi(-3) of them; its cut, between two
# means of 60 rows each, has a standard error of 1 / sqrt(120).
ERRING = stats.norm.cdf(-3 + oracles.Z / np.sqrt(120))
MOST_WRONG = stats.binom.isf(oracles.FALSE_ALARM / oracles.COMPARISONS, 120, ERRING)


def wrong(label):
    """How many of the 120 rows are not with their group, whichever label that has."""
    return min(np.sum(label[:120] != TRUTH), np.sum(label[:120] != 1 - TRUTH))


def em_of(program, x, key=0, **settings):
    settings = {"restarts": 4, "progress_bar": False, **settings}
    return bm.EM(program, **settings).run(jax.random.key(key), x)


# --------------------------------------------------------------------------------- the sum over u


def test_q_of_the_step_is_expected_over_the_scales():
    """Differences of Q in theta, with u integrated by quadrature row by row, cluster by cluster.

    By the trapezoid rule in s = log u from its mode. The density of u given x, of shape a, is there
    exp(a (s - exp(s))), analytic; at |Im s| <= pi / 3 its modulus sums to at most 2^a of the whole,
    so that steps of h err by about 2^a exp(-2 pi^2 / (3 h)) (Trefethen & Weideman 2014, SIAM Review
    56, theorem 5.1): below exp(-140) for a < 100. What is cut off is below exp(10 - 45).
    """
    row, h = BY_ID["student_tails"], 1 / 32
    first, second, at = (oracles.draw_params(row, seed) for seed in (1, 2, 3))
    terms = row.terms(at, Y)
    resp = special.softmax(terms, axis=1)
    shape = (at["df"] + 1) / 2
    rate = (at["df"] + (Y[:, None] - at["loc"]) ** 2 / at["var"]) / 2
    assert shape.min() < 10
    assert shape.max() < 100
    s = np.arange(-45 / shape.min(), 5.0, h)[:, None, None]
    scales, share = shape / rate * np.exp(s), np.exp(shape * (s + 1 - np.exp(s)))
    share /= share.sum(0)

    def complete(p):
        value = stats.norm.logpdf(Y[:, None], p["loc"], np.sqrt(p["var"] / scales))
        value += stats.gamma.logpdf(scales, p["df"] / 2, scale=2 / p["df"]) + np.log(p["weights"])
        return resp * (share * value).sum(0)

    with x64():
        mixture = bm.trace(row.program, Y)
        density, data = density_of(mixture), data_of(mixture)

        def q(p, at):
            statistics = density.e_step(at, data)[1]
            return density.expected(p, statistics, data) - density.log_prior(p, data)

        ours = [float(oracles.compiled(q)(p, at)) for p in (first, second)]
    theirs = complete(first) - complete(second)
    assert abs(ours[0] - ours[1] - theirs.sum()) < ROUNDING * np.abs(theirs).sum()


@pytest.mark.parametrize("row_id", ["student_matrix", "skew_components"])
def test_gradient_of_the_step_is_that_of_the_log_joint(row_id):
    """Fisher's identity for assignments and what is hidden in the rows together."""
    row = BY_ID[row_id]
    at = oracles.draw_params(row, 3)
    with x64():
        mixture = bm.trace(row.program, *row.args)
        density, data = density_of(mixture), data_of(mixture)

        def both(at):
            statistics = density.e_step(at, data)[1]
            q = jax.grad(lambda p: density.expected(p, statistics, data))
            return q(at), jax.grad(lambda p: oracles.numpyro_log_joint(row, p))(at)

        ours, theirs = oracles.compiled(both)(at)
    for site, slope in theirs.items():
        np.testing.assert_allclose(ours[site], slope, atol=1e-9 * (1 + np.abs(slope).max()))


def test_one_component_has_the_mode_that_scipy_finds():
    row = BY_ID["student_tails"]
    solver = bm.EM(row.program, restarts=1, progress_bar=False)
    em = solver.run(jax.random.key(0), Y, K=1)

    def negative(z):
        df, loc, var = jnp.exp(z[0]), z[1], jnp.exp(z[2])
        value = jax.scipy.stats.t.logpdf(Y, df, loc, jnp.sqrt(var)).sum()
        value += jax.scipy.stats.gamma.logpdf(df, 2, scale=10)
        value += jax.scipy.stats.norm.logpdf(loc, 0, 2)
        precision = jax.scipy.stats.gamma.logpdf(1 / var, 3, scale=1 / 2)
        return -value - precision + 2 * jnp.log(var)

    with x64():
        slope, bend = jax.jit(jax.grad(negative)), jax.jit(jax.hessian(negative))
        start = np.array([2.0, 0.0, 0.0])
        best = optimize.minimize(negative, start, jac=slope, hess=bend, method="trust-exact")
        z = best.x - np.linalg.solve(bend(best.x), slope(best.x))
        top, spread = -float(negative(z)), np.linalg.inv(bend(z))
    gap = solver.tol + ROUNDING * abs(top)
    assert em.log_joint == pytest.approx(top, abs=gap)
    # EM stops where at most tol is to gain: d' H d / 2 <= tol bounds d along each coordinate.
    found = [np.log(em.params["df"][0]), em.params["loc"][0], np.log(em.params["var"][0])]
    assert np.all(np.abs(found - z) <= np.sqrt(2 * solver.tol * np.diag(spread)))


def test_rows_without_end_do_not_blur_the_rest():
    """Values 1e9 away: the sweep is centred on medians, so the clusters keep their digits."""
    x = np.concatenate([Y, [1e9, -3e8]]) + 1e3

    def program(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("cluster", 2):
            loc = numpyro.sample("loc", dist.Normal(1e3, 2.0))
            scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with numpyro.plate("obs_id", len(x)):
            parts = dist.StudentT(2.0, loc, scale)
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)

    params = {"weights": [0.4, 0.6], "loc": [999.0, 1001.0], "scale": [0.6, 0.9]}
    params = {site: np.array(value) for site, value in params.items()}
    with x64():
        mixture = bm.trace(program, x)
        density, data = density_of(mixture), data_of(mixture)
        ours = float(oracles.compiled(density.log_joint)(params, data))
        theirs = float(log_density(program, (x,), {}, params)[0])
        assert not density.cancels(params, data)
    assert abs(ours - theirs) <= ROUNDING * abs(theirs)


# ------------------------------------------------------------------------------- the ready program


def scipy_joint(covariance, df, x, params):
    """Log joint of student_t(2) with its default prior, from its page."""
    D, K = x.shape[1], 2
    median, sd = np.median(x, 0), x.std(0, ddof=1)
    limit = 3 * 1.4826 * np.median(np.abs(x - median), 0)
    C = np.cov(np.clip(x - median, -limit, limit).T) * K ** (-2 / D)
    C = np.where(np.eye(D, dtype=bool), C, 0.9 * C)
    total = stats.dirichlet([2.0] * K).logpdf(params["weights"])
    total += stats.norm.logpdf(params["loc"], median, 3 * sd).sum()
    nu = params.get("df", df)
    if "df" in params:
        total += stats.lognorm.logpdf(nu, 0.8, scale=np.exp(2.7)).sum()
    if "scale_matrix" in params:
        each = params["scale_matrix"].reshape(-1, D, D)
        total += sum(stats.invwishart(D + 2, C).logpdf(S) for S in each)
        scales = np.broadcast_to(params["scale_matrix"], (K, D, D))
    else:
        square, c = params["squared_scale"], np.diag(C)
        c = c.mean() if covariance == "spherical" else c
        total += stats.invgamma(1.5, scale=c / 2).logpdf(square).sum()
        square = square[:, None] if covariance == "spherical" else square
        scales = [np.diag(v) for v in np.broadcast_to(square, (K, D))]
    nu = np.broadcast_to(nu, K)
    terms = [stats.multivariate_t(params["loc"][k], scales[k], nu[k]).logpdf(x) for k in range(K)]
    return total + special.logsumexp(np.log(params["weights"])[:, None] + terms, axis=0).sum()


@pytest.mark.parametrize(
    "covariance, df", [("full", "cluster"), ("tied", "shared"), ("diag", 3.5), ("spherical", 4)]
)
def test_student_t_is_what_its_page_says(covariance, df):
    program = bm.models.student_t(2, covariance=covariance, df=df)
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(2, 2, 4))
    params = {"weights": np.array([0.3, 0.7]), "loc": rng.normal(size=(2, 2))}
    if df in ("cluster", "shared"):
        params["df"] = np.array([3.0, 20.0]) if df == "cluster" else np.array(6.0)
    if covariance in ("full", "tied"):
        matrices = roots @ roots.mT
        params["scale_matrix"] = matrices if covariance == "full" else matrices[0]
    else:
        params["squared_scale"] = rng.gamma(3.0, 1.0, (2, 2) if covariance == "diag" else 2)
    with x64():
        ours = float(bm.log_joint(bm.trace(program, SPOILT), params))
    theirs = scipy_joint(covariance, df, SPOILT, params)
    assert abs(ours - theirs) < 1e-10 * abs(theirs)
    assert bm.models.student_t(2, covariance=covariance, df=df) is program


def test_outliers_take_a_cluster_from_gaussians_but_not_from_t():
    """Docs/choosing: 120 rows in two groups and 12 outliers, against the groups' true labels.

    Of two Gaussians one is for the outliers, with a variance of about 80^2 / 12 in each column; of
    a group's row it has some thousandth, so that the two groups share a label but for a few rows.
    A t of 2 degrees of freedom has 2 % beyond ten scales, (1 + 10^2 / 2)^-1, and not 12 of 132.
    """
    ems = {name: em_of(getattr(bm.models, name)(2), SPOILT) for name in ("gaussian", "student_t")}
    assert all(em.converged for em in ems.values())
    strays = stats.binom.isf(oracles.FALSE_ALARM / oracles.COMPARISONS, 120, 1e-3)
    assert wrong(ems["gaussian"].responsibilities.argmax(1)) >= 60 - strays
    assert wrong(ems["student_t"].responsibilities.argmax(1)) <= MOST_WRONG
    assert ems["student_t"].params["df"].min() < 2.0


def test_outliers_do_not_move_the_priors():
    """Cells beyond the cut put a thousand times farther: what is cut stays, and so the priors.

    The mode next to the old one is within a standard error of it.
    """
    away = SPOILT - np.median(SPOILT, 0)
    outlying = np.abs(away) > 3 * 1.4826 * np.median(np.abs(away), 0)
    assert outlying[120:].any(1).all()
    far = np.where(outlying & (np.arange(132) >= 120)[:, None], 1e3, 1.0) * SPOILT
    program = bm.models.student_t(2, df=2.0)
    near = em_of(program, SPOILT)
    with x64():
        priors = [bm.log_prior(bm.trace(program, x), near.params) for x in (SPOILT, far)]
    for site in ("weights", "scale_matrix"):
        assert float(priors[0][site]) == pytest.approx(float(priors[1][site]), rel=1e-12)
    settings = bm.EM(program, progress_bar=False)
    there = settings.run(jax.random.key(0), far, init_params=near.params)
    for site, error in near.standard_errors().items():
        assert np.all(np.abs(near.params[site] - there.params[site]) < error), site


@pytest.mark.parametrize("df", [0, -1.0, "some", True, np.inf])
def test_bad_degrees_of_freedom_are_refused(df):
    with pytest.raises(ValueError, match="df must be"):
        bm.models.student_t(2, df=df)


# ------------------------------------------------------------------------------------------ noise

BOX = {"low": (-45.0, -40.0), "high": (40.0, 45.0)}


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_gaussian_noise_is_what_its_page_says(covariance):
    """Likelihood from SciPy; the priors of spreads are those of `gaussian`, told apart there."""
    rng = np.random.default_rng(3)
    params = {"noise": 0.2, "weights": np.array([0.3, 0.7]), "loc": rng.normal(size=(2, 2))}
    roots = rng.normal(size=(2, 2, 4))
    if covariance in ("full", "tied"):
        params["cov"] = (roots @ roots.mT)[slice(None) if covariance == "full" else 0]
        covs = np.broadcast_to(params["cov"], (2, 2, 2))
    else:
        params["var"] = rng.gamma(3.0, 1.0, (2, 2) if covariance == "diag" else 2)
        columns = np.broadcast_to(params["var"].reshape(2, -1), (2, 2))
        covs = [np.diag(v) for v in columns]
    x = np.concatenate([SPOILT, [[60.0, 0.0]]])  # one row outside of the box
    program = bm.models.gaussian_noise(2, covariance=covariance, **BOX)
    with x64():
        mixture = bm.trace(program, x)
        resp = np.asarray(bm.responsibilities(mixture, params))
        priors = float(density_of(mixture).log_prior(params, data_of(mixture)))
        value = float(bm.log_joint(mixture, params)) - priors
    shares = np.append(0.8 * params["weights"], 0.2)
    terms = [stats.multivariate_normal(params["loc"][k], covs[k]).logpdf(x) for k in range(2)]
    inside = ((x >= BOX["low"]) & (x <= BOX["high"])).all(1)
    terms = np.array([*terms, np.where(inside, -2 * np.log(85.0), -np.inf)]).T + np.log(shares)
    theirs = special.logsumexp(terms, axis=1)
    assert abs(value - theirs.sum()) < 1e-10 * abs(theirs.sum())
    np.testing.assert_allclose(resp, np.exp(terms - theirs[:, None]), atol=1e-12)


def test_noise_takes_the_outliers_and_is_kept_for_new_rows():
    program = bm.models.gaussian_noise(2, low=SPOILT.min(0), high=SPOILT.max(0))
    em = em_of(program, SPOILT)
    label = em.responsibilities.argmax(1)
    assert (label[120:] == 2).all()
    # Noise has 0.09 / 80^2 of density against a group's 0.45 / 2 pi exp(-r^2 / 2): it takes rows
    # of r^2 > 17, 2e-4 of them, which the slack of MOST_WRONG has room for.
    assert wrong(label) <= MOST_WRONG
    assert em.modes[0].regular
    assert exchangeable(em.mixture, em.params) == ((0,), (1,), (2,))  # names stay, the noise's too
    new = em.predict_proba(np.array([[0.0, 20.0], em.params["loc"][1]]))
    assert new[0, 2] > 0.99
    assert new[1, 1] > 0.9


@pytest.mark.parametrize(
    "box",
    [{"low": 1.0, "high": 0.0}, {"low": [0.0, np.nan], "high": 1.0}, {"low": 0, "high": [[1]]}],
)
def test_bad_boxes_are_refused(box):
    with pytest.raises(ValueError, match=r"low|high"):
        bm.models.gaussian_noise(2, **box)


# ----------------------------------------------------------------------------------- boundedness


def heavy(prior, x, K=2):
    D = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        df = numpyro.sample("df", prior)
        cov = numpyro.sample("cov", dist.InverseWishart(D + 2.0, scale_matrix=jnp.eye(D)))
        loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([D]).to_event(1))
    parts = dist.MultivariateStudentT(df, loc, jnp.linalg.cholesky(cov))
    with numpyro.plate("obs_id", len(x)):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)


@pytest.mark.parametrize(
    "prior, bounded", [(dist.Gamma(2.0, 0.1), False), (dist.LogNormal(2.7, 0.8), True)]
)
def test_tails_without_end_pay_in_many_columns(prior, bounded):
    """df to 0 with loc on a row: the density there grows like df^(1 - D / 2), five columns here."""
    x = np.random.default_rng(2).normal(size=(30, 5))
    params = {"weights": np.array([0.1, 0.9]), "cov": np.stack([np.eye(5)] * 2)}
    params["loc"] = np.stack([x[3], np.zeros(5)])
    program = partial(heavy, prior)
    with x64():
        path = [
            float(log_density(program, (x,), {}, params | {"df": np.array([df, 9.0])})[0])
            for df in (1e-6, 1e-9, 1e-12)
        ]
        note = str(bm.trace(program, x))
    assert (path[0] > path[1] > path[2]) if bounded else (path[0] < path[1] < path[2])
    assert ("keep the log joint bounded" in note) == bounded
