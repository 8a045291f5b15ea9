"""The job of `bayesmix fit`: a checked task, both engines, and a line on each."""

from __future__ import annotations

import _thread
import argparse
import gc
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bayesmix.cli.folder import check_target, list_written, whole_directory, write
from bayesmix.cli.kinds import as_numbers, ask_for_kinds, check_values, read_kinds
from bayesmix.cli.table import Refusal, choose, gaps, plural, read_table

if TYPE_CHECKING:
    import pandas as pd

COVARIANCES = (  # our names, then mclust's
    "full", "tied", "diag", "spherical", "EII", "EEI", "VEI", "EVI", "VEE", "EVE", "VVE", "EEV",
    "VEV", "EVV", "VVV", "EEE", "VVI", "VII"
)  # fmt: skip
STUDENT = ("full", "tied", "diag", "spherical")  # what student_t has of them
SOON = 0.05  # seconds


class Example(NamedTuple):
    """A data set that comes along, with the columns, clusters and model that suit it."""

    columns: tuple[str, ...]
    clusters: int
    model: str = "gaussian"


EXAMPLES = {
    "faithful": Example(("eruptions", "waiting"), 2),
    "iris": Example(("sepal_length", "sepal_width", "petal_length", "petal_width"), 3),
    "galaxies": Example(("velocity_corrected",), 3),
    "thyroid": Example(("RT3U", "T4", "T3", "TSH", "DTSH"), 3),
    "diabetes": Example(("glucose", "insulin", "sspg"), 3),
}


class Task(NamedTuple):
    """A checked task: the table (columns of float64, or answers), where it came from, how to fit
    it. kinds : {column: kind}.
    """

    name: str
    source: str
    table: pd.DataFrame
    clusters: int
    model: str
    covariance: str
    kinds: dict[str, str]


def fit(options: argparse.Namespace) -> None:
    """Read, fit, compare, write; raises Refusal for what the user can put right."""
    task = _task(options)
    target = Path(options.out or f"{task.name}-fit")
    check_target(target, options.force)
    with whole_directory(target, options.force) as folder:
        say(f"reading {task.source} … {len(task.table)} rows, {_columns(task.table)}")
        if missing := gaps(task.table):
            say(missing)
        with _heard() as interrupts:
            em, nuts, card = _engines(task, options, interrupts)
        write(folder, task, options, em, nuts, card)
    print(f"\n{card}")
    print(f"\nwritten: {list_written(target, not options.no_figures)}", flush=True)


def _task(options: argparse.Namespace) -> Task:
    if (options.data is None) == (options.example is None):
        raise Refusal("give one CSV file, or --example with one of: " + ", ".join(EXAMPLES))
    example = EXAMPLES.get(options.example or "")
    model = options.model or (example.model if example else "gaussian")
    model = "mixed" if options.kinds is not None and options.model is None else model
    _check_covariance(options.covariance, model)
    name = options.example or _stem(options.data)
    table = _example_table(options.example) if example else read_table(Path(options.data))
    chosen = options.columns
    if chosen is None and example:
        chosen = ",".join(example.columns)
    table = choose(table, chosen)
    if options.kinds is not None and model != "mixed":
        raise Refusal(f"--kinds belongs to --model mixed, not to --model {model}")
    if options.kinds is None and model == "mixed":
        raise ask_for_kinds(table)
    kinds = dict.fromkeys(map(str, table.columns), model)
    if model == "mixed":
        kinds = read_kinds(options.kinds, table)
        table = table[list(kinds)]
    if model == "multinomial" and table.shape[1] < 2:
        raise Refusal("--model multinomial needs two columns of counts or more")
    table = as_numbers(table, kinds)
    K = options.clusters or (example.clusters if example else None)
    if K is None:
        raise Refusal("say how many clusters to look for, for example --clusters 2")
    check_values(table, kinds, K, "--kinds" if model == "mixed" else "--model")
    source = options.example or Path(options.data).name
    return Task(name, source, table, K, model, options.covariance or "full", kinds)


def _check_covariance(name: str | None, model: str) -> None:
    if name and model not in ("gaussian", "student_t"):
        raise Refusal(f"--covariance belongs to gaussian clusters, not to --model {model}")
    if name and model == "student_t" and name not in STUDENT:
        raise Refusal(f"--covariance of student_t is one of {', '.join(STUDENT)}, not {name}")


def _columns(table: pd.DataFrame) -> str:
    return plural(table.shape[1], "column")


def _example_table(name: str) -> pd.DataFrame:
    from bayesmix import datasets

    return getattr(datasets, f"load_{name}")()


def _stem(path: str) -> str:
    return Path(path).name.split(".")[0] or "data"


@contextmanager
def _heard() -> Iterator[list[int]]:
    """The interrupts so far. Python drops one that is raised while it collects garbage, so that is
    raised a little later.
    """
    numbers: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield numbers
        return

    def note(number: int, frame: Any) -> None:
        numbers.append(number)
        if frame.f_code in [getattr(callback, "__code__", None) for callback in gc.callbacks]:
            threading.Timer(SOON, _thread.interrupt_main).start()
        else:
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield numbers
    finally:
        signal.signal(signal.SIGINT, before)


def _engines(
    task: Task, options: argparse.Namespace, interrupts: list[int]
) -> tuple[Any, Any, Any]:
    """Both fits and their card; what bayesmix refuses in words is passed on in words."""
    import jax

    from bayesmix.card import card
    from bayesmix.em import EM
    from bayesmix.nuts import NUTS

    program = _program(task)
    alone = task.table.shape[1] == 1 and not _by_name(task)
    data = task.table.iloc[:, 0] if alone else task.table
    for_em, for_nuts = jax.random.split(jax.random.key(options.seed))
    bar = sys.stderr.isatty()
    try:
        em = _whole(EM(program, progress_bar=bar).run(for_em, data), interrupts)
        say(_em_line(em))
        sampler = NUTS(program, chains=options.chains, draws=options.draws, progress_bar=bar)
        nuts = _whole(sampler.run(for_nuts, data, start=em), interrupts)
        both = card(em, nuts)
    except ValueError as error:
        raise Refusal(str(error)) from error
    say(_nuts_line(both.facts))
    return em, nuts, both


def _whole(result: Any, interrupts: list[int]) -> Any:
    """A result that Ctrl-C did not cut short: in Python a part is worth having, here it is not."""
    if interrupts or any("interrupted" in note for note in result.notes):
        raise KeyboardInterrupt
    return result


def _program(task: Task) -> Any:
    from bayesmix import models

    if task.model in ("gaussian", "student_t"):
        return getattr(models, task.model)(task.clusters, covariance=task.covariance)
    if _by_name(task):
        return models.mixed(_blocks(task.kinds), task.clusters)
    return getattr(models, task.model)(task.clusters)


def _by_name(task: Task) -> bool:
    """Whether the program takes its columns by name: of different kinds, or answers in words."""
    text = any(dtype.kind not in "bif" for dtype in task.table.dtypes)
    return task.model in ("categorical", "mixed") or text


def _blocks(kinds: dict[str, str]) -> dict[Any, str]:
    """Kinds as `bm.models.mixed` takes them: the gaussian columns are one block."""
    block = tuple(name for name, kind in kinds.items() if kind == "gaussian")
    rest: dict[Any, str] = {name: kind for name, kind in kinds.items() if kind != "gaussian"}
    if not block:
        return rest
    return {
        block if len(block) > 1 else block[0]: "gaussian" if len(block) > 1 else "normal"
    } | rest


def _em_line(em: Any) -> str:
    starts = plural(int(em.settings.get("restarts", 1)), "start")
    state = "converged" if em.converged else "not converged"
    return (
        f"EM    {starts:<10} {plural(len(em.modes), 'distinct mode')}, best log joint "
        f"{em.log_joint:.3f}, {state} in {em.steps} steps ({em.seconds:.1f} s)"
    )


def _nuts_line(facts: dict[str, Any]) -> str:
    rhat = facts["rhat_invariant"]
    said = "no R-hat from one chain" if np.isnan(rhat) else f"R-hat {rhat:.2f}"
    return (
        f"NUTS  {plural(facts['chains'], 'chain'):<10} {facts['chains'] * facts['draws']} draws, "
        f"{said}, {plural(facts['divergences'], 'divergence')} ({facts['seconds_nuts']:.1f} s)"
    )


def say(text: str) -> None:
    """A line for the person who waits: not part of the output."""
    print(text, file=sys.stderr, flush=True)
