"""Long runs: draws on disk, killed and interrupted runs, full disks, folders of other runs."""

import errno
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from killed_run import ROW, run
from numpy.testing import assert_array_equal
from tqdm.auto import tqdm

import bayesmix as bm
from bayesmix.nuts import record


@cache
def whole():
    return run()


def assert_same_draws(ours, expected=None, draws=slice(None)):
    expected = expected or whole()
    for kind in ("samples", "sample_stats"):
        theirs = getattr(expected, kind)
        assert set(getattr(ours, kind)) == set(theirs)
        for name, value in getattr(ours, kind).items():
            assert_array_equal(value, theirs[name][:, draws], err_msg=name)


def blocks(folder):
    return sorted(file.name for file in folder.glob("block-*.npz"))


def test_draws_on_disk_are_those_in_memory(tmp_path):
    ours = run(tmp_path / "run")
    assert_same_draws(ours)
    assert isinstance(ours.samples, record.Stored)  # read when asked for, not held
    assert_array_equal(ours.get_samples()["rate"], whole().get_samples()["rate"])
    assert set(ours.to_datatree()["posterior"].data_vars) == {"weights", "rate"}
    assert "site" not in ours.samples
    assert_same_draws(run(tmp_path / "run"))  # a finished run is read, not made again


@pytest.mark.parametrize("cuts", [(10, 30, 100), (45, 60), (1, 2, 99)])
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_last_transitions_do_not_depend_on_the_blocks(tmp_path, cuts, on_disk):
    """How they are divided depends on the machine's speed, what is made of them must not."""
    values = np.random.default_rng(0).normal(size=(110, 2))
    kept = record.Folder(tmp_path / "run", {}) if on_disk else record.Memory()
    for part in np.split(values, cuts):
        kept.add("warmup", {"stats/lp": part}, ())
    for count in (7, record.RECENT):
        assert_array_equal(kept.last(count)["stats/lp"], values[-count:])


def test_a_killed_run_goes_on_to_the_same_draws(tmp_path):
    script = Path(__file__).with_name("killed_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert len(blocks(tmp_path / "run")) == 4  # the last one cut off
    assert_same_draws(run(tmp_path / "run"))


def test_more_draws_go_on_from_a_finished_run(tmp_path):
    run(tmp_path / "run", draws=40)
    assert_same_draws(run(tmp_path / "run"))
    assert_same_draws(run(tmp_path / "run", draws=30), draws=slice(30))


def test_orbits_go_on_from_a_finished_run(tmp_path):
    """From the middle of their warm-up, and from draws; the other tests go by NUTS."""
    em = bm.EM(ROW.program, restarts=2, progress_bar=False).run(jax.random.key(0), *ROW.args)
    one = {"draws": 60, "warmup": 40, "start": em}
    expected = run(**one)
    assert (expected.sample_stats["n_steps"] < 10).all()
    run(tmp_path / "run", **one | {"draws": 20})
    assert_same_draws(run(tmp_path / "run", **one), expected)
    for file in sorted((tmp_path / "run").glob("block-*.npz"))[2:]:
        file.unlink()
    assert_same_draws(run(tmp_path / "run", **one), expected)


@pytest.mark.parametrize("on_disk", [False, True])
def test_ctrl_c_returns_the_draws_made_so_far(tmp_path, monkeypatch, on_disk):
    shown = tqdm.update

    def press(bar, some):
        shown(bar, some)
        if bar.desc.startswith("NUTS draws") and bar.n >= 20:
            signal.raise_signal(signal.SIGINT)

    path = tmp_path / "run" if on_disk else None
    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "update", press)
        ours = run(path, progress_bar=True)
    chains, draws = ours.sample_stats["lp"].shape
    assert chains == 2
    assert 0 < draws < 90
    assert_same_draws(ours, draws=slice(draws))
    assert f"interrupted: each chain has {draws} of the 90 draws asked for" in str(ours)
    assert f"2 chains x {draws} draws" in str(ours)
    assert np.isfinite(ours.predict_proba()).all()
    if on_disk:
        assert_same_draws(run(path))


def test_ctrl_c_before_the_first_draw_is_an_interrupt(monkeypatch):
    monkeypatch.setattr(tqdm, "update", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run()


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    save, calls = np.savez, []

    def full(file, **arrays):
        calls.append(file.name)
        if len(calls) > 5:  # starts, density, two blocks or more
            file.write(b"half a block")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(record.np, "savez", full)
        with pytest.raises(OSError, match=r"No space left on device.*run'") as caught:
            run(tmp_path / "run")
    assert caught.value.errno == errno.ENOSPC
    assert "the same call goes on" in str(caught.value)
    assert not list((tmp_path / "run").glob("*.part"))
    assert_same_draws(run(tmp_path / "run"))


def test_a_path_that_cannot_be_written_is_named_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"cannot be written.*file"):
        run(tmp_path / "file" / "run")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        run(tmp_path)

    def read_only(self, *_, **__):  # root may write everywhere, so the mode would not do
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(PermissionError, match=r"Permission denied.*new"):
        run(tmp_path / "new")


def other_prior(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 2.0])))
    with numpyro.plate("cluster", 2):
        rate = numpyro.sample("rate", dist.Gamma(2.5, 0.1))
    components = dist.Poisson(rate)
    with numpyro.plate("obs_id", x.shape[0]):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=x)


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("data", {"args": (ROW.args[0] + 1,)}),
        ("key", {"key": 2}),
        ("warmup", {"warmup": 61}),
        ("dtype", {"dtype": "float32"}),
        ("start", {"start": None}),
        ("program", {"program": other_prior}),
    ],
)
def test_a_folder_of_another_run_is_refused(stored, what, changed):
    before = blocks(stored)
    with pytest.raises(ValueError, match=rf"holds another run \(.*{what}.* differ\): choose"):
        run(stored, **changed)
    assert blocks(stored) == before


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(folder)
    return folder


def test_runs_from_em_are_kept_too(tmp_path):
    em = bm.EM(ROW.program, restarts=2, progress_bar=False).run(jax.random.key(0), *ROW.args)
    run(tmp_path / "run", start=em, draws=20)
    assert_same_draws(run(tmp_path / "run", start=em), run(start=em))
