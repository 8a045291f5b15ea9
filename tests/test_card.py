"""The card: its numbers against NumPy and SciPy, its refusals, its words and its looks."""

import html
from html.parser import HTMLParser

import fits
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from oracles import Z
from scipy.special import logsumexp
from scipy.stats import cauchy, multivariate_normal
from scipy.stats import entropy as shannon
from sklearn.metrics import adjusted_rand_score

import bayesmix as bm
from bayesmix.card import card, grids, parameters, partitions, sources, words
from bayesmix.card.observations import calibration_error, calibration_of

ROUNDING = 1e-9


@pytest.fixture(scope="module")
def results():
    return fits.pair("faithful")


@pytest.fixture(scope="module")
def made(results):
    em, nuts, _ = results
    return card(em, nuts)


@pytest.fixture(scope="module")
def flowers():
    """Three clusters, two of which overlap; NUTS, Laplace and the bootstrap side by side."""
    em, nuts, truth = fits.pair("flowers")
    flat = {site: values.reshape(-1, *values.shape[2:]) for site, values in truth.items()}
    counts = np.random.default_rng(3).multinomial(COUNT, np.full(COUNT, 1 / COUNT))
    laplace, bootstrap = laplace_of(em, flat, counts, k_hat=0.4), bootstrap_of(em, flat)
    return card(em, bootstrap, laplace, nuts), em, nuts, flat, counts


@pytest.fixture(scope="module")
def articles():
    """Two clusters of counts that can hardly be told apart."""
    em, nuts, truth = fits.pair("articles")
    return card(em, nuts), em, nuts, truth


COUNT = fits.CHAINS * fits.DRAWS


def laplace_of(em, flat, counts, k_hat):
    """A Laplace result of these draws, whose weights are counts."""
    with np.errstate(divide="ignore"):
        log_weights = np.log(counts / counts.sum())
    return bm.LaplaceResult(
        mixture=em.mixture,
        params=flat,
        log_weights=log_weights,
        log_evidence=0.0,
        log_evidence_error=0.0,
        k_hat=k_hat,
        ess=123.0,
        modes=(None,),
        sample_stats={"lp": np.zeros(COUNT), "log_weight": log_weights},
        start=em,
        notes=("a note of Laplace",),
        seconds=0.1,
        seed="0",
        settings={},
    )


def bootstrap_of(em, flat):
    return bm.BootstrapResult(
        mixture=em.mixture,
        params=flat,
        sample_stats={"converged": np.ones(COUNT, bool), "n_steps": np.ones(COUNT, int)},
        start=em,
        notes=(),
        seconds=1.0,
        seed="0",
        settings={"weights": "dirichlet"},
    )


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
    assert (seen["posterior_cluster"] == theirs.argmax(1)).all()
    assert seen["same_prob"].to_numpy() == pytest.approx(theirs[row, mine.argmax(1)], abs=1e-7)
    gap = mine.max(1) - theirs[row, mine.argmax(1)]
    assert seen["overconfidence"].to_numpy() == pytest.approx(gap, abs=1e-7)
    assert made.facts["moved"] == int((mine.argmax(1) != theirs.argmax(1)).sum())
    worst = np.sort(gap[gap > 0.05])[::-1]
    assert made.overconfident["overconfidence"].to_numpy() == pytest.approx(worst, abs=1e-7)


def test_averaging_raises_entropy(made):
    """Jensen: the average of responsibilities is less certain than they are on average."""
    assert made.facts["entropy_posterior"] >= made.facts["entropy_draws"]


def test_frame_holds_both_tables_and_survives_csv(made, tmp_path):
    frame = made.to_frame()
    assert list(frame.index.get_level_values("kind").unique()) == ["label-invariant", "relabelled"]
    assert len(frame) == len(made.invariant) + len(made.parameters)
    frame.to_csv(tmp_path / "card.csv")
    again = pd.read_csv(tmp_path / "card.csv", index_col=[0, 1])
    pd.testing.assert_frame_equal(again, frame, check_exact=False)


def test_one_dimensional_and_count_data(articles):
    em, nuts, truth = fits.pair("waiting")
    row = card(em, nuts).parameters.loc["loc[0]"]
    assert row["mean"] == pytest.approx(truth["loc"][..., 0].mean())
    made, _, _, truth = articles
    assert made.parameters.loc["rate[1]", "mean"] == pytest.approx(truth["rate"][..., 1].mean())


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


# Calibration.


def test_calibration_bins_hold_every_observation_once(flowers):
    """Each row against the observations in its bin; the error against its formula."""
    made = flowers[0]
    seen, error = made.observations, 0.0
    for _, row in made.calibration.iterrows():
        last = row["high"] == 1.0
        own = seen[(seen["em_prob"] >= row["low"]) & ((seen["em_prob"] < row["high"]) | last)]
        means = own[["em_prob", "same_prob"]].mean()
        assert len(own) == row["observations"]
        assert list(row[["em", "posterior"]]) == pytest.approx(list(means))
        error += len(own) / len(seen) * abs(means["em_prob"] - means["same_prob"])
    assert made.calibration["observations"].sum() == len(seen)
    assert made.facts["calibration_error"] == pytest.approx(error)
    assert len(made.calibration) > 3


def test_calibration_error_of_known_cases():
    """Gaps of opposite sign cancel within a bin, not between bins; 1 is in the last bin."""
    em = np.array([1.0, 0.995, 0.72, 0.78])
    frame = pd.DataFrame({"em_prob": em, "same_prob": em - [0.2, 0.0, 0.1, -0.1]})
    assert calibration_error(calibration_of(frame)) == pytest.approx(0.2 / 4)
    assert calibration_error(calibration_of(frame.assign(same_prob=em))) == 0.0


def test_expected_mistakes(flowers):
    made = flowers[0]
    assert made.facts["wrong_em"] == pytest.approx((1 - made.observations["em_prob"]).sum())
    wrong = (1 - made.observations["same_prob"]).sum()
    assert made.facts["wrong_posterior"] == pytest.approx(wrong)


# Partitions.


def information(a, b):
    """VI in bits, from the entropies of a contingency table."""
    table = np.histogram2d(a, b, bins=[np.arange(a.max() + 2), np.arange(b.max() + 2)])[0]
    both = shannon(table.ravel(), base=2)
    return 2 * both - shannon(table.sum(0), base=2) - shannon(table.sum(1), base=2)


MEASURES = {"vi": information, "adjusted_rand": adjusted_rand_score}


def assignments_of(em, nuts):
    """The card's assignments, (S, N): one of each draw in EM's names, with key 0."""
    tree = sources.source(em, "NUTS", nuts).tree
    z = bm.allocations(jax.random.key(0), tree).to_numpy()
    return z.reshape(-1, z.shape[-1])


def test_distances_of_partitions(flowers):
    made, em, nuts, *_ = flowers
    z = assignments_of(em, nuts)
    parts = {"em": em.responsibilities.argmax(-1), "estimate": made.partition.labels}
    for measure, distance in MEASURES.items():
        for name, labels in parts.items():
            row = made.partitions.loc[measure, name]
            values = [distance(labels, draw) for draw in z]
            assert row["mean"] == pytest.approx(np.mean(values), abs=1e-9)
            for q in (5, 25, 50, 75, 95):
                assert row[f"q{q:02}"] == pytest.approx(np.quantile(values, q / 100), abs=1e-9)
            to_estimate = distance(labels, made.partition.labels)
            assert row["to_estimate"] == pytest.approx(to_estimate, abs=1e-9)


def test_what_the_partition_of_em_costs(articles):
    """Neither EM's partition nor a draw has less expected VI than the point estimate."""
    made, em, nuts, _ = articles
    z = assignments_of(em, nuts)

    def expected(labels):
        return np.mean([information(labels, draw) for draw in z])

    best, mine = expected(made.partition.labels), expected(em.responsibilities.argmax(-1))
    assert made.facts["expected_vi"] == pytest.approx(best, abs=1e-9)
    assert made.facts["excess"] == pytest.approx(mine - best, abs=1e-9)
    assert made.facts["em_vi"] > 0.1
    assert best < min(mine, *(expected(labels) for labels in z[::24]))
    assert not made.trust.loc["EM's partition", "trusted"]


def test_occupied_clusters(flowers):
    made, em, nuts, *_ = flowers
    many = np.array([len(np.unique(draw)) for draw in assignments_of(em, nuts)])
    shares = [np.mean(many == n) for n in range(len(made.facts["occupied"]))]
    assert list(made.facts["occupied"]) == pytest.approx(shares)


def test_large_results_are_thinned(results, monkeypatch):
    """Every second draw for responsibilities; a random subset of observations for partitions."""
    em, nuts, truth = results
    monkeypatch.setattr(sources, "MOST_NUMBERS", 240 * 272 * 2 / 2)
    monkeypatch.setattr(partitions, "MOST_ROWS", 100)
    monkeypatch.setattr(partitions, "MOST_CELLS", 100 * 60)
    made = card(em, nuts)
    few = [{site: v[c, d] for site, v in truth.items()} for c in range(3) for d in range(0, 80, 2)]
    theirs = np.mean([resp_of(np.asarray(em.mixture.value), params) for params in few], axis=0)
    same = theirs[np.arange(272), made.observations["em_cluster"]]
    assert made.observations["same_prob"].to_numpy() == pytest.approx(same, abs=1e-7)
    assert len(made.partition.labels) == 100
    assert made.facts["partition_draws"] == 60
    flowing = " ".join(str(made).split())
    assert "one assignment of a random 100 of 272 observations" in flowing
    assert "looked at in 40 evenly spaced of the 80 draws per chain" in flowing


# Several results.


def test_results_stand_side_by_side(flowers):
    """NUTS judges whatever the order; Laplace's draws count by their weights."""
    made, _, _, flat, counts = flowers
    assert made.heading == "EM against NUTS"
    assert [name for name, _ in made.engines] == ["EM", "NUTS", "Laplace", "bootstrap"]
    for k in range(3):
        for prefix, times in (("laplace_", counts), ("bootstrap_", np.ones(COUNT, int))):
            row, draws = made.parameters.loc[f"weights[{k}]"], flat["weights"][:, k].repeat(times)
            assert row[f"{prefix}mean"] == pytest.approx(draws.mean())
            assert row[f"{prefix}sd"] == pytest.approx(draws.std(ddof=1))
            assert row[f"{prefix}eti95_ub"] == pytest.approx(np.quantile(draws, 0.975))
    joint = made.invariant.loc["log_joint"]
    assert joint["bootstrap_mean"] == pytest.approx(joint["mean"])
    assert "bootstrap beside NUTS: parameters' means differ by at most 0.00 sd" in str(made)
    assert "Laplace: a note of Laplace" in str(made)


def test_an_answer_before_nuts_was_run():
    em, _, truth = fits.pair("waiting")
    flat = {site: values.reshape(-1, *values.shape[2:]) for site, values in truth.items()}
    made = card(em, laplace_of(em, flat, np.ones(COUNT, int), 0.4))
    assert made.heading == "EM against Laplace"
    assert "run NUTS" not in made.verdict[0]
    assert made.trust["trusted"].iloc[0]
    assert made.parameters["r_hat"].isna().all()
    assert (made.parameters["ess_bulk"] == 123.0).all()
    assert not words.needs_care(made.facts)


SPREAD = np.array([1.0, 100.0, 100.0, 100.0, 100.0])


def heavy_tails(x):
    """Two groups by the first column; of the others the rows say little, and priors are Cauchy."""
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Cauchy(0.0, 1.0).expand([5]).to_event(1))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=np.full(2, 0.5)), dist.Normal(loc, SPREAD).to_event(1)
    )
    with numpyro.plate("obs_id", len(x)):
        numpyro.sample("x", mixture, obs=x)


def test_nuts_takes_the_place_of_laplace_s_draws_that_k_hat_refuses():
    """Tails that no Normal's weights can carry; each mean's posterior is known by quadrature."""
    rows = np.random.default_rng(0).normal(size=(6, 5))
    rows[:, 0] += 50.0 * np.repeat([-1.0, 1.0], 3)
    em = bm.EM(heavy_tails, restarts=2, progress_bar=False).run(jax.random.key(0), rows)
    laplace = em.laplace(jax.random.key(0), 1000)
    assert laplace.k_hat > 0.7
    made = card(em, laplace)
    assert made.heading == "EM against NUTS"
    assert [name for name, _ in made.engines] == ["EM", "NUTS", "Laplace"]
    assert f"in the place of Laplace's draws, whose k-hat is {laplace.k_hat:.2f}" in str(made)
    (nuts,) = sources.in_its_place(em, [laplace])
    assert not sources.in_its_place(em, [laplace, nuts])  # once there is NUTS
    same = np.isclose(made.parameters.loc["loc[0, 1]", "mean"], nuts.samples["loc"].mean((0, 1)))
    assert same[:, 1].any()
    grid = np.linspace(-1000.0, 1000.0, 400_001)
    for k in range(2):
        side = np.sign(nuts.samples["loc"][..., k, 0])
        assert (side == side[0, 0]).all()
        own = rows[rows[:, 0] * side[0, 0] > 0]
        for column in range(1, 5):
            heights = cauchy.logpdf(grid) - ((own[:, column, None] - grid) ** 2).sum(0) / 2e4
            mass = np.exp(heights - heights.max())
            exact = mass[np.abs(grid) < 2].sum() / mass.sum()
            near = (np.abs(nuts.samples["loc"][..., k, column]) < 2).astype(float)
            error = array_stats.mcse(near, chain_axis=0, draw_axis=1, method="mean")
            assert abs(near.mean() - exact) < Z * error


def test_laplace_end_to_end(results, made):
    """Real draws; the mode's neighbourhood is Gaussian enough for k-hat to be content."""
    em = results[0]
    laplace = em.laplace(jax.random.key(5), 400)
    quick = card(em, laplace)
    mean = np.exp(laplace.log_weights) @ laplace.params["loc"][:, 0, 1]
    row = quick.parameters.loc["loc[0, waiting]"]
    # counts are whole numbers: rounding them moves a mean by 1/2 sd / sqrt(n), here times 4
    assert abs(row["mean"] - mean) < row["sd"] * 2 / np.sqrt(400)
    assert list(quick.observations["em_prob"]) == list(made.observations["em_prob"])


def test_trust_names_every_part(flowers):
    made = flowers[0]
    assert list(made.trust.index) == [
        "draws (NUTS)",
        "names of the clusters",
        "EM's MAP as a posterior mean",
        "EM's responsibilities",
        "EM's partition",
    ]
    assert set(made.trust["because"]) <= set(made.verdict)


# Refusals.


def other_program(x):
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
    "other priors": (
        lambda: mixture(other_program, FAITHFUL),
        "different programs or arguments: at EM's MAP",
    ),
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
    with pytest.raises(ValueError, match=r"results of NUTS, em\.laplace or em\.boot"):
        card(em, em)
    with pytest.raises(ValueError, match="after EM's, not NoneType"):
        card(em, None)
    with pytest.raises(ValueError, match=r"at once card\(em, em.laplace\(key\)\)"):
        card(em)
    with pytest.raises(ValueError, match="2 results of NUTS: give one of a kind"):
        card(em, nuts, nuts)


def test_refuses_other_covariates():
    """The same program and the same observations, but other arguments beside them."""
    import programs

    rng = np.random.default_rng(0)
    t, y = rng.normal(size=(2, 40))
    fit = bm.EM(programs.regression, restarts=1, max_steps=3, progress_bar=False)
    em = fit.run(jax.random.key(0), t, y)
    other = fits.stand_in(em, {}, mixture=bm.trace(programs.regression, t + 0.1, y))
    with pytest.raises(ValueError, match="different programs or arguments: at EM's MAP"):
        card(em, other)


def test_refuses_too_few_draws(results):
    em, _, truth = results
    few = {site: values[:, :3] for site, values in truth.items()}
    stats = {"diverging": np.zeros((fits.CHAINS, 3), bool)}
    with pytest.raises(ValueError, match="NUTS gave 3 draws per chain, too few"):
        card(em, fits.stand_in(em, few, sample_stats=stats))


def test_the_same_program_traced_twice_is_the_same(results, made):
    em, nuts, _ = results
    again = fits.stand_in(em, nuts.samples, mixture=mixture(bm.models.gaussian(2), FAITHFUL))
    assert card(em, again).facts["moved"] == made.facts["moved"]


# Words.


GOOD = {
    "reference": "NUTS",
    "chain_table": pd.DataFrame({"mode": [0, 0, 0, 0]}),
    "cluster_table": pd.DataFrame({"empty": [0.0, 0.0], "duplicate": [0.0, 0.0]}),
    "names": "Names are clear.",
    "names_trusted": True,
    "calibration_error": 0.001,
    "em_vi": 0.25,
    "em_rand": 0.8,
    "em_clusters": "3 clusters",
    "estimate_clusters": "2 clusters",
    "estimate_number": 2,
    "rand_range": (0.7, 0.9),
    "excess": 0.001,
    "expected_vi": 0.1,
    "converged": True,
    "regular": True,
    "kind": "relabelled",
    "divergences": 0,
    "stays": [],
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
    ({"higher": 4.2}, "4.20 nats above EM's MAP: EM listed a higher mode", True),
    ({"farthest": ("var[1]", -1.6)}, "var[1] lies -1.6 sd from it", False),
    ({"moved": 1}, "1 of 100 observations changes cluster", False),
    ({"overconfident": 12}, "about 12 observations", False),
    ({"calibration_error": 0.03}, "Not as they stand: EM's responsibilities.", False),
    ({"excess": 0.02}, "Not as they stand: EM's partition.", False),
    ({"excess": 0.02}, "is expected to cost 20% more", False),
    ({"em_vi": 0.0}, "EM's partition is the posterior's point estimate, 2 clusters", False),
    ({}, "adjusted Rand index of 0.70 to 0.90 with the estimate.", False),
    ({"estimate_number": 1}, "observations cannot be told apart one by one", False),
    ({"names_trusted": False}, "May be used: EM's partition. Not as they stand: names", True),
    ({"names_trusted": False}, "Compared by names that cannot be trusted", True),
    ({"rhat_invariant": 1.7}, "all that is held against them is provisional", True),
    (
        {"reference": "Laplace", "judged": ("k-hat says: run NUTS.", False)},
        "k-hat says: run NUTS. Until",
        True,
    ),
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


def test_terminal_and_notebook_say_the_same(flowers):
    made = flowers[0]
    page, text = html.unescape(made.to_html()), str(made)
    flowing = " ".join(text.split())
    for grid in grids.grids(made, rows=30):
        assert grid.title in page
        for line in grid.lines:
            assert line in page
            assert " ".join(line.split()) in flowing
        for cell in {cell for row in (grid.head, *grid.body) for cell in row}:
            assert f">{cell}<" in page
            assert cell in text
    for sentence in (*made.verdict, *made.notes):
        assert sentence in page
        assert sentence in flowing


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
