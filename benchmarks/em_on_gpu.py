"""EM per iteration on JAX's default device, an accelerator if there is one.

    python benchmarks/em_on_gpu.py [--big] [--out results/gpu.jsonl]

Every case of the grid in float64 and float32, wall-clock: steps of the compiled loop alone, median
of three runs, on rows that lie on the device. ``--big`` adds 1e7 x 16, K=64 and 1e8 x 8, K=32.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from em_cases import Case, data

import bayesmix as bm
from bayesmix.density import data_of, density_of
from bayesmix.device import arithmetic
from bayesmix.engine import RUNNING, Engine, advance, entered
from bayesmix.mstep import plan_for
from bayesmix.program import trace

GRID = (
    Case(272, 2, 2, steps=50),
    Case(10_000, 2, 5, steps=50),
    Case(100_000, 8, 8, steps=50),
    Case(100_000, 8, 8, "diag", steps=50),
    Case(100_000, 8, 8, "tied", steps=50),
    Case(100_000, 8, 8, "spherical", steps=50),
    Case(100_000, 32, 32, steps=20),
    Case(1_000_000, 2, 50, steps=20),
    Case(1_000_000, 16, 16, steps=20),
    Case(1_000_000, 1, 5, steps=20),
)
BIG = (Case(10_000_000, 16, 64, steps=5), Case(100_000_000, 8, 32, steps=5))
PIECE = 2**20


def many(case: Case) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Spherical clusters, made piece by piece, and the parameters to begin from."""
    _, start = data(case._replace(N=1000), 0)
    rng = np.random.default_rng(0)
    x = np.empty((case.N, case.D), case.dtype)
    for begin in range(0, case.N, PIECE):
        part = x[begin : begin + PIECE]
        labels = rng.integers(case.K, size=len(part))
        part[:] = start["loc"][labels] + rng.standard_normal(part.shape, np.float32)
    return x, start


def measured(case: Case, x: np.ndarray, start: dict[str, np.ndarray]) -> dict:
    """Seconds to lay the rows out, to compile the loop, and for a step of it."""
    program = bm.models.gaussian(case.K, covariance=case.covariance, prior="flat")
    began = time.perf_counter()
    mixture = trace(program, x)
    with arithmetic(case.dtype, wide=True):
        engine = Engine(density_of(mixture), plan_for(mixture))
        rows = jax.block_until_ready(data_of(mixture, case.dtype))
        laid_out = time.perf_counter()
        spread = next(name for name in mixture.sites if name not in ("weights", "loc"))
        given = start["cov"] if "cov" in start else np.sqrt(start["var"])
        params = {"weights": start["weights"], "loc": start["loc"], spread: given}
        state = entered(engine, {name: params[name] for name in mixture.sites}, rows)[0]
        ready = time.perf_counter()
        state = jax.block_until_ready(advance(engine, state, rows, 1e-300, 2))[0]
        compiled = time.perf_counter() - ready
        times = []
        for _ in range(3):
            again = time.perf_counter()
            after = jax.block_until_ready(advance(engine, state, rows, 1e-300, 2 + case.steps))[0]
            times.append(time.perf_counter() - again)
    steps = int(after.steps) - int(state.steps)  # fewer where the log joint no longer moves
    return {
        "case": str(case),
        "lay out, s": laid_out - began,
        "compile, s": compiled,
        "step, ms": 1e3 * float(np.median(times)) / steps,
        "steps": steps,
        "stopped": int(after.stop) != RUNNING,
        "log likelihood per row": float(after.log_likelihood) / case.N,
    }


def main() -> None:
    """Measure, print, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "gpu.jsonl")
    options = parser.parse_args()
    where = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "numpyro": version("numpyro"),
        "date": time.strftime("%Y-%m-%d"),
    }
    for case in GRID + (BIG if options.big else ()):
        for dtype in ("float64", "float32"):
            each = case._replace(dtype=dtype)
            found = measured(each, *(many(each) if case in BIG else data(each, 0)))
            print(json.dumps(found), flush=True)
            with open(options.out, "a") as file:
                file.write(json.dumps(found | where) + "\n")


if __name__ == "__main__":
    main()
