"""The data sets are whole and are the ones their sources describe."""

import inspect

import numpy as np
import pytest

from bayesmix import datasets

# name -> shape, and numbers known from outside: a column's sum or mean as R prints it.
TABLE = {
    "load_faithful": ((272, 2), {"eruptions": 948.677, "waiting": 19284.0}),
    "load_iris": ((150, 5), {"sepal_length": 876.5, "petal_width": 179.9}),
    "load_galaxies": ((82, 2), {"velocity_mass": 1707.910, "velocity_corrected": 1708.180}),
    "load_thyroid": ((215, 6), {}),
    "load_diabetes": ((145, 4), {}),
    "load_death_notices": ((10, 2), {"frequency": 1096.0}),
    "load_biochemists": ((915, 6), {"art": 1549.0}),
}


@pytest.mark.parametrize("name", TABLE)
def test_shape_and_sums(name):
    shape, sums = TABLE[name]
    frame = getattr(datasets, name)()
    assert frame.shape == shape
    assert not frame.isna().any().any()
    for column, total in sums.items():
        assert np.isclose(frame[column].sum(), total, rtol=1e-12)


@pytest.mark.parametrize("name", datasets.__all__)
def test_every_loader_is_described(name):
    assert name in TABLE
    text = inspect.getdoc(getattr(datasets, name))
    frame = getattr(datasets, name)()
    assert "Source:" in text
    for column in frame.columns:
        assert f"`{column}`" in text, f"{name} says nothing on column {column}"


def test_classes_have_their_published_sizes():
    assert datasets.load_iris()["species"].value_counts().unique().tolist() == [50]
    assert datasets.load_thyroid()["diagnosis"].value_counts().to_dict() == {
        "Normal": 150, "Hyper": 35, "Hypo": 30,
    }  # fmt: skip
    assert datasets.load_diabetes()["class"].value_counts().to_dict() == {
        "Normal": 76, "Chemical": 36, "Overt": 33,
    }  # fmt: skip


def test_the_two_galaxies_differ_in_row_78():
    frame = datasets.load_galaxies()
    differ = np.flatnonzero(frame["velocity_mass"] != frame["velocity_corrected"])
    assert differ.tolist() == [77]
    assert frame.iloc[77].tolist() == [26.690, 26.960]


@pytest.mark.parametrize(
    "name,columns",
    [
        ("faithful", ["eruptions", "waiting"]),
        ("iris", ["sepal_length", "sepal_width", "petal_length", "petal_width"]),
        ("thyroid", ["RT3U", "T4", "T3", "TSH", "DTSH"]),
        ("diabetes", ["glucose", "insulin", "sspg"]),
    ],
)
def test_r_saw_the_same_numbers(name, columns, reference):
    """With one cluster and a full matrix, R's log likelihood is a function of the data alone."""
    from scipy.stats import multivariate_normal

    x = getattr(datasets, f"load_{name}")()[columns].to_numpy(float)
    table = reference(f"ml/mclust_{name}.json")["table"]
    (theirs,) = [row["loglik"] for row in table if (row["model"], row["G"]) == ("VVV", 1)]
    ours = multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(x).sum()
    assert abs(ours - theirs) < 1e-9 * abs(theirs)
