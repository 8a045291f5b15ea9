"""bm.models.regression: the density on its page, R's flexmix, tables, groups, refusals."""

from functools import cache

import arviz_stats as azs
import jax
import numpy as np
import pandas as pd
import pytest
from oracles import ROUNDING, Z, x64
from scipy import stats
from scipy.special import expit, logsumexp, softmax

import bayesmix as bm
from bayesmix.predict import replicate, with_data

SLACK = 1e-6  # what is left when EM stops at an estimated 1e-9 nats, with a thousandfold reserve


def fit(program, *args, restarts=8, seed=0, **kwargs):
    em = bm.EM(program, restarts=restarts, progress_bar=False)
    return em.run(jax.random.key(seed), *args, **kwargs)


# ------------------------------------------------------------------------------------- the density

N, P, Q, K = 14, 3, 2, 3
_rng = np.random.default_rng(5)
X = _rng.normal([1.0, -2.0, 5.0], [1.0, 3.0, 0.5], (N, P))
GATING = _rng.normal(size=(N, Q))
OFFSET = _rng.normal(size=N)
TRIALS = _rng.integers(2, 9, N)
RESPONSE = {
    "normal": _rng.normal(size=N),
    "poisson": _rng.poisson(3.0, N),
    "bernoulli": _rng.integers(0, 2, N),
    "binomial": _rng.binomial(TRIALS, 0.4),
}


def _page(family, y, params, gated):
    """The documented default prior and density, by SciPy."""
    m, s = X.mean(0), X.std(0, ddof=1)
    coef, both, intercept = (params[name] for name in ("coef", "coef_shared", "intercept"))
    unit, total = 1.0, y.sum() + 0.5
    if family == "normal":
        centre, unit = (y - OFFSET).mean(), (y - OFFSET).std(ddof=1)
    elif family == "poisson":
        centre = np.log(total / np.exp(OFFSET).sum())
    else:
        share = total / (1 + (TRIALS.sum() if family == "binomial" else N))
        centre = np.log(share / (1 - share)) - OFFSET.mean()
    prior = stats.norm.logpdf(coef, 0, 2.5 * unit / s[[0, 2]]).sum()
    prior += stats.norm.logpdf(both, 0, 2.5 * unit / s[1]).sum()
    at_zero = centre - coef @ m[[0, 2]] - both[0] * m[1]
    prior += stats.norm.logpdf(intercept, at_zero, 2.5 * unit).sum()
    eta = OFFSET[:, None] + X[:, [0, 2]] @ coef.T + X[:, [1]] * both + intercept
    if family == "normal":
        full = np.column_stack([np.ones(N), X])
        residual = y - OFFSET - full @ np.linalg.lstsq(full, y - OFFSET, rcond=None)[0]
        rate = np.mean(residual**2) / (2 * K**2)
        prior += stats.invgamma.logpdf(params["var"], 1.5, scale=rate).sum()
        terms = stats.norm.logpdf(y[:, None], eta, np.sqrt(params["var"]))
    elif family == "poisson":
        terms = stats.poisson.logpmf(y[:, None], np.exp(eta))
    elif family == "bernoulli":
        terms = stats.bernoulli.logpmf(y[:, None], expit(eta))
    else:
        terms = stats.binom.logpmf(y[:, None], TRIALS[:, None], expit(eta))
    if gated:
        scale = np.concatenate([[2.5], 2.5 / GATING.std(0, ddof=1)])
        gate = params["gate"]
        # Normal on the K - 1 coordinates of an orthonormal basis of the vectors that sum to 0
        prior += (stats.norm.logpdf(0, 0, scale) * (K - 1)).sum()
        prior -= 0.5 * ((gate / scale[:, None]) ** 2).sum()
        log_weights = np.log(softmax(np.column_stack([np.ones(N), GATING]) @ gate, 1))
    else:
        prior += stats.dirichlet.logpdf(params["weights"], np.full(K, 2.0))
        log_weights = np.log(params["weights"])
    return prior + logsumexp(log_weights + terms, 1).sum()


@pytest.mark.parametrize(
    "family, gated",
    [
        ("normal", False),
        ("normal", True),
        ("poisson", True),
        ("bernoulli", False),
        ("binomial", True),
    ],
)
def test_is_the_density_on_its_page(family, gated):
    rng = np.random.default_rng(1)
    y = RESPONSE[family]
    params = {
        "coef": rng.normal(size=(K, 2)) / 3,
        "coef_shared": rng.normal(size=1) / 3,
        "intercept": rng.normal(size=K),
    }
    if family == "normal":
        params["var"] = rng.gamma(3.0, 0.4, K)
    gate = rng.normal(size=(1 + Q, K))
    params |= (
        {"gate": gate - gate.mean(1, keepdims=True)} if gated else {"weights": np.full(K, 1 / K)}
    )
    given = {"offset": OFFSET} | ({"gating": GATING} if gated else {})
    given |= {"trials": TRIALS} if family == "binomial" else {}
    program = bm.models.regression(K, family=family, shared=[1])
    expected = _page(family, y, params, gated)
    with x64():
        ours = float(bm.log_joint(bm.trace(program, X, y, **given), params))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


def test_fits_do_not_depend_on_units():
    """Other units and zeros of X and y move the lines along and change no responsibility."""
    x, y = X[:, :1], np.where(np.arange(N) % 2, 2.0, -1.0) * X[:, 0] + 0.1 * RESPONSE["normal"]
    program = bm.models.regression(2)
    here = fit(program, x, y, restarts=2)
    there = fit(program, 100.0 * x + 3e4, -2.0 * y + 7.0, restarts=2)
    close = {"rtol": 1e-6, "atol": 1e-8}
    order = np.argsort(-there.params["coef"][:, 0]), np.argsort(here.params["coef"][:, 0])
    np.testing.assert_allclose(
        there.responsibilities[:, order[0]], here.responsibilities[:, order[1]], **close
    )
    slope = here.params["coef"][order[1]]
    np.testing.assert_allclose(there.params["coef"][order[0]], -2.0 * slope / 100.0, **close)


# ----------------------------------------------------------------------------------------- flexmix


def _npreg(reference, family):
    table = reference("data/npreg.csv")
    if family == "normal":
        return (np.column_stack([table["x"], table["x"] ** 2]), table["yn"]), {}
    return (table["x"], table["yp"] if family == "poisson" else table["yb"]), {}


def _tonedata(reference):
    table = reference("data/tonedata.csv")
    return (table[["stretchratio"]], table["tuned"]), {}


def _betablocker(reference, grouped=False):
    table = reference("data/betablocker.csv")
    given = {"trials": table["Total"]} | ({"groups": table["Center"]} if grouped else {})
    return (table[["Treatment"]], table["Deaths"]), given


def _patent(reference, gated=False):
    table = reference("data/patent.csv")
    return (table[["lgRD"]], table["Patents"]), {"gating": table[["RDS"]]} if gated else {}


def _seizure(reference):
    table = reference("data/seizure.csv")
    treated, day = (table["Treatment"] == "Yes") * 1.0, np.log(table["Day"])
    columns = pd.DataFrame({"treated": treated, "day": day, "both": treated * day})
    return (columns, table["Seizures"]), {"offset": np.log(table["Hours"])}


def _tribolium(reference):
    table = reference("data/tribolium.csv")
    return (None, table["Remaining"]), {"trials": table["Total"]}


# file, K, family, data, settings of the model
FLEXMIX = [
    ("npreg_gaussian", 2, "normal", lambda r: _npreg(r, "normal"), {}),
    ("npreg_poisson", 2, "poisson", lambda r: _npreg(r, "poisson"), {}),
    ("npreg_binomial", 1, "bernoulli", lambda r: _npreg(r, "bernoulli"), {}),
    ("tonedata_gaussian", 2, "normal", _tonedata, {}),
    ("betablocker_binomial", 3, "binomial", _betablocker, {}),
    ("betablocker_binomial_grouped", 2, "binomial", lambda r: _betablocker(r, True),
     {"shared": ["Treatment"]}),
    ("betablocker_binomial_grouped", 3, "binomial", lambda r: _betablocker(r, True),
     {"shared": ["Treatment"]}),
    ("patent_poisson", 3, "poisson", _patent, {}),
    ("patent_poisson_concomitant", 3, "poisson", lambda r: _patent(r, True), {}),
    ("seizure_poisson", 2, "poisson", _seizure, {}),
    ("tribolium_binomial", 2, "binomial", _tribolium, {}),
]  # fmt: skip
# flexmix divides the residual sum of squares by the rows less the coefficients, not by the rows:
# its Gaussian likelihoods lie below those of our modes.
UNBIASED = ("npreg_gaussian", "tonedata_gaussian")


@pytest.mark.parametrize("name, K, family, data, settings", FLEXMIX)
def test_reaches_flexmix(reference, name, K, family, data, settings):
    """Flat priors: flexmix's likelihood or more, and its number of parameters."""
    expected = next(f for f in reference(f"ml/flexmix_{name}.json")["fits"] if f["K"] == K)
    args, given = data(reference)
    program = bm.models.regression(K, family=family, prior="flat", **settings)
    em = fit(program, *args, **given)
    assert em.converged
    assert em.n_parameters == expected["df"]
    assert em.log_likelihood >= expected["loglik"] - SLACK
    if name in UNBIASED:
        beyond = [mode.log_joint - expected["loglik"] for mode in em.modes if mode.regular]
        assert any(-SLACK <= gap <= 0.05 for gap in beyond)
    elif em.log_likelihood <= expected["loglik"] + 1e-4:
        theirs = [row for row in expected["parameters"] if "Intercept" in row["_row"]]
        theirs = np.array([v for row in theirs for n, v in row.items() if n != "_row"], float)
        np.testing.assert_allclose(np.sort(em.params["intercept"]), np.sort(theirs), atol=2e-3)


# ------------------------------------------------------------------------------ tables, prediction


@cache
def _table():
    rng = np.random.default_rng(8)
    table = pd.DataFrame({"age": rng.uniform(20, 60, 60), "arm": rng.choice(["a", "b", "c"], 60)})
    low = rng.random(60) < 0.5
    eta = np.where(low, 0.2, 1.8) + 0.01 * table["age"] + 0.5 * (table["arm"] == "b")
    return table, rng.poisson(np.exp(eta))


@cache
def _fitted():
    program = bm.models.regression(2, family="poisson", shared=["arm"])
    return fit(program, *_table(), restarts=2)


def test_columns_keep_their_names():
    em = _fitted()
    assert em.params["coef_shared"].shape == (2,)
    tree = em.to_datatree()["posterior"]
    assert list(tree["covariate"].to_numpy()) == ["age"]
    assert list(tree["shared_covariate"].to_numpy()) == ["arm[b]", "arm[c]"]
    assert "coef[0, age]" in em.summary().index
    assert "coef_shared[arm[b]]" in str(em)


def test_arviz_names_gates_and_coefficients_as_we_do(reference):
    """Every element of every site has the same name and value in ArviZ's summary as in ours."""
    args, given = _patent(reference, True)
    em = fit(bm.models.regression(2, family="poisson"), *args, restarts=1, **given)
    posterior = em.to_datatree()["posterior"].to_dataset()
    many = posterior.isel(chain=[0, 0], draw=np.zeros(10, int))
    theirs = azs.summary(many, round_to="none", kind="stats")["mean"]
    ours = em.summary()["map"]
    assert set(theirs.index) == set(ours.index)
    np.testing.assert_allclose(theirs[ours.index], ours, rtol=1e-12)


def test_new_rows_are_coded_as_the_fit_was():
    """Rows that hold only some of the categories get the same columns, and the same clusters."""
    em, (table, y) = _fitted(), _table()
    rows = np.flatnonzero(table["arm"] == "c")[:3]
    np.testing.assert_allclose(
        em.predict_proba(table.iloc[rows], y[rows]), em.responsibilities[rows], rtol=1e-12
    )
    with pytest.raises(ValueError, match="'d' at row 0, which is none of the categories"):
        em.predict(pd.DataFrame({"age": [30.0], "arm": ["d"]}), [3])


def test_new_rows_have_the_columns_and_the_offset_of_the_fit():
    """Read by position, columns in another order would be other covariates."""
    table, y = _table()
    plain = table[["age"]].assign(dose=np.arange(len(table)) % 5)
    program = bm.models.regression(2, family="poisson")
    ones = np.ones(len(y))
    em = bm.EM(program, restarts=1, max_steps=5, progress_bar=False)
    em = em.run(jax.random.key(0), plain, y, offset=ones)
    for other in (plain[["dose", "age"]], plain[["age"]], plain.rename(columns={"age": "a"})):
        with pytest.raises(ValueError, match=r"where \['age', 'dose'\] were fitted"):
            em.predict(other, y, offset=ones)
    with pytest.raises(ValueError, match="give offset= for the new rows"):
        em.predict(plain, y)
    with pytest.raises(ValueError, match="the fit had no gating"):
        em.predict(plain, y, offset=ones, gating=ones)
    with pytest.raises(ValueError, match="y, the response, is missing"):
        bm.trace(program, plain)
    with pytest.raises(ValueError, match=r"takes its data as \(X, y, offset, .*'exposure'"):
        bm.trace(program, plain, y, exposure=ones)
    same = em.predict_proba(plain.to_numpy(), y, offset=ones)
    np.testing.assert_allclose(same, em.responsibilities, rtol=1e-12)


@pytest.mark.parametrize("option", ["gating", "groups"])
def test_new_rows_come_with_the_options_of_the_fit(option):
    table, y = _table()
    given = {option: np.arange(len(y)) // 2}
    em = bm.EM(bm.models.regression(2), restarts=1, max_steps=3, progress_bar=False)
    em = em.run(jax.random.key(0), table["age"], y, **given)
    assert em.predict_mean(table["age"], **given).shape == y.shape
    with pytest.raises(ValueError, match=f"the fit had {option}: give {option}="):
        em.predict_mean(table["age"])


def test_rows_of_covariates_and_response_go_together():
    """Names of the rows are kept, and must agree."""
    table, y = _table()
    named = table.set_axis([f"p{i}" for i in range(len(table))])
    response = pd.Series(y, index=named.index)
    program = bm.models.regression(2, family="poisson")
    assert list(bm.trace(program, named, response).index[:2]) == ["p0", "p1"]
    with pytest.raises(ValueError, match=r"row 0 is 'p0' in X and 'p\d+' in y"):
        bm.trace(program, named, response[::-1])


def test_predicts_means_for_new_covariates():
    """E[y | X] = sum_k w_k exp(eta_k), as docs/choosing.md writes it: the mean of replicates."""
    em, (table, y) = _fitted(), _table()
    params = {name: np.asarray(value) for name, value in em.params.items()}
    both = np.column_stack([table["arm"] == "b", table["arm"] == "c"]) @ params["coef_shared"]
    eta = params["intercept"] + np.outer(table["age"], params["coef"][:, 0]) + both[:, None]
    expected = np.exp(eta) @ params["weights"]
    some = np.arange(4)
    new = with_data(em.mixture, (table.iloc[some], y[some]), {})
    draws = {name: np.broadcast_to(v, (1, 4000, *v.shape)) for name, v in params.items()}
    drawn = replicate(jax.random.key(0), new, draws)[0]
    error = drawn.std(0) / np.sqrt(len(drawn))
    assert np.all(abs(drawn.mean(0) - expected[some]) <= Z * error)


def test_rows_without_a_response_have_no_density():
    """None at all is refused; one of several has the density of nothing, 1."""
    em, (table, y) = _fitted(), _table()
    with pytest.raises(ValueError, match=r"no value of 'y'.*predict_mean"):
        em.log_density(table[:3])
    some = np.append(y[:2].astype(float), np.nan)
    density = em.log_density(table[:3], some)
    assert density[2] == 0
    assert density[:2] == pytest.approx(em.log_density(table[:2], y[:2]))


# ---------------------------------------------------------------------------------- what it refuses

y20 = np.arange(20.0) % 7
x20 = np.random.default_rng(0).normal(size=(20, 2))
frame = pd.DataFrame(x20, columns=["age", "dose"])


def _with(values, row, value):
    values = values.astype(float).copy()
    values[row] = value
    return values


def _set(column, row, value):
    changed = frame.copy()
    changed.loc[row, column] = value
    return changed


REFUSED = [
    ("other rows", {}, (frame[:19], y20), {}, ["X has 19 rows", "y has 20"]),
    ("missing x", {}, (_set("dose", 3, np.nan), y20), {}, ["'dose'", "row 3", "nan"]),
    ("infinite x", {}, (_set("age", 5, np.inf), y20), {}, ["'age'", "row 5", "inf"]),
    ("missing text", {}, ({"arm": [None] + ["a", "b"] * 9 + ["a"]}, y20), {}, ["'arm'", "row 0"]),
    ("constant", {}, (frame.assign(one=1.0), y20), {}, ["'one'", "constant", "intercept"]),
    ("collinear", {"prior": "flat"}, (frame.assign(sum=x20.sum(1)), y20), {},
     ["'sum'", "linear combination", "flat"]),
    ("negative count", {"family": "poisson"}, (frame, _with(y20, 4, -1)), {}, ["row 4", "-1"]),
    ("not 0 or 1", {"family": "bernoulli"}, (frame, y20), {}, ["'y'", "row 2", "2"]),
    ("without trials", {"family": "binomial"}, (frame, y20), {}, ["trials", "binomial"]),
    ("needless trials", {"family": "poisson"}, (frame, y20), {"trials": y20}, ["trials"]),
    ("too few trials", {"family": "binomial"}, (frame, y20), {"trials": 5},
     ["row 6", "6 successes", "5 trials"]),
    ("half a success", {"family": "binomial"}, (frame, y20 + np.eye(20)[3] / 2), {"trials": 20},
     ["row 3", "3.5 successes", "whole numbers"]),
    ("fewer than none", {"family": "binomial"}, (frame, y20), {"trials": np.eye(20)[2] * -22 + 20},
     ["row 2", "-2 trials"]),
    ("half a trial", {"family": "binomial"}, (frame, y20), {"trials": np.eye(20)[2] / 2 + 20},
     ["row 2", "20.5 trials"]),
    ("trials of some rows", {"family": "binomial"}, (frame, y20), {"trials": np.full(19, 20)},
     ["trials", "(19,)", "20 rows"]),
    ("unknown trials", {"family": "binomial"}, (frame, y20), {"trials": np.full(20, np.nan)},
     ["trials", "nan", "row 0"]),
    ("trials in words", {"family": "binomial"}, (frame, y20), {"trials": ["many"] * 20},
     ["trials", "many", "numbers"]),
    ("successes and failures", {"family": "binomial"}, (frame, np.tile(y20[:, None], 2)), {},
     ["y", "(20, 2)", "one value per row"]),
    ("no rows", {}, (frame[:0], y20[:0]), {}, ["at least one row"]),
    ("unknown shared", {"shared": ["sex"]}, (frame, y20), {}, ["'sex'", "'age'", "'dose'"]),
    ("short offset", {}, (frame, y20), {"offset": y20[:3]}, ["offset", "(3,)", "20"]),
    ("missing offset", {}, (frame, y20), {"offset": _with(y20, 2, np.nan)}, ["offset", "row 2"]),
    ("short groups", {}, (frame, y20), {"groups": [1, 2]}, ["groups", "(2,)", "20"]),
    ("no group", {}, (frame, y20), {"groups": _with(y20, 2, np.nan)}, ["groups", "row 2"]),
    ("gating in a group", {}, (frame, y20), {"groups": y20, "gating": frame},
     ["'age'", "gating", "row 7", "row 0"]),
    ("text response", {}, (frame, ["a"] * 20), {}, ["y holds", "'a'"]),
    ("name of the response", {}, (frame, "dose"), {}, ["y is the text 'dose'", "table['dose']"]),
    ("name of groups", {}, (frame, y20), {"groups": "dose"}, ["groups is the text 'dose'"]),
    ("unknown family", {"family": "gamma"}, (frame, y20), {}, ["family", "'normal'", "'gamma'"]),
]  # fmt: skip


@pytest.mark.parametrize(
    "settings, args, given, words", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refuses_in_words(settings, args, given, words):
    with pytest.raises(ValueError) as caught:
        bm.trace(bm.models.regression(2, **settings), *args, **given)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
