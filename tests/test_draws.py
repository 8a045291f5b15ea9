"""Responsibilities of many draws at once against the public function, draw by draw."""

import jax
import numpy as np
import pytest
from oracles import draw_params
from programs import BY_ID

import bayesmix as bm
from bayesmix.draws import draw_responsibilities

ROWS = [
    "normal_nig",
    "mvn_niw",
    "poisson_gamma",
    "student_t",
    "student_matrix",
    "normal_two_plates",
]


@pytest.mark.parametrize("row_id", ROWS)
def test_responsibilities_of_draws_are_those_of_each_draw(row_id):
    row = BY_ID[row_id]
    mixture = bm.trace(row.program, *row.args, **row.kwargs)
    points = [draw_params(row, seed) for seed in range(3)]
    draws = {name: np.stack([p[name] for p in points]) for name in mixture.sites}
    found = draw_responsibilities(mixture, draws)
    with jax.enable_x64(True):
        for resp, point in zip(found, points, strict=True):
            expected = np.asarray(bm.responsibilities(mixture, point))
            np.testing.assert_allclose(resp, expected.reshape(-1, row.K), atol=1e-10)


def test_where_the_sweep_would_cancel_the_components_answer():
    """One draw of a scale of 1e-7: 1e14 nats would cancel in the sweep's score."""
    row = BY_ID["normal_nig"]
    mixture = bm.trace(row.program, *row.args, **row.kwargs)
    point = draw_params(row, 0)
    value = float(np.asarray(mixture.value)[0])
    narrow = point | {"loc": np.array([value, 0.0]), "var": np.array([1e-14, 1.0])}
    draws = {name: np.stack([point[name], narrow[name]]) for name in mixture.sites}
    found = draw_responsibilities(mixture, draws)
    with jax.enable_x64(True):
        expected = [np.asarray(bm.responsibilities(mixture, p)) for p in (point, narrow)]
    np.testing.assert_allclose(found, expected, atol=1e-10)
