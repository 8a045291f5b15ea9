"""EM on rows that are read from disk: time, peak memory, and agreement with the fit from memory.

    python benchmarks/out_of_core.py                     ten million rows of 8 columns, 640 MB
    python benchmarks/out_of_core.py --rows 1000000      fewer; --compare fits them from memory too

The rows are written once, block by block, to a temporary ``.npy`` file and read by a memory map.
Each fit runs in a process of its own. Peak memory is the largest resident size above that of the
imports; pages of the map that the kernel keeps count as resident, although it may drop them at any
time, so the memory that the process itself asked for (anonymous pages) is shown beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

D, K = 8, 8


def write(path: Path, rows: int) -> None:
    """Overlapping clusters in random order, written in pieces."""
    rng = np.random.default_rng(0)
    centres = 1.2 * rng.normal(size=(K, D))
    shapes = np.eye(D) + 0.3 * rng.normal(size=(K, D, D))
    out = np.lib.format.open_memmap(path, "w+", np.float64, (rows, D))
    for start in range(0, rows, 100_000):
        labels = rng.integers(K, size=min(100_000, rows - start))
        noise = rng.normal(size=(len(labels), D))
        out[start : start + len(labels)] = centres[labels] + np.einsum(
            "nij,nj->ni", shapes[labels], noise
        )
    out.flush()


class Watch(threading.Thread):
    """The largest anonymous memory of this process, looked at twenty times a second, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest, self.stop = 0.0, threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.05):
            self.largest = max(self.largest, size("RssAnon"))


def size(field: str) -> float:
    """A field of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def fit(path: str, where: str, steps: int) -> dict:
    import jax
    import jax.numpy as jnp

    import bayesmix as bm

    jnp.zeros(1).block_until_ready()
    rows = np.load(path, mmap_mode="r")
    program = bm.models.gaussian(K)
    before, watch = size("RssAnon"), Watch()
    watch.start()
    wall, cpu = time.perf_counter(), time.process_time()
    data = bm.Blocks(rows) if where == "disk" else np.array(rows)
    em = bm.EM(program, restarts=4, max_steps=steps, progress_bar=False)
    found = em.run(jax.random.key(0), data)
    watch.stop.set()
    return {
        "before": before,
        "anonymous": watch.largest,
        "peak": size("VmHWM"),
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "steps": found.steps,
        "log joint": found.log_joint,
        "modes": len(found.modes),
        "stop": found.stop,
    }


def ask(*words: object) -> dict:
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="EM on rows read from disk")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=60, help="E-steps at most")
    parser.add_argument("--compare", action="store_true", help="fit from memory as well")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        path, where, steps = options.worker
        print(json.dumps(fit(path, where, int(steps))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write(path, options.rows)
        megabytes = options.rows * D * 8 / 2**20
        print(f"{options.rows} x {D}, K={K}, full covariances; {megabytes:.0f} MB on disk")
        for where in ("disk", "memory") if options.compare else ("disk",):
            r = ask(path, where, options.steps)
            print(
                f"{where}: {r['wall']:.1f} s, {r['cpu']:.1f} CPU s, {r['steps']} E-steps, "
                f"log joint {r['log joint']:.4f}, {r['modes']} modes; {r['stop']}\n"
                f"  memory: {r['before']:.0f} MB after imports, at most {r['anonymous']:.0f} MB of "
                f"its own; largest resident size with pages of the file {r['peak']:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
