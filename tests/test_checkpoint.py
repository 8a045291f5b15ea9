"""A search that is killed goes on from its file and ends where it would have ended."""

import errno
import re

import jax
import numpy as np
import pytest

import bayesmix as bm
from bayesmix import checkpoint, climb, search

KEY = jax.random.key(3)
PROGRAM = bm.models.gaussian(3)


def _data(N=6000):
    """More rows than the search looks at, so that modes of a sample are carried on."""
    rng = np.random.default_rng(5)
    return np.concatenate(
        [rng.normal(0, 1, N // 2), rng.normal(2.5, 1.5, N // 3), rng.normal(6, 0.7, N // 6)]
    )


X = _data()


class Killed(BaseException):
    """What a kill looks like from inside: nothing more is done."""


@pytest.fixture
def often(monkeypatch):
    """Every chance to write is taken, and there is one every 10 to 16 passes."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(climb, "UNHEARD", 200_000)


def _em(path=None, restarts=3, **kwargs):
    return bm.EM(PROGRAM, restarts=restarts, checkpoint=path, progress_bar=False, **kwargs)


@pytest.fixture(scope="module")
def whole():
    return _em().run(KEY, X)


def _stop_after(monkeypatch, name, calls, error, of=climb):
    """Let one of the loops of a run raise once, after so many calls."""
    loop, left = getattr(of, name), [*[None] * calls, error]

    def stopping(*args, **kwargs):
        if left and (found := left.pop(0)) is not None:
            raise found
        return loop(*args, **kwargs)

    monkeypatch.setattr(of, name, stopping)


@pytest.mark.parametrize(("name", "calls"), [("advance", 1), ("advance", 7), ("hasten", 4)])
def test_a_killed_search_ends_where_it_would_have_ended(
    tmp_path, monkeypatch, often, whole, name, calls
):
    path = tmp_path / "fit.npz"
    with monkeypatch.context() as patch:
        _stop_after(patch, name, calls, Killed)
        with pytest.raises(Killed):
            _em(path).run(KEY, X)
    found = _em(path).run(KEY, X)
    assert found.converged
    assert found.log_joint == pytest.approx(whole.log_joint, abs=1e-8)
    assert len(found.modes) == len(whole.modes)
    # Of runs that ended at one mode the highest by rounding gives the clusters their names.
    here, there = (np.argsort(each.params["loc"]) for each in (found, whole))
    for name, value in found.params.items():
        np.testing.assert_allclose(value[here], whole.params[name][there], rtol=1e-4)
    assert len(found.history) == found.steps
    rounding = 64 * np.finfo(float).eps * (1 + abs(found.log_joint))
    assert (np.diff(found.history) >= -rounding).all()


def test_a_finished_search_is_not_done_again(tmp_path, monkeypatch, whole):
    path = tmp_path / "fit.npz"
    first = _em(path).run(KEY, X)
    _stop_after(monkeypatch, "hasten", 0, Killed)
    again = _em(path).run(KEY, X)
    assert again.log_joint == first.log_joint == pytest.approx(whole.log_joint, abs=1e-8)
    np.testing.assert_array_equal(again.history, first.history)
    assert again.modes.to_frame().equals(first.modes.to_frame())


def test_a_single_run_goes_on_after_ctrl_c(tmp_path, monkeypatch):
    path, resp = tmp_path / "fit.npz", np.random.default_rng(0).dirichlet(np.ones(3), len(X))
    em = _em(path, accelerate=False, max_steps=300, tol=1e-3)
    with monkeypatch.context() as patch:
        _stop_after(patch, "advance", 1, KeyboardInterrupt)
        stopped = em.run(KEY, X, init_resp=resp)
    assert stopped.stop.startswith("interrupted")
    found = em.run(KEY, X, init_resp=resp)
    assert found.steps > stopped.steps
    np.testing.assert_array_equal(found.history[: stopped.steps], stopped.history)


def test_what_belongs_to_another_run_is_refused(tmp_path):
    path = tmp_path / "fit.npz"
    resp = np.random.default_rng(0).dirichlet(np.ones(3), len(X))
    em = _em(path, max_steps=1)
    em.run(KEY, X, init_resp=resp)
    kept = path.read_bytes()
    for other, key, x, what in (
        (em, KEY, X + 1, "data"),
        (em, jax.random.key(4), X, "key"),
        (_em(path, max_steps=2), KEY, X, "max_steps"),
    ):
        with pytest.raises(ValueError, match=f"fit.npz.* holds another run .*{what}.* differ"):
            other.run(key, x, init_resp=resp)
    assert path.read_bytes() == kept


def test_another_kind_of_file_is_not_touched(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"notes.txt' is a file of another kind"):
        _em(path).run(KEY, X)
    assert path.read_text() == "mine"


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, often, whole):
    path, save, count = tmp_path / "fit.npz", np.savez, iter(range(5))

    def savez(file, **arrays):
        if next(count, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", savez)
        said = "the checkpoint cannot be written (No space left on device)"
        with pytest.raises(OSError, match=re.escape(said)) as caught:
            _em(path).run(KEY, X)
    assert caught.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["fit.npz"]
    assert _em(path).run(KEY, X).log_joint == pytest.approx(whole.log_joint, abs=1e-8)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(OSError, match="cannot be written"):
        _em(tmp_path / "missing" / "fit.npz").run(KEY, X)


@pytest.fixture(scope="module")
def disputed():
    """The whole search, which follows moves as where starts disagree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "AGREED", 2.0)
        return _em().run(KEY, X)


@pytest.mark.parametrize(
    ("name", "calls"), [("begin", 2), ("glance", 2), ("follow", 0), ("outlook", 0)]
)
def test_ctrl_c_between_runs_keeps_the_runs(tmp_path, monkeypatch, disputed, name, calls):
    """Wherever it comes, long before a writing is due; and the same call goes on."""
    path, before = tmp_path / "fit.npz", []
    monkeypatch.setattr(checkpoint, "EVERY", np.inf)
    monkeypatch.setattr(search, "AGREED", 2.0)
    with monkeypatch.context() as patch:
        add = checkpoint.File.add
        patch.setattr(checkpoint.File, "add", lambda *a: (before.append(1), add(*a))[1])
        _stop_after(patch, name, calls, KeyboardInterrupt, of=climb.Climber)
        stopped = _em(path).run(KEY, X)
    assert any("interrupted" in note for note in stopped.notes)
    with np.load(path) as kept:
        assert len({key.split("/")[1] for key in kept if key.startswith("run/")}) == len(before) > 0
    found = _em(path).run(KEY, X)
    assert found.converged
    assert found.log_joint == pytest.approx(disputed.log_joint, abs=1e-8)
    assert len(found.modes) == len(disputed.modes)


def test_ctrl_c_before_anything_is_found_leaves_a_file_to_go_on_with(tmp_path, monkeypatch, whole):
    path = tmp_path / "fit.npz"
    with monkeypatch.context() as patch:
        _stop_after(patch, "begin", 0, KeyboardInterrupt, of=climb.Climber)
        with pytest.raises(KeyboardInterrupt):
            _em(path).run(KEY, X)
    assert _em(path).run(KEY, X).log_joint == pytest.approx(whole.log_joint, abs=1e-8)
