"""Evidences of SMC against enumeration of all assignments and against bridge sampling elsewhere."""

import jax
import numpy as np
import pytest
from oracles import Z, t_bound
from test_nuts_references import COUNTS, EXACT, GOLD

import bayesmix as bm

CLAIMED = 0.02  # nats, of the error that SMC states for the small sets at its default budget
RUNS = 3  # of another program's bridge sampling, whose spread the reference files give


@pytest.mark.parametrize("name", ["norm_known_var_K3_exch", "poisson_K2_asym"])
def test_exact_evidence(reference, name):
    """log p(x), all assignments visited; all names of exchangeable clusters count."""
    facts = reference(f"exact/{name}.json")
    x = np.asarray(facts["data"], float)
    x = x.astype(int) if name.startswith(COUNTS) else x
    smc = bm.SMC(EXACT[name][0], progress_bar=False).run(jax.random.key(0), x)
    exact = facts["log_marginal_likelihood"]
    bound = t_bound(len(smc.log_evidences))
    assert abs(smc.log_evidence - exact) < bound * smc.log_evidence_error
    assert smc.log_evidence_error <= CLAIMED


def _galaxies(reference, name):
    """SMC at its default budget, and the reference's facts."""
    facts = reference(f"posterior/{name}.json")
    (path, column, unit), program, _ = GOLD[name]
    x = reference(path)[column].to_numpy(float) / unit
    return bm.SMC(program, progress_bar=False).run(jax.random.key(0), x), facts


def assert_evidence(smc, facts):
    gold = facts["marginal_likelihood"]
    bound, theirs = t_bound(len(smc.log_evidences)), gold["sd_over_3_runs"] / np.sqrt(RUNS)
    tolerance = bound * smc.log_evidence_error + t_bound(RUNS) * theirs
    assert abs(smc.log_evidence - gold["log_marginal_likelihood"]) < tolerance
    assert smc.log_evidence_error <= CLAIMED


def test_ordered_means_trap(reference):
    """Galaxies, K = 2: the first component's weight and the evidence are the Gibbs sampler's."""
    smc, facts = _galaxies(reference, "galaxies_corrected_chib_K2_gibbs")
    assert_evidence(smc, facts)
    order = np.argsort(smc.params["mu"], -1)
    first = np.take_along_axis(smc.params["weights"], order, -1)[:, 0]
    trap = reference("posterior/galaxies_corrected_chib_NUTS_ORDERED_TRAP_K2.json")
    right, wrong = (
        next(row for row in each["summary"] if row["variable"] == "w[1]") for each in (facts, trap)
    )
    found = smc.estimate(first)
    assert abs(found.mean - right["mean"]) < Z * np.hypot(found.error, right["mcse_mean"])
    assert abs(found.mean - wrong["mean"]) > Z * np.hypot(found.error, wrong["mcse_mean"])
