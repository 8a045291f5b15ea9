"""Conversions inside a program that change values: the data are what the program makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from oracles import ROUNDING, x64

import bayesmix as bm

HALVES = np.array([0.2, 1.7, 2.9, 3.6, 0.9, 7.8])
COUNTS = np.array([0.0, 3.0, 2.0, 0.0, 1.0, 4.0])
PARAMS = {"site": np.array([0.2, 0.8])}


def program_of(prior, component, data=lambda x: x, mask=lambda x: jnp.array(True)):
    """A mixture of two with known weights: its data, and the mask of its rows, made from x."""

    def program(x):
        site = numpyro.sample("site", prior.expand([2]).to_event(1))
        mixing = dist.Categorical(probs=jnp.array([0.3, 0.7]))
        with numpyro.plate("obs_id", len(x)), handlers.mask(mask=mask(x)):
            numpyro.sample("x", dist.MixtureSameFamily(mixing, component(site)), obs=data(x))

    return program


GAMMA, BETA, NORMAL = dist.Gamma(2.0, 1.0), dist.Beta(2.0, 2.0), dist.Normal(0.0, 5.0)


@pytest.mark.parametrize(
    "program, x",
    [
        (program_of(GAMMA, dist.Poisson, lambda x: x.astype(int)), HALVES),
        (program_of(NORMAL, dist.Normal, lambda x: x.astype(int).astype(float)), HALVES),
        (program_of(BETA, dist.BernoulliProbs, lambda x: x.astype(bool).astype(float)), COUNTS),
        (program_of(NORMAL, dist.Normal, mask=lambda x: x.astype(bool)), COUNTS),
    ],
    ids=["counts", "whole", "presence", "mask"],
)
def test_data_are_what_the_program_makes_of_them(program, x):
    with x64():
        ours = float(bm.log_joint(bm.trace(program, x), PARAMS))
        theirs = float(log_density(program, (x,), {}, PARAMS)[0])
    assert abs(ours - theirs) <= ROUNDING * abs(theirs)


def test_a_site_cut_to_whole_numbers_is_not_the_parameter_itself():
    program = program_of(NORMAL, lambda site: dist.Normal(site.astype(int).astype(float), 1.0))
    (link,) = bm.trace(program, HALVES).sites["site"].links
    assert link.map is None


def test_the_factor_of_a_third_of_a_matrix_is_not_the_factor_of_the_matrix():
    """It looks like JAX's own (A + A') / 2, which every Cholesky factor is taken of."""

    def program(x, by):
        cov = numpyro.sample("cov", dist.InverseWishart(4.0, scale_matrix=jnp.eye(2)).expand([2]))
        factor = jax.lax.linalg.cholesky((cov + cov.mT) / by, symmetrize_input=False)
        parts = dist.MultivariateNormal(jnp.zeros((2, 2)), scale_tril=factor)
        with numpyro.plate("obs_id", len(x)):
            mixing = dist.Categorical(probs=jnp.array([0.3, 0.7]))
            numpyro.sample("x", dist.MixtureSameFamily(mixing, parts), obs=x)

    x = np.random.default_rng(0).normal(size=(6, 2))
    maps = [bm.trace(program, x, by).sites["cov"].links[0].map for by in (2.0, 3.0)]
    assert maps == ["cholesky", None]
