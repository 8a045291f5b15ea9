"""EM of bayesmix against scikit-learn, mclust, gmmx and pomegranate: time, memory, size, latency.

    python benchmarks/em_vs_sklearn.py                     everything, an hour
    python benchmarks/em_vs_sklearn.py --only latency      some of the pieces: see PIECES
    python benchmarks/em_vs_sklearn.py --cases 0 1         some of the cases: see em_cases.CASES
    python benchmarks/em_vs_sklearn.py --tables            what has been measured so far

Each piece runs in a process of its own and adds a line to results/em.jsonl; tables and plot show
the newest line of each piece. All fit the same rows from the same parameters, without a prior.
Times are CPU times of the process, all threads, taken in turn; ratios are formed pair by pair. All
are pinned to one thread unless ``--threads`` says otherwise. benchmarks/README.md says how each
column is measured.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import em_measure
from em_cases import CASES, Case
from em_tables import plot, tables

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "em.jsonl"
PICTURE = HERE / "results" / "em.png"
PACKAGES = ("bayesmix", "jax", "jaxlib", "numpyro", "numpy", "scipy", "scikit-learn")
PACKAGES += ("gmmx", "pomegranate", "torch")
DEFAULTS = (0, 1, 2)  # cases that every library also fits with its own defaults
PIECES = ("latency", "iterations", "climbs", "defaults", "memory", "size", "bins")


def pieces(kinds: list[str], numbers: list[int]) -> list[tuple[str, ...]]:
    """The pieces to measure, as words: a kind and what it is measured on."""
    some = [CASES[number] for number in numbers]
    whole = {
        "latency": [("gaussian",), ("README",)],
        "iterations": [(str(CASES.index(case)),) for case in some],
        "climbs": [(str(CASES.index(case)),) for case in some if case.climbs],
        "defaults": [(str(number),) for number in numbers if number in DEFAULTS],
        "memory": [
            (str(number), library, what)
            for number in numbers
            for library in ("ours", "sklearn")
            for what in ("none", "fit")
        ],
        "size": [(str(N),) for N in em_measure.SIZES],
        "bins": [()],
    }
    return [(kind, *words) for kind in kinds for words in whole[kind]]


def measured(kind: str, *words: str) -> dict:
    """What one piece gives, in this process."""
    if kind == "latency":
        return em_measure.latency(words[0])
    if kind == "size":
        return em_measure.size(int(words[0]))
    if kind == "bins":
        return em_measure.binned()
    case: Case = CASES[int(words[0])]
    if kind == "memory":
        return em_measure.memory(case, words[1], words[2] == "fit")
    return {"iterations": em_measure.iterations, "climbs": em_measure.climbs}.get(
        kind, em_measure.defaults
    )(case)


def environment(threads: int) -> dict[str, str]:
    """The environment with BLAS, OpenMP and XLA limited to ``threads``; 0 leaves it as it is."""
    if not threads:
        return dict(os.environ)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = dict.fromkeys(names, str(threads))
    if threads == 1:
        limits["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return os.environ | limits


def ask(threads: int, words: tuple[str, ...]) -> dict:
    """What a fresh process of this script says, as JSON on its last line."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", *words]
    done = subprocess.run(
        command, env=environment(threads), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def where(words: tuple[str, ...]) -> str:
    """The name under which a piece is kept; cases by what they are, not by their number."""
    if len(words) > 1 and words[0] in ("iterations", "climbs", "defaults", "memory"):
        words = (words[0], str(CASES[int(words[1])]), *words[2:])
    return " / ".join(words)


def conditions(threads: int) -> dict:
    """Machine, load, versions and date of a measurement."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if "model name" in line]
    return {
        "date": date.today().isoformat(),
        "machine": f"{models[0].partition(': ')[2]}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def newest() -> dict[str, dict]:
    """{piece: its newest record}."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    records = [json.loads(line) for line in lines]
    return {record["piece"]: record for record in records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PIECES, default=list(PIECES))
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(CASES))))
    parser.add_argument("--sizes", nargs="*", help="of the piece size, rows (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of each library (0: no limit)")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(*options.worker)))
        return
    RESULTS.parent.mkdir(exist_ok=True)
    for words in [] if options.tables else pieces(options.only, options.cases):
        if words[0] == "size" and options.sizes and words[1] not in options.sizes:
            continue
        print("measuring", where(words), file=sys.stderr, flush=True)
        record = {"piece": where(words)} | conditions(options.threads)
        record |= {"found": ask(options.threads, words)}
        with RESULTS.open("a") as file:
            print(json.dumps(record), file=file)
    records = newest()
    print(tables(records))
    plot(records, PICTURE)


if __name__ == "__main__":
    main()
