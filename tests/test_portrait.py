"""How results show themselves: sheets as text and HTML, clusters as columns."""

import re

import jax
import numpy as np
import pytest

import bayesmix as bm
from bayesmix.sheet import WIDTH, Sheet, Table


@pytest.fixture(scope="module")
def em():
    faithful = bm.datasets.load_faithful()
    fit = bm.EM(bm.models.gaussian(2), restarts=2, progress_bar=False)
    return fit.run(jax.random.key(0), faithful)


def row_of(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return [float(cell) for cell in line.removeprefix(name).split()]


def test_clusters_are_columns(em):
    text, cov = repr(em), em.params["cov"]
    assert row_of(text, "weights") == pytest.approx(em.params["weights"], rel=1e-3)
    assert row_of(text, "loc[waiting]") == pytest.approx(em.params["loc"][:, 1], rel=1e-3)
    assert row_of(text, "cov[waiting, eruptions]") == pytest.approx(cov[:, 1, 0], rel=1e-3)
    assert row_of(text, "rows ") == pytest.approx(em.responsibilities.sum(0), abs=0.06)
    assert "cov[eruptions, waiting]" not in text  # a symmetric matrix is shown once
    assert em.stop.split(":")[0] in text


def test_notebooks_get_the_same_as_html(em):
    page = em._repr_html_()
    assert page.count("<table") == 2  # the clusters, the modes
    assert "cov[waiting, eruptions]" in page
    assert "<th class='bm-r'>cluster 1</th>" in page
    assert "weights" in bm.trace(bm.models.gaussian(2), em.mixture.value)._repr_html_()


def test_standard_errors_of_draws_are_shown_beside_their_verdict(em):
    replicates = em.bootstrap(jax.random.key(0), 8)
    loc = replicates.params["loc"].std(0, ddof=1)
    assert row_of(repr(replicates), "loc[waiting]") == pytest.approx(loc[:, 1], rel=1e-3)
    approximate = em.laplace(jax.random.key(0), 200, resample=True)  # equal weights
    loc = approximate.params["loc"].std(0)
    assert row_of(repr(approximate), "loc[waiting]") == pytest.approx(loc[:, 1], rel=1e-3)
    np.testing.assert_allclose(approximate.standard_errors["loc"], loc, rtol=1e-12)
    for result in (replicates, approximate):
        assert "standard errors" in result._repr_html_()
        assert "<th class='bm-r'>cluster 1</th>" in result._repr_html_()


def test_what_does_not_fit_is_counted_not_dropped_silently():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(260, 7)) + 9 * rng.integers(0, 12, size=(260, 1))
    program = bm.models.gaussian(12, covariance="tied")
    em = bm.EM(program, restarts=1, max_steps=2, progress_bar=False).run(jax.random.key(0), x)
    text = repr(em)
    shown = max(int(k) for k in re.findall(r"cluster (\d+)", text))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert f"… and {11 - shown} more clusters" in text
    assert "cov[6, 6]" in text
    assert "Of cov the diagonal is shown" in text
    assert row_of(text, "cov[3, 3]") == pytest.approx([em.params["cov"][3, 3]], rel=1e-3)


def test_a_sheet_wraps_its_last_column_and_escapes_html():
    table = Table(("a", "b"), (("x<1", "word " * 40), ("y", "")), "rl")
    lines = table.lines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[2].startswith("x<1  word")
    assert lines[3].startswith("     word")
    page = Sheet(("a & b", table)).markup()
    assert "a &amp; b" in page
    assert "x&lt;1" in page
