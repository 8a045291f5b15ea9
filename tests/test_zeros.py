"""Counts whose zeros have a rule of their own: ready programs, gaps, both engines, the truth."""

from functools import cache

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from oracles import Z as BOUND
from oracles import x64
from programs import BY_ID
from scipy import special, stats

import bayesmix as bm
from bayesmix import density
from bayesmix.families import find

_rng = np.random.default_rng(6)
Z = _rng.random(6000) < 0.6
ZERO = _rng.random(6000) < 0.25
COUNTS = np.where(ZERO, 0, _rng.poisson(np.where(Z, 12.0, 3.0)))
MODELS = (
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial",
    "hurdle_poisson",
    "hurdle_negative_binomial",
)
every = pytest.mark.parametrize("name", MODELS)


def _scipy_counts(x, params, k):
    """Log probability of x and of 0 before zeros are changed, by SciPy."""
    if "rate" in params:
        parts = stats.poisson(params["rate"][k])
    else:
        size, mean = params["concentration"][k], params["mean"][k]
        parts = stats.nbinom(size, size / (size + mean))
    return parts.logpmf(x), parts.pmf(0)


def _scipy_joint(name, x, params):
    columns = x.shape[1:]
    s, m = ((x**2).sum(0) + 1) / (x.sum(0) + 1), ((x == 0).sum(0) + 0.5) / (len(x) + 1)
    total = stats.dirichlet([2.0, 2.0]).logpdf(params["weights"])
    mean = params["rate"] if "rate" in params else params["mean"]
    total += stats.gamma(2, scale=s / 2).logpdf(mean).sum()
    total += stats.beta(1 + m, 2 - m).logpdf(params["gate"]).sum()
    if "concentration" in params:
        above = np.where(x > 0, x, np.nan)
        v = (np.nanvar(above, 0) + 1) / (np.nanmean(above, 0) + 1) ** 2
        part = 2.0 ** (-2 / (columns[0] if columns else 1))
        total += stats.gamma(1.5, scale=2 / (part * v)).logpdf(params["concentration"]).sum()
    terms, gates = [], np.broadcast_to(params["gate"], (2, *columns))
    for k, gate in enumerate(gates):
        log, zero = _scipy_counts(x, params, k)
        if name.startswith("hurdle"):
            mass = np.where(x == 0, gate, (1 - gate) * np.exp(log) / (1 - zero))
        else:
            mass = (1 - gate) * np.exp(log) + gate * (x == 0)
        terms.append(np.log(mass).reshape(len(x), -1).sum(1))
    weighted = np.log(params["weights"])[:, None] + terms
    return total + special.logsumexp(weighted, axis=0).sum()


@every
@pytest.mark.parametrize("columns", [(), (2,)], ids=["N", "N_x_2"])
def test_a_model_is_what_its_page_says(name, columns):
    x = COUNTS[:80].reshape(-1, *columns).astype(float)
    rng = np.random.default_rng(1)
    mean = "rate" if name.endswith("poisson") else "mean"
    params = {"weights": np.array([0.4, 0.6]), mean: rng.gamma(3.0, 2.0, (2, *columns))}
    if mean == "mean":
        params["concentration"] = rng.gamma(3.0, 2.0, (2, *columns))
    params["gate"] = rng.beta(2, 3, (2, 2) if columns else ())
    theirs = _scipy_joint(name, x, params)
    with x64():
        mixture = bm.trace(getattr(bm.models, name)(2), x)
        assert abs(float(bm.log_joint(mixture, params)) - theirs) < 1e-10 * abs(theirs)


@cache
def fitted(name):
    program = getattr(bm.models, name)(2)
    return bm.EM(program, restarts=4, progress_bar=False).run(jax.random.key(0), COUNTS)


@pytest.mark.parametrize("name", ["zero_inflated_poisson", "hurdle_poisson"])
def test_clusters_and_zeros_are_found_in_merged_rows(name):
    """6000 counts are some thirty distinct ones; the truth is within four standard errors.

    Of 4500 counts that are no extra zeros 1800 have rate 3 and 2700 rate 12. They overlap little,
    which two standard errors more allow for. A hurdle's zeros are the extra ones and, of the rows
    with rate 3, a share of exp(-3).
    """
    em = fitted(name)
    assert density.merged_of(em.mixture) is not None
    order = np.argsort(em.params["rate"])
    error = 6 * np.sqrt([3 / 1800, 12 / 2700])
    assert np.all(np.abs(em.params["rate"][order] - [3, 12]) < error)
    hurdle, own = name.startswith("hurdle"), np.exp(-3.0)
    zero = 0.25 + 0.75 * 0.4 * own if hurdle else 0.25
    share = 0.4 * (1 - own) / (1 - 0.4 * own) if hurdle else 0.4
    assert abs(em.params["gate"] - zero) < 6 * np.sqrt(0.25 * 0.75 / 6000)
    assert abs(em.params["weights"][order[0]] - share) < 6 * np.sqrt(0.4 * 0.6 / 4500)
    assert em.converged


def test_the_share_of_zeros_of_one_hurdle_is_its_betas_mode():
    """One column: gate ~ Beta(1 + m, 2 - m) and n rows of which some are 0, nothing else."""
    em, m = fitted("hurdle_poisson"), ((COUNTS == 0).sum() + 0.5) / (len(COUNTS) + 1)
    mode = (m + (COUNTS == 0).sum()) / (1 + len(COUNTS))
    assert float(em.params["gate"]) == pytest.approx(mode, rel=1e-12)


@every
def test_gaps_are_integrated_out_in_the_sweep(name):
    """Two columns with missing cells: the family's own pass, and NumPyro's density to rounding."""
    x = COUNTS[:120].reshape(60, 2).astype(float)
    x[np.random.default_rng(2).random(x.shape) < 0.2] = np.nan
    mixture = bm.trace(getattr(bm.models, name)(2), x)
    with x64():
        assert density.has_family(mixture)
    assert bm.certify(jax.random.key(0), mixture, points=1).passed


@every
def test_bad_counts_are_refused_in_one_sentence(name):
    for bad in (-1.0, 2.5):
        with pytest.raises(ValueError, match=f"row 3 is {bad}, outside the support") as error:
            bm.trace(getattr(bm.models, name)(2), np.array([0.0, 1.0, 2.0, bad]))
        assert len(str(error.value)) < 300


def test_nuts_agrees_with_the_conjugate_posterior_of_the_zeros():
    """A hurdle's gate meets nothing but the zeros: its posterior is a Beta, whatever the rest."""
    x = COUNTS[:60]
    nuts = bm.NUTS(bm.models.hurdle_poisson(2), chains=2, draws=500, progress_bar=False)
    draws = nuts.run(jax.random.key(0), x).get_samples()["gate"]
    n, m = (x == 0).sum(), ((x == 0).sum() + 0.5) / 61
    exact = stats.beta(1 + m + n, 2 - m + len(x) - n)
    worth = len(draws) / 4  # NUTS on a parameter that is independent of all others does better
    assert abs(draws.mean() - exact.mean()) < BOUND * exact.std() / np.sqrt(worth)
    assert abs(np.var(draws) / exact.var() - 1) < BOUND * np.sqrt(2 / worth)


@pytest.mark.parametrize(
    "prior, told", [(dist.HalfCauchy(3.0), True), (dist.Gamma(3.0, 0.5), False)]
)
def test_a_hurdle_before_positive_numbers_may_collapse_as_they_do(prior, told):
    x = BY_ID["hurdle_gamma"].args[0]

    def program(x):
        weights = numpyro.sample("weights", dist.Dirichlet(np.full(2, 2.0)))
        with numpyro.plate("cluster", 2):
            shape = numpyro.sample("shape", prior)
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        parts = dist.HurdleGamma(0.2, shape, rate)
        with numpyro.plate("obs_id", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)

    assert ("the log joint has no maximum" in " ".join(str(bm.trace(program, x)).split())) == told


@pytest.mark.parametrize("bad", [False, True])
def test_zeros_are_values_of_a_hurdle_however_it_is_written(bad):
    """NumPyro's support of HurdleDistribution(Gamma) has no 0, its density has."""
    x = BY_ID["hurdle_gamma"].args[0].copy()

    def program(x):
        weights = numpyro.sample("weights", dist.Dirichlet(np.full(2, 2.0)))
        with numpyro.plate("cluster", 2):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        parts = dist.HurdleDistribution(dist.Gamma(2.0, rate), gate=0.2)
        with numpyro.plate("obs_id", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)

    if not bad:
        assert bm.certify(jax.random.key(0), bm.trace(program, x), points=1).passed
        return
    x[3] = -1.0
    with pytest.raises(ValueError, match=r"row 3 is -1\.0, .*numbers from 0"):
        bm.trace(program, x)


class Doubled(dist.ZeroInflatedPoisson):
    """Not NumPyro's own: it may have any density."""


def test_only_numpyros_own_distributions_are_taken_for_what_they_are():
    from bayesmix.parameters import kind

    pair = kind(dist.HurdleNegativeBinomial2(0.2, 3.0, 2.0).expand([4]).to_event(1))
    assert (pair.outer, pair.inner) == (dist.HurdleProbs, dist.NegativeBinomial2)
    assert kind(Doubled(0.2, 3.0)) is Doubled
    lasting = kind(dist.HurdleDistribution(dist.LogNormal(0.0, 1.0), gate=0.2))
    assert find(lasting, {}, COUNTS) is None  # no family of counts or positive numbers inside
    assert find(pair, {}, COUNTS).name == "HurdleNegativeBinomial"
