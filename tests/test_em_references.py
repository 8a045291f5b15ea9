"""EM against R: mclust's maximum likelihood for every structure, and MAP with written-out priors.

mclust's tables (R 4.2.2, mclust 6.0.0) are local optima from one hierarchical start, so more is
welcome and less is a failure. `map_*` files give the prior, the objective and the parameters to 12
digits, checked there by one independent MAP-EM step.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln

import bayesmix as bm

STRUCTURES = {"full": "VVV", "spherical": "VII", "diag": "VVI", "tied": "EEE"}
SETS = {
    "faithful": ["eruptions", "waiting"],
    "iris": ["Sepal.Length", "Sepal.Width", "Petal.Length", "Petal.Width"],
    "thyroid": ["RT3U", "T4", "T3", "TSH", "DTSH"],
    "diabetes": ["glucose", "insulin", "sspg"],
}
# What is left of a log likelihood when EM stops at an estimated 1e-9 nats, with a thousandfold
# reserve.
SLACK = 1e-6


def _table(reference, name, model):
    """{G: log likelihood} of one mclust model; cells where mclust gave up are left out."""
    rows = reference(f"ml/mclust_{name}.json")["table"]
    return {row["G"]: row for row in rows if row["model"] == model and row["loglik"] is not None}


def _data(reference, name):
    return reference(f"data/{name}.csv")[SETS[name]].to_numpy(float)


@cache
def _fit(name, covariance, G, shape, data):
    x = np.frombuffer(data).reshape(shape)
    program = bm.models.gaussian(G, covariance=covariance, prior="flat")
    return bm.EM(program, restarts=16, progress_bar=False).run(jax.random.key(0), x)


@pytest.mark.parametrize("which", ["2", "3", "best"])
@pytest.mark.parametrize("covariance", STRUCTURES)
@pytest.mark.parametrize("name", SETS)
def test_reaches_mclusts_maximum_likelihood(reference, name, covariance, which):
    """Flat priors: the best mode that passes our own regularity check is at least as high as
    mclust's.
    """
    table = _table(reference, name, STRUCTURES[covariance])
    ranked = sorted((r for r in table.values() if r["BIC"] is not None), key=lambda r: -r["BIC"])
    G = ranked[0]["G"] if which == "best" else int(which)
    if G not in table:
        pytest.skip(f"mclust itself found no {STRUCTURES[covariance]} solution with G={G}")
    x = _data(reference, name)
    em = _fit(name, covariance, G, x.shape, x.tobytes())
    best = em.modes[0]
    assert best.regular, best.reason
    assert best.log_likelihood == pytest.approx(em.log_likelihood, abs=SLACK)
    assert em.log_likelihood >= table[G]["loglik"] - SLACK
    assert em.converged


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_counts_parameters_as_mclust_does(reference, covariance):
    table = _table(reference, "iris", STRUCTURES[covariance])
    x = _data(reference, "iris")
    em = _fit("iris", covariance, 2, x.shape, x.tobytes())
    assert em.n_parameters == table[2]["df"]
    mclust_bic = 2 * em.log_likelihood - table[2]["df"] * np.log(len(x))
    assert em.bic == pytest.approx(-mclust_bic, rel=1e-12)


def test_same_solution_gives_mclusts_icl(reference):
    """On the one solution that everybody finds, BIC and ICL are mclust's with the other sign."""
    row = _table(reference, "faithful", "VVV")[2]
    x = _data(reference, "faithful")
    em = _fit("faithful", "full", 2, x.shape, x.tobytes())
    # mclust stops at a relative change of 1e-5 in the log likelihood.
    assert em.log_likelihood == pytest.approx(row["loglik"], abs=1e-5 * abs(row["loglik"]))
    assert em.bic == pytest.approx(-row["BIC"], abs=0.03)
    assert em.icl == pytest.approx(-row["ICL"], abs=0.1)


# --------------------------------------------------------------------------- MAP, prior written out

MAPS = ["faithful_G2", "faithful_G3", "iris_G2", "iris_G3", "galaxies_mass_per1000_G3",
        "galaxies_mass_per1000_G4", "stamps_G3"]  # fmt: skip


def _map_data(reference, name):
    if name == "galaxies_mass_per1000":
        return reference("data/galaxies.csv")["velocity_mass"].to_numpy(float) / 1000.0
    if name == "stamps":
        return reference("data/stamps.csv")["thickness_mm"].to_numpy(float)
    return _data(reference, name)


def _written_out(prior, K, D):
    """The file's own prior as a NumPyro program, every number from the file."""
    mu0, kappa, nu = np.asarray(prior["mu0"]), prior["kappa"], prior["nu"]
    Lambda = np.asarray(prior["Lambda"])

    def one_column(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
        with numpyro.plate("cluster", K):
            spread = numpyro.sample("spread", dist.InverseGamma(nu / 2.0, Lambda[0, 0] / 2.0))
            loc = numpyro.sample("loc", dist.Normal(mu0, jnp.sqrt(spread / kappa)))
        mixture = dist.MixtureSameFamily(
            dist.Categorical(probs=weights), dist.Normal(loc, jnp.sqrt(spread))
        )
        with numpyro.plate("obs_id", x.shape[0]):
            numpyro.sample("x", mixture, obs=x)

    def many_columns(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
        with numpyro.plate("cluster", K):
            spread = numpyro.sample("spread", dist.InverseWishart(nu, scale_matrix=Lambda))
            loc = numpyro.sample("loc", dist.MultivariateNormal(mu0, spread / kappa))
        mixture = dist.MixtureSameFamily(
            dist.Categorical(probs=weights), dist.MultivariateNormal(loc, covariance_matrix=spread)
        )
        with numpyro.plate("obs_id", x.shape[0]):
            numpyro.sample("x", mixture, obs=x)

    return one_column if D == 1 else many_columns


def _in_reference_order(params, names, expected):
    """weights, mean, Sigma of a mode, clusters in the order of the file (matched by mean)."""
    weights, mean, Sigma = (np.asarray(params[name]) for name in names)
    mean, Sigma = mean.reshape(len(weights), -1), Sigma.reshape(expected["Sigma"].shape)
    scale = np.abs(expected["mean"]).max(0)
    gaps = np.abs(mean[:, None] - expected["mean"][None]).max(-1) / scale.max()
    perm = gaps.argmin(0)
    assert len(set(perm)) == len(perm), "the clusters of this mode do not match the reference's"
    return {"weights": weights[perm], "mean": mean[perm], "Sigma": Sigma[perm]}


@pytest.mark.parametrize("source", ["written out", "bm.models"])
@pytest.mark.parametrize("case", MAPS)
def test_reaches_the_map_with_a_written_out_prior(reference, case, source):
    facts = reference(f"ml/map_{case}.json")
    x, K, D = _map_data(reference, facts["name"]), facts["G"], facts["d"]
    if source == "bm.models":
        program, spread = bm.models.gaussian(K, prior="mclust"), "var" if D == 1 else "cov"
    else:
        program, spread = _written_out(facts["prior"], K, D), "spread"
    em = bm.EM(program, restarts=32, progress_bar=False).run(jax.random.key(0), x)
    expected = {name: np.asarray(value) for name, value in facts["parameters"].items()}
    expected["mean"] = expected["mean"].reshape(K, -1)
    target = facts["objective"]["log_posterior_unnormalised"]
    # The file leaves out the constant of the flat prior on the weights.
    objectives = [mode.log_joint - gammaln(K) for mode in em.modes if mode.regular]
    # More than the file's objective is fine, and then its mode must still be among ours.
    assert em.converged
    assert objectives[0] >= target - 1e-6
    nearest = int(np.argmin(np.abs(np.array(objectives) - target)))
    assert objectives[nearest] == pytest.approx(target, abs=1e-6)
    mode = [mode for mode in em.modes if mode.regular][nearest]
    found = _in_reference_order(mode.params, ("weights", "loc", spread), expected)
    sds = np.sqrt(np.einsum("kii->ki", expected["Sigma"]))
    scales = {
        "weights": expected["weights"],
        "mean": np.maximum(np.abs(expected["mean"]), sds),
        "Sigma": sds[:, :, None] * sds[:, None, :],
    }
    for name, value in expected.items():
        assert np.abs((found[name] - value) / scales[name]).max() <= 1e-5, name
    if nearest == 0:
        loglik = facts["objective"]["loglik"]
        assert em.log_likelihood == pytest.approx(loglik, abs=1e-4)
