"""Pairs of results for the card, the plots and the command line, made once per session.

EM is the real one. The draws of `NUTS` are drawn here around EM's MAP, with the clusters' names
shuffled in every draw: the truth (draws in EM's names) is known, and nothing is sampled by MCMC.
"""

from functools import cache
from types import SimpleNamespace

import jax
import numpy as np

import bayesmix as bm
from bayesmix.posterior import nuts_tree

CHAINS, DRAWS = 3, 80


@cache
def pair(name):
    """(EMResult, a stand-in for NUTSResult, the draws in EM's names)."""
    program, data = TASKS[name]()
    em = bm.EM(program, restarts=4, progress_bar=False).run(jax.random.key(0), data)
    truth = around(em, np.random.default_rng(7))
    return em, stand_in(em, shuffled(em, truth, np.random.default_rng(8))), truth


def faithful():
    return bm.models.gaussian(2), bm.datasets.load_faithful()


def waiting():
    return bm.models.gaussian(2), bm.datasets.load_faithful()["waiting"]


def articles():
    return bm.models.poisson(2), bm.datasets.load_biochemists()["art"]


def flowers():
    return bm.models.gaussian(3), bm.datasets.load_iris().drop(columns="species")


TASKS = {f.__name__: f for f in (faithful, waiting, articles, flowers)}


def around(em, rng):
    """Draws (chain, draw, *shape) of every site, about as wide as a posterior."""
    N, many = em.mixture.N, (CHAINS, DRAWS)
    draws = {}
    for site, value in em.params.items():
        value = np.asarray(value)
        if site == "weights":
            draws[site] = rng.dirichlet(N * value, many)
        elif site == "cov":
            move = np.eye(value.shape[-1]) + 0.03 * rng.normal(size=(*many, *value.shape))
            draws[site] = move @ value @ np.swapaxes(move, -1, -2)
        elif site == "loc":
            spread = 0.02 * np.std(em.mixture.value, axis=0)
            draws[site] = value + spread * rng.normal(size=(*many, *value.shape))
        else:
            draws[site] = value * np.exp(0.05 * rng.normal(size=(*many, *value.shape)))
    return draws


def shuffled(em, draws, rng):
    K = em.mixture.K
    perm = np.argsort(rng.random((CHAINS, DRAWS, K)), axis=-1)
    out = {}
    for site, values in draws.items():
        axis = em.mixture.sites[site].cluster_axis
        shape = [*perm.shape[:2], *[1] * (values.ndim - 2)]
        shape[2 + axis] = K
        out[site] = np.take_along_axis(values, perm.reshape(shape), axis=2 + axis)
    return out


def stand_in(em, samples, **changes):
    """What `card` and `plots` need of a NUTSResult."""
    fields = {
        "mixture": em.mixture,
        "samples": samples,
        "sample_stats": {"diverging": np.zeros((CHAINS, DRAWS), bool)},
        "start_policy": "3 chains started at EM's best mode",
        "start": em,
        "seconds": 1.5,
        "seed": 0,
        "settings": {"chains": CHAINS, "draws": DRAWS},
        "notes": (),
        **changes,
    }
    result = SimpleNamespace(**fields)
    result.to_datatree = lambda: nuts_tree(result)
    return result
