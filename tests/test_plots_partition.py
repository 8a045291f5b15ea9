"""Pictures of partitions and of names: what they show, in which order and colours."""

from functools import cache

import fits
import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch, Rectangle
from pictures import check_drawing

import bayesmix as bm
from bayesmix import plots
from bayesmix.plots.alluvial import named_like
from bayesmix.plots.canvas import colours
from bayesmix.plots.plane import plane_of

KEY = jax.random.key(0)


@cache
def tree(name="flowers"):
    return fits.pair(name)[1].to_datatree()


@cache
def estimate(name="flowers"):
    return bm.partition(KEY, tree(name), runs=2)


@cache
def ball(name="flowers"):
    return bm.credible_ball(tree(name), estimate(name))


# Blocks of 4, 3 and 2 observations that exchange members at random; rows of the truth are shuffled.
TRUTH = np.random.default_rng(3).permutation(np.repeat([0, 1, 2], [40, 30, 20]))


@cache
def labels():
    """Draws about `TRUTH`: each observation moves with probability 1/10; names are shuffled."""
    rng = np.random.default_rng(4)
    moved = np.where(rng.random((60, 90)) < 0.1, rng.integers(0, 3, (60, 90)), TRUTH)
    return np.array([rng.permutation(3)[z] for z in moved])


DRAWINGS = {
    "similarity of a tree": lambda: plots.similarity(tree(), partition=estimate()),
    "similarity without a partition": lambda: plots.similarity(labels()),
    "number of clusters": lambda: plots.n_occupied(labels()),
    "number of clusters of a tree": lambda: plots.n_occupied(tree()),
    "ball in one column": lambda: plots.credible_ball(
        ball("waiting"), bm.datasets.load_faithful()["waiting"]
    ),
    "ball in two columns": lambda: plots.credible_ball(
        ball("faithful"), bm.datasets.load_faithful()
    ),
    "ball in components": lambda: plots.credible_ball(ball(), tree()),
    "uncertainty in one column": lambda: plots.uncertainty(tree("waiting"), estimate("waiting")),
    "uncertainty in components": lambda: plots.uncertainty(tree(), estimate()),
    "uncertainty of labels": lambda: plots.uncertainty(labels(), TRUTH, data=np.arange(90.0)),
    "alluvial": lambda: plots.alluvial(estimate(), fits.pair("flowers")[0]),
    "relabelling": lambda: plots.relabelling(tree("faithful")),
    "ridges": lambda: plots.ridges(tree("faithful")),
}

pytestmark = pytest.mark.usefixtures("headless")


@pytest.mark.parametrize("name", DRAWINGS)
def test_draws_and_leaves_nothing_behind(name, tmp_path):
    check_drawing(DRAWINGS[name], tmp_path)


PANELS = {
    "similarity": lambda ax: plots.similarity(labels(), ax=ax),
    "n_occupied": lambda ax: plots.n_occupied(labels(), ax=ax),
    "uncertainty": lambda ax: plots.uncertainty(labels(), TRUTH, data=np.arange(90.0), ax=ax),
    "alluvial": lambda ax: plots.alluvial(TRUTH, labels()[0], ax=ax),
}


@pytest.mark.parametrize("name", PANELS)
def test_draws_into_a_given_panel(name):
    figure, (left, right) = plt.subplots(1, 2)
    assert PANELS[name](left) is figure
    assert left.has_data() or left.patches
    assert not right.has_data()


# Similarity.


def heat(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def subtitle(ax):
    return next(text.get_text() for text in ax.texts if text.get_text() and text.xy == (0, 1))


def test_heat_map_holds_the_similarity_in_another_order():
    """The same symmetric matrix: sorted entries, row sums and trace agree with bm.similarity."""
    P = bm.similarity(labels()).to_numpy()
    shown = heat(plots.similarity(labels(), partition=TRUTH))
    assert np.array_equal(shown, shown.T)
    assert np.allclose(np.sort(shown.ravel()), np.sort(P.ravel()))
    assert np.allclose(np.sort(shown.sum(0)), np.sort(P.sum(0)))


def frames(figure):
    """Rows of the heat map inside each frame."""
    found = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    starts = [round(frame.get_x() + 0.5) for frame in found]
    return [slice(at, at + round(f.get_width())) for at, f in zip(starts, found, strict=True)]


def test_clusters_of_the_partition_are_outlined_blocks():
    """Frames tile the diagonal with the clusters' sizes; inside them the similarity is high."""
    figure = plots.similarity(labels(), partition=TRUTH)
    shown, blocks = heat(figure), sorted(frames(figure), key=lambda rows: rows.start)
    assert sorted(rows.stop - rows.start for rows in blocks) == [20, 30, 40]
    assert [rows.start for rows in blocks] == [0, *(rows.stop for rows in blocks[:-1])]
    inside = np.zeros_like(shown, dtype=bool)
    for rows in blocks:
        inside[rows, rows] = True
    assert shown[inside].min() > shown[~inside].max()


def test_like_lie_beside_like_without_a_partition():
    """The order alone brings the three blocks together: two large steps between neighbours."""
    shown = heat(plots.similarity(labels()))
    steps = np.abs(np.diff(shown, axis=0)).mean(axis=1)
    assert (steps > 0.2).sum() == 2


def test_order_of_the_observations_does_not_matter():
    shuffle = np.random.default_rng(0).permutation(90)
    one = plots.similarity(labels(), partition=TRUTH)
    two = plots.similarity(labels()[:, shuffle], partition=TRUTH[shuffle])
    assert np.allclose(np.sort(heat(one).ravel()), np.sort(heat(two).ravel()))
    within = [sorted(heat(f)[rows, rows].sum() for rows in frames(f)) for f in (one, two)]
    assert np.allclose(*within)


def test_many_observations_are_thinned_and_the_picture_says_so():
    """Of 6000, 600 are shown, the three clusters in proportion."""
    truth = np.repeat([0, 1, 2], [3000, 2000, 1000])
    draws = np.stack([truth] * 4)
    figure = plots.similarity(draws, partition=truth)
    assert heat(figure).shape == (600, 600)
    assert subtitle(figure.axes[0]).startswith("600 of 6000 observations shown")
    widths = sorted(rows.stop - rows.start for rows in frames(figure))
    assert np.allclose(widths, [100, 200, 300], atol=1)


def test_similarity_of_thinned_rows_is_that_of_all(monkeypatch):
    """With room for 30 rows the heat map is a submatrix of the whole, of responsibilities too."""
    monkeypatch.setattr("bayesmix.plots.partitions.SHOWN", 30)
    whole = np.sort(bm.similarity(tree()).to_numpy().ravel())
    shown = heat(plots.similarity(tree(), partition=estimate()))
    assert shown.shape == (30, 30)
    off = shown[np.triu_indices(30, 1)]
    nearest = whole[np.clip(np.searchsorted(whole, off), 1, len(whole) - 1)]
    below = whole[np.clip(np.searchsorted(whole, off) - 1, 0, len(whole) - 1)]
    assert np.minimum(np.abs(nearest - off), np.abs(below - off)).max() < 1e-6


def test_a_result_stands_for_its_tree():
    nuts = fits.pair("flowers")[1]
    assert np.array_equal(
        heat(plots.similarity(nuts, partition=estimate())),
        heat(plots.similarity(tree(), partition=estimate())),
    )
    assert plots.uncertainty(nuts, estimate(), columns=[0]).axes[0].get_xlabel() == "sepal_length"


# Number of clusters.


def test_bars_are_the_posterior_of_the_number():
    draws = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1], [5, 7, 9]])
    ax = plots.n_occupied(draws).axes[0]
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.5, 0.25]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3"]
    assert ax.get_title(loc="left") == "Occupied clusters: most probably 2 (50%)"


# Ball.


def points(ax):
    """Offsets and face colours of all points of a panel."""
    found = [c for c in ax.collections if isinstance(c, PathCollection)]
    return (
        np.concatenate([np.asarray(c.get_offsets()) for c in found]),
        np.concatenate(
            [np.broadcast_to(c.get_facecolors(), (len(c.get_offsets()), 4)) for c in found]
        ),
    )


def test_panels_are_the_estimate_and_the_three_bounds():
    figure = plots.credible_ball(ball(), tree())
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        "Estimate",
        "Horizontal bound",
        "Upper vertical bound",
        "Lower vertical bound",
    ]
    assert f"{ball().radius:.3g} bits" in figure.get_suptitle()
    for ax in figure.axes:
        assert len(points(ax)[0]) == 150


def test_points_carry_the_colour_of_their_cluster():
    data = bm.datasets.load_faithful()
    figure = plots.credible_ball(ball("faithful"), data)
    where, ink = points(figure.axes[0])
    assert np.allclose(where, data.to_numpy())
    assert np.allclose(ink[:, :3], colours(2)[estimate("faithful").labels])
    assert (figure.axes[2].get_xlabel(), figure.axes[2].get_ylabel()) == ("eruptions", "waiting")


def test_observations_that_moved_are_marked():
    """Dark edges: exactly the observations that the bound puts elsewhere."""
    figure = plots.credible_ball(ball("faithful"), bm.datasets.load_faithful())
    bound = named_like(ball("faithful").centre, ball("faithful").horizontal.labels[0])
    moved = (bound != ball("faithful").centre).sum()
    ringed = [
        len(c.get_offsets())
        for c in figure.axes[1].collections
        if not np.allclose(c.get_edgecolors()[:, :3], 1)
    ]
    assert moved > 0
    assert ringed == [moved]


def test_one_column_is_stacked_to_the_number_of_observations():
    figure = plots.credible_ball(ball("waiting"), bm.datasets.load_faithful()["waiting"])
    for ax in figure.axes:
        assert sum(bar.get_height() for bar in ax.patches) == 272
    assert figure.axes[2].get_xlabel() == "waiting"


def test_bounds_are_named_like_the_estimate():
    """One to one with the largest agreement; what is new gets new numbers."""
    first = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    second = np.array([3, 3, 1, 0, 0, 2, 4, 4])
    assert named_like(first, second).tolist() == [0, 0, 3, 1, 1, 4, 2, 2]


def test_several_columns_are_drawn_by_principal_components():
    """Uncorrelated coordinates; with all columns standardised, they are scikit-learn's."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    data = bm.datasets.load_iris().drop(columns="species")
    plane = plane_of(data, 150)
    pca = PCA(2).fit(StandardScaler().fit_transform(data))
    theirs = pca.transform(StandardScaler().fit_transform(data))
    assert np.allclose(np.abs(plane.points), np.abs(theirs))
    assert plane.axes[0] == f"component 1 ({pca.explained_variance_ratio_[0]:.0%} of variance)"


def test_chosen_columns():
    figure = plots.credible_ball(ball(), tree(), columns=["petal_width"])
    assert figure.axes[2].get_xlabel() == "petal_width"
    figure = plots.uncertainty(tree(), estimate(), columns=[0, "petal_width"])
    assert figure.axes[0].get_xlabel() == "sepal_length"
    assert figure.axes[0].get_ylabel() == "petal_width"


# Uncertainty.


def test_area_grows_with_entropy_and_edges_are_of_the_runner_up():
    """Four draws of two observations: one sure, one in its cluster in three of four."""
    z = np.array([[0, 0, 1, 1, 1]] * 3 + [[0, 0, 1, 1, 0]])
    estimate = np.array([0, 0, 1, 1, 1])
    figure = plots.uncertainty(z, estimate, data=np.arange(5.0))
    (dots,) = (c for c in figure.axes[0].collections if isinstance(c, PathCollection))
    where = np.asarray(dots.get_offsets())
    order = np.argsort(where[:, 0])
    area, edges = dots.get_sizes()[order], dots.get_edgecolors()[order][:, :3]
    assert np.allclose(where[order, 1], [1, 1, 1, 1, 0.75])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert np.allclose(area, [18, 18, 18, 18, 18 + 150 * entropy])
    assert np.allclose(edges[4], to_rgb(plots.canvas.PALETTE[0]))
    assert np.allclose(edges[:4], 1)
    assert figure.axes[0].get_title(loc="left").startswith("1 of 5 observations")


# Two partitions.


def test_flows_are_the_contingency_table():
    one, two = np.repeat([0, 1, 2], [4, 3, 3]), np.array([1, 1, 1, 0, 0, 0, 0, 2, 2, 2])
    figure = plots.alluvial(one, two, names=("EM", "NUTS"))
    ax = figure.axes[0]
    ribbons = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    heights = sorted(np.diff(patch.get_path().vertices[[0, -1], 1])[0] for patch in ribbons)
    assert np.allclose(heights, [0.1, 0.3, 0.3, 0.3])
    written = {text.get_text() for text in ax.texts}
    assert {"EM", "NUTS", "cluster 0 (4)", "cluster 2 (3)"} <= written
    assert ax.get_title(loc="left") == "1 of 10 observations change cluster"
    assert f"{bm.vi(one, two):.3g} bits" in subtitle(ax)


def test_clusters_of_the_second_are_sorted_to_cross_little():
    """Reversed numbers: the flows stay level."""
    one = np.repeat([0, 1, 2], 3)
    ax = plots.alluvial(one, 2 - one).axes[0]
    for patch in ax.patches:
        if isinstance(patch, PathPatch):
            vertices = patch.get_path().vertices
            assert vertices[0, 1] == pytest.approx(vertices[3, 1])


def test_results_are_partitions_too():
    em = fits.pair("flowers")[0]
    ax = plots.alluvial(estimate(), em).axes[0]
    written = {text.get_text() for text in ax.texts}
    assert {"partition (vi)", "EM's MAP"} <= written
    share = np.bincount(np.asarray(em.responsibilities).argmax(1))
    assert f"cluster 2 ({share[2]})" in written
    ax = plots.alluvial(em, tree()).axes[0]
    assert {"EM's MAP", "NUTS, 240 draws"} <= {text.get_text() for text in ax.texts}


# Names.


def dots(ax):
    (found,) = (c for c in ax.collections if isinstance(c, PathCollection))
    return np.asarray(found.get_offsets())[:, 1].reshape(-1, 2)


def test_relabelling_shows_the_draws_before_and_after():
    """Left as drawn, right in the names of the truth; also from a tree relabelled before."""
    _, nuts, truth = fits.pair("waiting")
    raw, named = nuts.samples["loc"].reshape(-1, 2), truth["loc"].reshape(-1, 2)
    for source in (tree("waiting"), bm.relabel(tree("waiting"))):
        figure = plots.relabelling(source, ["loc"])
        assert np.allclose(dots(figure.axes[0]), raw)
        assert np.allclose(dots(figure.axes[1]), named)
        assert figure.axes[0].get_ylabel() == "loc"
    perm = np.argsort(nuts.samples["loc"], axis=-1)
    switched = (perm[:, 1:] != perm[:, :-1]).any(-1)
    assert f"{switched.sum()} of {switched.size} steps" in figure.get_suptitle()


def test_symmetric_matrices_are_drawn_once():
    figure = plots.ridges(tree("faithful"), ["cov"])
    names = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()]
    assert names == [
        "cov[eruptions, eruptions]",
        "cov[waiting, eruptions]",
        "cov[waiting, waiting]",
    ]


def test_traces_draw_symmetric_matrices_once_and_name_every_lowest_axis():
    panels = [ax for ax in plots.trace(tree("faithful"), ["cov"]).axes if ax.has_data()]
    titles = [ax.get_title(loc="left") for ax in panels]
    assert [title for title in titles if "cov[1" in title] == [
        "cov[1, eruptions, eruptions]",
        "cov[1, waiting, eruptions]",
        "cov[1, waiting, waiting]",
    ]
    lowest = {round(ax.get_position().x0, 2): ax for ax in panels}.values()
    assert len(lowest) < len(panels) < 2 * len(lowest)  # the last row is not full
    assert all(ax.xaxis.get_tick_params()["labelbottom"] for ax in lowest)
    assert all(ax.get_xlabel() for ax in lowest)


def test_ridges_stand_where_the_clusters_are():
    """Median and 95 % line of each cluster, of the draws in EM's names."""
    truth = fits.pair("waiting")[2]["loc"].reshape(-1, 2)
    ax = plots.ridges(tree("waiting"), ["loc"]).axes[0]
    middle = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert np.allclose(middle, np.median(truth, axis=0))
    tops = [line for line in ax.lines if line.get_marker() != "o"]
    peaks = [line.get_xdata()[np.argmin(line.get_ydata())] for line in tops]
    spread = truth.std(axis=0)
    assert (np.abs(np.array(peaks) - middle) < 2 * spread).all()


def test_other_backends_are_arviz_s():
    drawn = plots.trace(tree("faithful"), var_names=["weights"], backend="none")
    assert "weights" in drawn.viz["plot"].data_vars


def test_a_missing_backend_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr("bayesmix.plots.chains.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"needs plotly and webcolors: pip install"):
        plots.rank(tree("faithful"), backend="plotly")


# Refusals.


REFUSED = {
    "no ball": (lambda: plots.credible_ball(estimate(), tree()), "result of bm.credible_ball"),
    "rows of other data": (
        lambda: plots.credible_ball(ball(), bm.datasets.load_faithful()),
        "272 rows but the partition is of 150",
    ),
    "text": (
        lambda: plots.credible_ball(ball(), bm.datasets.load_iris()),
        "'species' is no number",
    ),
    "a hole": (
        lambda: plots.uncertainty(labels(), TRUTH, data=pd.Series([np.inf, *range(89)], name="x")),
        "'x' is infinite in row 0",
    ),
    "an unknown column": (
        lambda: plots.credible_ball(ball(), tree(), columns=["petals"]),
        "no column 'petals': there are sepal_length",
    ),
    "three columns": (
        lambda: plots.credible_ball(ball(), tree(), columns=[0, 1, 2]),
        "columns= names 3",
    ),
    "no data": (lambda: plots.uncertainty(labels(), TRUTH), "pass data="),
    "a cube": (
        lambda: plots.uncertainty(labels(), TRUTH, data=np.zeros((90, 2, 2))),
        "one row per observation",
    ),
    "constant columns": (
        lambda: plots.uncertainty(labels(), TRUTH, data=np.ones((90, 3))),
        "every column of the data is constant",
    ),
    "another partition": (
        lambda: plots.similarity(labels(), partition=[0, 1]),
        "draws are of 90 observations",
    ),
    "two lengths": (lambda: plots.alluvial(TRUTH, [0, 1]), "first is of 90 observations"),
    "draws as a partition": (lambda: plots.alluvial(labels(), TRUTH), "one label per observation"),
    "EM's number of clusters": (lambda: plots.n_occupied(fits.pair("waiting")[0]), "one point"),
    "EM's names": (lambda: plots.relabelling(fits.pair("waiting")[0]), "one point"),
    "EM's ridges": (lambda: plots.ridges(fits.pair("waiting")[0]), "one point"),
    "an unknown site": (
        lambda: plots.ridges(tree("waiting"), ["mu"]),
        "no site 'mu' with clusters: there are",
    ),
    "an unknown backend": (
        lambda: plots.trace(tree("waiting"), backend="gnuplot"),
        "unknown backend 'gnuplot'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_sentence(name):
    draw, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        draw()
