"""The three functions of a program, over the whole table, against NumPyro, SciPy and enumeration.

Everything a row needs is computed once, in one compiled call over three parameter draws (which also
shows that the functions can be traced by jit, vmap and grad); the tests then read from that one
record.
"""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pytest
from oracles import ROUNDING, x64
from programs import BY_ID, PROGRAMS, WEIGHTS, Y
from scipy.special import logsumexp, softmax

import bayesmix as bm
from bayesmix import density, symmetry

DRAWS = 3
rows = pytest.mark.parametrize("row", PROGRAMS, ids=str)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_code():
    """Sixty compiled programs are gigabytes; nothing after this module needs them."""
    yield
    record.cache_clear()
    jax.clear_caches()


@cache
def traced(row_id):
    """The Mixture of a row."""
    row = BY_ID[row_id]
    with x64():
        return bm.trace(row.program, *row.args, **row.kwargs)


@cache
def record(row_id):
    """Values, and gradients in unconstrained coordinates, from bayesmix and from NumPyro."""
    row, mixture = BY_ID[row_id], traced(row_id)
    maps = oracles.supports(row)

    def everything(free):
        params = oracles.from_free(maps, free)

        def of(function):
            return jax.value_and_grad(lambda u: function(oracles.from_free(maps, u)))(free)

        value, grad = of(lambda p: bm.log_joint(mixture, p))
        value_np, grad_np = of(lambda p: oracles.numpyro_log_joint(row, p))
        expected, grad_expected = of(lambda p: bm.expected_log_joint(mixture, p, params))
        return {
            "params": params,
            "value": value,
            "grad": grad,
            "value_np": value_np,
            "grad_np": grad_np,
            "expected": expected,
            "grad_expected": grad_expected,
            "resp": bm.responsibilities(mixture, params),
            "pointwise": density.log_density(mixture, params),
            "prior": density.log_prior(mixture, params),
            "terms_np": oracles.numpyro_component_log_probs(row, params),
            "others_np": oracles.other_terms(row, params),
        }

    with x64():
        free = [oracles.draw_free(row, seed) for seed in range(DRAWS)]
        stacked = {name: np.stack([u[name] for u in free]) for name in free[0]}
        out = jax.tree.map(np.asarray, oracles.compiled(jax.vmap(everything))(stacked))
    params = out.pop("params")
    draws = [{name: value[d] for name, value in params.items()} for d in range(DRAWS)]
    row_weights = _row_weights(row)
    terms = logsumexp(out["terms_np"], -1) * row_weights
    axes = tuple(range(1, terms.ndim))
    # Sum of the absolute values of what was added up: what rounding is relative to.
    out["size"] = np.abs(terms).sum(axes) + np.abs(out["others_np"]) + 1.0
    out["row_weights"] = row_weights
    return SimpleNamespace(mixture=mixture, draws=draws, **out)


def _row_weights(row):
    if row.id in ("normal_scaled_rows", "explicit_scaled"):
        return WEIGHTS
    if "mask" in row.id:
        return row.args[1].astype(float)
    return np.ones(row.x.shape[:1] if row.id != "normal_two_plates" else row.x.shape)


def _largest_gap(ours, theirs):
    """Largest difference of two trees of gradients, and the largest entry."""
    gap = max(np.abs(ours[n] - theirs[n]).max(initial=0.0) for n in theirs)
    return gap, max(np.abs(theirs[n]).max(initial=0.0) for n in theirs)


@rows
def test_log_joint_is_numpyros(row):
    out = record(row.id)
    assert np.all(np.abs(out.value - out.value_np) <= ROUNDING * out.size)


@rows
def test_gradient_is_numpyros(row):
    """In unconstrained coordinates, where it is unique on simplices and symmetric matrices."""
    out = record(row.id)
    assert set(out.grad) == set(out.grad_np)
    gap, largest = _largest_gap(out.grad, out.grad_np)
    assert gap <= ROUNDING * (largest + out.size.max())


@rows
def test_fishers_identity(row):
    """The gradient of Q(. | theta) at theta is the gradient of the log joint at theta."""
    out = record(row.id)
    gap, largest = _largest_gap(out.grad_expected, out.grad_np)
    assert gap <= ROUNDING * (largest + out.size.max())


@pytest.mark.parametrize(
    "value",
    [
        bm.log_joint,
        bm.responsibilities,
        lambda mixture, params: bm.expected_log_joint(mixture, params, params),
    ],
)
def test_a_site_without_a_value_is_named(value):
    with pytest.raises(ValueError, match=r"missing \['cov', 'loc'\]"):
        value(traced("mvn_niw"), {"weights": np.array([0.5, 0.5])})


@rows
def test_expected_log_joint_plus_entropy_is_log_joint(row):
    out = record(row.id)
    resp = softmax(out.terms_np, -1)
    entropy = -np.where(resp > 0, resp * np.log(np.where(resp > 0, resp, 1.0)), 0.0).sum(-1)
    entropy = (entropy * out.row_weights).reshape(DRAWS, -1).sum(-1)
    assert np.all(np.abs(out.expected + entropy - out.value_np) <= ROUNDING * out.size)


@rows
def test_responsibilities_are_the_softmax_of_component_log_probs(row):
    out = record(row.id)
    counted = out.row_weights > 0
    assert out.resp.shape == (DRAWS, *out.row_weights.shape, row.K)
    assert np.abs(out.resp.sum(-1) - 1.0)[:, counted].max() <= ROUNDING
    assert np.abs(out.resp - softmax(out.terms_np, -1))[:, counted].max() <= ROUNDING


@rows
def test_pointwise_log_density_sums_out_the_assignment(row):
    """A row's log density with its assignment summed out, times its weight."""
    out = record(row.id)
    expected = out.row_weights * logsumexp(out.terms_np, -1)
    assert np.all(np.abs(out.pointwise - expected) <= ROUNDING * (1.0 + np.abs(expected)))


@rows
def test_log_joint_is_the_sum_of_its_parts(row):
    """Every latent site has its prior term; the terms of all sites and all rows add up to the
    whole.
    """
    out = record(row.id)
    assert set(row.plan) <= set(out.prior)
    sites = sum(np.asarray(term).reshape(DRAWS) for term in out.prior.values())
    assert np.all(np.abs(sites - out.others_np) <= ROUNDING * out.size)
    total = sites + out.pointwise.reshape(DRAWS, -1).sum(-1)
    assert np.all(np.abs(total - out.value_np) <= ROUNDING * out.size)


@pytest.mark.parametrize("row", [row for row in PROGRAMS if row.terms is not None], ids=str)
def test_components_are_scipys(row):
    """The densities themselves, from a library that shares no code with NumPyro."""
    out = record(row.id)
    for draw, params in enumerate(out.draws):
        terms = row.terms(params, row.x)
        expected = logsumexp(terms, -1)
        gap = np.abs(out.pointwise[draw] - expected)
        assert np.all(gap <= ROUNDING * (1.0 + np.abs(terms).max(-1)))
        assert np.abs(out.resp[draw] - softmax(terms, -1)).max() <= ROUNDING


ENUMERATED = [
    "normal_three",
    "normal_flat",
    "mvn_niw",
    "mvn_lkj",
    "product_diagonal",
    "poisson_gamma",
    "bernoulli_product",
    "exponential_gamma",
    "student_t",
    "normal_and_cauchy",
    "explicit_nig_matrix",
    "explicit_where",
    "explicit_groups",
    "vector_latent_classes",
    "log_normal_product",
    "beta_components",
    "geometric_beta",
    "von_mises",
]  # fmt: skip


@pytest.mark.parametrize("row_id", ENUMERATED)
def test_enumeration_of_all_assignments(row_id):
    """Eight rows, all K^8 assignments visited one by one, densities from SciPy."""
    row = BY_ID[row_id]
    args = row.small(8)
    params = oracles.draw_params(row, 1)
    total, resp = oracles.enumerate_assignments(row.terms(params, args[0]))
    with x64():
        mixture = bm.trace(row.program, *args, **row.kwargs)
        theirs = float(oracles.other_terms(row, params, args)) + total
        ours = float(bm.log_joint(mixture, params))
        ours_resp = np.asarray(bm.responsibilities(mixture, params))
    assert abs(ours - theirs) <= 1e-10 * (1.0 + abs(theirs))
    assert np.abs(ours_resp - resp).max() <= 1e-10


# --------------------------------------------------------------------------------------- symmetries


@rows
def test_two_readings_of_a_program_are_equal(row):
    """Equal and of equal hash: what lets compiled code be shared, and NUTS accept EM's start."""
    with x64():
        first, second = (
            density.density_of(bm.trace(row.program, *row.args, **row.kwargs)) for _ in range(2)
        )
    assert first == second
    assert hash(first) == hash(second)


@rows
def test_exchangeable_clusters(row):
    """Exactly the permutations that leave NumPyro's log joint unchanged are declared."""
    with x64():
        declared = symmetry.exchangeable(traced(row.id), record(row.id).draws[0])
    assert sorted(map(sorted, declared)) == sorted(map(sorted, row.classes))


@pytest.mark.parametrize(
    "row_id", ["normal_three", "normal_tied_variance", "normal_asymmetric_dirichlet", "mvn_niw",
               "product_spherical", "regression", "normal_softmax_weights", "bernoulli_product"]
)  # fmt: skip
def test_permuted_clusters(row_id):
    """Permuting every site that has a cluster axis permutes responsibilities and nothing else."""
    row = BY_ID[row_id]
    out = record(row_id)
    for perm in oracles.permutations_within(row.classes):
        params = oracles.permute(out.draws[0], row.axes, perm)
        with x64():
            ours = symmetry.permute(out.mixture, out.draws[0], perm)
            value = float(bm.log_joint(out.mixture, params))
            resp = np.asarray(bm.responsibilities(out.mixture, params))
        for name in params:
            np.testing.assert_array_equal(np.asarray(ours[name]), params[name])
        assert abs(value - out.value_np[0]) <= ROUNDING * out.size[0]
        assert np.abs(resp - out.resp[0][..., perm]).max() <= ROUNDING


# ------------------------------------------------------------------------------------ repeated rows


def test_a_repeated_row_is_a_row_of_weight_two():
    """The same number from copies, from handlers.scale, and from any order of the rows."""
    plain, scaled = BY_ID["normal_inverse_gamma_variance"], BY_ID["normal_scaled_rows"]
    params = oracles.draw_params(plain, 3)
    copies = np.repeat(Y, WEIGHTS.astype(int))
    shuffled = np.random.default_rng(0).permutation(copies)
    with x64():
        values = [
            float(bm.log_joint(bm.trace(plain.program, data), params))
            for data in (copies, shuffled)
        ]
        values.append(float(bm.log_joint(bm.trace(scaled.program, *scaled.args), params)))
        expected = float(oracles.numpyro_log_joint(plain, params, (copies,)))
    assert np.abs(np.array(values) - expected).max() <= ROUNDING * (1.0 + abs(expected))


def test_masked_rows_do_not_count():
    """A mask equals leaving the rows out, whatever stands in them."""
    plain, masked = BY_ID["normal_inverse_gamma_variance"], BY_ID["normal_masked_rows"]
    params = oracles.draw_params(plain, 3)
    data, keep = masked.args
    junk = np.where(keep, data, 17.0)
    with x64():
        ours = float(bm.log_joint(bm.trace(masked.program, junk, keep), params))
        expected = float(oracles.numpyro_log_joint(plain, params, (data[keep],)))
    assert abs(ours - expected) <= ROUNDING * (1.0 + abs(expected))


def test_scale_reaches_the_priors_of_a_program():
    """handlers.scale round the whole program scales the priors too, as in NumPyro."""
    from numpyro import handlers

    plain = BY_ID["normal_inverse_gamma_variance"]
    program = handlers.scale(plain.program, scale=2.0)
    params = oracles.draw_params(plain, 3)
    with x64():
        ours = float(bm.log_joint(bm.trace(program, Y), params))
        expected = 2.0 * float(oracles.numpyro_log_joint(plain, params))
    assert abs(ours - expected) <= ROUNDING * (1.0 + abs(expected))


# ------------------------------------------------------------------------------ edges and precision


def test_many_rows_in_chunks():
    """More rows than one chunk of the sweep holds, and not a multiple of it."""
    row = BY_ID["mvn_niw"]
    x = np.random.default_rng(5).normal(size=(10_007, 2))
    maps, free = oracles.supports(row), oracles.draw_free(row, 0)
    with x64():
        mixture = bm.trace(row.program, x)

        def of(function):
            both = jax.value_and_grad(lambda u: function(oracles.from_free(maps, u)))
            value, grad = oracles.compiled(both)(free)
            return float(value), {name: np.asarray(g) for name, g in grad.items()}

        ours, grad = of(lambda p: bm.log_joint(mixture, p))
        theirs, grad_np = of(lambda p: oracles.numpyro_log_joint(row, p, (x,)))
    assert abs(ours - theirs) <= ROUNDING * abs(theirs)
    gap, largest = _largest_gap(grad, grad_np)
    assert gap <= ROUNDING * (largest + abs(theirs))


def test_a_weight_of_zero_is_harmless():
    """A cluster of weight zero: as if it were not there, and the gradient is finite."""
    row = BY_ID["normal_softmax_weights"]
    params = {**oracles.draw_params(row, 0), "logits": np.array([0.0, -1e4])}
    mixture = traced(row.id)
    with x64():
        value, grad = jax.value_and_grad(lambda p: bm.log_joint(mixture, p))(params)
        resp = np.asarray(bm.responsibilities(mixture, params))
        expected = float(oracles.numpyro_log_joint(row, params))
    assert abs(float(value) - expected) <= ROUNDING * abs(expected)
    assert np.array_equal(resp, np.stack([np.ones(Y.size), np.zeros(Y.size)], -1))
    assert all(np.all(np.isfinite(np.asarray(g))) for g in grad.values())


def test_a_weight_of_exactly_zero_has_finite_responsibilities():
    """A cluster that died: probability 0, never 0 x inf."""
    mixture = traced("normal_inverse_gamma_variance")
    params = oracles.draw_params(BY_ID["normal_inverse_gamma_variance"], 0)
    with x64():
        dead = {**params, "weights": np.array([1.0, 0.0])}
        resp = np.asarray(bm.responsibilities(mixture, dead))
        pointwise = np.asarray(density.log_density(mixture, dead))
    assert np.array_equal(resp, np.stack([np.ones(Y.size), np.zeros(Y.size)], -1))
    assert np.all(np.isfinite(pointwise))


def test_far_data_are_certain_and_finite():
    """A point a million sds away: responsibilities are finite and sum to one, nothing is NaN."""
    row = BY_ID["normal_inverse_gamma_variance"]
    params = oracles.draw_params(row, 0)
    x = np.concatenate([Y, [1e6, -1e6]])
    with x64():
        mixture = bm.trace(row.program, x)
        resp = np.asarray(bm.responsibilities(mixture, params))
        value = float(bm.log_joint(mixture, params))
    terms = row.terms(params, x)
    assert np.isfinite(value)
    assert np.abs(resp - softmax(terms, -1)).max() <= ROUNDING
    assert np.abs(resp.sum(-1) - 1.0).max() <= ROUNDING


FLOAT32 = ["normal_three", "mvn_niw", "mvn_flat", "product_diagonal", "poisson_gamma",
"bernoulli_product", "exponential_gamma", "student_t", "student_matrix", "regression",
"skew_components", "hurdle_poisson", "zero_inflated_product"]  # fmt: skip


@pytest.mark.parametrize("row_id", FLOAT32)
def test_single_precision_follows_the_ambient_dtype(row_id):
    """Outside the x64 context everything is float32, right to float32 rounding."""
    row = BY_ID[row_id]
    out = record(row_id)
    mixture = bm.trace(row.program, *row.args, **row.kwargs)
    params = {n: jnp.asarray(v, jnp.float32) for n, v in out.draws[0].items()}
    value = bm.log_joint(mixture, params)
    resp = bm.responsibilities(mixture, params)
    assert value.dtype == jnp.float32
    assert resp.dtype == jnp.float32
    eps = float(np.finfo(np.float32).eps)
    # A row's score is a sum of about 10 terms, each as large as the largest component term.
    largest = np.abs(out.terms_np[0]).max()
    assert abs(float(value) - out.value_np[0]) <= 10 * eps * largest * np.sqrt(row.x.size) * 10
    assert np.abs(np.asarray(resp) - out.resp[0]).max() <= 100 * eps * (1.0 + largest)


# ------------------------------------------------------------------------------------------ certify


@pytest.mark.parametrize(
    "row_id", ["normal_nig", "mvn_lkj", "poisson_flat", "regression", "two_named_normals"]
)
def test_certify_passes_and_says_so(row_id):
    report = bm.certify(jax.random.key(0), traced(row_id))
    assert report.passed
    text = str(report).lower()
    for word in ("value", "gradient", "fisher", "jacobian"):
        assert word in text


# One of each kind of pass in each precision; the whole table was certified once in both.
SINGLE = ["normal_tied_variance", "skew_components", "weibull", "mvn_missing"]


@pytest.mark.parametrize("row_id", SINGLE)
def test_certify_in_single_precision(row_id):
    report = bm.certify(jax.random.key(0), traced(row_id), points=1, dtype="float32")
    assert report.passed, report
    assert "float32" in str(report)


class Sloppy(dist.Normal):
    """A Normal whose log density is off by 2e-4 in float32."""

    def log_prob(self, value):
        off = 2e-4 if jnp.result_type(self.loc) == jnp.float32 else 0.0
        return super().log_prob(value) + off


def sloppy(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    with numpyro.plate("obs_id", len(x)):
        mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), Sloppy(loc, 1.0))
        numpyro.sample("x", mixture, obs=x)


def test_certify_sees_a_density_that_is_wrong_in_single_precision_only():
    """In the value; its gradient is right."""
    mixture = bm.trace(sloppy, Y)
    assert bm.certify(jax.random.key(0), mixture, points=1).passed
    checks = bm.certify(jax.random.key(0), mixture, points=1, dtype="float32").checks
    assert [check.passed for check in checks] == [False, True, True, False, True]


# -------------------------------------------------------------------------------- narrow clusters


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e-3])
def test_a_cluster_on_a_single_value_costs_no_digits(scale):
    """x^2, x loc and loc^2 cancel in the sweep's score; the log joint must not."""
    mixture = traced("normal_half_normal")
    with x64():
        params = {
            "weights": jnp.array([0.1, 0.9]),
            "loc": jnp.array([Y[3], 0.0]),
            "scale": jnp.array([scale, 1.5]),
        }
        value, slope = jax.value_and_grad(lambda p: bm.log_joint(mixture, p))(params)
        theirs, their_slope = jax.value_and_grad(
            lambda p: oracles.numpyro_log_joint(BY_ID["normal_half_normal"], p)
        )(params)
    np.testing.assert_allclose(value, theirs, rtol=ROUNDING)
    for name, expected in their_slope.items():
        np.testing.assert_allclose(slope[name], expected, rtol=1e-9, atol=1e-9)
