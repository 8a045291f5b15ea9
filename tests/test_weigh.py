"""Weights of the modes in which chains sit: stacking's optimum, SMC's share, and the words."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from oracles import Z
from scipy import stats
from scipy.optimize import minimize
from scipy.spatial import cKDTree

import bayesmix as bm
from bayesmix.expansion import quiet
from bayesmix.nuts.starts import starts_of
from bayesmix.weigh import ModeWeights, _left_out, stack

X = np.array([-4.3, -4.1, -3.9, -3.6, 3.7, 4.0, 4.2])
CENTRES = np.array([-0.2, 0.2])


def two_ways(x):
    """Nothing but slightly different priors tells the clusters apart: two genuine modes."""
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(CENTRES, 2.0))
    with numpyro.plate("obs_id", len(x)):
        mixing = dist.Categorical(probs=jnp.ones(2) / 2)
        numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(loc, 1.0)), obs=x)


def exact():
    """P(loc[0] < loc[1]) and the log evidence, by the sum over a fine grid."""
    grid = np.linspace(-8.0, 8.0, 1601)
    part = np.exp(-0.5 * (X - grid[:, None]) ** 2) / np.sqrt(2 * np.pi)
    prior = stats.norm.logpdf(grid[:, None], CENTRES, 2.0)
    height = prior[:, None, 0] + prior[None, :, 1]
    height = height + np.log(0.5 * (part[:, None] + part[None, :])).sum(-1)
    mass = np.exp(height - height.max())
    below = mass[grid[:, None] < grid[None, :]].sum() / mass.sum()
    return below, np.log(mass.sum() * (grid[1] - grid[0]) ** 2) + height.max()


@cache
def em():
    return bm.EM(two_ways, restarts=8, progress_bar=False).run(jax.random.key(0), X)


@cache
def smc():
    return bm.SMC(two_ways, particles=2048, progress_bar=False).run(jax.random.key(1), X)


@cache
def nuts(start="em"):
    sampler = bm.NUTS(two_ways, chains=4, warmup=100, draws=200, progress_bar=False)
    return sampler.run(jax.random.key(2), X, start=em() if start == "em" else smc())


def test_smc_has_the_modes_in_proportion():
    below, log_evidence = exact()
    found = smc().estimate(smc().params["loc"][:, 0] < smc().params["loc"][:, 1])
    assert abs(found.mean - below) < Z * found.error
    assert abs(smc().log_evidence - log_evidence) < Z * smc().log_evidence_error


def test_modes_of_the_chains_get_their_weights():
    """Chains do not cross; SMC's weights are the exact ones, Laplace's nearly."""
    below, _ = exact()
    table = nuts().mode_weights(smc())
    assert sorted(chain for members in table["chains"] for chain in members) == [0, 1, 2, 3]
    first = nuts().samples["loc"].mean(1)[[members[0] for members in table["chains"]]]
    expected = np.where(first[:, 0] < first[:, 1], below, 1 - below)
    assert np.all(np.abs(table["smc"] - expected) < Z * table["smc_error"])
    np.testing.assert_allclose(table["laplace"], expected, atol=0.05)
    for column in ("share", "smc", "laplace", "stacking"):
        assert table[column].sum() == pytest.approx(1.0)


def test_the_report_says_what_the_chains_cannot():
    alone, together = nuts().report(), nuts().report(smc())
    assert "The chains sit in 2 different modes" in alone
    assert "cannot say, so do not pool them: smc = bm.SMC(program)" in alone
    assert "by SMC" not in alone
    assert "by SMC" in together
    assert "SMC and Laplace agree" in together
    assert "Stacking weighs the modes otherwise" in together  # two modes that predict alike
    assert "bm.SMC(program)" not in together


SURE = {"smc": np.array([0.7, 0.3]), "smc_error": np.array([0.01, 0.01]), "missed": 0.0,
        "laplace": None, "stacking": np.array([0.7, 0.3])}  # fmt: skip


@pytest.mark.parametrize(
    ("chains", "changed", "said", "proportion"),
    [
        (((0, 1), (2,)), {}, "in their right proportion", True),
        (((0,), (1, 2)), {}, "do not pool", False),
        (((0, 1), (2,)), {"missed": 0.3}, "30% of the posterior where no chain was", False),
        (((0, 1), (2,)), {"doubt": "islands disagree"}, "cannot decide here: islands", False),
        (((0, 1), (2,)), {"smc": None, "smc_error": None}, "so do not pool", False),
        (((0, 1),), {"smc": None, "smc_error": None, "stacking": np.ones(1)},
         "Whether there are others they cannot say", False),
        (((0, 1),), {"smc": np.ones(1), "smc_error": np.zeros(1), "stacking": np.ones(1),
                     "missed": 0.013}, "both would miss", True),
        (((0, 1), (2,)), {"laplace": np.array([0.2, 0.8])}, "SMC and Laplace disagree", True),
    ],
)  # fmt: skip
def test_what_is_said_of_the_modes(chains, changed, said, proportion):
    weights = ModeWeights(chains, **SURE | changed)
    assert any(said in sentence for sentence in weights.sentences)
    assert weights.in_proportion == proportion
    pooled = "right proportion" in " ".join(weights.sentences)
    assert pooled <= proportion  # never said where it is not known


def test_an_smc_that_may_not_be_trusted_decides_nothing():
    shaken = replace(smc(), log_evidences=smc().log_evidences + 3.0)
    report = nuts().report(shaken)
    assert "SMC cannot decide here: the way from the prior gives" in report
    assert "proportion" not in report


def test_chains_start_at_particles_by_the_modes_probabilities():
    """Each first point is a particle of its own; over many chains modes come as often as there."""
    particles, many = smc().params["loc"], 1000
    starts = starts_of(smc().mixture, smc(), jax.random.key(3), many, quiet)
    z = starts.frame.centre + starts.points @ starts.frame.factor.T
    far, which = cKDTree(particles).query(z)  # this program's sites are their own coordinates
    assert far.max() < 1e-8
    assert len(np.unique(particles[which], axis=0)) > 4  # not one and the same
    held = (particles[:, 0] < particles[:, 1]).mean()
    share = (z[:, 0] < z[:, 1]).mean()
    assert abs(share - held) < Z * np.sqrt(held * (1 - held) / many)
    few = starts_of(smc().mixture, smc(), jax.random.key(3), 4, quiet)
    assert len(np.unique(few.points, axis=0)) == 4


def test_chains_that_started_at_particles_know_their_smc():
    result = nuts("smc")
    assert result.start is None
    assert result.smc is smc()
    assert "particles of SMC" in result.start_policy
    assert result.report() == result.report(smc())


def test_a_start_from_other_data_is_refused():
    with pytest.raises(ValueError, match="SMCResult of another program or other data"):
        bm.NUTS(two_ways, progress_bar=False).run(jax.random.key(0), X + 1.0, start=smc())


def test_a_chain_that_stands_still_has_densities_too():
    """No Pareto tail fits one value: such rows keep the harmonic mean, the others are PSIS."""
    log_density = np.random.default_rng(0).normal(size=(3, 1000))
    log_density[0] = -2.0
    log_density[1, :300] = -9.0
    found = _left_out(log_density)
    assert found[0] == pytest.approx(-2.0)
    harmonic = -np.log(np.mean(np.exp(-log_density[1])))
    assert found[1] == pytest.approx(harmonic)
    weights, _ = array_stats.psislw(log_density[2])
    psis = np.average(np.exp(log_density[2]), weights=np.exp(weights))
    assert found[2] == pytest.approx(np.log(psis))


def test_stacking_is_the_optimum():
    """Against SciPy's constrained optimiser on the same objective."""
    elpd = np.random.default_rng(0).normal(-1.0, 0.7, (60, 3))
    ours = stack(elpd)

    def loss(w):
        return -np.mean(np.log(np.exp(elpd) @ w))

    bounds, total = [(0, 1)] * 3, {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = minimize(loss, np.full(3, 1 / 3), bounds=bounds, constraints=[total], tol=1e-12)
    assert loss(ours) <= best.fun + 1e-5
    np.testing.assert_allclose(ours, best.x, atol=2e-3)
