"""Every bad or extreme input of the references that concerns fitting, with what must happen.

The rows are those of `references/inputs/bad_inputs.md` (made for scikit-learn and mclust). An error
is one sentence that names the argument, column, row or value. A fit is finite: params, log joint,
responsibilities. Nothing hangs, nothing returns NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.distributions import constraints

import bayesmix as bm

_rng = np.random.default_rng(1)
GOOD = np.concatenate([_rng.normal(-3.0, 1.0, (100, 2)), _rng.normal(3.0, 1.0, (100, 2))])
ONE_COLUMN = GOOD[:, 0].copy()
COUNTS = np.concatenate([_rng.poisson(2.0, 100), _rng.poisson(9.0, 100)])


def put(value, row=17, column=1, base=GOOD):
    """A copy of good data with one bad cell."""
    numeric = isinstance(value, float | int | complex | np.generic)
    x = np.array(base, np.result_type(base, type(value)) if numeric else object)
    x[row, column] = value
    return x


def em_of(program, *args, run=None, **settings):
    settings = {"restarts": 4, "progress_bar": False, **settings}
    return bm.EM(program, **settings).run(jax.random.key(0), *args, **(run or {}))


def gaussian(x, K=2, run=None, settings=None, **model):
    return em_of(bm.models.gaussian(K, **model), x, run=run, **(settings or {}))


@dataclass(frozen=True)
class Case:
    """What to do, and what must happen: an error with these words, a finite fit, or either."""

    do: Callable[[], Any]
    words: tuple[str, ...] | None = None  # the words of the error; None: no error allowed
    check: Callable[[Any], None] = field(default=lambda em: None)
    fit_allowed: bool = False  # with words: a finite fit will do as well
    errors: tuple[type, ...] = (ValueError,)


def fails(do, *words, **kw):
    return Case(do, words, **kw)


def fits(do, check=lambda em: None):
    return Case(do, None, check)


def either(do, *words, check=lambda em: None):
    return Case(do, words, check, fit_allowed=True)


def finite(em):
    assert np.isfinite(em.log_joint)
    assert np.isfinite(em.log_likelihood)
    assert np.all(np.isfinite(em.history))
    for name, value in em.params.items():
        assert np.all(np.isfinite(value)), name
    resp = np.asarray(em.responsibilities)
    assert np.all(np.isfinite(resp))
    np.testing.assert_allclose(resp.sum(-1), 1.0, rtol=1e-9)


def separates(labels=None):
    """The two halves of GOOD, whatever scale they were put on, are told apart."""

    def check(em):
        found = np.asarray(em.responsibilities).argmax(-1)
        truth = np.repeat([0, 1], 100) if labels is None else labels
        assert max((found == truth).mean(), (found != truth).mean()) > 0.98

    return check


def leaves_one_row_open(em):
    """Row 17 has no value: its responsibilities are the weights."""
    assert any("in 1 of 200 rows are integrated out" in note for note in em.notes)
    np.testing.assert_allclose(em.responsibilities[17], em.params["weights"], rtol=1e-9)


def same_as_good(em):
    assert em.log_joint == pytest.approx(gaussian(GOOD).log_joint, abs=1e-6)


def same_as_with_a_nan(em):
    assert em.log_joint == pytest.approx(gaussian(put(np.nan)).log_joint, abs=1e-6)


# ----------------------------------------------------------------------- programs of other families


def _of(components, x, support=None):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


def binomial(x, trials):
    p = [numpyro.sample(f"p{k}", dist.Beta(2.0, 2.0)) for k in range(2)]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    components = [dist.Binomial(trials, probs=pk) for pk in p]
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", dist.MixtureGeneral(dist.Categorical(probs=weights), components), obs=x)


def beta(x):
    with numpyro.plate("cluster", 2):
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
        b = numpyro.sample("b", dist.Gamma(2.0, 1.0))
    _of(dist.Beta(a, b), x)


def exponential(x):
    with numpyro.plate("cluster", 2):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    _of(dist.Exponential(rate), x)


def dirichlet(x):
    with numpyro.plate("cluster", 2):
        alpha = numpyro.sample("alpha", dist.Gamma(2.0, 1.0).expand([3]).to_event(1))
    _of(dist.Dirichlet(alpha), x)


def poisson_flat(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        rate = numpyro.sample("rate", dist.ImproperUniform(constraints.positive, (), ()))
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Poisson(rate))
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", mixture, obs=x)


# ------------------------------------------------------------------------------------------- checks


def weights_near(*expected, slack=0.02):
    def check(em):
        # The default prior's Dirichlet(2) adds one row per cluster: a few per mille here.
        np.testing.assert_allclose(np.sort(em.params["weights"]), sorted(expected), atol=slack)

    return check


def recovers_scales(em):
    sds = np.sort(np.sqrt(em.params["var"]))
    assert 0.7 < sds[0] < 1.4
    assert 70 < sds[1] < 140


def says_max_steps(em):
    assert em.converged is False
    assert "step" in em.stop


def small_clusters_are_listed(em):
    assert em.modes[0].smallest < len(em.responsibilities)
    assert np.isfinite([mode.smallest for mode in em.modes]).all()


def keeps_names(em):
    assert tuple(em.mixture.columns) == ("length", "width")
    assert list(em.mixture.index)[:2] == ["fish 0", "fish 1"]
    same_as_good(em)


def tells_of_degeneracy(em):
    told = " ".join([*em.notes, *(mode.reason for mode in em.modes), em.stop]).lower()
    assert any(word in told for word in ("no maximum", "singular", "degenerate", "collapse"))


def predicts_far(em):
    for point in ([[1e200, 1e200]], [[-1e200, 1e200]]):
        proba = em.predict_proba(np.array(point))
        assert np.all(np.isfinite(proba))
        assert proba.max() == pytest.approx(1.0)
        assert not np.isnan(em.log_density(np.array(point))).any()


COLLINEAR = np.column_stack([GOOD, GOOD.sum(1) + 1e-10 * _rng.standard_normal(200)])
CONSTANT = np.column_stack([GOOD, np.full(200, 5.0)])
BITS = (_rng.random((200, 3)) < np.repeat([[0.2], [0.8]], 100, 0)).astype(float)
NESTED = np.concatenate([_rng.normal(0, 1.0, 500), _rng.normal(0, 100.0, 500)])
LARGE = np.concatenate(
    [_rng.normal(m, 1.0, n) for m, n in ((0, 400_000), (5, 300_000), (11, 300_000))]
)
TALL = {"weights": np.array([0.5, 0.5]), "loc": np.array([[-3.0, -3.0], [3.0, 3.0]])}
STUDENT = np.eye(2)[np.repeat([0, 1], 100)]

REFUSALS = (ValueError, TypeError)

CASES = {
    "nan_one": fits(lambda: gaussian(put(np.nan)), separates()),
    "nan_undeclared": fails(lambda: em_of(exponential, put(np.nan)[:, 1]), "NaN", "row 17"),
    "nan_col": fails(
        lambda: gaussian(pd.DataFrame({"a": ONE_COLUMN, "empty": np.full(200, np.nan)})),
        "no value at all", "empty"),
    "inf_pos": fails(lambda: gaussian(put(np.inf)), "inf", "row 17"),
    "huge_1e308": either(lambda: gaussian(GOOD * 2e307), "rescale"),
    "huge_1e200": either(lambda: gaussian(GOOD * 1e200), "rescale", check=separates()),
    "tiny_1e-200": either(lambda: gaussian(GOOD * 1e-200), "rescale", check=separates()),
    "offset_1e15": fits(lambda: gaussian(GOOD * 8 + 1e15), separates()),
    "const_col": fails(
        lambda: gaussian(pd.DataFrame(CONSTANT, columns=["a", "b", "same"])), "same", "constant"),
    "const_all_zero": fails(lambda: gaussian(np.zeros((50, 2))), "constant"),
    "near_collinear": fits(lambda: gaussian(COLLINEAR)),
    "dup_two_values": fits(
        lambda: gaussian(np.repeat([0.0, 10.0], [60, 140])[:, None]), weights_near(0.3, 0.7)),
    "binary_as_gauss": fits(lambda: gaussian(BITS, 3)),
    "n_lt_k": either(lambda: gaussian(GOOD[:3], 5), "row"),
    "single_row": either(lambda: gaussian(GOOD[:1], 1), "row"),
    "empty_frame": fails(lambda: gaussian(pd.DataFrame({"a": [], "b": []}, dtype=float)), "row"),
    "n_lt_d": fits(lambda: gaussian(_rng.standard_normal((20, 100)))),
    "k_zero": fails(lambda: gaussian(GOOD, 0), "K", "0"),
    "k_float": either(lambda: gaussian(GOOD, 2.0), "K", check=separates()),
    "k_string": fails(lambda: gaussian(GOOD, "2"), "K", errors=REFUSALS),
    "k_huge": either(lambda: gaussian(GOOD, 1000, settings={"restarts": 1, "max_steps": 3}), "K"),
    "single_cluster_k5": fits(lambda: gaussian(GOOD[:100], 5), small_clusters_are_listed),
    "far_outlier_1e150": either(lambda: gaussian(put(1e150)), "row 17"),
    "nested": fits(lambda: gaussian(NESTED, prior="flat"), recovers_scales),
    "uniform_data": fits(lambda: gaussian(np.random.default_rng(3).random((200, 2)), 3)),
    "sorted": fits(lambda: gaussian(GOOD[np.argsort(GOOD[:, 0])]), same_as_good),
    "dtype_int": fits(lambda: gaussian(np.rint(GOOD * 10).astype(np.int64)), separates()),
    "dtype_bool": either(lambda: gaussian(BITS > 0.5), "bool"),
    "dtype_object_none": fits(lambda: gaussian(put(None)), same_as_with_a_nan),
    "none_undeclared": fails(lambda: em_of(exponential, put(None)[:, 1]), "NaN", "row 17"),
    "nullable": fits(
        lambda: gaussian(_named(put(np.nan)).convert_dtypes()), same_as_with_a_nan),
    "masked": fits(
        lambda: gaussian(np.ma.masked_equal(put(1e9), 1e9)), same_as_with_a_nan),
    "masked_rows": fits(
        lambda: gaussian(list(np.ma.masked_equal(put(1e9), 1e9))), same_as_with_a_nan),
    "dates_as_objects": fails(
        lambda: gaussian(put(np.datetime64("2020"), base=GOOD.astype(object))), "not a number"),
    "set": fails(lambda: gaussian({1.0, 2.0}), "set"),
    "dictionary": fails(lambda: gaussian({"a": ONE_COLUMN}), "array or a table", "dict"),
    "no_data": fails(lambda: gaussian(None), "array or a table", "None"),
    "path": fails(lambda: gaussian("data.csv"), "array or a table", "data.csv"),
    "dates": fails(lambda: gaussian(np.array([[np.datetime64("2020-01-01")]])), "datetime"),
    "objects": fails(lambda: gaussian(put(object())), "row 17", "not a number"),
    "dtype_str_words": fails(
        lambda: gaussian(np.array([["a", "b"], ["c", "d"]])), "numbers", errors=REFUSALS),
    "dtype_f16": fits(lambda: gaussian(GOOD.astype(np.float16)), separates()),
    "dtype_longdouble": fits(lambda: gaussian(GOOD.astype(np.longdouble)), same_as_good),
    "dtype_big_endian": fits(lambda: gaussian(GOOD.astype(">f8")), same_as_good),
    "ndim1": fits(lambda: gaussian(ONE_COLUMN), separates()),
    "ndim0": fails(lambda: gaussian(3.0), "x", errors=REFUSALS),
    "list_of_lists": fits(lambda: gaussian(GOOD.tolist()), same_as_good),
    "generator": fails(lambda: gaussian(row for row in GOOD), "generator", errors=REFUSALS),
    "readonly": fits(lambda: gaussian(_readonly(GOOD)), same_as_good),
    "noncontig": fits(lambda: gaussian(np.repeat(GOOD, 2, 0)[::2, ::-1][:, ::-1]), same_as_good),
    "pandas": fits(lambda: gaussian(_named(GOOD)), keeps_names),
    "pandas_mixed": fails(
        lambda: gaussian(pd.DataFrame({"a": ONE_COLUMN, "species": ["x"] * 200})), "species",
        errors=REFUSALS),
    "pandas_series": fits(lambda: gaussian(pd.Series(ONE_COLUMN, name="a")), separates()),
    "polars_null": fits(lambda: gaussian(_with_nulls()), leaves_one_row_open),
    "np_matrix": either(lambda: gaussian(_matrix()), "matrix", check=separates()),
    "predict_wrong_d": fails(lambda: gaussian(GOOD).predict(np.zeros((4, 3))), "3", "2"),
    "predict_far": fits(lambda: gaussian(GOOD), predicts_far),
    "weights_neg": fails(
        lambda: gaussian(GOOD, run={"init_params": {
            **TALL, "weights": np.array([1.5, -0.5]), "cov": np.stack([np.eye(2)] * 2)}}),
        "weights"),
    "prec_notpd": fails(
        lambda: gaussian(GOOD, run={"init_params": {
            **TALL, "cov": np.stack([np.eye(2), np.array([[1.0, 2.0], [2.0, 1.0]])])}}), "cov"),
    "max_iter_1": fits(
        lambda: gaussian(GOOD, run={"init_resp": np.full((200, 2), 0.5) + 0.1 * STUDENT - 0.05},
                         settings={"max_steps": 1}), says_max_steps),
    "reg_zero_dup": either(
        lambda: gaussian(np.repeat(GOOD[:2], 20, 0), prior="flat"), "finite",
        check=tells_of_degeneracy),
    "long_1e6": fits(
        lambda: gaussian(LARGE, 3, settings={"restarts": 2}), weights_near(0.3, 0.3, 0.4)),
    "int_overflow": fits(
        lambda: gaussian(2**62 + np.rint(GOOD * 2**20).astype(np.int64)), separates()),
    "count_negative": fails(
        lambda: em_of(bm.models.poisson(2), np.where(np.arange(200) == 5, -3, COUNTS)),
        "-3", "row 5"),
    "count_all_zero": fits(lambda: em_of(bm.models.poisson(2), np.zeros(200, int))),
    "count_all_zero, flat": fits(lambda: em_of(poisson_flat, np.zeros(200, int))),
    "binom_k_gt_n": fails(lambda: em_of(binomial, np.array([1, 2, 9, 3] * 10), 5), "9", "row 2"),
    "bern_two": fails(
        lambda: em_of(bm.models.bernoulli(2), np.where(np.eye(200, 3) > 0, 2, BITS)), "2", "row 0"),
    "beta_boundary": fails(lambda: em_of(beta, np.array([0.5, 0.0, 0.3, 1.0] * 10)), "0", "row 1"),
    "gamma_negative": fails(
        lambda: em_of(exponential, np.array([0.5, -2.0, 0.3] * 10)), "-2", "row 1"),
    "simplex_off": fails(
        lambda: em_of(dirichlet, np.tile([[0.2, 0.3, 0.5], [0.4, 0.4, 0.4]], (10, 1))), "row 1"),
    # Not of the table: found while building it.
    "reg_zero_dup, default": fits(lambda: gaussian(np.repeat(GOOD[:2], 20, 0))),
    "n_lt_k, flat": either(
        lambda: gaussian(GOOD[:3], 5, prior="flat"), "row", check=tells_of_degeneracy),
    "no key": fails(
        lambda: bm.EM(bm.models.gaussian(2), progress_bar=False).run(GOOD), "key",
        errors=REFUSALS),
    "object numbers": fits(lambda: gaussian(GOOD.astype(object)), same_as_good),
    "complex": fails(lambda: gaussian(GOOD.astype(complex)), "complex", errors=REFUSALS),
    "three axes": fails(lambda: gaussian(GOOD[None]), "x", errors=REFUSALS),
}  # fmt: skip

# Rows of the table with no counterpart here, and why.
NO_COUNTERPART = {"unfitted": "a result exists only after a fit; nothing else has predict"}


def _readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _named(x):
    return pd.DataFrame(x, columns=["length", "width"], index=[f"fish {n}" for n in range(len(x))])


def _with_nulls():
    """A frame with a null: pandas' nullable type, as polars is not a dependency."""
    return pd.DataFrame(
        {"a": pd.array([None if n == 17 else float(n) for n in range(200)], "Float64")}
    )


def _matrix():
    with pytest.warns(PendingDeprecationWarning):
        return np.matrix(GOOD)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning:bayesmix")
@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    case = CASES[name]
    if case.words is None:
        em = case.do()
        finite(em)
        case.check(em)
        return
    try:
        em = case.do()
    except case.errors as error:
        sentence = str(error)
        assert all(word.lower() in sentence.lower() for word in case.words), sentence
        assert 10 < len(sentence) < 500, sentence
        assert len(sentence.strip().splitlines()) <= 3, sentence
    else:
        assert case.fit_allowed, f"accepted, with log joint {em.log_joint}"
        finite(em)
        case.check(em)


def test_every_row_of_the_references_is_here(reference):
    listed = {row["id"] for row in reference("inputs/bad_inputs.json")["cases"]}
    here = {name.split(",")[0] for name in CASES}
    assert listed <= here | set(NO_COUNTERPART)


def test_nothing_predicts_before_a_fit():
    assert not hasattr(bm.EM(bm.models.gaussian(2)), "predict")


def test_a_row_that_no_component_can_reach_is_named():
    """The bounds of a Uniform may depend on parameters, so only the fit can tell."""

    def program(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("cluster", 2):
            low = numpyro.sample("low", dist.Uniform(-1.0, 0.0))
        with numpyro.plate("obs_id", len(x)):
            parts = bm.VectorMixture(dist.Categorical(probs=weights), dist.Uniform(low, 1.0))
            numpyro.sample("x", parts, obs=x)

    x = np.linspace(0.1, 0.9, 9)
    x[3] = 3.0
    with pytest.raises(ValueError, match=r"row 3, 3\.0, has density 0"):
        em_of(program, x, restarts=1)
