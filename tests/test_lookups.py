"""What a program looks up: readings are used again only where nothing of it can have changed."""

import functools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import bayesmix as bm
from bayesmix import program as room
from bayesmix.lookups import lookups

X = np.random.default_rng(3).normal(size=40)
CENTRE = 1.0
TABLE = {"centre": 1.0}
ARRAY = np.ones(2)
FROZEN = dist.Normal(jnp.zeros(2), 1.0)


def mixture(x, loc=0.0, K=2):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("cluster", K):
        mean = numpyro.sample("mean", dist.Normal(loc, 2.0))
    with numpyro.plate("obs_id", x.shape[0]):
        mixed = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Normal(mean, 1.0))
        numpyro.sample("x", mixed, obs=x)


def of_a_global(x):
    mixture(x, CENTRE)


def of_a_table(x):
    mixture(x, TABLE["centre"])


def of_an_array(x):
    mixture(x, ARRAY.sum())


def of_a_distribution(x):
    mixture(x, FROZEN.loc[0])


def of_chance(x):
    mixture(x, random.random())


def of_an_import(x):
    import os

    mixture(x, float(len(os.environ)))


def of_a_file(x):
    mixture(x, jnp.load("somewhere.npy"))


def of_a_library(x):
    mixture(x, math.log(2.0) + jnp.pi)


def that_counts(x):
    global CENTRE
    CENTRE = CENTRE + 0.0
    mixture(x)


def in_a_closure(loc):
    def program(x):
        mixture(x, loc)

    return program


class Callable:
    def __call__(self, x):
        mixture(x)


def reading_of(program, *args):
    """The reading that a trace goes by; the same object where it is used again."""
    with jax.enable_x64(True):
        return bm.trace(program, *args).reading.components


@pytest.mark.parametrize(
    "program",
    [mixture, of_a_global, of_a_library, in_a_closure(1.0), functools.partial(mixture, loc=3.0)],
    ids=["plain", "global", "library", "closure", "partial"],
)
def test_a_reading_is_used_again(program):
    first = reading_of(program, X)
    assert reading_of(program, X + 1.0) is first
    assert reading_of(program, X[:30]) is not first
    assert reading_of(program, X.astype(np.float32)) is not first
    assert reading_of(program, X) is first


@pytest.mark.parametrize(
    "program",
    [
        *(of_a_table, of_an_array, of_a_distribution, of_chance, of_an_import, of_a_file),
        *(that_counts, in_a_closure(np.float64(1.0)), in_a_closure([1.0])),
        *(in_a_closure(jnp.ones(())), Callable(), Callable().__call__, jax.jit(mixture)),
        handlers.condition(mixture, data={"mean": np.ones(2)}),
    ],
    ids=(
        "table array distribution chance import file counts numpy-scalar list jax-array object "
        "method compiled condition"
    ).split(),
)
def test_what_may_change_unseen_has_no_key(program):
    assert lookups(program) is None


def test_ready_models_have_keys():
    for program in (bm.models.gaussian(2), bm.models.poisson(3), bm.models.student_t(2)):
        assert lookups(program) is not None
    assert lookups(bm.models.gaussian(2)) != lookups(bm.models.gaussian(3))


def test_changes_of_what_is_looked_up_are_seen(monkeypatch):
    """Each by the log joint, against the program whose prior says so itself."""
    params = {"weights": np.array([0.4, 0.6]), "mean": np.array([-1.0, 1.0])}

    def value(program, x=X):
        with jax.enable_x64(True):
            return float(bm.log_joint(bm.trace(program, x), params))

    def expected(loc, x=X):
        with jax.enable_x64(True):
            given = {"loc": loc}
            return float(numpyro.infer.util.log_density(mixture, (x,), given, params)[0])

    for centre in (1.0, 2.0, 1.0):
        monkeypatch.setattr(f"{__name__}.CENTRE", centre)
        assert value(of_a_global) == pytest.approx(expected(centre), rel=1e-12)
        assert value(in_a_closure(centre)) == pytest.approx(expected(centre), rel=1e-12)
        monkeypatch.setitem(TABLE, "centre", centre)
        assert value(of_a_table) == pytest.approx(expected(centre), rel=1e-12)
    program = in_a_closure(1.0)
    cell = program.__closure__[0]
    for loc in (0.0, -0.0, 5.0):
        cell.cell_contents = loc
        assert value(program) == pytest.approx(expected(loc), rel=1e-12)
    assert value(mixture) == pytest.approx(expected(0.0), rel=1e-12)
    monkeypatch.setattr(mixture, "__defaults__", (4.0, 2))
    assert value(mixture) == pytest.approx(expected(4.0), rel=1e-12)
    assert value(of_a_global) == pytest.approx(expected(1.0), rel=1e-12)


def test_a_helper_that_is_replaced_is_seen(monkeypatch):
    before = bm.trace(of_a_global, X)

    def three(x, loc=0.0):
        return before.program.__globals__["_kept_mixture"](x, loc, K=3)

    monkeypatch.setattr(f"{__name__}._kept_mixture", mixture, raising=False)
    monkeypatch.setattr(f"{__name__}.mixture", three)
    assert before.K == 2
    assert bm.trace(of_a_global, X).K == 3


def test_wrappers_of_one_kind_are_told_apart():
    """The same code twice, one around the other: the inner one's closure counts, too."""

    def around(inner, loc):
        def program(x, shift=0.0):
            inner(x, shift + loc)

        return program

    keys = [lookups(around(around(mixture, a), b)) for a, b in ((1.0, 2.0), (3.0, 2.0))]
    assert None not in keys
    assert keys[0] != keys[1]
    assert keys[0] == lookups(around(around(mixture, 1.0), 2.0))


def test_a_function_that_calls_itself_has_a_key():
    def deeper(x, depth=2):
        return mixture(x) if depth == 0 else deeper(x, depth - 1)

    assert lookups(deeper) == lookups(deeper) is not None


def test_inside_handlers_a_program_is_read_anew():
    plain = reading_of(mixture, X)
    with handlers.substitute(data={"mean": np.array([0.0, 1.0])}):
        assert reading_of(mixture, X) is not plain
    assert reading_of(mixture, X) is plain


def test_what_is_kept_holds_no_data():
    x = np.random.default_rng(5).normal(size=77)
    reading = reading_of(mixture, x)
    with jax.enable_x64(True):
        kept = next(m for m in room._kept.values() if m.reading.components is reading)
        assert kept.value is None
        assert len(kept.arguments.leaves) == 0
        assert all(np.size(array) < x.size for array in kept.reading.data.values())
