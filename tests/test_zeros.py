"""Counts with too many zeros: the ready program, merged rows, the truth found again."""

import jax
import numpy as np
import pytest
from oracles import x64
from scipy import special, stats

import bayesmix as bm
from bayesmix import density

_rng = np.random.default_rng(6)
Z = _rng.random(6000) < 0.6
ZERO = _rng.random(6000) < 0.25
COUNTS = np.where(ZERO, 0, _rng.poisson(np.where(Z, 12.0, 3.0)))


@pytest.mark.parametrize("columns", [(), (2,)], ids=["N", "N_x_2"])
def test_zero_inflated_poisson_is_what_its_page_says(columns):
    x = COUNTS[:80].reshape(-1, *columns).astype(float)
    rng = np.random.default_rng(1)
    params = {"weights": np.array([0.4, 0.6]), "rate": rng.gamma(3.0, 2.0, (2, *columns))}
    params["gate"] = rng.beta(2, 3, (2, 2) if columns else ())
    s, m = ((x**2).sum(0) + 1) / (x.sum(0) + 1), ((x == 0).sum(0) + 0.5) / (len(x) + 1)
    theirs = stats.dirichlet([2.0, 2.0]).logpdf(params["weights"])
    theirs += stats.gamma(2, scale=s / 2).logpdf(params["rate"]).sum()
    theirs += stats.beta(1 + m, 2 - m).logpdf(params["gate"]).sum()
    terms = []
    gates = np.broadcast_to(params["gate"], (2, *columns))
    for gate, rate in zip(gates, params["rate"], strict=True):
        mass = (1 - gate) * stats.poisson.pmf(x, rate) + gate * (x == 0)
        terms.append(np.log(mass).reshape(len(x), -1).sum(1))
    theirs += special.logsumexp(np.log(params["weights"])[:, None] + terms, axis=0).sum()
    with x64():
        mixture = bm.trace(bm.models.zero_inflated_poisson(2), x)
        assert abs(float(bm.log_joint(mixture, params)) - theirs) < 1e-10 * abs(theirs)


def test_clusters_and_extra_zeros_are_found_in_merged_rows():
    """6000 counts are some thirty distinct ones; the truth is within four standard errors.

    Of 4500 counts that are no extra zeros 1800 have rate 3 and 2700 rate 12. They overlap little,
    which two standard errors more allow for.
    """
    program = bm.models.zero_inflated_poisson(2)
    em = bm.EM(program, restarts=4, progress_bar=False).run(jax.random.key(0), COUNTS)
    assert density.merged_of(em.mixture) is not None
    order = np.argsort(em.params["rate"])
    error = 6 * np.sqrt([3 / 1800, 12 / 2700])
    assert np.all(np.abs(em.params["rate"][order] - [3, 12]) < error)
    assert abs(em.params["gate"] - 0.25) < 6 * np.sqrt(0.25 * 0.75 / 6000)
    assert abs(em.params["weights"][order[0]] - 0.4) < 6 * np.sqrt(0.4 * 0.6 / 4500)
    assert em.converged


def test_counts_are_checked():
    with pytest.raises(ValueError, match="row 3"):
        bm.trace(bm.models.zero_inflated_poisson(2), np.array([0.0, 1.0, 2.0, -1.0]))
