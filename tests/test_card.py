"""The card: its numbers against NumPy and SciPy, its refusals, its words and its looks."""

from html.parser import HTMLParser

import fits
import jax
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import bayesmix as bm
from bayesmix.card import card, parameters, words

ROUNDING = 1e-9


@pytest.fixture(scope="module")
def results():
    return fits.pair("faithful")


@pytest.fixture(scope="module")
def made(results):
    em, nuts, _ = results
    return card(em, nuts)


def log_terms(x, weights, loc, cov):
    """log w_k + log f_k(x_n), (N, K)."""
    parts = zip(weights, loc, cov, strict=True)
    return np.stack([np.log(w) + multivariate_normal.logpdf(x, m, c) for w, m, c in parts], -1)


def resp_of(x, params):
    terms = log_terms(x, params["weights"], params["loc"], params["cov"])
    return np.exp(terms - logsumexp(terms, axis=-1, keepdims=True))


def each_draw(truth):
    for at in np.ndindex(fits.CHAINS, fits.DRAWS):
        yield {site: values[at] for site, values in truth.items()}


# Numbers.


def test_parameters_are_summarised_in_the_names_of_em(results, made):
    """Shuffled names are undone: every row equals NumPy's summary of the draws before shuffling."""
    em, nuts, truth = results
    assert not np.allclose(nuts.samples["loc"], truth["loc"])
    columns = list(em.mixture.columns)
    for label, row in made.parameters.iterrows():
        site, inner = label[:-1].split("[")
        at = tuple(columns.index(p) if p in columns else int(p) for p in inner.split(", "))
        draws, point = truth[site][(..., *at)], em.params[site][at]
        wanted = {
            "map": point,
            "mean": draws.mean(),
            "sd": draws.std(ddof=1),
            "eti95_lb": np.quantile(draws, 0.025),
            "eti95_ub": np.quantile(draws, 0.975),
            "map_in_sd": (point - draws.mean()) / draws.std(ddof=1),
        }
        assert row[list(wanted)].to_dict() == pytest.approx(wanted, rel=ROUNDING, abs=ROUNDING)


def test_diagnostics_are_arviz_s(results, made):
    import arviz_stats

    _, _, truth = results
    from xarray import Dataset, DataTree

    posterior = Dataset({"loc": (("chain", "draw", "cluster", "feature"), truth["loc"])})
    tree = DataTree.from_dict({"posterior": posterior})
    rhat = arviz_stats.rhat(tree)["loc"].to_numpy()
    ess = arviz_stats.ess(tree)["loc"].to_numpy()
    rows = made.parameters.filter(like="loc", axis=0)
    assert rows["r_hat"].to_numpy() == pytest.approx(rhat.ravel())
    assert rows["ess_bulk"].to_numpy() == pytest.approx(ess.ravel())


def test_a_symmetric_matrix_is_listed_once(made):
    assert list(made.parameters.filter(like="cov[0", axis=0).index) == [
        "cov[0, eruptions, eruptions]",
        "cov[0, waiting, eruptions]",
        "cov[0, waiting, waiting]",
    ]


def test_invariant_quantities(results, made):
    """Log joint from NumPyro, weights and entropy from NumPy; names of clusters play no part."""
    em, _, truth = results
    x = np.asarray(em.mixture.value)
    entropy = []
    for params in each_draw(truth):
        resp = resp_of(x, params)
        entropy.append(-np.sum(resp * np.log(np.where(resp > 0, resp, 1)), axis=-1).mean())
    weights = -np.sort(-truth["weights"], axis=-1)
    rows = made.invariant
    assert list(rows.index) == ["log_joint", "sorted_weights[0]", "sorted_weights[1]", "entropy"]
    assert rows.loc["entropy", "mean"] == pytest.approx(np.mean(entropy), rel=1e-7)
    assert rows.loc["sorted_weights[0]", "mean"] == pytest.approx(weights[..., 0].mean())
    assert rows.loc["log_joint", "map"] == em.log_joint
    assert rows.loc["log_joint", "mean"] == pytest.approx(np.mean(log_joints(em, truth)), rel=1e-7)


def log_joints(em, truth):
    from numpyro.infer.util import log_density

    with jax.enable_x64(True):
        x = jax.numpy.asarray(np.asarray(em.mixture.value, float))
        value = jax.jit(lambda p: log_density(em.mixture.program, (x,), {}, p)[0])
        flat = {s: v.reshape(-1, *v.shape[2:]) for s, v in truth.items()}
        return [float(value({s: v[i] for s, v in flat.items()})) for i in range(0, 240, 1)]


def test_observations(results, made):
    em, _, truth = results
    x = np.asarray(em.mixture.value)
    mine = resp_of(x, em.params)
    theirs = np.mean([resp_of(x, params) for params in each_draw(truth)], axis=0)
    row = np.arange(len(x))
    seen = made.observations
    assert seen["em_prob"].to_numpy() == pytest.approx(mine.max(1), abs=1e-7)
    assert (seen["em_cluster"] == mine.argmax(1)).all()
    assert (seen["nuts_cluster"] == theirs.argmax(1)).all()
    assert seen["same_prob"].to_numpy() == pytest.approx(theirs[row, mine.argmax(1)], abs=1e-7)
    gap = mine.max(1) - theirs[row, mine.argmax(1)]
    assert seen["overconfidence"].to_numpy() == pytest.approx(gap, abs=1e-7)
    assert made.facts["moved"] == int((mine.argmax(1) != theirs.argmax(1)).sum())


def test_averaging_raises_entropy(made):
    """Jensen: the average of responsibilities is less certain than they are on average."""
    assert made.facts["entropy_nuts"] >= made.facts["entropy_draws"]


def test_frame_holds_both_tables_and_survives_csv(made, tmp_path):
    frame = made.to_frame()
    assert list(frame.index.get_level_values("kind").unique()) == ["label-invariant", "relabelled"]
    assert len(frame) == len(made.invariant) + len(made.parameters)
    frame.to_csv(tmp_path / "card.csv")
    again = pd.read_csv(tmp_path / "card.csv", index_col=[0, 1])
    pd.testing.assert_frame_equal(again, frame, check_exact=False)


def test_one_dimensional_and_count_data():
    for name, labels in (("waiting", "loc[0]"), ("articles", "rate[1]")):
        em, nuts, truth = fits.pair(name)
        row = card(em, nuts).parameters.loc[labels]
        site, k = labels[:-1].split("[")
        assert row["mean"] == pytest.approx(truth[site][..., int(k)].mean())


def test_parameters_are_those_of_the_table(results, made):
    em, nuts, _ = results
    assert [p.label for p in parameters(em, nuts)] == list(made.parameters.index)


def test_one_chain_has_no_rhat(results):
    em, _, truth = results
    one = {site: values[:1] for site, values in truth.items()}
    stats = {"diverging": np.zeros((1, fits.DRAWS), bool)}
    made = card(em, fits.stand_in(em, one, sample_stats=stats))
    assert made.parameters["r_hat"].isna().all()
    assert "run more chains" in made.verdict[0]


# Refusals.


def other_program(x):
    import numpyro

    weights = numpyro.sample("weights", dist.Dirichlet(np.full(2, 7.0)))
    with numpyro.plate("cluster", 2):
        cov = numpyro.sample("cov", dist.InverseWishart(9.0, scale_matrix=np.eye(2)))
        loc = numpyro.sample("loc", dist.MultivariateNormal(np.zeros(2), 100 * np.eye(2)))
    with numpyro.plate("obs_id", len(x)):
        parts = dist.MultivariateNormal(loc, covariance_matrix=cov)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)


def mixture(program, data):
    return bm.trace(program, data)


FAITHFUL = bm.datasets.load_faithful()
OTHERS = {
    "another K": (lambda: mixture(bm.models.gaussian(3), FAITHFUL), "2 clusters and nuts has 3"),
    "fewer rows": (lambda: mixture(bm.models.gaussian(2), FAITHFUL[:200]), "shape"),
    "other data": (lambda: mixture(bm.models.gaussian(2), FAITHFUL + 1), "different data"),
    "other sites": (
        lambda: mixture(bm.models.gaussian(2, covariance="diag"), FAITHFUL),
        "different programs: site 'cov'",
    ),
    "other priors": (lambda: mixture(other_program, FAITHFUL), "different programs: at EM's MAP"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_refuses_results_that_answer_different_questions(results, name):
    em, nuts, _ = results
    make, sentence = OTHERS[name]
    with pytest.raises(ValueError, match=sentence):
        card(em, fits.stand_in(em, nuts.samples, mixture=make()))


def test_refuses_arguments_in_the_wrong_places(results):
    em, nuts, _ = results
    with pytest.raises(ValueError, match="EM's result first"):
        card(nuts, em)
    with pytest.raises(ValueError, match="NUTS's result second"):
        card(em, em)
    with pytest.raises(ValueError, match="NUTS's result second, not NoneType"):
        card(em, None)


def test_the_same_program_traced_twice_is_the_same(results):
    em, nuts, _ = results
    again = fits.stand_in(em, nuts.samples, mixture=mixture(bm.models.gaussian(2), FAITHFUL))
    assert card(em, again).facts["moved"] == card(em, nuts).facts["moved"]


# Words.


GOOD = {
    "converged": True,
    "regular": True,
    "kind": "relabelled",
    "divergences": 0,
    "chains": 4,
    "draws": 1000,
    "rhat_invariant": 1.001,
    "rhat_parameters": 1.002,
    "ess_invariant": 2000.0,
    "higher": -3.0,
    "farthest": ("loc[0]", 0.2),
    "moved": 0,
    "N": 100,
    "overconfident": 0,
}
VERDICTS = [
    ({}, "The chains agree", False),
    ({"rhat_invariant": 1.7}, "do not use these draws", True),
    ({"rhat_invariant": 1.02}, "run them longer", True),
    ({"ess_invariant": 100.0}, "draw more", True),
    ({"rhat_parameters": 1.5}, "trust label-invariant quantities only", True),
    ({"converged": False}, "EM did not converge", True),
    ({"regular": False}, "EM found no regular mode", True),
    ({"divergences": 3}, "3 transitions of 4000 diverged", True),
    ({"higher": 4.2}, "4.20 nats above EM's MAP: EM missed a mode", True),
    ({"farthest": ("var[1]", -1.6)}, "var[1] lies -1.6 sd from it", False),
    ({"moved": 1}, "1 of 100 observations changes cluster", False),
    ({"overconfident": 12}, "about 12 observations", False),
]


@pytest.mark.parametrize(("change", "sentence", "care"), VERDICTS)
def test_verdict_in_words(change, sentence, care):
    facts = {**GOOD, **change}
    assert sentence in " ".join(words.verdict(facts))
    assert words.needs_care(facts) == care


def test_text_fits_a_terminal_and_says_what_matters(made):
    text = str(made)
    assert max(map(len, text.splitlines())) <= 100
    flowing = " ".join(text.split())
    assert "read these first" in flowing
    assert text.index("Label-invariant") < text.index("Parameters, relabelled")
    assert "95% eti" in text
    assert "does not test for modes that EM never saw" in flowing
    assert "no Jacobian" in flowing
    assert "nan" not in text.lower().replace("covariance", "")


def test_long_tables_are_cut_with_a_pointer(made):
    assert "more: card.to_frame()" in made.to_text(rows=3)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_well_formed_and_self_contained(made):
    tags, page = Tags(), made._repr_html_()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert {"style", "table", "svg"} <= set(tags.seen)
    assert not {"script", "link", "img"} & set(tags.seen)
    assert "http" not in page


def test_html_escapes_the_users_names():
    data = FAITHFUL.rename(columns={"waiting": "<b>wait & see</b>"})
    em = bm.EM(bm.models.gaussian(2), restarts=1, progress_bar=False).run(jax.random.key(0), data)
    truth = fits.around(em, np.random.default_rng(0))
    page = card(em, fits.stand_in(em, truth)).to_html()
    assert "<b>wait" not in page
    assert "&lt;b&gt;wait &amp; see" in page
