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
from bayesmix.density import data_of, density_of
from bayesmix.lookups import lookups
from bayesmix.program import kept as room
from bayesmix.program import tracing

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


def of_an_attribute(x):
    mixture(x, of_an_attribute.loc)


@functools.wraps(jnp.sinc)
def disguised(x):
    return x * CENTRE


def of_a_disguised_one(x):
    mixture(x, disguised(1.0))


def of_a_namespace(x):
    mixture(x, mixture.__globals__["CENTRE"])


def of_a_patch(x):
    mixture(x, jnp.sinc(1.0))


def of_builtins(x):
    low = min if isinstance(min, float) else 1.0
    mixture(x, max if isinstance(max, float) else low)


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


@pytest.mark.parametrize(
    "name",
    (
        "beta exponential gamma geometric inverse_gamma log_normal negative_binomial von_mises "
        "weibull"
    ).split(),
)
def test_ready_models_of_columns_are_read_once(name, monkeypatch):
    """Two data sets, one reading; the second's log joint is NumPyro's own of the second."""
    program, counted = getattr(bm.models, name)(2), []
    read = tracing._read_anew
    monkeypatch.setattr(room, "_kept", {})
    monkeypatch.setattr(tracing, "_read_anew", lambda *a: counted.append(1) or read(*a))
    rng = np.random.default_rng(5)
    for number in range(2):
        counts = name in ("geometric", "negative_binomial")
        x = rng.poisson(3.0, 31).astype(float) if counts else rng.beta(2.0, 3.0, 31)
        with jax.enable_x64(True):
            mixed = bm.trace(program, x)
            params = density_of(mixed).centre(data_of(mixed))
            expected = numpyro.infer.util.log_density(program, (x,), {}, params)[0]
            assert float(bm.log_joint(mixed, params)) == pytest.approx(float(expected), rel=1e-10)
        assert len(counted) == 1, number


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


@pytest.fixture
def agrees():
    """Holds a program's log joint, as it is traced now, against NumPyro's own log density."""

    def check(program, *args):
        params = {"weights": np.array([0.4, 0.6]), "mean": np.array([-1.0, 1.0])}
        with jax.enable_x64(True):
            value = float(bm.log_joint(bm.trace(program, *args), params))
            expected, _ = numpyro.infer.util.log_density(program, args, {}, params)
        assert value == pytest.approx(float(expected), rel=1e-12)

    return check


@pytest.mark.parametrize("centre", [1.0, 2.0])
def test_names_and_attributes_are_not_taken_on_trust(monkeypatch, agrees, centre):
    """What calls itself a library's, or is set in a function, a library or as a builtin."""
    monkeypatch.setattr(f"{__name__}.CENTRE", centre)
    monkeypatch.setattr(of_an_attribute, "loc", centre, raising=False)
    for program in (of_an_attribute, of_a_disguised_one, of_a_namespace, of_a_patch, of_builtins):
        agrees(program, X)
    with monkeypatch.context() as patched:
        patched.setattr(jnp, "sinc", lambda x: x * CENTRE)
        agrees(of_a_patch, X)
    for name in ("max", "min"):
        with monkeypatch.context() as patched:
            patched.setitem(globals(), name, 5.0 * centre if name == "max" else 7.0)
            agrees(of_builtins, X)
    for own in (f"{bm.__name__}.mine", None):
        names = {"mixture": mixture, "loc": centre, "__name__": own}
        exec("def program(x): mixture(x, loc)", names)
        agrees(names["program"], X)
    names["__builtins__"] = {"sum": lambda _: 3.0 * centre}
    exec("def program(x): mixture(x, sum((1.0,)))", names)
    agrees(names["program"], X)


def test_arguments_are_told_apart_by_more_than_equality(agrees):
    def by_name(x, d):
        (name,) = d
        mixture(x, 1.0 if isinstance(name, bool) else 2.0 if isinstance(name, int) else 3.0)

    for name in (True, 1, 1.0):
        agrees(by_name, X, {name: 0})

    holder = [1.0]

    def called(x, f):
        mixture(x, f())

    for loc in (1.0, 2.0):
        holder[0] = loc
        agrees(called, X, jax.tree_util.Partial(lambda: holder[0]))
        agrees(called, X, lambda: holder[0])


def test_what_of_the_library_is_changed_is_not_relied_on(monkeypatch):
    assert lookups(mixture) is not None
    functools.update_wrapper(mixture_like := functools.partial(mixture), dist.Normal)
    assert mixture_like.__wrapped__ is dist.Normal  # Python has noted its annotations: no change
    assert lookups(mixture) is not None
    for name in ("log_prob", "something_new"):
        with monkeypatch.context() as patched:
            patched.setattr(dist.Normal, name, lambda self, value: value, raising=False)
            assert lookups(mixture) is None
    assert lookups(of_a_patch) is not None
    monkeypatch.setattr(jnp.sinc, "loc", 1.0, raising=False)
    assert lookups(mixture) is not None
    assert lookups(of_a_patch) is None


@pytest.mark.parametrize("name", bm.models.__all__)
def test_ready_made_programs_are_read_once(name):
    columns = [{"height": "normal"}] if name == "mixed" else []
    box = {"low": 0.0, "high": 1.0} if name == "gaussian_noise" else {}
    assert lookups(getattr(bm.models, name)(*columns, 2, **box)) is not None


def test_keys_of_helpers_that_share_helpers_stay_small():
    """Twenty layers of two functions that each call both below: a million paths, 40 functions."""
    names = {"mixture": mixture}
    lines = ["def f0(): return 1.0", "def g0(): return 1.0"]
    for i in range(20):
        lines += [f"def {own}{i + 1}(): return f{i}() * g{i}()" for own in "fg"]
    exec("\n".join([*lines, "def program(x): mixture(x, f20())"]), names)
    assert len(repr(lookups(names["program"]))) < 20_000


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


def test_the_oldest_readings_make_room(monkeypatch):
    """Here for two; nothing goes before that."""
    monkeypatch.setattr(room, "KEPT", 2)
    monkeypatch.setattr(room, "_kept", {})
    readings = [reading_of(in_a_closure(float(loc)), X) for loc in range(3)]
    assert len(room._kept) == 2
    assert reading_of(in_a_closure(2.0), X) is readings[2]
    assert reading_of(in_a_closure(1.0), X) is readings[1]
    assert reading_of(in_a_closure(0.0), X) is not readings[0]
