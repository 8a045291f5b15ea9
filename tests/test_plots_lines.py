"""Pictures of regressions: rows, lines and bands where the fitted programs put them."""

from functools import cache

import fits
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from pictures import check_drawing

import bayesmix as bm
from bayesmix import plots

pytestmark = pytest.mark.usefixtures("headless")


def fit(program, *args, **kwargs):
    return bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), *args, **kwargs)


@cache
def counts():
    """Counts on a number, its square and a text column, with an exposure; 3 rows lack the count."""
    rng = np.random.default_rng(4)
    table = pd.DataFrame({"age": rng.uniform(0, 4, 80), "arm": rng.choice(["a", "b", "c"], 80)})
    table["age2"] = table["age"] ** 2
    hours = rng.uniform(1, 9, 80)
    eta = (
        np.where(rng.random(80) < 0.5, 0.2, 2.5) + 0.1 * table["age"] + 0.4 * (table["arm"] == "b")
    )
    y = pd.Series(rng.poisson(hours * np.exp(eta)).astype(float), name="visits")
    y[:3] = np.nan
    em = fit(bm.models.regression(2, family="poisson"), table, y, offset=np.log(hours))
    return em, table, y / hours


def simple(x, y, K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        a = numpyro.sample("a", dist.Normal(0, 20))
        b = numpyro.sample("b", dist.Normal(0, 5))
        scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    with numpyro.plate("obs_id", len(y)):
        parts = dist.Normal(a + b * x[:, None], scale)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(probs=weights), parts), obs=y)


def standardised(x, y):
    simple((x - x.mean()) / x.std(), y)


@cache
def two_lines():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 10, 60)
    return x, np.where(rng.random(60) < 0.4, 2 * x, 15 - x) + 0.5 * rng.standard_normal(60)


@cache
def own():
    em = fit(simple, *two_lines())
    truth = fits.around(em, np.random.default_rng(2))
    return em, fits.stand_in(em, fits.shuffled(em, truth, np.random.default_rng(3))), truth


@cache
def grouped():
    x, y = two_lines()
    return fit(bm.models.regression(2), x, y, groups=np.arange(60) // 3)


def lines(ax):
    return [line.get_xydata() for line in ax.lines]


DRAWINGS = {
    "panels": lambda: plots.clusters(counts()[0]),
    "one panel": lambda: plots.clusters(counts()[0], columns="arm"),
    "bands": lambda: plots.clusters(own()[1]),
    "groups": lambda: plots.clusters(grouped()),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_draws_and_leaves_nothing_behind(name, tmp_path):
    check_drawing(DRAWINGS[name], tmp_path)


def test_lines_are_partial_and_squares_move_along():
    em, table, rate = counts()
    ax = plots.clusters(em, columns=["age"]).axes[0]
    arm = pd.get_dummies(table["arm"])[["b", "c"]].mean().to_numpy(float)
    own_names = em.mixture.coords["covariate"]
    coef = {n: em.params["coef"][:, j] for j, n in enumerate(own_names)}
    for k, line in enumerate(lines(ax)):
        age = line[:, 0]
        eta = em.params["intercept"][k] + coef["age"][k] * age + coef["age2"][k] * age**2
        eta = eta + coef["arm[b]"][k] * arm[0] + coef["arm[c]"][k] * arm[1]
        assert line[:, 1] == pytest.approx(np.exp(eta), rel=1e-9)
    (rows,) = (c for c in ax.collections if isinstance(c, PathCollection))
    assert np.asarray(rows.get_offsets()) == pytest.approx(
        np.column_stack([table["age"], rate])[3:]
    )
    assert ax.get_ylabel() == "visits / exp(offset)"
    said = [text.get_text() for text in ax.texts]
    assert "the other covariate at the mean" in said[0]
    assert "3 rows without a response" in said[0].replace("\n", " ")


def test_levels_have_ticks_and_a_mean_for_each_cluster():
    em, table, _ = counts()
    figure = plots.clusters(em)
    by_age, by_arm, fitted = figure.axes
    assert [by_age.get_xlabel(), by_arm.get_xlabel()] == ["age", "arm"]
    assert [tick.get_text() for tick in by_arm.get_xticklabels()] == ["a", "b", "c"]
    bars = [c.get_segments() for c in by_arm.collections if isinstance(c, LineCollection)]
    age, square = table["age"].mean(), table["age"].mean() ** 2
    names = em.mixture.coords["covariate"]
    for k, segments in enumerate(bars):
        at = dict(zip(names, em.params["coef"][k], strict=True))
        eta = em.params["intercept"][k] + at["age"] * age + at["age2"] * square
        eta = eta + np.array([0.0, at["arm[b]"], at["arm[c]"]])
        assert [segment[0, 1] for segment in segments] == pytest.approx(np.exp(eta), rel=1e-9)
    (rows,) = (c for c in fitted.collections if isinstance(c, PathCollection))
    assert len(rows.get_offsets()) == 77


def test_bands_are_of_the_relabelled_draws():
    _, nuts, truth = own()
    ax = plots.clusters(nuts).axes[0]
    flat = {site: values.reshape(-1, 2) for site, values in truth.items()}
    for k, line in enumerate(lines(ax)):
        each = flat["a"][:, k] + flat["b"][:, k] * line[:, :1]
        # the picture takes 200 of the 240 draws
        assert line[:, 1] == pytest.approx(each.mean(1), abs=0.3 * each.std(1).max())
    assert len([c for c in ax.collections if "FillBetween" in type(c).__name__]) == 2
    assert ax.get_xlabel() == "x"


def test_rows_of_a_group_are_joined_along_x():
    ax = plots.clusters(grouped()).axes[0]
    (paths,) = (c for c in ax.collections if isinstance(c, LineCollection))
    x, y = two_lines()
    for number, path in enumerate(paths.get_segments()):
        rows = np.arange(3 * number, 3 * number + 3)
        rows = rows[np.argsort(x[rows])]
        assert path == pytest.approx(np.column_stack([x[rows], y[rows]]))


def test_binomial_rows_are_shares_of_their_trials():
    rng = np.random.default_rng(5)
    trials, x = rng.integers(5, 30, 40), rng.normal(size=40)
    y = rng.binomial(trials, np.where(rng.random(40) < 0.5, 0.2, 0.7))
    em = fit(bm.models.regression(2, family="binomial"), x, y, trials=trials)
    ax = plots.clusters(em).axes[0]
    for k, line in enumerate(lines(ax)):
        eta = em.params["intercept"][k] + em.params["coef"][k, 0] * line[:, 0]
        assert line[:, 1] == pytest.approx(1 / (1 + np.exp(-eta)), rel=1e-9)
    (rows,) = (c for c in ax.collections if isinstance(c, PathCollection))
    assert np.asarray(rows.get_offsets())[:, 1] == pytest.approx(y / trials)


REFUSED = {
    "a density": (lambda: plots.density(own()[0]), "plots.clusters draws its lines"),
    "an unknown covariate": (
        lambda: plots.clusters(counts()[0], columns=["day"]),
        "no column 'day': there are age, arm",
    ),
    "several in one panel": (
        lambda: plots.clusters(counts()[0], ax=plt.figure().add_subplot()),
        "name one covariate",
    ),
    "rows that are moved together": (
        lambda: plots.clusters(fit(standardised, *two_lines())),
        "transform the covariates before the call",
    ),
    "no covariate": (
        lambda: plots.clusters(
            fit(bm.models.regression(2), None, two_lines()[1], offset=two_lines()[0])
        ),
        "no covariate moves",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_sentence(name):
    draw, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        draw()
