"""Comparing mixtures: leave-one-out against its closed form and ArviZ, criteria, refusals."""

import arviz_base
import arviz_stats as azs
import jax
import numpy as np
import pytest
from fits import around, pair, shuffled
from scipy import stats
from scipy.special import softmax

import bayesmix as bm
from bayesmix.approximate import LaplaceResult
from bayesmix.compare.contenders import ANSWERS, Contender, common
from bayesmix.compare.tables import leave_one_out
from bayesmix.estimate import EMResult
from bayesmix.nuts import NUTSResult
from bayesmix.posterior import nuts_tree
from bayesmix.smc import SMCResult

N, CHAINS, DRAWS = 40, 2, 4000
FALSE_ALARM = 1e-6


def normal_tree(x, scale, seed):
    """Independent draws of a Normal's mean, prior Normal(0, 10), as a tree of two chains."""
    rng = np.random.default_rng(seed)
    precision = 1 / 100 + len(x) / scale**2
    centre, sd = x.sum() / scale**2 / precision, precision**-0.5
    mean = rng.normal(centre, sd, (CHAINS, DRAWS))
    groups = {
        "posterior": {"mean": mean},
        "log_likelihood": {"x": stats.norm.logpdf(x, mean[..., None], scale)},
        "observed_data": {"x": x},
    }
    return arviz_base.from_dict(groups)


def exact_elpd(x, scale):
    """log p(x_n | all other rows) in closed form, (N,)."""
    precision = 1 / 100 + (len(x) - 1) / scale**2
    centre = (x.sum() - x) / scale**2 / precision
    return stats.norm.logpdf(x, centre, np.sqrt(scale**2 + 1 / precision))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(1.0, 1.3, N)


@pytest.fixture(scope="module")
def trees(x):
    return {f"scale {scale}": normal_tree(x, scale, 1) for scale in (1.0, 1.3, 3.0)}


def test_leave_one_out_is_that_of_the_closed_form(x, trees):
    """PSIS is importance sampling: its error is that of a self-normalised mean of few draws.

    The importance ratios 1 / p(x_n | mean) of 8000 independent draws give each row's density with
    a relative standard error of at most sd(ratio) / sqrt(8000); the bound sums them over the rows
    as if they all erred alike.
    """
    for scale in (1.0, 1.3, 3.0):
        tree = trees[f"scale {scale}"]
        ratio = np.exp(-tree["log_likelihood"]["x"].to_numpy().reshape(-1, N))
        error = (ratio.std(0) / ratio.mean(0) / np.sqrt(CHAINS * DRAWS)).sum()
        found = leave_one_out(Contender("", tree, ("elpd",), given=True))
        gap = abs(found["elpd_i"].sum() - exact_elpd(x, scale).sum())
        assert gap < stats.norm.isf(FALSE_ALARM / 2) * error
        assert found["bad_k"] == 0


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # ArviZ 0.8 beside pandas 3
def test_the_table_is_arviz_s_own(trees):
    """The same elpd and weights; differences are signed, and errors divide by N - 1."""
    mine = bm.compare(trees)
    theirs = azs.compare({k: azs.loo(t, pointwise=True, reff=1.0) for k, t in trees.items()})
    assert list(mine.table.index) == list(theirs.index)
    diff = -np.abs(theirs["elpd_diff"])  # its sign is another in later versions
    np.testing.assert_allclose(mine.table["elpd"], theirs["elpd"].to_numpy(float), atol=0.01)
    np.testing.assert_allclose(mine.table["elpd_diff"], diff.to_numpy(float), atol=0.01)
    ddof = np.sqrt(N / (N - 1))  # what versions of ArviZ differ by
    for column in ("se", "dse"):
        assert (mine.table[column] <= theirs[column] * ddof * 1.001).all()
        assert (mine.table[column] >= theirs[column] * 0.999).all()
    assert mine.table["weight"].sum() == pytest.approx(1)
    assert mine.by == "elpd"
    assert mine.verdict.startswith(f"{mine.table.index[0]!r} predicts left-out rows best")
    assert any("40 rows are few" in finding for finding in mine.findings)


def test_names_of_clusters_do_not_matter():
    """The relative efficiency and R-hat too are of what a renaming leaves alone."""
    em, nuts, truth = pair("waiting")
    again = stand_in_nuts(em, shuffled(em, truth, np.random.default_rng(5)))
    named = stand_in_nuts(em, truth)
    other = stand_in_nuts(em, around(em, np.random.default_rng(6)))
    a = bm.compare({"first": named, "second": other}).table
    b = bm.compare({"first": again, "second": other}).table
    np.testing.assert_allclose(a.loc["first"].to_numpy(float), b.loc["first"].to_numpy(float))
    assert nuts.samples["weights"].shape == again.samples["weights"].shape


def stand_in_nuts(em, samples):
    shape = next(iter(samples.values())).shape[:2]
    return NUTSResult(
        mixture=em.mixture,
        samples=samples,
        sample_stats={"diverging": np.zeros(shape, bool), "lp": np.zeros(shape)},
        start=em,
        start_policy="",
        notes=(),
        seconds=0.0,
        seed="0",
        settings={},
    )


def test_chains_that_disagree_are_named():
    em, _, truth = pair("waiting")
    split = {site: value.copy() for site, value in truth.items()}
    split["weights"][0] = [0.2, 0.8]  # far from the other chains'
    found = bm.compare({"split": stand_in_nuts(em, split), "one": stand_in_nuts(em, truth)})
    assert any("chains of 'split' do not agree" in finding for finding in found.findings)
    assert not any("chains of 'one'" in finding for finding in found.findings)


@pytest.fixture(scope="module")
def ems():
    waiting = bm.datasets.load_faithful()["waiting"]

    def fit(K, prior):
        program = bm.models.gaussian(K, prior=prior)
        return bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), waiting)

    return {"one": fit(1, "default"), "two": fit(2, "default"), "ml": fit(2, "flat")}


def test_criteria_of_em(ems):
    found = bm.compare({name: ems[name] for name in ("one", "two")})
    table = found.table
    assert found.by == "bic"
    assert list(table.index) == ["two", "one"]
    for name, row in table.iterrows():
        for measure in ("log_likelihood", "n_parameters", "aic", "bic", "icl"):
            assert row[measure] == getattr(ems[name], measure)
    assert table.loc["one", "bic_diff"] == ems["one"].bic - ems["two"].bic
    assert found.verdict.startswith("'two' has the smallest BIC: 'one' is")
    assert any("priors of 'one' and 'two' are not flat" in finding for finding in found.findings)


def test_equal_fits_cannot_be_told_apart_and_flat_priors_are_known(ems):
    found = bm.compare({"two": ems["two"], "ml": ems["ml"]})
    assert "'two' cannot be told from it" in found.verdict
    assert any("priors of 'two' are not flat" in finding for finding in found.findings)


def test_evidence_of_laplace(ems):
    laplace = {name: ems[name].laplace(jax.random.key(1), 2000) for name in ("one", "two")}
    found = bm.compare(laplace)
    value = np.array([laplace[name].log_evidence for name in found.table.index])
    assert found.by == "log_evidence"
    assert list(found.table.index) == ["two", "one"]
    np.testing.assert_allclose(found.table["probability"], softmax(value))
    np.testing.assert_allclose(found.table["log_bayes_factor"], value - value[0])


def test_what_kinds_have_in_common():
    def of(*kinds):
        return common([Contender("", None, ANSWERS[kind]) for kind in kinds])

    assert of(EMResult, EMResult) == ["bic"]
    assert of(NUTSResult, SMCResult) == ["elpd"]
    assert of(SMCResult, SMCResult) == ["elpd", "log_evidence"]
    assert of(SMCResult, LaplaceResult) == ["log_evidence"]
    assert of(EMResult, NUTSResult) == []


def test_what_cannot_be_compared_is_refused_in_words(x, trees, ems):
    tree, em = trees["scale 1.0"], ems["one"]
    with pytest.raises(ValueError, match="compare needs names"):
        bm.compare([tree, tree])
    with pytest.raises(ValueError, match="got 1 results"):
        bm.compare({"a": tree})
    with pytest.raises(ValueError, match="'b' is int"):
        bm.compare({"a": tree, "b": 3})
    with pytest.raises(ValueError, match="no measure in common"):
        bm.compare({"a": tree, "b": em})
    with pytest.raises(ValueError, match="tree of 'em'"):
        bm.compare({"a": em.to_datatree(), "b": tree})
    with pytest.raises(ValueError, match=r"different data \(first at row 3\)"):
        bm.compare({"a": tree, "b": normal_tree(np.where(np.arange(N) == 3, 9.0, x), 1.0, 1)})
    with pytest.raises(ValueError, match=r"shape \(40,\) and 'b' of shape \(39,\)"):
        bm.compare({"a": tree, "b": normal_tree(x[1:], 1.0, 1)})
    with pytest.raises(ValueError, match="no group 'log_likelihood'"):
        bm.compare({"a": tree, "b": tree.filter(lambda node: node.name != "log_likelihood")})
    broken = tree.copy(deep=True)
    broken["log_likelihood"]["x"][0, 0, 7] = -np.inf
    with pytest.raises(ValueError, match=r"'b' is not finite \(first at row 7\)"):
        bm.compare({"a": tree, "b": broken})
    still = tree.copy(deep=True)
    still["log_likelihood"]["x"][0] = -9.0
    with pytest.raises(ValueError, match=r"a chain of 'b' stands still \(row 0"):
        bm.compare({"a": tree, "b": still})


def test_a_tree_from_a_file_compares_as_its_result(tmp_path):
    em, _, truth = pair("waiting")
    result = stand_in_nuts(em, truth)
    nuts_tree(result).to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    import xarray

    with xarray.open_datatree(tmp_path / "fit.nc", engine="h5netcdf") as stored:
        table = bm.compare({"result": result, "file": stored}).table
    assert table.loc["file"].equals(table.loc["result"])
    assert table.loc["file", "clusters"] == 2


def test_it_is_shown_as_text_and_as_html(trees):
    found = bm.compare(trees)
    assert repr(found).splitlines()[2].split()[:2] == ["clusters", "elpd"]
    assert f"{found.table['elpd'].iloc[0]:.1f}" in repr(found)
    assert found.verdict in " ".join(repr(found).split())  # lines are wrapped
    page = found._repr_html_()
    assert "<table" in page
    assert "predicts left-out rows best" in page
    assert found.to_frame() is found.table


def test_pictures_show_what_the_table_has(trees, ems):
    found = bm.compare(trees)
    (ax,) = bm.plots.comparison(found).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == list(found.table.index)
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), found.table["elpd_diff"])
    (ax,) = bm.plots.comparison(bm.compare({name: ems[name] for name in ("two", "one")})).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["BIC", "ICL", "AIC"]
    assert ax.get_xticklabels()[0].get_text().startswith("one")  # by the number of parameters
    with pytest.raises(ValueError, match=r"what bm\.compare gives, not dict"):
        bm.plots.comparison({})
