"""Simulation-based calibration: passes for our samplers, fails for a wrong one, p-values honest."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from oracles import FALSE_ALARM
from programs import BY_ID, Y
from scipy.stats import binom

import bayesmix as bm
from bayesmix.calibrate import RANKED, p_bins, p_ecdf
from bayesmix.cli import main
from bayesmix.smc.prior import draw_prior

ROW = BY_ID["normal_nig"]


def test_smc_is_calibrated():
    sampler = bm.SMC(ROW.program, particles=1024, progress_bar=False)
    found = bm.calibrate(jax.random.key(0), sampler, Y, replicates=20, progress_bar=False)
    assert found.passed, repr(found)
    assert set(found.ranks) == {"log_joint", "entropy", "sorted_weights[0]"}
    assert "20 replicates" in repr(found)


class Prior:
    """A sampler that does not look at the data."""

    program = staticmethod(ROW.program)

    def run(self, key, x):
        mixture = bm.trace(self.program, x)
        drawn = draw_prior(mixture, key, RANKED)
        return SimpleNamespace(mixture=mixture, get_samples=lambda: drawn)


def test_a_sampler_that_ignores_the_data_is_caught():
    found = bm.calibrate(jax.random.key(1), Prior(), Y, replicates=60, progress_bar=False)
    assert not found.passed
    assert "not calibrated" in repr(found)
    # The true parameters fit their own data better than draws of the prior do.
    assert found.to_frame().loc["log_joint", "mean_rank"] > 0.8


@pytest.mark.parametrize("p_value", [p_bins, p_ecdf])
def test_p_values_of_uniform_ranks_are_uniform(p_value):
    """A fifth of them below 0.2, within binomial error."""
    rng = np.random.default_rng(2)
    ranks = rng.integers(0, RANKED + 1, (60, 200))
    below = sum(p_value(one, RANKED) <= 0.2 for one in ranks)
    low, high = binom.ppf([FALSE_ALARM / 100, 1 - FALSE_ALARM / 100], 60, 0.2)
    assert low <= below <= high


def test_data_that_are_no_argument_are_refused():
    def doubled(x):
        ROW.program(2.0 * x)

    sampler = bm.SMC(doubled, particles=1024, progress_bar=False)
    with pytest.raises(ValueError, match="not an argument of the program"):
        bm.calibrate(jax.random.key(0), sampler, Y, replicates=2, progress_bar=False)


def test_the_command_prints_a_table_and_a_verdict(capsys):
    code = main(["calibrate", "--replicates", "2", "--sampler", "smc", "--model", "poisson"])
    shown = capsys.readouterr().out
    assert code in (0, 1)
    assert "poisson" in shown
    assert "log_joint" in shown
    assert "replicates" in shown
