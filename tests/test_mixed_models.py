"""bm.models.categorical, binomial and mixed: against poLCA and flexmix, and at the table's door."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from oracles import ROUNDING, Z, x64
from scipy import stats
from scipy.special import logsumexp

import bayesmix as bm
from bayesmix.models.categories import categories_prior
from bayesmix.plots.view import view_of

SLACK = 1e-6  # nats left when EM stops at an estimated 1e-9, with a thousandfold reserve


def fit(program, *args, restarts=8):
    return bm.EM(program, restarts=restarts, progress_bar=False).run(jax.random.key(0), *args)


# ------------------------------------------------------------------------ latent classes and trials


@pytest.mark.parametrize("name, K", [("lsat6", 2), ("carcinoma", 3)])
def test_reaches_polcas_maximum_likelihood(reference, name, K):
    """The likelihood, number of parameters and class sizes of poLCA's best of many starts."""
    expected = next(f for f in reference(f"ml/lca_{name}.json")["fits"] if f["K"] == K)
    answers = reference(f"data/{name}.csv").to_numpy()
    em = fit(bm.models.categorical(K, levels=2, prior="flat"), answers - answers.min())
    assert em.log_likelihood >= expected["loglik"] - SLACK
    assert em.n_parameters == expected["df"]
    assert em.bic <= expected["BIC"] + 2 * SLACK
    if em.log_likelihood <= expected["loglik"] + SLACK:
        ours = np.sort(em.params["weights"])
        np.testing.assert_allclose(ours, np.sort(expected["weights"]), atol=1e-3)


def test_columns_with_different_categories(reference):
    """gss82: four questions with 3, 2, 2 and 3 answers in words, read by name from the table."""
    K = 3
    expected = next(f for f in reference("ml/lca_gss82.json")["fits"] if f["K"] == K)
    table = reference("data/gss82.csv")
    em = fit(bm.models.mixed(dict.fromkeys(table.columns, "categorical"), K, prior="flat"), table)
    assert em.log_likelihood >= expected["loglik"] - SLACK
    assert em.n_parameters == expected["df"]


def _flat(shape=()):
    return dist.ImproperUniform(dist.constraints.real, (), shape)


def by_centre(deaths, total, K):
    """Arms (centre, 2): one class for a centre, its own base rate, one effect of the treatment."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    effect = numpyro.sample("effect", _flat())
    with numpyro.plate("cluster", K):
        base = numpyro.sample("base", _flat())
    with numpyro.plate("centre", len(deaths), dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        with numpyro.plate("arm", 2, dim=-1):
            logits = base[z] + effect * jnp.array([0.0, 1.0])
            numpyro.sample("deaths", dist.Binomial(total, logits=logits), obs=deaths)


def by_row(deaths, total, treated, K):
    """Each row on its own, base rate and effect by cluster."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        base, effect = numpyro.sample("base", _flat()), numpyro.sample("effect", _flat())
    with numpyro.plate("obs_id", len(deaths)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        logits = base[z] + effect[z] * treated
        numpyro.sample("deaths", dist.Binomial(total, logits=logits), obs=deaths)


@pytest.mark.parametrize("grouped", [True, False])
def test_reaches_flexmixs_binomial_regressions(reference, grouped):
    """Beta blockers in 22 centres: flexmix's likelihood, parameters and number of them, K = 2."""
    name = "flexmix_betablocker_binomial" + ("_grouped" if grouped else "")
    expected = next(f for f in reference(f"ml/{name}.json")["fits"] if f["K"] == 2)
    table = reference("data/betablocker.csv").sort_values(["Center", "Treatment"])
    deaths, total = (table[name].to_numpy() for name in ("Deaths", "Total"))
    if grouped:
        em = fit(by_centre, deaths.reshape(-1, 2), total.reshape(-1, 2), 2)
    else:
        em = fit(by_row, deaths, total, (table["Treatment"] == "Treated").to_numpy() * 1.0, 2)
    assert em.log_likelihood >= expected["loglik"] - SLACK
    assert em.n_parameters == expected["df"]
    if em.log_likelihood <= expected["loglik"] + SLACK:
        values = expected["parameters"]
        theirs = next(row for row in values if "Intercept" in row["_row"])
        theirs = sorted([theirs["Comp.1"], theirs["Comp.2"]])
        np.testing.assert_allclose(np.sort(em.params["base"]), theirs, atol=1e-4)


@pytest.mark.parametrize("levels", [None, 4])
def test_categorical_is_the_density_on_its_page(levels):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (20, 2))
    C = levels or 3
    weights = rng.dirichlet([2.0, 2.0])
    probs = rng.dirichlet(np.ones(C), (2, 2))
    counts = (x[..., None] == np.arange(C)).sum(0)
    alpha = 1 + (counts + 1 / C) / 21
    prior = stats.dirichlet.logpdf(weights, [2.0, 2.0])
    prior += sum(stats.dirichlet.logpdf(probs[k, d], alpha[d]) for k in range(2) for d in range(2))
    terms = np.log(weights) + np.stack([np.log(probs[k, [0, 1], x]).sum(-1) for k in range(2)], -1)
    expected = prior + logsumexp(terms, -1).sum()
    program = bm.models.categorical(2, levels=levels)
    params = {"weights": weights, "probs": probs}
    with x64():
        ours = float(bm.log_joint(bm.trace(program, x), params))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


def test_binomial_is_the_density_on_its_page():
    rng = np.random.default_rng(1)
    n = rng.integers(3, 12, 15)
    x = rng.binomial(n, 0.4)
    m = (x.sum() + 0.5) / (n.sum() + 1)
    params = {"weights": np.array([0.3, 0.7]), "probs": np.array([0.2, 0.6])}
    prior = stats.dirichlet.logpdf(params["weights"], [2.0, 2.0])
    prior += stats.beta.logpdf(params["probs"], 1 + m, 2 - m).sum()
    terms = np.log(params["weights"]) + stats.binom.logpmf(x[:, None], n[:, None], params["probs"])
    expected = prior + logsumexp(terms, -1).sum()
    with x64():
        ours = float(bm.log_joint(bm.trace(bm.models.binomial(2), x, n), params))
    assert abs(ours - expected) <= ROUNDING * (1 + abs(expected))


def test_flat_prior_on_categories_is_flat():
    codes = jnp.zeros((5, 2), int)
    np.testing.assert_array_equal(categories_prior(codes, 3, "flat").concentration, np.ones((2, 3)))


# ------------------------------------------------------------------------------------ mixed columns

_rng = np.random.default_rng(4)
_g = np.repeat([0, 1], 40)
TABLE = pd.DataFrame(
    {
        "height": _rng.normal(170 + 12 * _g, 4.0),
        "weight": _rng.normal(62 + 14 * _g, 5.0),
        "visits": _rng.poisson(1 + 5 * _g),
        "wait": _rng.exponential(1 + 4 * _g),
        "smoker": np.where(_rng.random(80) < 0.2 + 0.6 * _g, "yes", "no"),
        "region": np.array(["north", "south", "west"])[(_g + _rng.integers(0, 2, 80)) % 3],
        "note": "not used",
    }
)
KINDS = {
    ("height", "weight"): "gaussian",
    "visits": "poisson",
    "wait": "exponential",
    "smoker": "bernoulli",
    "region": "categorical",
}


@pytest.fixture(scope="module")
def people():
    return fit(bm.models.mixed(KINDS, K=2), TABLE, restarts=4)


def test_every_kind_has_its_closed_form(people):
    assert "ascent" not in people.plan
    assert {site.name for site in people.mixture.observed} == {
        "height_weight", "visits", "wait", "smoker", "region"
    }  # fmt: skip
    labels = people.responsibilities.argmax(1)
    assert max((labels == _g).mean(), (labels != _g).mean()) > 0.95


SKEWED = pd.DataFrame(
    {
        "dose": _rng.gamma(5.0, 0.5 + _g),
        "income": _rng.lognormal(1.0 + _g, 0.4),
        "life": _rng.weibull(2.0, 80) * (1 + 2 * _g),
        "lag": 1 / _rng.gamma(4.0, 1.0 + _g),
        "share": _rng.beta(2 + 6 * _g, 6.0),
        "bearing": _rng.vonmises(2.0 - 3.0 * _g, 4.0),
        "tries": _rng.geometric(0.5 - 0.35 * _g) - 1,
        "bites": _rng.negative_binomial(4, 0.6 - 0.3 * _g),
    }
)
SKEWED["spots"] = np.where(_rng.random(80) < 0.3, 0, _rng.poisson(2 + 4 * _g))
SKEWED["ticks"], SKEWED["nests"] = SKEWED["bites"], SKEWED["spots"]
SKEWED["eggs"], SKEWED["slant"] = SKEWED["tries"], SKEWED["income"] - SKEWED["lag"]
SKEWED["error"] = 2.0 * _g + _rng.standard_t(3.0, 80)
SKEWED_KINDS = {
    "dose": "gamma", "income": "log_normal", "life": "weibull", "lag": "inverse_gamma",
    "share": "beta", "bearing": "von_mises", "tries": "geometric", "bites": "negative_binomial",
    "spots": "zero_inflated_poisson", "ticks": "zero_inflated_negative_binomial",
    "nests": "hurdle_poisson", "eggs": "hurdle_negative_binomial", "slant": "skew_normal",
    "error": "student_t",
}  # fmt: skip


def test_columns_of_every_family_side_by_side():
    """Each column's sites have the priors of the model for it alone; the log joint is their sum."""
    program = bm.models.mixed(SKEWED_KINDS, 1)
    with x64():
        mixture = bm.trace(program, SKEWED)
        rng, params, alone = np.random.default_rng(0), {"weights": np.ones(1)}, 0.0
        for name, kind in SKEWED_KINDS.items():
            own = bm.trace(getattr(bm.models, kind)(1), SKEWED[name].to_numpy())
            values = {n: rng.beta(3, 3, s.shape) for n, s in own.sites.items() if n != "weights"}
            if kind == "von_mises":
                values["loc"] = np.array([2.0])
            params |= {f"{name}_{site}": np.atleast_1d(value) for site, value in values.items()}
            alone += float(bm.log_joint(own, {"weights": np.ones(1), **values}))
        assert float(bm.log_joint(mixture, params)) == pytest.approx(alone, rel=1e-10)


def test_skewed_columns_tell_clusters_apart():
    kinds = {n: SKEWED_KINDS[n] for n in ("dose", "share", "bearing", "tries", "spots", "nests")}
    em = fit(bm.models.mixed(kinds, K=2), SKEWED, restarts=4)
    labels = em.responsibilities.argmax(1)
    assert max((labels == _g).mean(), (labels != _g).mean()) > 0.95
    assert {"dose_mean", "share_concentration", "bearing_loc", "tries_probs"} <= set(em.params)
    assert em.params["spots_gate"].shape == (2,)
    assert "no N x K" in " ".join(str(em.mixture).split())


def test_columns_with_hidden_variables_are_fitted():
    """Skew-normal and Student-t beside a count; some of the numbers are missing."""
    table = SKEWED[["slant", "error", "spots"]].astype(float)
    table.iloc[3, 0] = table.iloc[5, 1] = np.nan
    kinds = {name: SKEWED_KINDS[name] for name in table.columns}
    em = fit(bm.models.mixed(kinds, K=2), table, restarts=2)
    assert em.converged
    assert bm.certify(jax.random.key(0), em.mixture, points=1).passed


def test_new_tables_are_numbered_as_the_fit_was(people):
    """Rows without the first category, in another order of columns and rows."""
    rows = np.flatnonzero((TABLE["region"] != "north") & (TABLE["smoker"] == "yes"))[::-1][:5]
    some = TABLE.iloc[rows][TABLE.columns[::-1]]
    np.testing.assert_allclose(
        people.predict_proba(some), people.responsibilities[rows], atol=1e-12
    )


def test_rows_keep_their_names_and_columns_are_drawn(people):
    named = TABLE.set_axis([f"row {n}" for n in range(len(TABLE))])
    mixture = bm.trace(people.mixture.program, named)
    assert list(mixture.index[:2]) == ["row 0", "row 1"]
    view = view_of(people)
    assert view.columns[0] == "height"
    assert view.columns[2:] == ("visits", "wait", "smoker", "region")
    np.testing.assert_array_equal(view.data[:, 2], TABLE["visits"])
    picture = bm.plots.clusters(people, columns=["visits", "wait"])
    assert picture.get_axes()[0].get_xlabel() == "visits"


def test_categories_are_drawn_by_their_names(people):
    for source in (people, people.to_datatree()):
        (ax,) = bm.plots.clusters(source, columns=["region", "visits"]).axes
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["north", "south", "west"]
        drawn = np.concatenate([c.get_offsets() for c in ax.collections])
        codes = np.unique(TABLE["region"], return_inverse=True)[1]
        assert sorted(np.round(drawn[:, 0])) == sorted(codes)
    figure = bm.plots.clusters(people, TABLE, columns=["visits", "wait", "smoker"])
    bars = [patch for patch in figure.axes[8].patches if patch.get_height() > 0]
    seen = {0: 0.0, 1: 0.0}
    for bar in bars:
        seen[round(bar.get_x() + bar.get_width() / 2)] += bar.get_height()
    assert seen == pytest.approx(
        {0: (TABLE["smoker"] == "no").sum(), 1: (TABLE["smoker"] == "yes").sum()}
    )


def test_samples_come_as_the_table_came(people):
    """Columns in the model's order, text as categories, counts as whole numbers."""
    drawn = people.sample(jax.random.key(1), 4000)
    assert list(drawn.columns) == ["height", "weight", "visits", "wait", "smoker", "region"]
    assert list(drawn["region"].cat.categories) == ["north", "south", "west"]
    assert drawn["visits"].dtype.kind == "i"
    p = people.params
    for level, name in enumerate(["north", "south", "west"]):
        wanted = p["weights"] @ p["region_probs"][:, level]
        error = np.sqrt(wanted * (1 - wanted) / 4000)
        assert abs((drawn["region"] == name).mean() - wanted) <= Z * error
    smokes = p["weights"] @ p["smoker_probs"]
    assert abs((drawn["smoker"] == "yes").mean() - smokes) <= Z * np.sqrt(
        smokes * (1 - smokes) / 4000
    )
    assert people.predict_proba(drawn).shape == (4000, 2)


def test_a_dict_of_columns_will_do(people):
    data = {name: TABLE[name].to_numpy() for name in TABLE.columns[:-1]}
    with x64():
        ours = float(bm.log_joint(bm.trace(people.mixture.program, data), people.params))
    assert abs(ours - people.log_joint) <= ROUNDING * abs(ours)


def test_categories_keep_their_own_order():
    table = pd.DataFrame({"size": pd.Categorical(["L", "S", "M", "S"], ["S", "M", "L"])})
    program = bm.models.mixed({"size": "categorical"}, 1)
    np.testing.assert_array_equal(bm.trace(program, table).observed[0].value, [2, 0, 1, 0])


REFUSED = [
    ({"age": "normal"}, TABLE, ["'age'", "'height'"]),
    ({"region": "normal"}, TABLE, ["'region'", "not a number", "categorical"]),
    ({"region": "bernoulli"}, TABLE, ["'region'", "3 values", "categorical"]),
    ({"visits": "poisson"}, TABLE.assign(visits=[-1] + [1] * 79), ["'visits'", "row 0", "-1"]),
    ({"day": "normal"}, TABLE.assign(day=pd.Timestamp(0)), ["'day'", "datetime64", "numbers"]),
    ({"smoker": "categorical"}, TABLE.assign(smoker=None), ["'smoker'", "no value at all"]),
]


@pytest.mark.parametrize("columns, table, words", REFUSED)
def test_refuses_tables_in_words(columns, table, words):
    with pytest.raises(ValueError) as caught:
        bm.trace(bm.models.mixed(columns, 2), table)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_refuses_a_category_that_the_fit_has_not_seen(people):
    with pytest.raises(ValueError, match="'mars' at row 1") as caught:
        people.predict_proba(TABLE[:3].assign(region=["west", "mars", "west"]))
    assert "'north'" in str(caught.value)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: bm.models.mixed({}, 2), ["dict"]),
        (lambda: bm.models.mixed({"a": "gausian"}, 2), ["gausian", "'a'"]),
        (lambda: bm.models.mixed({("a", "b"): "poisson"}, 2), ["'a'", "gaussian"]),
        (lambda: bm.models.mixed({0: "normal"}, 2), ["column 0", "rename"]),
        (lambda: bm.models.mixed({"weights": "normal"}, 2), ["'weights'", "rename"]),
        (lambda: bm.models.mixed({"a": "normal", "a_loc": "poisson"}, 2),
         ["'a_loc'", "'a'", "rename"]),
        (lambda: bm.models.mixed({("a", "b"): "gaussian", "a_b_cov": "beta"}, 2),
         ["('a', 'b')", "'a_b_cov'", "rename"]),
        (lambda: bm.models.mixed({("obs", "id"): "gaussian"}, 2), ["'obs_id'", "program itself"]),
        (lambda: bm.trace(bm.models.mixed({"a": "normal"}, 2), {"a": []}), ["at least one row"]),
        (lambda: bm.trace(bm.models.gaussian(2), TABLE[["height", "height"]]), ["'height'"]),
        (lambda: bm.trace(bm.models.gaussian(2), pd.DataFrame({"day": [pd.Timestamp(0)]})),
         ["'day'", "datetime64", "numbers"]),
        (lambda: bm.trace(bm.models.binomial(2), np.array([1, 6])), ["(x, trials)", "'trials'"]),
        (lambda: bm.models.mixed({"a": "gamma"}, 2, prior="flat"), ["'a'", "'gamma'", "default"]),
        (lambda: bm.trace(bm.models.mixed({"bearing": "von_mises"}, 2), {"bearing": [0.1, 4.0]}),
         ["'bearing'", "row 1 is 4", "wrap"]),
        (lambda: bm.models.categorical(2, levels=1), ["levels"]),
        (lambda: bm.trace(bm.models.categorical(2), np.array([0, 2, 3, 0])), ["no 1", "levels="]),
        (lambda: bm.trace(bm.models.categorical(2, levels=2), np.array([0, 1, 2])), ["row 2"]),
        (lambda: bm.trace(bm.models.binomial(2), np.array([1, 6]), np.array([4, 5])),
         ["row 1", "6 successes in 5 trials"]),
        (lambda: bm.trace(bm.models.binomial(2), np.array([1, -2]), 4), ["row 1", "-2 successes"]),
    ],
)  # fmt: skip
def test_refuses_in_words(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)
