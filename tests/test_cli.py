"""The command line: a mistake gets one sentence, a result is written whole or not at all."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import bayesmix as bm
from bayesmix.cli import folder, job, main
from bayesmix.cli.table import Refusal
from bayesmix.models import continuous, student

ROOT = Path(__file__).resolve().parents[1]
FIT = ["--clusters", "2", "--chains", "2", "--draws", "60"]
WRITTEN = {
    "about.json", "card.csv", "card.html", "card.txt", "em.nc", "figures", "nuts.nc",
    "observations.csv", "calibration.csv", "partitions.csv",
}  # fmt: skip
FIGURES = {"clusters", "forest", "history", "rank", "responsibilities", "trace"}


def csv(**columns):
    return pd.DataFrame(columns).to_csv(index=False)


ROWS = 12
GOOD = csv(a=range(ROWS), b=[i * i % 7 for i in range(ROWS)])
COUNTS = [3, 0, 1, 2, 4, 0]

# name -> (content of data.csv, arguments after it, what the sentence says)
MISTAKES = {
    "no clusters": (GOOD, [], "--clusters 2"),
    "zero clusters": (GOOD, ["--clusters", "0"], "positive whole number, not '0'"),
    "text for clusters": (GOOD, ["--clusters", "two"], "positive whole number, not 'two'"),
    "half a cluster": (GOOD, ["--clusters", "2.5"], "positive whole number, not '2.5'"),
    "negative seed": (GOOD, [*FIT, "--seed", "-1"], "0 or more, not '-1'"),
    "unknown covariance": (GOOD, [*FIT, "--covariance", "round"], "choose from"),
    "covariance of counts": (
        GOOD,
        [*FIT, "--model", "poisson", "--covariance", "full"],
        "belongs to gaussian clusters",
    ),
    "unknown option": (GOOD, [*FIT, "--colour", "red"], "unrecognized arguments"),
    "empty file": ("", FIT, "is empty"),
    "header only": ("a,b\n", FIT, "no rows"),
    "ragged": ("a,b\n1,2\n3,4,5\n", FIT, "Expected 2 fields in line 3, saw 3"),
    "short header": ("a,b\n5,4,3\n1,2,9\n", FIT, "more fields than its header"),
    "no header": ("1,2\n3,4\n5,6\n7,8\n", FIT, "first line of data.csv holds numbers"),
    "semicolons": ("a;b\n1;2\n3;4\n", FIT, "separated by semicolons"),
    "tabs": ("a\tb\n1\t2\n3\t4\n", FIT, "separated by tabs"),
    "not text": (b"a,b\n\xff\xfe\x00,2\n", FIT, "not a text file"),
    "text column": (
        csv(size=[1, 2], species=["setosa", "virginica"]),
        FIT,
        'column "species" is text ("setosa", …): name numeric columns with --columns, '
        "for example --columns size",
    ),
    "only text": (csv(s=["x", "y"]), FIT, 'column "s" is text ("x", …)'),
    "text among numbers": (csv(a=[1, 2, "?"], b=[1, 2, 3]), FIT, 'text in row 3 ("?")'),
    "unknown column": (
        GOOD,
        [*FIT, "--columns", "a,c"],
        'no column "c"; the columns are: a, b',
    ),
    "column twice": (GOOD, [*FIT, "--columns", "a,a"], 'names "a" twice'),
    "no column": (GOOD, [*FIT, "--columns", ""], "names no column"),
    "all missing": (csv(a=[1, 2, 3, 4], b=[None] * 4), FIT, 'column "b" has no value in any row'),
    "empty rows": (csv(a=[1, 2, None, 4], b=[1, 3, None, None]), FIT, "3 rows cannot show 2 clu"),
    "infinite": (csv(a=[1, np.inf, 3, 4], b=[1, 2, 4, 9]), FIT, 'column "a" is infinite in row 2'),
    "constant": (csv(a=[1, 2, 3, 4], b=[5] * 4), FIT, 'column "b" is constant (5 in every row)'),
    "all zero": (csv(a=[0] * 6), FIT, 'column "a" is constant (0 in every row)'),
    "huge": (csv(a=[1e200, 2e200, 3e200, -1e200]), FIT, 'column "a" has a spread beyond computing'),
    "tiny": (csv(a=[1e-200, 2e-200, 3e-200, 0]), FIT, 'column "a" has a spread beyond computing'),
    "too few rows": (csv(a=[1, 2, 3]), ["--clusters", "5"], "3 rows cannot show 5 clusters"),
    "negative count": (
        csv(n=[*COUNTS, -2]),
        [*FIT, "--model", "poisson"],
        'column "n" is -2 in row 7',
    ),
    "half a count": (
        csv(n=[*COUNTS, 2.5]),
        [*FIT, "--model", "poisson"],
        "2.5 in row 7: --model poisson needs counts",
    ),
    "two in yes or no": (
        csv(n=[0, 1, 1, 2]),
        [*FIT, "--model", "bernoulli"],
        "2 in row 4: --model bernoulli needs 0 and 1",
    ),
    "nothing between 0 and 1": (
        csv(n=[0.5, 1.5, 0.2, 0.3]),
        [*FIT, "--model", "beta"],
        "1.5 in row 2: --model beta needs shares between 0 and 1",
    ),
    "no waiting time": (csv(n=[1, 2, 0, 3]), [*FIT, "--model", "gamma"], "0 in row 3: --model gam"),
    "degrees": (csv(n=[1, 2, 90, 3]), [*FIT, "--model", "von_mises"], "90 in row 3"),
    "names of rows": (
        csv(who=[f"p{n}" for n in range(30)]),
        [*FIT, "--model", "categorical"],
        '("p0", …): it names the rows, leave it out',
    ),
    "one count": (csv(n=COUNTS), [*FIT, "--model", "multinomial"], "two columns of counts"),
    "mixed without kinds": (
        csv(size=[1.5, 2], who=["x", "y"]),
        [*FIT, "--model", "mixed"],
        "say what each column is, for example --kinds size=normal,who=categorical",
    ),
    "unknown kind": (GOOD, [*FIT, "--kinds", "a=nromal"], 'column "a" has the kind "nromal"'),
    "kind of no column": (GOOD, [*FIT, "--kinds", "c=normal"], 'no column "c"; the columns are'),
    "kind without column": (GOOD, [*FIT, "--kinds", "normal"], '--kinds has "normal": write'),
    "two kinds of a column": (GOOD, [*FIT, "--kinds", "a=normal,a=gamma"], 'names "a" twice'),
    "no kind": (GOOD, [*FIT, "--kinds", ""], "names no column"),
    "kinds of one model": (
        GOOD,
        [*FIT, "--model", "gaussian", "--kinds", "a=normal"],
        "--kinds belongs to --model mixed",
    ),
    "text that is no count": (
        csv(a=["x", "y"], b=[1, 2]),
        [*FIT, "--kinds", "a=poisson,b=normal"],
        'column "a" is text',
    ),
    "half a count among kinds": (
        csv(a=[1, 2.5, 3, 4], b=["x", "y", "x", "y"]),
        [*FIT, "--kinds", "a=poisson,b=categorical"],
        "2.5 in row 2: --kinds poisson needs counts",
    ),
    "three answers to yes or no": (
        csv(a=["x", "y", "z", "x"]),
        [*FIT, "--kinds", "a=bernoulli"],
        "has 3 values: --kinds bernoulli needs two",
    ),
    "a structure of gaussians": (
        GOOD,
        [*FIT, "--model", "student_t", "--covariance", "VEV"],
        "one of full, tied, diag, spherical, not VEV",
    ),
    "out is a file": (GOOD, [*FIT, "--out", "data.csv"], "data.csv is a file, not a directory"),
    "out in a file": (GOOD, [*FIT, "--out", "data.csv/x"], "data.csv is a file, not a directory"),
    "out is someone else's": (GOOD, [*FIT, "--out", "."], "bayesmix did not write"),
    "forced on someone else's": (GOOD, [*FIT, "--out", ".", "--force"], "bayesmix did not write"),
}


def refused(argv, capsys):
    """The one sentence on stderr, after exit code 2."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("bayesmix: ")
    return lines[0]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence(name, tmp_path, monkeypatch, capsys):
    content, arguments, sentence = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data.csv"
    data.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert sentence in refused(["fit", "data.csv", *arguments], capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.csv"]


ARGUMENTS = {
    "nothing": ([], "say what to do"),
    "no data": (["fit", *FIT], "give one CSV file, or --example"),
    "two sources": (["fit", "x.csv", "--example", "faithful"], "give one CSV file, or --example"),
    "unknown example": (["fit", "--example", "roses"], "choose from"),
    "unknown command": (["fat"], "choose from"),
    "shortened option": (["fit", "--exam", "faithful"], "unrecognized arguments: --exam"),
    "no such file": (["fit", "nope.csv", *FIT], "there is no file 'nope.csv'"),
    "a directory": (["fit", str(ROOT), *FIT], "is a directory: name a CSV file"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_make_no_sense(name, tmp_path, monkeypatch, capsys):
    argv, sentence = ARGUMENTS[name]
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(argv, capsys)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path, monkeypatch, capsys):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    (tmp_path / "data.csv").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    said = refused(["fit", "data.csv", *FIT, "--out", "closed/here"], capsys)
    assert "cannot write in" in said


def test_what_bayesmix_refuses_becomes_the_users_sentence(tmp_path, monkeypatch, capsys):
    def refuse(task, options, interrupts):
        raise Refusal("the engines say no")

    (tmp_path / "data.csv").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "_engines", refuse)
    assert main(["fit", "data.csv", *FIT]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "bayesmix: the engines say no"
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.csv"]


def test_row_names_of_r_and_pandas_are_not_data(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('"","a","b"\n"x",1,2\n"y",3,5\n')
    table = job.read_table(path)
    assert list(table.columns) == ["a", "b"]
    assert list(table.index) == ["x", "y"]


# Help.


@pytest.mark.parametrize("argv", [["--help"], ["fit", "--help"]])
def test_help(argv, capsys):
    assert main(argv) == 0
    assert "example: bayesmix fit" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bayesmix {bm.__version__}\n"


def test_help_is_quick_and_loads_no_engine():
    check = (
        "import sys; from bayesmix.cli import main; code = main(['fit', '--help']); "
        "print(code, [m for m in ('arviz_plots', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


# One whole run.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on Old Faithful from a file: folder, exit code, stdout, stderr, backend before."""
    import contextlib
    import io

    place = tmp_path_factory.mktemp("cli")
    bm.datasets.load_faithful().to_csv(place / "geyser.csv", index=False)
    out, err, before = io.StringIO(), io.StringIO(), mpl.get_backend()
    with contextlib.chdir(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["fit", "geyser.csv", *FIT])
    return place, code, out.getvalue(), err.getvalue(), before


def test_a_run_tells_how_far_it_is_and_ends_with_the_card(run):
    _, code, out, err, _ = run
    assert code == 0, err
    reading, em, nuts = err.splitlines()
    assert reading == "reading geyser.csv … 272 rows, 2 columns"
    assert em.startswith("EM    16 starts")
    assert "converged in" in em
    assert nuts.startswith("NUTS  2 chains")
    assert "120 draws" in nuts
    assert "EM against NUTS: 272 observations" in out
    assert out.splitlines()[-1].startswith("written: geyser-fit/{about.json")
    assert max(map(len, out.splitlines()[:-1])) <= 100


def test_a_run_writes_every_file_and_no_other(run):
    place, *_ = run
    assert {entry.name for entry in place.iterdir()} == {"geyser.csv", "geyser-fit"}
    written = place / "geyser-fit"
    assert {entry.name for entry in written.iterdir()} == WRITTEN
    assert {entry.stem for entry in (written / "figures").iterdir()} == FIGURES
    assert (written / "figures" / "forest.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_written_can_be_read(run):
    import arviz_stats
    import xarray

    written = run[0] / "geyser-fit"
    for name, shape in (("em", (1, 1)), ("nuts", (2, 60))):
        with xarray.open_datatree(written / f"{name}.nc", engine="h5netcdf") as tree:
            assert tree.attrs["inference_method"] == name
            assert tuple(tree["posterior"].sizes[d] for d in ("chain", "draw")) == shape
            assert list(tree["posterior"]["feature"].to_numpy()) == ["eruptions", "waiting"]
            if name == "nuts":
                assert np.isfinite(arviz_stats.summary(tree, round_to="none")["mean"]).all()
    table = pd.read_csv(written / "card.csv", index_col=[0, 1])
    assert {"map", "mean", "sd", "r_hat", "ess_bulk"} <= set(table.columns)
    rows = pd.read_csv(written / "observations.csv")
    assert len(rows) == 272
    assert rows["em_prob"].between(0.5, 1).all()
    bins = pd.read_csv(written / "calibration.csv", index_col=0)
    assert bins["observations"].sum() == 272
    distances = pd.read_csv(written / "partitions.csv", index_col=[0, 1])
    assert distances.loc[("vi", "estimate"), "to_estimate"] == 0
    about = json.loads((written / "about.json").read_text())
    assert (about["data"], about["clusters"], about["seed"]) == ("geyser.csv", 2, 0)
    page = (written / "card.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert "http" not in page.replace("data:image", "")


def test_empty_cells_are_counted_and_integrated_out(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) + 4.0 * (np.arange(40) % 2)[:, None]
    x[3, 0] = x[7, 1] = x[7, 2] = np.nan
    pd.DataFrame(x, columns=["a", "b", "c"]).to_csv(tmp_path / "gaps.csv", index=False)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "gaps.csv", *FIT, "--covariance", "VVI"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[1] == "3 missing cells in 2 rows are integrated out"
    assert "EM against NUTS: 40 observations" in out
    assert {entry.stem for entry in (tmp_path / "gaps-fit" / "figures").iterdir()} == FIGURES


def test_columns_of_different_kinds(tmp_path, monkeypatch, capsys):
    """Gaussian columns are one block; text and gaps are welcome; codes keep their names."""
    rng, g = np.random.default_rng(0), np.arange(60) % 2
    table = pd.DataFrame({"a": rng.normal(6 * g), "b": rng.normal(6 * g)})
    table["n"], table["answer"] = rng.poisson(2 + 6 * g), np.where(g == 1, "yes", "no")
    table["score"] = np.where(rng.random(60) < 0.1, np.nan, 1 + g + rng.integers(0, 2, 60))
    table.to_csv(tmp_path / "kinds.csv", index=False)
    monkeypatch.chdir(tmp_path)
    kinds = "a=gaussian,b=gaussian,n=poisson,answer=bernoulli,score=categorical"
    assert main(["fit", "kinds.csv", *FIT, "--kinds", kinds]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("reading kinds.csv … 60 rows, 5 columns\n")
    assert "a_b_loc[0, a]" in out
    assert "score_probs[1, 3]" in out
    assert {entry.stem for entry in (tmp_path / "kinds-fit" / "figures").iterdir()} >= {"clusters"}
    about = json.loads((tmp_path / "kinds-fit" / "about.json").read_text())
    assert about["kinds"] == dict(pair.split("=") for pair in kinds.split(","))


def test_models_are_those_of_bm_models():
    """Written out so that --help need not load the engines."""
    from bayesmix.cli import kinds
    from bayesmix.models.mixed import CHOICES

    assert set(kinds.MODELS) <= set(bm.models.__all__)
    assert set(kinds.KINDS) == set(CHOICES)
    assert set(kinds.KINDS) | {"multinomial"} == set(kinds.CHECKS)
    assert set(job.STUDENT) == set(student.COVARIANCES)


def test_covariances_are_those_of_the_models():
    """Written out here so that --help need not load the engines; "factor" takes a number more."""
    of_models = set(continuous.COVARIANCES) - {"factor", "V", "E"}
    assert set(job.COVARIANCES) == of_models


def test_matplotlib_draws_as_before(run):
    assert mpl.get_backend() == run[4]


def stamps(place):
    return {p.name: p.stat().st_mtime_ns for p in (place / "geyser-fit").iterdir()}


def test_a_finished_result_is_never_overwritten(run, monkeypatch, capsys):
    place, before = run[0], stamps(run[0])
    monkeypatch.chdir(place)
    said = refused(["fit", "geyser.csv", *FIT], capsys)
    assert "geyser-fit holds a finished result: choose another --out, or add --force" in said
    assert stamps(place) == before


def test_force_spares_what_someone_added(run, monkeypatch, capsys):
    place = run[0]
    monkeypatch.chdir(place)
    note = place / "geyser-fit" / "notes.txt"
    note.write_text("mine")
    try:
        said = refused(["fit", "geyser.csv", *FIT, "--force"], capsys)
        assert '"notes.txt", which bayesmix did not write' in said
        assert note.read_text() == "mine"
    finally:
        note.unlink()


# Whole or not at all.


def finished(place, mark):
    place.mkdir()
    (place / folder.ABOUT).write_text(json.dumps({"bayesmix": "0", "mark": mark}))
    return place


def mark(place):
    return json.loads((place / folder.ABOUT).read_text())["mark"]


def test_a_new_result_takes_the_place_of_the_old(tmp_path):
    target = finished(tmp_path / "fit", "old")
    with folder.whole_directory(target, force=True) as part:
        (part / folder.ABOUT).write_text(json.dumps({"bayesmix": "0", "mark": "new"}))
        assert mark(target) == "old"
    assert mark(target) == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_everything_as_it_was(tmp_path, error):
    target = finished(tmp_path / "fit", "old")

    def broken():
        with folder.whole_directory(target, force=True) as part:
            (part / "em.nc").write_text("half")
            raise error

    with pytest.raises(error):
        broken()
    assert mark(target) == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit"]


def test_a_full_disk_is_told_in_words(tmp_path):
    with (
        pytest.raises(Refusal, match=r"cannot write .*fit: No space left"),
        folder.whole_directory(tmp_path / "fit", force=False),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_appeared_meanwhile_is_kept(tmp_path):
    target = tmp_path / "fit"

    def late():
        with folder.whole_directory(target, force=False) as part:
            (part / folder.ABOUT).write_text(json.dumps({"bayesmix": "0", "mark": "mine"}))
            finished(target, "theirs")

    with pytest.raises(Refusal, match="holds a finished result"):
        late()
    assert mark(target) == "theirs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit"]


def test_folders_on_the_way_are_made(tmp_path):
    target = tmp_path / "a" / "b" / "fit"
    with folder.whole_directory(target, force=False) as part:
        (part / "x").write_text("")
    assert [entry.name for entry in target.iterdir()] == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_in_one_line(tmp_path):
    command = [sys.executable, "-m", "bayesmix", "fit", "--example", "faithful", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, str(tmp_path / "fit")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as process:
        first = process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert first.startswith("reading faithful")
    assert process.returncode == 130
    assert err.splitlines()[-1] == "bayesmix: stopped, nothing was written"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_not_written():
    """EM and NUTS answer Ctrl-C with what they have; the command ends."""
    result = SimpleNamespace(notes=("the search was interrupted: other modes may be higher",))
    whole = SimpleNamespace(notes=())
    for part, interrupts in ((result, []), (whole, [signal.SIGINT])):
        with pytest.raises(KeyboardInterrupt):
            job._whole(part, interrupts)
    assert job._whole(whole, []) is whole


def test_interrupts_are_noted_even_where_they_are_lost():
    with job._heard() as interrupts, contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert interrupts == [signal.SIGINT]
