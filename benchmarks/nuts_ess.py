"""Effective draws per CPU second: bayesmix, NumPyro, PyMC, nutpie and Stan on the same models.

python benchmarks/nuts_ess.py --others PYTHON                every sampler on the seven sets
python benchmarks/nuts_ess.py faithful --only bayesmix stan  some of it
python benchmarks/nuts_ess.py --only stan --transitions 300  fewer of the others' transitions
python benchmarks/nuts_ess.py --only nutpie --seeds 1 2 3    runs of the others with several seeds
python benchmarks/nuts_ess.py --table                        the table and plot of what was run

PYTHON is an interpreter with PyMC, nutpie and PyStan, by default this one. Every run is a process
of its own (imports are not counted) with one thread and a limit of time, and adds one line to
results/nuts.jsonl. ESS is the least bulk ESS over the parameters, relabelled to one pivot; where
R-hat exceeds 1.01 there is none worth quoting, so no rate is given.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from nuts_cases import CHAINS, DRAWS, OURS, SAMPLERS, SETS, THEIRS, fits
from nuts_measure import one, quality
from nuts_tables import against, lines_of, measured, plot

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results" / "nuts.jsonl"


def in_a_process(command, limit):
    """The last line a command prints, as JSON; None when it needs more seconds than the limit.

    The limit is one of wall time: Stan's chains are processes of their own, which end with it.
    """
    single = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "NUMBA", "RAYON")}
    begun = subprocess.Popen(
        command,
        env=os.environ | {"XLA_FLAGS": single} | threads,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with begun:
        try:
            said, complaints = begun.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if begun.poll() is None:
                os.killpg(begun.pid, signal.SIGKILL)
    if begun.returncode:
        return {"error": complaints.strip().splitlines()[-1][:200] if complaints.strip() else "?"}
    return json.loads(said.splitlines()[-1])


def run(name, sampler, seed, asked, folder, pivots):
    """One line of the results: one sampler on one set, with the quality of its draws."""
    target = str(Path(folder) / "draws")
    if sampler in THEIRS:
        kind, x, constants = SETS[name]()
        source = str(Path(folder) / "data.npz")
        np.savez(source, x=x, **constants)
        script = str(HERE.with_name("nuts_others.py"))
        command = [asked.others, script, sampler, kind, source, f"{target}.0.npz"]
        command += [str(asked.transitions)] * 2 + [str(seed)]
        found = in_a_process(command, asked.limit)
        if found and "compiling" in found:
            found |= {
                "cold": found["compiling"] + found["sampling"],
                "warm": [found["sampling"]],
                "steps": found["steps"] / (CHAINS * 2 * asked.transitions),
            }
    else:
        command = [
            sys.executable,
            str(HERE),
            "--one",
            name,
            sampler,
            target,
            str(asked.transitions),
            str(seed),
        ]
        found = in_a_process(command, asked.limit)
    line = {"set": name, "sampler": sampler, "limit": asked.limit, "date": time.strftime("%F %R")}
    if sampler not in OURS:
        line |= {"draws": asked.transitions, "seed": seed}
    if found is None or "error" in found:
        return line | (found or {"error": f"not finished in {asked.limit:.0f} s"})
    ess, rhat = [], []
    for draws in sorted(Path(folder).glob("draws.*.npz")):
        numbers, pivots[name] = quality(draws, pivots.get(name))
        ess.append(min(each[1] for each in numbers))
        rhat.append(max(each[2] for each in numbers))
    means = [(each[0], each[3], each[4]) for each in numbers]
    pivot = {key: np.asarray(value).tolist() for key, value in pivots[name].items()}
    return line | found | {"ess": ess, "rhat": rhat, "means": means, "pivot": pivot}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sets", nargs="*", help="beginnings of names; the seven without any")
    parser.add_argument("--only", nargs="+", choices=SAMPLERS, help="some samplers")
    parser.add_argument("--others", default=sys.executable, help="interpreter with PyMC and Stan")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one run")
    said = "of warm-up, and draws, of each chain of the other samplers"
    parser.add_argument("--transitions", type=int, default=DRAWS, help=said)
    said = "of the other samplers, a run each (bayesmix: three keys in one run)"
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help=said)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="run nothing; print and plot")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(*asked.one)))
        return
    names = [n for n in SETS if any(n.startswith(some) for some in asked.sets)]
    known = lines_of(asked.results)
    pivots = {name: line["pivot"] for (name, _), line in known.items() if "pivot" in line}
    for name in () if asked.table else names or list(SETS)[:7]:
        samplers = [each for each in asked.only or SAMPLERS if fits(name, each)]
        turns = [(each, n) for each in samplers for n in (asked.seeds if each not in OURS else [1])]
        for sampler, seed in turns:
            with tempfile.TemporaryDirectory() as folder, asked.results.open("a") as results:
                line = run(name, sampler, seed, asked, folder, pivots)
                print(json.dumps(line), file=results, flush=True)
    latest = lines_of(asked.results)
    print(f"{measured(latest)}\n\n{against(latest)}")
    plot(latest, asked.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
