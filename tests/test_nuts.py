"""What a NUTS result offers, whatever the posterior: shapes, starts, predictions, words."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from programs import BY_ID, Y
from scipy.special import logsumexp

import bayesmix as bm
from bayesmix.density import log_joint, on_bins
from bayesmix.merge import binned
from bayesmix.nuts import sampler, schedule
from bayesmix.nuts.cells import _chosen, agreement
from bayesmix.nuts.schedule import outlook
from bayesmix.nuts.starts import starts_of

ROW = BY_ID["normal_nig"]


@cache
def em():
    return bm.EM(ROW.program, restarts=4, progress_bar=False).run(jax.random.key(0), *ROW.args)


@cache
def nuts(start="em", seed=1):
    sampler = bm.NUTS(ROW.program, chains=2, warmup=150, draws=120, progress_bar=False)
    first = em() if start == "em" else start
    return sampler.run(jax.random.key(seed), *ROW.args, start=first)


def test_samples_by_chain_and_in_one_row():
    by_chain, flat = nuts().get_samples(group_by_chain=True), nuts().get_samples()
    for name, site in nuts().mixture.sites.items():
        assert by_chain[name].shape == (2, 120, *site.shape)
        np.testing.assert_array_equal(flat[name], by_chain[name].reshape(240, *site.shape))


def test_the_same_key_gives_the_same_draws():
    again = bm.NUTS(ROW.program, chains=2, warmup=150, draws=120, progress_bar=False).run(
        jax.random.key(1), *ROW.args, start=em()
    )
    for name, value in nuts().samples.items():
        np.testing.assert_array_equal(again.samples[name], value)
    assert not np.array_equal(nuts(seed=2).samples["loc"], nuts().samples["loc"])


def shifted(x, by):
    """Two Normals around a number from outside, and a covariate that is no data of the mixture."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 5.0))
    with numpyro.plate("obs_id", len(x)):
        mixing, parts = dist.Categorical(probs=weights), dist.Normal(loc + by.mean(), 1.0)
        numpyro.sample("x", dist.MixtureSameFamily(mixing, parts), obs=x)


def test_the_mixture_of_the_start_is_used_only_where_it_is_the_same():
    """Then its rows and its modes' curvatures are not made again; another covariate is another."""
    x, by = Y, np.zeros(3)
    known = bm.EM(shifted, restarts=1, progress_bar=False).run(jax.random.key(0), x, by)
    run = bm.NUTS(shifted, chains=1, draws=4, progress_bar=False).run
    again = run(jax.random.key(0), x, by.copy(), start=known)
    assert again.mixture is known.mixture
    other = run(jax.random.key(0), x, by + 1.0, start=known)
    assert other.mixture is not known.mixture
    named = run(jax.random.key(0), pd.Series(x, name="height"), by, start=known)
    assert named.mixture.columns == ("height",)

    free = lambda x: shifted(x, offset)  # noqa: E731
    offset = np.zeros(3)
    known = bm.EM(free, restarts=1, progress_bar=False).run(jax.random.key(0), x)
    offset += 1.0  # unseen: such programs are read anew
    with pytest.raises(ValueError, match="another program"):
        bm.NUTS(free, chains=1, draws=4).run(jax.random.key(0), x, start=known)


def test_the_start_policy_is_told():
    assert "EM" in nuts().start_policy
    assert "prior" in nuts("prior").start_policy
    assert nuts("prior").start is None
    assert "Starts: 2 chains around EM's best mode" in nuts().report()
    assert "Starts: 2 draws from the prior" in nuts("prior").report()


def test_modes_that_hold_nothing_are_passed_over_and_told():
    """A mode far below is not looked at; one that is as high as the best is."""
    best = em().modes[0]
    twin, far = (replace(best, log_likelihood=best.log_likelihood - nats) for nats in (0.0, 500.0))
    modes = replace(em().modes, modes=(best, twin, far, far))
    mixture, looked = em().mixture, []

    def watch(items, text):
        looked.append(text)
        return items

    mixture = replace(mixture, cache={})
    known = replace(em(), mixture=mixture, modes=modes)
    policy = starts_of(mixture, known, jax.random.key(0), 2, watch).policy
    assert "no chain begins at EM's modes 2, 3: the mass of a mode is at most its like" in policy
    assert {text.partition("mode ")[2] for text in looked} <= {"1 of 4", ""}  # the twin is known
    assert "no chain begins" not in nuts().start_policy


def test_a_long_run_is_told_what_it_will_cost(monkeypatch, capsys):
    assert outlook(0.01, "orbits", 4, 1150) == ""
    assert "take 25.9 ms; 4 chains x 1150 transitions" in outlook(0.0259, "orbits", 4, 1150)
    assert "are about 2 min to 6 min" in outlook(0.0259, "orbits", 4, 1150)
    assert "about 13 min to 1.1 h" in outlook(0.05, "whitened", 4, 1300)
    monkeypatch.setattr(schedule, "LONG", 0.0)
    monkeypatch.setattr(sampler, "PATIENCE", 0.0)
    bm.NUTS(ROW.program, chains=2, draws=3).run(jax.random.key(1), *ROW.args, start=em())
    assert "NUTS: the log density and its gradient take" in capsys.readouterr().out


def test_density_of_new_rows_is_averaged_over_the_draws():
    new = Y[:5]
    draws = nuts().get_samples()
    scale = np.sqrt(draws["var"])[:, None]
    z = (new[:, None] - draws["loc"][:, None]) / scale
    terms = np.log(draws["weights"])[:, None] - 0.5 * z**2 - np.log(scale * np.sqrt(2 * np.pi))
    expected = logsumexp(terms, axis=(0, 2)) - np.log(len(draws["loc"]))
    np.testing.assert_allclose(nuts().log_density(new), expected, rtol=1e-10)


def test_new_rows_get_responsibilities_and_can_be_simulated():
    proba = nuts().predict_proba(Y[:5])
    assert proba.shape == (5, 2)
    np.testing.assert_allclose(proba.sum(-1), 1)
    assert np.isfinite(nuts().sample(jax.random.key(3), 7)).all()
    assert nuts().sample(jax.random.key(3), 7).shape == (7,)


def test_a_start_from_other_data_is_refused():
    with pytest.raises(ValueError, match="other data"):
        bm.NUTS(ROW.program, progress_bar=False).run(jax.random.key(0), Y + 1, start=em())


def three_normals():
    rng = np.random.default_rng(9)
    return np.concatenate([rng.normal(0, 1, 5000), rng.normal(3, 0.5, 3000), rng.normal(9, 1, 999)])


def test_cells_change_the_log_likelihood_by_no_more_than_gauss_quadrature_can():
    """A cell's error is its mean of (x - a)^2 (x - b)^2 times a fourth derivative / 4!."""
    x, cells = three_normals(), 100
    mixture = bm.trace(bm.models.gaussian(3), x)
    weights, loc, var = (
        np.array([0.5, 0.3, 0.2]),
        np.array([0.1, 2.9, 9.2]),
        np.array([1.2, 0.1, 1]),
    )
    params = {"weights": weights, "loc": loc, "var": var}

    def log_density(x):
        return jax.nn.logsumexp(np.log(weights) + dist.Normal(loc, np.sqrt(var)).log_prob(x))

    with jax.enable_x64(True):
        coarse = on_bins(mixture, cells, "float64")
        change = float(log_joint(coarse, params) - log_joint(mixture, params))
        points, weight = (each.reshape(-1, 2) for each in binned(x, None, cells))
        ends = np.round(np.cumsum(weight.sum(1))).astype(int)[:-1]
        fourth = jax.jit(jax.vmap(jax.grad(jax.grad(jax.grad(jax.grad(log_density))))))
        bound = 0.0
        for (a, b), part in zip(points, np.split(np.sort(x), ends), strict=True):
            bend = np.abs(fourth(jnp.linspace(part[0], part[-1], 50))).max()
            bound += float(bend) / 24 * (((part - a) * (part - b)) ** 2).sum()
    assert 0 < abs(change) <= 1.05 * bound  # a grid of 50 may miss the very top
    assert bound < 1


def test_draws_on_cells_say_how_far_they_can_be_trusted():
    x = three_normals()
    em = bm.EM(bm.models.gaussian(3), restarts=2, progress_bar=False).run(jax.random.key(0), x)
    sampler = bm.NUTS(
        bm.models.gaussian(3), chains=2, warmup=60, draws=50, bins=300, progress_bar=False
    )
    nuts = sampler.run(jax.random.key(1), x, start=em)
    note = next(each for each in nuts.notes if "300 cells" in each)
    assert "too much" not in note
    assert nuts.log_density(x[:5]).shape == (5,)
    narrow = {n: np.array(v) for n, v in nuts.samples.items()}
    narrow["var"][0, 0] = 1e-4  # sd 0.01, as narrow as a cell
    coarse = on_bins(nuts.mixture, 300, "float64")
    assert agreement(nuts.mixture, coarse, narrow, 300).endswith("too much: raise bins")
    narrow["var"][1, 37] = 1e9  # a precision would be largest where a cluster is narrowest
    assert max(draw["var"].max() for draw in _chosen(nuts.mixture, narrow)) == 1e9


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"chains": 0}, "chains"),
        ({"draws": 1.5}, "draws"),
        ({"warmup": -1}, "warmup"),
        ({"target_accept": 1.0}, "target_accept"),
        ({"dtype": "float16"}, "dtype"),
        ({"bins": 0}, "bins"),
    ],
)
def test_settings_out_of_range_are_named(settings, word):
    with pytest.raises(ValueError, match=word):
        bm.NUTS(ROW.program, **settings)
