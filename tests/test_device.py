"""What accelerators need, as far as a CPU can tell; and on one, that it computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import ROUNDING
from programs import PROGRAMS

import bayesmix as bm
from bayesmix import device, effort, sweep
from bayesmix.curvature import evaluate, free_vector
from bayesmix.density import data_of, density_of
from bayesmix.engine import Engine
from bayesmix.families.mvn import MultivariateNormal
from bayesmix.mstep import plan_for

FAMILY = MultivariateNormal()
HERE = jax.default_backend() != "cpu"


def laid_out(monkeypatch, where, devices=1):
    monkeypatch.setattr(sweep.rows, "platform", lambda: where)
    x = np.random.default_rng(0).normal(size=(30_000, 3))
    return sweep.rows_of(x, None, FAMILY, 4, "float64", devices)


def test_platform_follows_the_default_device():
    assert device.platform() == jax.default_backend()
    with jax.default_device("cpu"):
        assert device.platform() == "cpu"
    with device.on_cpu():
        assert device.platform() == "cpu"


def test_accelerators_take_many_rows_at_a_time(monkeypatch):
    """All of them where they are few, and the same sums."""
    cpu, gpu = (laid_out(monkeypatch, where) for where in ("cpu", "gpu"))
    assert len(cpu.z) > 1
    assert len(gpu.z) == 1
    rng = np.random.default_rng(1)
    F = sweep.count_statistics(FAMILY, 3) - 1
    with jax.enable_x64(True):
        eta, offset = jnp.asarray(rng.normal(size=(4, F))), jnp.asarray(rng.normal(size=4))
        one, other = (sweep.scan_rows(FAMILY, eta, offset, rows) for rows in (cpu, gpu))
    for ours, expected in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=ROUNDING)


def test_every_device_has_rows(monkeypatch):
    rows = laid_out(monkeypatch, "gpu", devices=4)
    assert len(rows.z) >= 4
    assert (rows.weights.sum(1) > 0).all()


def test_accelerators_compile_with_all_optimisations(monkeypatch):
    """The options that shorten compiling are the CPU compiler's."""
    monkeypatch.setattr(effort, "platform", lambda: "cpu")
    options = {"xla_cpu_of_another_compiler": True}
    code = effort.compiled(lambda x: x.size, static=(), effort=options)(lambda x: x + 1)
    with pytest.raises(Exception, match="xla_cpu_of_another_compiler"):
        code(np.ones(3))
    monkeypatch.setattr(effort, "platform", lambda: "gpu")
    assert (code(np.ones(3)) == 2).all()


@pytest.mark.parametrize(
    ("size", "work", "options"),
    [
        (effort.LITTLE, np.inf, "little"),
        (effort.LITTLE + 1, effort.BRIEF, "little"),
        (effort.MODERATE, effort.BRIEF + 1, effort.SAMPLE),
        (effort.MODERATE + 1, effort.LONG, effort.SAMPLE),
        (effort.MODERATE, effort.LONG + 1, "moderate"),
        (effort.MODERATE, np.inf, "moderate"),
        (effort.MODERATE + 1, effort.LONG + 1, None),
    ],
)
def test_code_that_runs_briefly_is_compiled_quickly(monkeypatch, size, work, options):
    """Few cells or little work to come: quick; on accelerators never."""

    def jit(function, static_argnums, compiler_options=None):
        return lambda *args: compiler_options

    monkeypatch.setattr(effort.jax, "jit", jit)
    monkeypatch.setattr(effort, "platform", lambda: "cpu")
    how = effort.compiled(lambda size: size, (), "little", "moderate")(abs)
    assert how(size, work=work) == options
    monkeypatch.setattr(effort, "platform", lambda: "gpu")
    assert how(size, work=work) is None


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "HIGHEST"), ("float64", "DEFAULT")])
def test_products_of_single_precision_keep_it(dtype, precision):
    """The text of the code says so; a CPU keeps it anyway."""
    with device.arithmetic(dtype):
        x = jnp.ones((2, 2))
        assert x.dtype == dtype
        assert precision in jax.jit(jnp.matmul).lower(x, x).as_text()
    with device.arithmetic("float32", wide=True):
        assert jnp.ones(2).dtype == "float64"


@pytest.mark.parametrize("name", ["gaussian", "regression"])
def test_a_density_in_single_precision_keeps_its_products(name):
    """Asked for by itself, without a fit: the sweep's products and those that the program makes."""
    x = np.random.default_rng(0).normal(size=(40, 2))
    data = {"gaussian": (x,), "regression": (x, np.arange(40))}[name]
    options = {"regression": {"family": "poisson"}}.get(name, {})
    mixture = bm.trace(getattr(bm.models, name)(2, **options), *data)
    with jax.enable_x64(False):
        params = density_of(mixture).centre(data_of(mixture))
        text = jax.jit(lambda params: bm.log_joint(mixture, params)).lower(params).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("HIGHEST" in line and "DEFAULT" not in line for line in products)


@pytest.mark.parametrize(("work", "where"), [(1000, "cpu"), (10**9, "gpu")])
def test_little_data_stay_on_the_cpu(monkeypatch, work, where):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with device.placed(work):
        assert device.platform() == where


def test_a_chosen_device_is_kept(monkeypatch):
    """Also by what moves arrays there; where nothing was chosen they stay."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = np.ones(3)
    with device.placed(10**9):
        assert device.brought(x) is x
    with jax.default_device(jax.devices()[0]), device.placed(1000):
        assert jax.config.jax_default_device is jax.devices()[0]
        assert device.brought(x).devices() == {jax.devices()[0]}


def everything(row):
    """E-step, EM step, height and slope at the centre of a program's parameters."""
    mixture = bm.trace(row.program, *row.args)
    with jax.enable_x64(True):
        engine, data = Engine(density_of(mixture), plan_for(mixture)), data_of(mixture)
        centre = engine.density.centre(data)
        found = jax.jit(engine.e_step)(centre, data), bm.em.step(mixture, centre)
        z = free_vector(mixture, {name: np.asarray(value) for name, value in centre.items()})
        return [np.asarray(leaf) for leaf in jax.tree.leaves((found, evaluate(mixture, z[None])))]


@pytest.mark.skipif(not HERE, reason="there is no accelerator")
@pytest.mark.parametrize("row", PROGRAMS if HERE else PROGRAMS[:1], ids=str)
def test_every_program_is_the_same_there(row):
    there = everything(row)
    with device.on_cpu():
        here = everything(row)
    for ours, expected in zip(there, here, strict=True):
        scale = np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=ROUNDING * scale)
