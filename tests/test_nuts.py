"""What a NUTS result offers, whatever the posterior: shapes, starts, predictions, words."""

from functools import cache

import jax
import numpy as np
import pytest
from programs import BY_ID, Y
from scipy.special import logsumexp

import bayesmix as bm

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


def test_the_start_policy_is_told():
    assert "EM" in nuts().start_policy
    assert "prior" in nuts("prior").start_policy
    assert nuts("prior").start is None
    assert "Starts: 2 chains around EM's best mode" in nuts().report()
    assert "Starts: 2 draws from the prior" in nuts("prior").report()


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


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"chains": 0}, "chains"),
        ({"draws": 1.5}, "draws"),
        ({"warmup": -1}, "warmup"),
        ({"target_accept": 1.0}, "target_accept"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_settings_out_of_range_are_named(settings, word):
    with pytest.raises(ValueError, match=word):
        bm.NUTS(ROW.program, **settings)
