"""Each picture: drawn without a warning (they are errors here), with what it promises to show."""

import fits
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from pictures import check_drawing
from scipy.stats import norm, poisson

import bayesmix as bm
from bayesmix import plots
from bayesmix.card import parameters
from bayesmix.plots.view import view_of
from bayesmix.relabel import relabel

DRAWINGS = {
    "density of EM": lambda: plots.density(fits.pair("waiting")[0]),
    "density of NUTS": lambda: plots.density(fits.pair("waiting")[1]),
    "density of counts": lambda: plots.density(fits.pair("articles")[1]),
    "clusters of EM": lambda: plots.clusters(fits.pair("faithful")[0]),
    "clusters of NUTS": lambda: plots.clusters(fits.pair("faithful")[1]),
    "clusters of a tree": lambda: plots.clusters(fits.pair("faithful")[1].to_datatree()),
    "clusters in pairs": lambda: plots.clusters(fits.pair("flowers")[1]),
    "history": lambda: plots.history(fits.pair("faithful")[0]),
    "responsibilities of EM": lambda: plots.responsibilities(fits.pair("flowers")[0]),
    "responsibilities of NUTS": lambda: plots.responsibilities(fits.pair("flowers")[1]),
    "responsibilities of both": lambda: plots.responsibilities(*fits.pair("flowers")[:2]),
    "forest": lambda: plots.forest(*fits.pair("flowers")[:2]),
    "forest in one dimension": lambda: plots.forest(*fits.pair("waiting")[:2]),
    "trace": lambda: plots.trace(fits.pair("faithful")[1]),
    "rank": lambda: plots.rank(fits.pair("faithful")[1]),
}

pytestmark = pytest.mark.usefixtures("headless")


@pytest.mark.parametrize("name", DRAWINGS)
def test_draws_and_leaves_nothing_behind(name, tmp_path):
    check_drawing(DRAWINGS[name], tmp_path)


PANELS = {
    "density": lambda ax: plots.density(fits.pair("waiting")[1], ax=ax),
    "clusters": lambda ax: plots.clusters(fits.pair("faithful")[1], ax=ax),
    "history": lambda ax: plots.history(fits.pair("faithful")[0], ax=ax),
}


@pytest.mark.parametrize("name", PANELS)
def test_draws_into_a_given_panel(name):
    figure, (left, right) = plt.subplots(1, 2)
    assert PANELS[name](left) is figure
    assert left.has_data()
    assert not right.has_data()


# Density.


def curve(figure, label):
    (line,) = [line for line in figure.axes[0].lines if line.get_label().startswith(label)]
    return line.get_xdata(), line.get_ydata()


def test_density_of_em_is_the_normal_mixture():
    em = fits.pair("waiting")[0]
    x, y = curve(plots.density(em), "mixture")
    p = em.params
    wanted = sum(p["weights"][k] * norm.pdf(x, p["loc"][k], p["var"][k] ** 0.5) for k in range(2))
    assert y == pytest.approx(wanted, rel=1e-6)
    assert np.trapezoid(y, x) == pytest.approx(1, abs=0.02)


def test_density_of_nuts_is_averaged_in_the_names_of_em():
    """Names are shuffled in every draw; a component's curve is still one component's."""
    _, nuts, truth = fits.pair("waiting")
    x, y = curve(plots.density(nuts), "cluster 0")
    flat = {site: values.reshape(-1, 2)[:, 0] for site, values in truth.items()}
    each = flat["weights"][:, None] * norm.pdf(x, flat["loc"][:, None], flat["var"][:, None] ** 0.5)
    # the picture takes 200 of the 240 draws
    assert y == pytest.approx(each.mean(0), abs=0.05 * y.max())


def test_counts_are_drawn_as_probabilities():
    em = fits.pair("articles")[0]
    x, y = curve(plots.density(em), "mixture")
    assert (x == np.arange(x[0], x[-1] + 1)).all()
    wanted = sum(em.params["weights"][k] * poisson.pmf(x, em.params["rate"][k]) for k in range(2))
    assert y == pytest.approx(wanted, rel=1e-6)


def test_density_stays_within_the_support_and_has_names_for_categories():
    x = np.random.default_rng(0).gamma(1.5, 2.0, 40)
    em = bm.EM(bm.models.gamma(1), restarts=1, progress_bar=False).run(jax.random.key(0), x)
    grid, _ = curve(plots.density(em), "mixture")
    assert 0 < grid[0] < x.min()
    assert grid[-1] > x.max()
    table = {"side": np.array(["left", "right"])[(x > 2).astype(int)]}
    program = bm.models.mixed({"side": "categorical"}, 1)
    em = bm.EM(program, restarts=1, progress_bar=False).run(jax.random.key(0), table)
    figure = plots.density(em)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["left", "right"]
    assert curve(figure, "mixture")[1] == pytest.approx(em.params["side_probs"][0])


def test_density_at_chosen_points():
    x, _ = curve(plots.density(fits.pair("waiting")[0], x=[50.0, 60.0, 70.0]), "mixture")
    assert list(x) == [50, 60, 70]


# Clusters.


def test_every_draw_has_an_ellipse_that_holds_95_percent():
    em = fits.pair("faithful")[0]
    ax = plots.clusters(em).axes[0]
    lines = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert len(lines) == 2
    for k, collection in enumerate(lines):
        (segment,) = collection.get_segments()
        off = segment - em.params["loc"][k]
        square = np.einsum("ni,ij,nj->n", off, np.linalg.inv(em.params["cov"][k]), off)
        assert square == pytest.approx(np.full(len(off), 5.991464547), rel=1e-6)


def test_ellipses_of_nuts_and_of_its_tree_agree():
    nuts = fits.pair("faithful")[1]
    trees = (nuts, nuts.to_datatree(), relabel(nuts.to_datatree()))
    found = [
        [
            c.get_segments()
            for c in plots.clusters(t).axes[0].collections
            if isinstance(c, LineCollection)
        ]
        for t in trees
    ]
    assert len(found[0][0]) == 60
    assert np.allclose(found[0], found[1])
    assert np.allclose(found[0], found[2])


def test_every_observation_is_drawn_and_the_doubtful_ringed():
    em = fits.pair("flowers")[0]
    ax = plots.clusters(em, columns=["sepal_length", "petal_width"]).axes[0]
    sure, unsure = (c for c in ax.collections if isinstance(c, PathCollection))
    doubtful = np.max(em.responsibilities, axis=1) < 0.9
    assert len(unsure.get_offsets()) == doubtful.sum()
    assert len(sure.get_offsets()) == (~doubtful).sum()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("sepal_length", "petal_width")


def test_a_cluster_of_one_row_leaves_room_for_the_data():
    """Its ellipse is as wide as the prior."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    x[0] = 3.0
    program = bm.models.gaussian(2)
    at = {"weights": [0.02, 0.98], "loc": [[3.0, 3.0], [0.0, 0.0]]}
    at["cov"] = [900.0 * np.eye(2), np.eye(2)]
    start = {name: np.array(value) for name, value in at.items()}
    em = bm.EM(program, max_steps=1, progress_bar=False).run(
        jax.random.key(0), x, init_params=start
    )
    ax = plots.clusters(em).axes[0]
    for limits, column in ((ax.get_xlim(), x[:, 0]), (ax.get_ylim(), x[:, 1])):
        assert limits[0] < column.min() < column.max() < limits[1]
        assert np.ptp(limits) <= 2.01 * np.ptp(column)


def test_pairs_have_a_panel_per_pair():
    figure = plots.clusters(fits.pair("flowers")[0])
    drawn = [ax for ax in figure.axes if any(isinstance(c, PathCollection) for c in ax.collections)]
    assert len(drawn) == 6


# EM's path, responsibilities, forest, chains.


def test_history_shows_the_gap_to_the_final_value():
    em = fits.pair("faithful")[0]
    ax = plots.history(em).axes[0]
    x, y = ax.lines[0].get_data()
    assert y == pytest.approx(em.log_joint - np.asarray(em.history)[x])
    assert ax.get_yscale() == "log"


def test_strips_are_stacked_to_one_and_sorted_alike():
    em, nuts, _ = fits.pair("flowers")
    strips = plots.responsibilities(nuts, em).axes[:2]
    for ax in strips:
        steps = [patch.get_data() for patch in ax.patches]
        assert np.allclose(steps[-1].values, 1)
        assert np.allclose(steps[0].baseline, 0)
    assert [ax.get_ylabel() for ax in strips] == ["EM", "NUTS\n(averaged)"]


def test_forest_draws_differences_from_the_map():
    em, nuts, _ = fits.pair("faithful")
    rows = parameters(em, nuts)
    figure = plots.forest(em, nuts)
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert list(panels)[:2] == ["weights", "loc[eruptions]"]
    row = next(row for row in rows if row.label == "loc[1, waiting]")
    outer = panels["loc[waiting]"].collections[2].get_segments()[0][:, 0]
    assert outer == pytest.approx(np.quantile(row.draws - row.point, [0.025, 0.975]))


def test_chains_start_with_what_does_not_depend_on_names():
    figure = plots.trace(fits.pair("faithful")[1])
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    assert titles[:2] == ["log_joint", "entropy"]
    assert "loc[0, waiting]" in titles


def test_large_arrays_are_left_out_of_traces():
    figure = plots.trace(fits.pair("flowers")[1])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert not any(title.startswith("cov") for title in titles)
    assert "without cov" in figure.get_suptitle()
    named = plots.rank(fits.pair("flowers")[1], var_names=["weights"])
    assert len([ax for ax in named.axes if ax.has_data()]) == 3


def test_forest_of_chosen_sites():
    figure = plots.forest(*fits.pair("flowers")[:2], var_names=["loc"])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len(titles) == 4
    assert all(title.startswith("loc[") for title in titles)


@pytest.mark.parametrize(("method", "name"), [("laplace", "Laplace"), ("elsewhere", "elsewhere")])
def test_pictures_say_what_made_the_draws(method, name):
    tree = fits.pair("faithful")[1].to_datatree()
    tree.attrs["inference_method"] = method
    assert view_of(tree).said == f"{name}, 240 draws"
    strips = plots.responsibilities(fits.pair("faithful")[0], tree).axes[:2]
    assert [ax.get_ylabel() for ax in strips] == ["EM", f"{name}\n(averaged)"]


# Refusals.


REFUSED = {
    "two columns as a density": (lambda: plots.density(fits.pair("faithful")[0]), "plots.clusters"),
    "a tree as a density": (
        lambda: plots.density(fits.pair("waiting")[0].to_datatree()),
        "a tree holds no density",
    ),
    "one column as clusters": (lambda: plots.clusters(fits.pair("waiting")[0]), "use density"),
    "an unknown column": (
        lambda: plots.clusters(fits.pair("faithful")[0], columns=["eruptions", "day"]),
        "no column 'day': there are eruptions, waiting",
    ),
    "a column too many": (
        lambda: plots.clusters(fits.pair("faithful")[0], columns=[0, 2]),
        "no column 2",
    ),
    "pairs in one panel": (
        lambda: plots.clusters(fits.pair("flowers")[0], ax=plt.figure().add_subplot()),
        "name two columns",
    ),
    "no result": (lambda: plots.clusters(3), "cannot draw int"),
    "chains of EM": (lambda: plots.trace(fits.pair("faithful")[0]), "has no chains"),
    "three results": (lambda: plots.responsibilities(1, 2, 3), "one or two results"),
    "results that differ": (
        lambda: plots.responsibilities(fits.pair("faithful")[0], fits.pair("flowers")[1]),
        "differ in their observations",
    ),
    "an unknown site": (
        lambda: plots.forest(*fits.pair("waiting")[:2], var_names=["cov"]),
        "no site 'cov'",
    ),
    "no history": (lambda: plots.history(fits.pair("faithful")[1]), "history needs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_sentence(name):
    draw, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        draw()
