"""310 wind directions: EM and NUTS against an independent Gibbs sampler's posterior.

Prior of the reference: directions uniform on the circle, concentrations Gamma(2, 1/2), weights
flat. Its draws are labelled by their weights, w[1] < w[2]; the same is done to ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from oracles import Z
from scipy import stats
from scipy.special import logsumexp
from test_nuts_references import _mcse

import bayesmix as bm


def winds(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Uniform(-jnp.pi, jnp.pi))
        kappa = numpyro.sample("kappa", dist.Gamma(2.0, 0.5))
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.VonMises(loc, kappa))
    with numpyro.plate("obs_id", len(x)):
        numpyro.sample("x", mixture, obs=x)


def directions(reference):
    x = reference("data/wind_directions.csv").to_numpy(float).ravel()
    return (x + np.pi) % (2 * np.pi) - np.pi


@pytest.fixture(scope="module")
def em(reference):
    x = directions(reference)
    return bm.EM(winds, restarts=16, progress_bar=False).run(jax.random.key(0), x)


def test_no_draw_of_the_reference_is_more_probable_than_the_mode(reference, em):
    """Thousands of draws around both modes of the posterior, by SciPy's densities."""
    draws = reference("posterior/wind_vonmises_K2.draws.csv.gz")
    w, loc, kappa = (
        draws[[f"{name}[1]", f"{name}[2]"]].to_numpy() for name in ("w", "mu_angle", "kappa")
    )
    x = directions(reference)

    def log_joint(w, loc, kappa):
        terms = np.log(w) + stats.vonmises.logpdf(x[:, None, None], kappa, loc=loc)
        prior = stats.gamma.logpdf(kappa, 2, scale=2).sum(-1) - 2 * np.log(2 * np.pi)
        return logsumexp(terms, -1).sum(0) + prior

    best = log_joint(*(em.params[name][None] for name in ("weights", "loc", "kappa")))[0]
    assert em.log_joint == pytest.approx(best, rel=1e-10)
    several = log_joint(w[::10], loc[::10], kappa[::10])
    assert len(several) > 200
    assert several.max() < em.log_joint
    # Five free parameters: the draws come near, about chi-square(5) / 2 below.
    assert several.max() > em.log_joint - stats.chi2(5).ppf(0.1)


def test_nuts_agrees_with_the_gold_posterior(reference, em):
    expected = reference("posterior/wind_vonmises_K2.json")
    sampler = bm.NUTS(winds, chains=4, warmup=500, draws=2000, progress_bar=False)
    samples = sampler.run(jax.random.key(2), directions(reference), start=em).samples
    order = np.argsort(samples["weights"], -1)
    ours = {n: np.take_along_axis(np.asarray(v), order, -1) for n, v in samples.items()}
    summary = {row["variable"]: row for row in expected["summary"]}
    for site, name in (("weights", "w"), ("kappa", "kappa")):
        for k in range(2):
            row, draws = summary[f"{name}[{k + 1}]"], ours[site][..., k]
            error = np.hypot(_mcse(draws[..., None])[0], row["mcse_mean"])
            assert abs(draws.mean() - row["mean"]) < Z * error, (name, k)
    for k in range(2):
        known = expected["mu_circular"][k]
        # The reference gives no errors for these; its draws are as many as those of the angles.
        scale = np.sqrt(summary[f"mu_angle[{k + 1}]"]["ess"])
        for wave, name in ((np.cos, "mean_cos"), (np.sin, "mean_sin")):
            draws = wave(ours["loc"][..., k])
            error = np.hypot(_mcse(draws[..., None])[0], draws.std() / scale)
            assert abs(draws.mean() - known[name]) < Z * error, (name, k)
