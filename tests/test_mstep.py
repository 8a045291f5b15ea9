"""The M-step: every closed form is the argmax of Q, and every step climbs.

One compiled call per program carries out each block of its plan from arbitrary params, with
responsibilities from other params, and differentiates Q there in the site's unconstrained
coordinates: on the simplex and on symmetric matrices that is the gradient along the constraint. For
K = 1 the answer is a textbook's posterior mode, written out below.
"""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree
from oracles import ROUNDING, x64
from programs import BITS, BY_ID, COUNTS, PROGRAMS, TIMES, X, Y
from scipy import optimize, stats

import bayesmix as bm
from bayesmix.coordinates import free_size
from bayesmix.density import data_of, density_of, has_family
from bayesmix.engine import CONVERGED, RUNNING, Engine, advance, from_params
from bayesmix.mstep import Block, Plan, m_step, plan_for

DRAWS = 2


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_code():
    """Compiled programs are gigabytes; nothing after this module needs them."""
    yield
    record.cache_clear()
    jax.clear_caches()


def kinds(plan):
    return {site: block.kind for block in plan.blocks for site in block.sites}


@cache
def traced(row_id):
    row = BY_ID[row_id]
    with x64():
        return bm.trace(row.program, *row.args, **row.kwargs)


# ----------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("row", PROGRAMS, ids=str)
def test_plan_has_the_closed_forms_that_exist(row):
    mixture = traced(row.id)
    with x64():
        plan = plan_for(mixture)
    found = kinds(plan)
    assert set(found) == set(row.plan)
    assert {s: k for s, k in found.items() if row.plan[s] != "any"} == {
        s: k for s, k in row.plan.items() if k != "any"
    }
    for block in plan.blocks:
        for site in block.sites:
            assert site in block.describe()


# ---------------------------------------------------------------------------- each block on its own

# Every registered closed form, every way of tying, and every kind of ascent at least once.
STEPPED = [
    "normal_inverse_gamma_variance", "normal_flat", "normal_flat_variance", "normal_half_normal",
    "normal_log_normal_scale", "normal_nig", "normal_tied_variance",
    "normal_known_scales", "normal_shared_loc", "normal_hierarchical", "normal_ordered_loc",
    "normal_softmax_weights", "normal_scaled_rows", "normal_extra_terms", "mvn_niw",
    "mvn_independent_prior", "mvn_flat", "mvn_tied", "mvn_cholesky_of_covariance", "mvn_precision",
    "mvn_lkj", "aligned_vei", "ellipsoid_vev", "ellipsoid_eve_flat",
    "factor_normal", "factor_flat", "product_diagonal", "product_spherical",
    "product_tied_diagonal", "product_flat", "poisson_gamma", "poisson_flat",
    "bernoulli_product", "exponential_gamma", "student_t", "student_tails",
    "student_matrix", "regression", "two_named_normals",
    "explicit_nig_matrix", "explicit_mixed", "explicit_where", "explicit_groups",
    "explicit_labelled", "explicit_binomial", "vector_latent_classes",
    "log_normal_product", "gamma_components", "gamma_known_shape", "geometric_beta", "von_mises",
    "von_mises_product", "negative_binomial_logits", "vector_multinomial",
    "product_missing", "bernoulli_missing", "hurdle_poisson", "hurdle_product",
    "skew_components",
]  # fmt: skip
stepped = pytest.mark.parametrize("row", [BY_ID[name] for name in STEPPED], ids=str)


def _carry_out(mixture, blocks, params, at, evaluations=300):
    """Params after these blocks, the responsibilities being those of ``at``."""
    density, data = density_of(mixture), data_of(mixture)
    _, statistics = density.e_step(at, data)
    plan = Plan(tuple(blocks))
    n = free_size(density, data, plan.ascent)
    return m_step(density, plan, params, jnp.zeros((n, n)), statistics, data, evaluations)[0]


@cache
def record(row_id):
    """For each block: params and Q before and after it, and the slope of Q on its sites."""
    row, mixture, maps = BY_ID[row_id], traced(row_id), oracles.supports(BY_ID[row_id])
    with x64():
        blocks = plan_for(mixture).blocks

    def everything(free, free_at):
        params, at = oracles.from_free(maps, free), oracles.from_free(maps, free_at)

        # The step's own Q: of a Student-t it is of the scales of the rows, too (test_robust).
        density, data = density_of(mixture), data_of(mixture)
        statistics = density.e_step(at, data)[1]

        def expected(p):
            return density.expected(p, statistics, data)

        out = {"before": expected(params), "start": params}
        for i, block in enumerate(blocks):
            after = _carry_out(mixture, [block], params, at)
            held = {name: after[name] for name in after if name not in block.sites}
            moved = {name: biject(maps, name).inv(after[name]) for name in block.sites}

            def on_block(u, held=held):
                return expected(held | oracles.from_free(maps, u))

            value, slope = jax.value_and_grad(on_block)(moved)
            out[f"block{i}"] = {"value": value, "slope": slope, "params": after}
        whole = _carry_out(mixture, blocks, at, at, evaluations=12)
        out["joint"] = bm.log_joint(mixture, at), bm.log_joint(mixture, whole)
        return out

    with x64():
        frees = [
            {
                name: np.stack([oracles.draw_free(row, seed + 10 * d)[name] for d in range(DRAWS)])
                for name in maps
            }
            for seed in (0, 5)
        ]
        out = jax.tree.map(np.asarray, oracles.compiled(jax.vmap(everything))(*frees))
    return SimpleNamespace(blocks=blocks, out=out, size=np.abs(out["before"]) + row.x.size)


def biject(maps, name):
    from numpyro.distributions import biject_to

    return biject_to(maps[name])


@stepped
def test_slope_of_q_is_zero_after_a_closed_form(row):
    found = record(row.id)
    assert any(block.kind == "closed" for block in found.blocks)
    for i, block in enumerate(found.blocks):
        if block.kind == "closed":
            for site, slope in found.out[f"block{i}"]["slope"].items():
                gap = np.abs(slope).reshape(DRAWS, -1).max(-1, initial=0.0)
                assert np.all(gap <= 1e3 * ROUNDING * found.size), (site, gap)


@stepped
def test_slope_of_q_is_nearly_zero_after_an_ascent(row):
    """Given enough evaluations, the general step ends where a closed form would."""
    found = record(row.id)
    for i, block in enumerate(found.blocks):
        if block.kind == "ascent":
            for site, slope in found.out[f"block{i}"]["slope"].items():
                gap = np.abs(slope).reshape(DRAWS, -1).max(-1, initial=0.0)
                assert np.all(gap <= 1e-4 * np.sqrt(found.size)), (site, gap)


@stepped
def test_a_block_moves_its_own_sites_and_never_lowers_q(row):
    found = record(row.id)
    for i, block in enumerate(found.blocks):
        here = found.out[f"block{i}"]
        assert np.all(here["value"] >= found.out["before"] - ROUNDING * found.size)
        for name, value in here["params"].items():
            if name not in block.sites:
                np.testing.assert_array_equal(value, found.out["start"][name])
            assert np.all(np.isfinite(value))


@stepped
def test_a_whole_step_never_lowers_the_log_joint(row):
    before, after = record(row.id).out["joint"]
    assert np.all(after >= before - ROUNDING * record(row.id).size)


# ------------------------------------------------------------------------- against the general step

AGREED = ["normal_flat", "normal_nig", "normal_shared_loc", "mvn_niw", "product_tied_diagonal",
          "aligned_vei", "ellipsoid_eve_flat",
          "poisson_gamma", "bernoulli_product", "exponential_gamma"]  # fmt: skip


@pytest.mark.parametrize("row_id", AGREED)
def test_closed_form_is_where_the_general_step_ends(row_id):
    """The same block as an ascent from elsewhere: the same place, so each checks the other."""
    row, mixture, maps = BY_ID[row_id], traced(row_id), oracles.supports(BY_ID[row_id])
    with x64():
        closed = [block for block in plan_for(mixture).blocks if block.kind == "closed"]
        site = [block.sites[0] for block in closed][-1]
        block = next(block for block in closed if site in block.sites)

        def both(free, free_at):
            params, at = oracles.from_free(maps, free), oracles.from_free(maps, free_at)
            general = Block(block.sites, "ascent", "for the test")
            return (
                _carry_out(mixture, [block], params, at),
                _carry_out(mixture, [general], params, at, evaluations=1000),
            )

        exact, climbed = oracles.compiled(both)(
            oracles.draw_free(row, 0), oracles.draw_free(row, 5)
        )
    for name in block.sites:
        np.testing.assert_allclose(climbed[name], exact[name], rtol=1e-4, atol=1e-5)


# One of each way to make a step; the whole table was gone through once by this very function.
ONE_MODE = [("mvn_niw", "float64"), ("hurdle_poisson", "float64"), ("student_matrix", "float64"),
            ("skew_components", "float64"), ("weibull", "float32"), ("regression", "float32"),
            ("explicit_missing", "float32")]  # fmt: skip


@pytest.mark.parametrize("row_id, dtype", ONE_MODE)
def test_the_plan_and_the_general_step_lead_to_one_mode(row_id, dtype):
    """From near a mode, by the plan and by an ascent over all sites at once: the same place.

    Both stop where less than ``tol`` nats, or what rounding hides, remain to be gained. Around a
    mode, where the log joint is quadratic, that leaves no site farther from it than sqrt(2 left) of
    its standard error.
    """
    row, em = BY_ID[row_id], near_a_mode(row_id)
    values, points, left = ends(row, em, dtype)
    assert abs(values[0] - values[1]) <= max(left, ROUNDING * (abs(values[0]) + row.x.size))
    assert np.all(np.abs(points[0] - points[1]) <= 2 * np.sqrt(2 * left) * errors(em))


def near_a_mode(row_id):
    row = BY_ID[row_id]
    return bm.EM(row.program, restarts=2, progress_bar=False).run(
        jax.random.key(0), *row.args, **row.kwargs
    )


def errors(em):
    return np.asarray(ravel_pytree(em.standard_errors())[0])


def ends(row, em, dtype, tol=1e-11):
    """Log joints and points where the plan and the general step end, and what may be left there.

    The log joints are float64's.
    """
    maps, rng = oracles.supports(row), np.random.default_rng(0)
    with x64():
        moved = {
            name: np.asarray(
                biject(maps, name).inv(value) + 0.05 * rng.standard_normal(value.shape[:1] or 1)[0]
            )
            for name, value in em.params.items()
        }
        start = {n: np.asarray(v) for n, v in oracles.from_free(maps, moved).items()}
    with jax.enable_x64(dtype == "float64" or has_family(em.mixture)):  # as in EM
        density, data = density_of(em.mixture), data_of(em.mixture, dtype)
        general = Plan((Block(tuple(em.mixture.sites), "ascent", "for the test"),))
        found = [
            _climbed(Engine(density, plan), start, data, tol)
            for plan in (plan_for(em.mixture), general)
        ]
        params = [Engine(density, general).unflatten(np.asarray(end.point, float)) for end in found]
    with x64():
        values = [float(bm.log_joint(em.mixture, each)) for each in params]
    rounding = 64 * float(np.finfo(dtype).eps) * (abs(values[0]) + row.x.size)
    return values, [np.asarray(end.point, float) for end in found], max(tol, rounding)


def _climbed(engine, start, data, tol):
    """The state where plain steps from ``start`` end."""
    state = from_params(engine, start, data)
    while int(state.stop) == RUNNING and int(state.steps) < 4000:
        state, _, _ = advance(engine, state, data, tol, int(state.steps) + 100)
    assert int(state.stop) == CONVERGED
    return state


# ---------------------------------------------------------------------------- K = 1, from textbooks


def mode_of(row_id, x, **kwargs):
    row = BY_ID[row_id]
    em = bm.EM(row.program, restarts=1, progress_bar=False, tol=1e-12).run(
        jax.random.key(0), x, K=1, **kwargs
    )
    np.testing.assert_allclose(em.params["weights"], [1.0])
    return em.params


def test_one_normal_with_a_conjugate_prior():
    """Bernardo & Smith (1994), normal-inverse-gamma; the mode is over (loc, var)."""
    params = mode_of("normal_nig", Y)
    n, mean, S = Y.size, Y.mean(), ((Y - Y.mean()) ** 2).sum()
    m, kappa, a, b = 0.3, 0.2, 3.0, 2.0
    np.testing.assert_allclose(params["loc"], [(kappa * m + n * mean) / (kappa + n)], rtol=1e-9)
    total = b + 0.5 * (S + kappa * n / (kappa + n) * (mean - m) ** 2)
    np.testing.assert_allclose(params["var"], [total / (a + 1 + (n + 1) / 2)], rtol=1e-9)


def test_one_multivariate_normal_with_a_conjugate_prior():
    """Normal-inverse-Wishart; the mode is over (loc, cov)."""
    params = mode_of("mvn_niw", X)
    n, D = X.shape
    mean, m, kappa, nu = X.mean(0), np.array([0.2, -0.1]), 0.3, D + 3.0
    S = (X - mean).T @ (X - mean)
    np.testing.assert_allclose(params["loc"][0], (kappa * m + n * mean) / (kappa + n), rtol=1e-9)
    gap = np.outer(mean - m, mean - m) * kappa * n / (kappa + n)
    expected = (1.5 * np.eye(D) + S + gap) / (nu + D + 2 + n)
    np.testing.assert_allclose(params["cov"][0], expected, rtol=1e-8)


def test_one_cluster_of_maximum_likelihood():
    params = mode_of("normal_flat", Y)
    np.testing.assert_allclose(params["loc"], [Y.mean()], rtol=1e-9)
    np.testing.assert_allclose(params["scale"], [Y.std()], rtol=1e-9)
    params = mode_of("mvn_flat", X)
    np.testing.assert_allclose(params["loc"][0], X.mean(0), rtol=1e-9)
    np.testing.assert_allclose(params["cov"][0], np.cov(X.T, ddof=0), rtol=1e-9)
    params = mode_of("product_flat", X)
    np.testing.assert_allclose(params["scale"][0], X.std(0), rtol=1e-9)


def test_one_poisson_and_one_exponential():
    rate = mode_of("poisson_gamma", COUNTS)["rate"]
    np.testing.assert_allclose(rate, [(2.0 - 1 + COUNTS.sum()) / (0.5 + COUNTS.size)], rtol=1e-9)
    rate = mode_of("exponential_gamma", TIMES)["rate"]
    np.testing.assert_allclose(rate, [(2.0 - 1 + TIMES.size) / (1.0 + TIMES.sum())], rtol=1e-9)


def test_two_bernoullis_given_their_assignment():
    """One M-step from hard labels: each cluster's Beta mode, the weights' Dirichlet mode."""
    row = BY_ID["bernoulli_beta"]
    labels = np.arange(BITS.size) % 2
    resp = np.eye(2)[labels]
    em = bm.EM(row.program, max_steps=1, progress_bar=False).run(
        jax.random.key(0), BITS, init_resp=resp
    )
    with x64():
        mixture = traced(row.id)
        blocks = plan_for(mixture).blocks
        density, data = density_of(mixture), data_of(mixture)
        params = oracles.draw_params(row)
        from bayesmix.sweep import statistics_of

        statistics = statistics_of(density.family, jnp.asarray(resp), data.rows)
        plan = Plan(blocks)
        after = m_step(density, plan, params, jnp.zeros((0, 0)), statistics, data, 1)[0]
    n = resp.sum(0)
    a, b = np.array([2.0, 4.0]), np.array([4.0, 2.0])
    np.testing.assert_allclose(after["probs"], (a - 1 + resp.T @ BITS) / (a + b - 2 + n), rtol=1e-9)
    np.testing.assert_allclose(after["weights"], (n + 1.0) / (n + 1.0).sum(), rtol=1e-9)
    assert np.isfinite(em.log_joint)


@pytest.mark.parametrize(
    "row_id, site, log_prior",
    [
        ("normal_half_normal", "scale", lambda s: stats.halfnorm.logpdf(s, scale=2.0)),
        ("normal_log_normal_scale", "scale", lambda s: stats.lognorm.logpdf(s, 0.7)),
        ("normal_inverse_gamma_variance", "var",
         lambda v: stats.invgamma.logpdf(v, 3.0, scale=2.0)),
    ],
)  # fmt: skip
def test_one_normal_with_independent_priors(row_id, site, log_prior):
    """The joint mode over (loc, spread), found by SciPy from SciPy's densities."""
    params = mode_of(row_id, Y)
    m, s = (0.5, 2.0) if site == "var" else (0.0, 3.0)

    def negative(u):
        loc, spread = u[0], np.exp(u[1])
        scale = np.sqrt(spread) if site == "var" else spread
        joint = stats.norm.logpdf(Y, loc, scale).sum() + stats.norm.logpdf(loc, m, s)
        return -(joint + log_prior(spread))

    best = optimize.minimize(
        negative,
        [0.0, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000},
    )
    np.testing.assert_allclose(params["loc"], best.x[:1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params[site], np.exp(best.x[1:]), rtol=1e-5)
