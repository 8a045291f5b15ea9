"""SMC: evidence and posterior against answers in closed form, all names alike, honest errors."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from oracles import COMPARISONS, FALSE_ALARM, Z, t_bound
from programs import BY_ID, Y
from scipy import stats
from scipy.special import logsumexp

import bayesmix as bm
from bayesmix.smc import cloud, naming, proposal
from bayesmix.smc.bridge import weighed
from bayesmix.smc.prior import draw_prior
from bayesmix.smc.result import evidence

ROW = BY_ID["normal_nig"]


@cache
def smc(seed=0, particles=2048):
    sampler = bm.SMC(ROW.program, particles=particles, progress_bar=False)
    return sampler.run(jax.random.key(seed), *ROW.args)


def one_normal(x):
    loc = numpyro.sample("loc", dist.Normal(1.0, 3.0).expand([1]).to_event(1))
    with numpyro.plate("obs_id", len(x)):
        mixing = dist.Categorical(probs=jnp.ones(1))
        numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(loc, 2.0)), obs=x)


@cache
def conjugate():
    x = np.linspace(-2.0, 7.0, 20)
    run = bm.SMC(one_normal, particles=4096, progress_bar=False).run
    return x, run(jax.random.key(3), x)


def test_evidence_of_one_normal_is_the_closed_form():
    """x ~ Normal(1, 4 I + 9 J) with the mean integrated out."""
    x, result = conjugate()
    covariance = 4.0 * np.eye(len(x)) + 9.0
    exact = stats.multivariate_normal(np.ones(len(x)), covariance).logpdf(x)
    bound = t_bound(len(result.log_evidences))
    assert abs(result.log_evidence - exact) < bound * result.log_evidence_error
    assert result.log_evidence_error < 0.01


def test_posterior_of_one_normal_is_the_closed_form():
    x, result = conjugate()
    variance = 1 / (1 / 9 + len(x) / 4)
    mean = variance * (1 / 9 + x.sum() / 4)
    for power, exact in ((1, mean), (2, mean**2 + variance)):
        found = result.estimate(result.params["loc"][:, 0] ** power)
        assert abs(found.mean - exact) < t_bound(len(result.log_evidences)) * found.error


def test_errors_are_those_of_repeated_runs():
    """Independent runs scatter as each run says: a ratio of variances, F with R - 1 and R (J - 1)
    degrees of freedom where R runs of J islands are nearly Normal.
    """
    runs = [smc(seed, 1024) for seed in range(8)]
    islands = len(runs[0].log_evidences)
    between = np.var([run.log_evidence for run in runs], ddof=1)
    said = np.mean([run.log_evidence_error**2 for run in runs])
    law = stats.f(len(runs) - 1, len(runs) * (islands - 1))
    tail = FALSE_ALARM / COMPARISONS
    assert law.ppf(tail / 2) < between / said < law.isf(tail / 2)


def test_names_are_alike_likely():
    """Symmetric priors: each cluster is the one of larger weight in half of the draws."""
    first = smc().params["weights"][:, 0] > smc().params["weights"][:, 1]
    assert abs(first.mean() - 0.5) < Z * 0.5 / np.sqrt(len(first))


def test_the_same_key_gives_the_same_draws():
    sampler = bm.SMC(ROW.program, particles=2048, progress_bar=False)
    again = sampler.run(jax.random.key(0), *ROW.args)
    np.testing.assert_array_equal(again.params["loc"], smc().params["loc"])
    assert again.log_evidence == smc().log_evidence


def test_other_data_of_the_same_shape_compile_nothing(caplog):
    run = bm.SMC(ROW.program, particles=2048, progress_bar=False).run
    run(jax.random.key(4), *ROW.args)  # earlier tests' code may have been given back
    with jax.log_compiles(True):
        other = run(jax.random.key(5), Y[::-1] + 0.5)
    assert [m for m in caplog.messages if "Finished XLA compilation" in m] == []
    assert other.log_evidence != smc().log_evidence


def test_draws_of_the_prior_take_what_a_closure_holds_from_now():
    """Two programs of the same arithmetic that hold other numbers share code, not numbers."""

    def program_of(centre):
        def program(x):
            loc = numpyro.sample("loc", dist.Normal(centre, 0.01).to_event(1))
            with numpyro.plate("obs_id", len(x)):
                mixing = dist.Categorical(probs=jnp.ones(2) / 2)
                numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(loc, 1.0)), obs=x)

        return program

    for centre in (np.array([1.0, 2.0]), np.array([30.0, 40.0])):
        drawn = draw_prior(bm.trace(program_of(centre), Y), jax.random.key(0), 64)
        np.testing.assert_allclose(drawn["loc"], np.broadcast_to(centre, (64, 2)), atol=0.06)


def test_results_can_be_used_like_those_of_nuts():
    result = smc()
    tree = result.to_datatree()
    assert tree.attrs["inference_method"] == "smc"
    assert dict(tree["posterior"].sizes)["draw"] == 2048
    assert "islands agree" in result.report()
    assert "log evidence" in repr(result)
    assert set(result.get_samples()) == set(result.mixture.sites)
    assert len(result.summary()) == sum(
        int(np.prod(s.shape)) for s in result.mixture.sites.values()
    )
    proba = result.predict_proba(Y[:5])
    np.testing.assert_allclose(proba.sum(-1), 1)
    assert result.sample(jax.random.key(3), 7).shape == (7,)


def test_the_card_holds_em_against_smc():
    em = bm.EM(ROW.program, restarts=4, progress_bar=False).run(jax.random.key(0), *ROW.args)
    text = str(bm.card(em, smc()))
    assert "islands agree" in text
    assert f"log evidence {smc().log_evidence:.3f}" in text


def test_density_of_new_rows_is_averaged_over_the_draws():
    draws = smc().params
    scale = np.sqrt(draws["var"])[:, None]
    parts = stats.norm.logpdf(Y[:5][:, None], draws["loc"][:, None], scale)
    expected = logsumexp(np.log(draws["weights"])[:, None] + parts, axis=(0, 2))
    found = smc().log_density(Y[:5])
    np.testing.assert_allclose(found, expected - np.log(len(draws["loc"])), rtol=1e-10)


def test_the_bridge_sharpens_the_evidence_and_says_when_it_contradicts_the_climb():
    result = conjugate()[1]
    assert evidence(result.climbed).error > 2 * result.log_evidence_error
    assert result.trusted
    other = replace(result, log_evidences=result.log_evidences + 1.0)
    assert not other.trusted
    assert "the way from the prior gives" in other.verdict
    assert "the islands disagree" not in other.verdict
    apart = replace(result, climbed=result.climbed + np.linspace(0.0, 90.0, len(result.climbed)))
    assert not apart.trusted
    assert "islands disagree" in apart.verdict


# ----------------------------------------------------------------------------------------- parts


def test_bridge_of_two_known_densities():
    """Mass 7 on a correlated Normal, from a mixture that is off in place, width and shape.

    Its log, the mean under the pooled weights, and the mass again where particles are all on one
    side: the proposal's draws make up for them.
    """
    rng = np.random.default_rng(6)
    target = stats.multivariate_normal([1.0, -1.0], [[1.0, 0.6], [0.6, 2.0]])
    near = proposal.Proposal(
        np.log([0.3, 0.7]),
        np.array([[0.0, 0.0], [1.5, -1.5]]),
        np.stack([1.2 * np.eye(2), np.array([[0.8, 0.0], [0.5, 1.0]])]),
    )
    masses, means = [], []
    for _ in range(50):
        ours, theirs = target.rvs(400, rng), near.draw(rng, 2000)
        z = np.concatenate([ours, theirs])
        log_ratio = np.log(7.0) + target.logpdf(z) - near.log_density(z)
        log_weight, log_mass = weighed(log_ratio[:400], log_ratio[400:], 400)
        assert logsumexp(log_weight) == pytest.approx(0.0, abs=1e-9)
        masses.append(log_mass)
        means.append(np.exp(log_weight) @ z)
    for found, exact in ((masses, np.log(7.0)), (means, [1.0, -1.0])):
        error = np.std(found, 0, ddof=1) / np.sqrt(50)
        assert np.all(np.abs(np.mean(found, 0) - exact) < t_bound(50) * error)
        assert np.all(error < 0.01)


def test_a_proposal_without_any_posterior_leaves_the_particles():
    log_weight, log_mass = weighed(np.zeros(4), np.full(3, -np.inf), 4)
    np.testing.assert_allclose(np.exp(log_weight), [0.25] * 4 + [0.0] * 3)
    assert log_mass == -np.inf


def test_the_proposal_is_the_density_of_its_draws_and_near_the_particles():
    """One component against SciPy; two modes of a fitted one by the mass of a known density."""
    rng = np.random.default_rng(8)
    factor = np.array([[1.0, 0.0], [0.7, 0.5]])
    one = proposal.Proposal(np.zeros(1), np.array([[2.0, 3.0]]), factor[None])
    z = one.draw(rng, 500)
    law = stats.multivariate_t([2.0, 3.0], factor @ factor.T, proposal.TAILS)
    np.testing.assert_allclose(one.log_density(z), law.logpdf(z), rtol=1e-10)
    centres = np.array([[0.0, 0.0], [30.0, 0.0]])
    particles = centres[(rng.random(4000) < 0.1).astype(int)] + rng.normal(size=(4000, 2))
    near = proposal.fitted(rng, particles, cloud.factor_of(particles))
    drawn = near.draw(rng, 4000)
    density = logsumexp(
        [
            np.log(s) + stats.multivariate_normal(c).logpdf(drawn)
            for s, c in zip((0.9, 0.1), centres, strict=True)
        ],
        axis=0,
    )
    ratio = np.exp(density - near.log_density(drawn))
    assert abs(ratio.mean() - 1.0) < Z * ratio.std() / np.sqrt(4000)
    assert ratio.mean() ** 2 / (ratio**2).mean() > 0.5  # effective share: a fit worth its draws


def test_the_temperature_keeps_the_share_of_particles_it_should():
    rng = np.random.default_rng(0)
    rest, share = rng.normal(0, 30, (4, 500)), np.log(np.full(4, 0.25))
    there = cloud.next_temperature(0.1, share, rest)
    weight = np.exp((there - 0.1) * (rest - rest.max()))
    kept = weight.sum() ** 2 / (weight**2).sum() / weight.size
    assert kept == pytest.approx(cloud.KEPT, rel=1e-2)
    assert cloud.next_temperature(0.1, share, 1e-3 * rest) == 1.0


def test_particles_without_likelihood_do_not_count():
    rest = np.concatenate([np.full((2, 300), -np.inf), np.zeros((2, 20))], 1)
    assert cloud.next_temperature(0.0, np.log([0.5, 0.5]), rest) == 1.0
    with pytest.raises(ValueError, match="do not meet"):
        cloud.next_temperature(0.0, np.log([0.5, 0.5]), np.full((2, 9), -np.inf))


def test_systematic_resampling_gives_each_its_share_to_within_one():
    log_weight = np.random.default_rng(1).normal(size=(3, 50))
    found = cloud.survivors(np.random.default_rng(2), log_weight, 400)
    for island, chosen in zip(log_weight, found, strict=True):
        expected = 400 * np.exp(island) / np.exp(island).sum()
        assert np.all(np.abs(np.bincount(chosen, minlength=50) - expected) < 1)


def test_scatter_is_that_of_most_particles():
    """A Normal has the t fit's shape; a mode apart hardly widens it."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(4000, 2)) @ np.array([[1.0, 0.5], [0.0, 0.2]])
    alone = cloud.factor_of(z)
    apart = cloud.factor_of(np.concatenate([z, 0.1 * z[:200] + 50.0]))
    assert np.linalg.cond(np.linalg.solve(alone, apart)) < 1.5
    assert np.linalg.cond(alone) == pytest.approx(np.linalg.cond(np.cov(z.T)) ** 0.5, rel=0.1)


def test_chances_of_names_add_up_to_one():
    """Over all renamings within the classes, p(names | particle) is a distribution."""
    from itertools import permutations

    symmetry = naming.Symmetry(((0, 2, 3), (1,)), ())
    score = np.random.default_rng(4).normal(size=(4, 4))
    total = 0.0
    for order in permutations((0, 2, 3)):
        perm = np.arange(4)
        perm[[0, 2, 3]] = order
        total += np.exp(float(naming.log_chance(symmetry, jnp.asarray(score[perm]))))
    assert total == pytest.approx(1.0, rel=1e-5)


def test_names_are_drawn_by_their_chances():
    symmetry = naming.Symmetry(((0, 2, 3), (1,)), ())
    score = jnp.asarray(np.random.default_rng(5).normal(size=(4, 4)))
    keys = jax.random.split(jax.random.key(0), 20000)
    perms = np.asarray(jax.vmap(lambda key: naming.draw_names(symmetry, key, score))(keys))
    assert (perms[:, 1] == 1).all()
    for perm in np.unique(perms, axis=0):
        chance = np.exp(float(naming.log_chance(symmetry, score[perm])))
        share = (perms == perm).all(1).mean()
        assert abs(share - chance) < Z * np.sqrt(chance * (1 - chance) / len(keys)) + 1e-4


# ---------------------------------------------------------------------------------- what is refused


def test_improper_priors_are_refused():
    row = BY_ID["normal_flat"]
    with pytest.raises(ValueError, match="site 'loc' has an improper prior"):
        bm.SMC(row.program, progress_bar=False).run(jax.random.key(0), *row.args)


def test_priors_that_are_not_drawn_from_are_refused():
    def program(x):
        with handlers.scale(scale=2.0):
            loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=jnp.ones(2) / 2)
            numpyro.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(loc, 1.0)), obs=x)

    with pytest.raises(ValueError, match="prior of site 'loc' is changed"):
        bm.SMC(program, progress_bar=False).run(jax.random.key(0), Y)


def test_priors_beyond_the_precision_are_refused():
    """A weight is below 1e-38, the least of float32, in over 40 % of the draws: 1e-38 ** 0.01."""

    def program(x):
        weights = numpyro.sample("weights", dist.Dirichlet(0.01 * jnp.ones(2)))
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=weights)
            numpyro.sample(
                "x", dist.MixtureSameFamily(mixing, dist.Normal(jnp.arange(2.0), 1)), obs=x
            )

    with pytest.raises(ValueError, match="prior of site 'weights' are too near the edge"):
        bm.SMC(program, 1024, dtype="float32", progress_bar=False).run(jax.random.key(0), Y)


@pytest.mark.parametrize(
    "settings, word",
    [({"particles": 1000}, "multiple"), ({"particles": 0}, "particles"), ({"dtype": "f"}, "dtype")],
)
def test_settings_out_of_range_are_named(settings, word):
    with pytest.raises(ValueError, match=word):
        bm.SMC(ROW.program, **settings)


def test_single_precision_is_another_rounding():
    sampler = bm.SMC(ROW.program, particles=1024, dtype="float32", progress_bar=False)
    rough, exact = sampler.run(jax.random.key(0), *ROW.args), smc()
    error = np.hypot(rough.log_evidence_error, exact.log_evidence_error)
    bound = t_bound(len(rough.log_evidences))
    assert abs(rough.log_evidence - exact.log_evidence) < bound * error
    assert rough.params["loc"].dtype == np.float64
