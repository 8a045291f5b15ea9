"""EM of bayesmix against scikit-learn's GaussianMixture: CPU time, memory, and agreement.

    python benchmarks/em_vs_sklearn.py            the tables, half an hour
    python benchmarks/em_vs_sklearn.py --quick    the two small cases

Both fit the same rows from the same parameters, in float64, without a prior (flat priors here,
``reg_covar=0`` there). Times are CPU times of the whole process, all threads, taken in turn (ours,
theirs, ours, ...); ratios are formed pair by pair. Each case runs in its own process, memory in
one process for each library. Both are pinned to one thread unless ``--threads`` says otherwise.
How each column is measured stands in benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Relative difference of the log likelihoods after the same number of steps.
AGREE = {"float64": 1e-8, "float32": 1e-4}
NEAR = 1e-2  # nats below the optimum that count as having reached it
SHORT = 2  # steps of the shorter of two runs whose difference is timed
ENOUGH = 4000  # steps in which plain EM converges


class Case(NamedTuple):
    """A data set, and what is timed on it.

    A pair of per-iteration times takes ``repeats`` runs of ``steps`` steps from each library;
    whole fits are timed ``climbs`` times, or not at all.
    """

    N: int
    D: int
    K: int
    covariance: str
    steps: int
    repeats: int
    pairs: int
    climbs: int
    dtype: str = "float64"

    def __str__(self) -> str:
        single = ", float32" if self.dtype == "float32" else ""
        return f"{self.N} x {self.D}, K={self.K}, {self.covariance}{single}"


CASES = (
    Case(272, 2, 2, "full", steps=300, repeats=40, pairs=3, climbs=5),
    Case(10_000, 2, 5, "full", steps=150, repeats=2, pairs=3, climbs=1),
    Case(100_000, 8, 8, "full", steps=16, repeats=1, pairs=3, climbs=1),
    Case(100_000, 8, 8, "diag", steps=16, repeats=1, pairs=3, climbs=1),
    Case(100_000, 8, 8, "tied", steps=16, repeats=1, pairs=2, climbs=0),
    Case(100_000, 8, 8, "spherical", steps=16, repeats=1, pairs=2, climbs=0),
    Case(100_000, 32, 32, "full", steps=4, repeats=1, pairs=1, climbs=0),
    Case(1_000_000, 1, 5, "full", steps=10, repeats=1, pairs=1, climbs=0),
    Case(1_000_000, 2, 50, "full", steps=3, repeats=1, pairs=1, climbs=0),
    Case(1_000_000, 16, 16, "full", steps=3, repeats=1, pairs=1, climbs=0),
    Case(100_000, 8, 8, "full", steps=16, repeats=1, pairs=2, climbs=0, dtype="float32"),
    Case(1_000_000, 16, 16, "full", steps=3, repeats=1, pairs=1, climbs=0, dtype="float32"),
)


# ---------------------------------------------------------------------------------- the two fits


def data(case: Case, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Overlapping clusters, rows (N, D), and the parameters that both libraries begin from."""
    rng = np.random.default_rng(seed)
    apart = 3.0 / case.D**0.5 if case.K > 2 else 0.7
    centres = apart * rng.normal(size=(case.K, case.D))
    labels = rng.choice(case.K, case.N, p=rng.dirichlet(np.full(case.K, 10.0)))
    x = rng.normal(size=(case.N, case.D))
    for k, shape in enumerate(np.eye(case.D) + 0.3 * rng.normal(size=(case.K, case.D, case.D))):
        x[labels == k] = centres[k] + x[labels == k] @ shape.T
    start = {
        "weights": np.full(case.K, 1 / case.K),
        "loc": centres + 0.5 * rng.normal(size=centres.shape),
    }
    start |= {
        "full": {"cov": np.tile(np.eye(case.D), (case.K, 1, 1))},
        "tied": {"cov": np.eye(case.D)},
        "diag": {"var": np.ones((case.K, case.D))},
        "spherical": {"var": np.ones(case.K)},
    }[case.covariance]
    return x.astype(case.dtype), start


def ours(case: Case, x: np.ndarray, start: dict, steps: int, accelerate: bool = False):
    """An EMResult after ``steps`` steps, or fewer where the log joint no longer moves."""
    import jax

    import bayesmix as bm

    program = bm.models.gaussian(case.K, covariance=case.covariance, prior="flat")
    em = bm.EM(
        program,
        max_steps=steps,
        tol=1e-9,
        accelerate=accelerate,
        dtype=case.dtype,
        progress_bar=False,
    )
    return em.run(jax.random.key(0), x, init_params=start)


def theirs(case: Case, x: np.ndarray, start: dict, steps: int):
    """A fitted GaussianMixture after exactly ``steps`` iterations."""
    from sklearn.mixture import GaussianMixture

    precisions = np.linalg.inv(start["cov"]) if "cov" in start else 1 / start["var"]
    mixture = GaussianMixture(
        case.K,
        covariance_type=case.covariance,
        tol=0.0,
        reg_covar=0.0,
        max_iter=steps,
        weights_init=start["weights"],
        means_init=start["loc"],
        precisions_init=precisions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge within max_iter is meant
        return mixture.fit(x)


# --------------------------------------------------------------------------------- measurements


def cpu(function, *args) -> float:
    """CPU seconds of one call, over all threads."""
    began = time.process_time()
    function(*args)
    return time.process_time() - began


def measure(case: Case, seeds: int) -> dict:
    """Everything about a case but memory; the very first fit shows the compile time."""
    first = cpu(ours, case, *data(case, 0), case.steps + SHORT)
    again = cpu(ours, case, *data(case, 0), case.steps + SHORT)
    result = {"compile": first - again, "pairs": [], "differences": [], "needed": [], "climbs": []}
    for seed in range(seeds):
        x, start = data(case, seed)
        pairs, difference = iterations(case, x, start)
        result["pairs"] += pairs
        result["differences"].append(difference)
        if case.climbs:
            needed, climbs = climb(case, x, start)
            result["needed"].append(needed)
            result["climbs"] += climbs
    return result


def iterations(case: Case, x: np.ndarray, start: dict) -> tuple[list, float]:
    """CPU seconds per iteration (ours, theirs), pair by pair, and how the log likelihoods differ.

    A longer run less a shorter one, divided by the steps between them, so that what a fit costs
    once cancels.
    """
    mine = ours(case, x, start, case.steps + SHORT)
    ours(case, x, start, SHORT)
    yours = theirs(case, x, start, mine.steps)
    a, b = mine.log_likelihood / case.N, yours.lower_bound_
    between = (mine.steps - SHORT) * case.repeats
    pairs = []
    for _ in range(case.pairs):
        spans = np.zeros(2)
        for _ in range(case.repeats):
            spans += [
                cpu(ours, case, x, start, case.steps + SHORT),
                cpu(theirs, case, x, start, mine.steps),
            ]
            spans -= [cpu(fit, case, x, start, SHORT) for fit in (ours, theirs)]
        pairs.append(list(spans / between))
    return pairs, abs(a - b) / max(abs(a), 1.0)


def climb(case: Case, x: np.ndarray, start: dict) -> tuple[dict, list]:
    """CPU seconds and steps of whole fits until the log likelihood is near the optimum.

    The number of steps is found first, untimed; then each is timed with exactly that many.
    """
    plain, fast = (ours(case, x, start, ENOUGH, accelerate) for accelerate in (False, True))
    goal = plain.log_likelihood - NEAR
    needed = {
        "plain": _reached(_gained(plain), goal),
        "accelerated": _reached(_gained(fast), goal),
    }
    needed["sklearn"] = needed["plain"]
    fits = {
        "plain": lambda: ours(case, x, start, needed["plain"]),
        "accelerated": lambda: ours(case, x, start, needed["accelerated"], True),
        "sklearn": lambda: theirs(case, x, start, needed["sklearn"]),
    }
    fits["plain"](), fits["accelerated"]()
    reached = {"sklearn": fits["sklearn"]().lower_bound_ * case.N}
    reached |= {name: fits[name]().log_likelihood for name in ("plain", "accelerated")}
    rounding = 1e-10 * abs(goal)
    if min(reached.values()) < goal - rounding:
        raise RuntimeError(f"{case}: not all reached {goal}: {reached}")
    times = [{name: cpu(fit) for name, fit in fits.items()} for _ in range(case.climbs)]
    return needed, times


def _gained(result) -> np.ndarray:
    """Log likelihood after each step; the prior of a flat program is constant."""
    return result.history - (result.log_joint - result.log_likelihood)


def _reached(path: np.ndarray, goal: float) -> int:
    """Steps until ``path`` has passed ``goal``; an error where it never does."""
    if not (path >= goal).any():
        raise RuntimeError(f"another optimum: {path.max()} is below {goal}")
    return int(np.argmax(path >= goal)) + 1


def peak(case: Case, library: str, fit: bool) -> float:
    """Peak resident memory in MB of importing, making the data and, if asked, fitting."""
    if library == "ours":
        import jax.numpy as jnp

        import bayesmix as bm

        bm.models.gaussian(2)
        jnp.zeros(1).block_until_ready()
    else:
        import sklearn.mixture  # noqa: F401
    x, start = data(case, 0)
    if fit:
        (ours if library == "ours" else theirs)(case, x, start, 5)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1024 if sys.platform != "darwin" else 1024**2)


# --------------------------------------------------------------------------------- the processes


def environment(threads: int) -> dict[str, str]:
    """The environment with BLAS, OpenMP and XLA limited to ``threads``; 0 leaves it as it is."""
    if not threads:
        return dict(os.environ)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = dict.fromkeys(names, str(threads))
    if threads == 1:
        limits["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return os.environ | limits


def ask(threads: int, *words: object) -> dict:
    """What a fresh process of this script says, as JSON on its last line."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", *map(str, words)]
    done = subprocess.run(
        command, env=environment(threads), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def worker(kind: str, number: str, *rest: str) -> None:
    case = CASES[int(number)]
    if kind == "measure":
        print(json.dumps(measure(case, int(rest[0]))))
    else:
        print(json.dumps(peak(case, rest[0], rest[1] == "fit")))


# ------------------------------------------------------------------------------------ the tables


def spread(values: list[float], form: str = ".1f") -> str:
    """Median and range as text: "9.1 (8.0-10.2)"."""
    low, middle, high = (f"{v:{form}}" for v in np.quantile(values, [0, 0.5, 1]))
    return f"{middle} ({low}-{high})"


def timing_rows(case: Case, run: dict) -> tuple[str, str]:
    """Lines of the table per iteration and of the table to the same log likelihood."""
    pairs = np.array(run["pairs"])
    worst = max(run["differences"])
    verdict = "agree" if worst <= AGREE[case.dtype] else "DISAGREE"
    first = (
        f"| {case} | {spread(1e3 * pairs[:, 0], '.3g')} | {spread(1e3 * pairs[:, 1], '.3g')} "
        f"| {spread(pairs[:, 1] / pairs[:, 0])} | {run['compile']:.1f} | {verdict} ({worst:.0e}) |"
    )
    if not case.climbs:
        return first, ""
    cells = [f"| {case} "]
    for name in ("sklearn", "plain", "accelerated"):
        steps = [needed[name] for needed in run["needed"]]
        times = [climb[name] for climb in run["climbs"]]
        cells.append(f"| {spread(times, '.3g')} | {spread(steps, '.0f')} ")
    for name in ("plain", "accelerated"):
        cells.append(f"| {spread([c['sklearn'] / c[name] for c in run['climbs']])} ")
    return first, "".join(cells) + "|"


def memory_row(case: Case, sizes: dict[str, float]) -> str:
    added = {name: sizes[name, "fit"] - sizes[name, "none"] for name in ("ours", "theirs")}
    rows = case.N * case.D * np.dtype(case.dtype).itemsize / 2**20
    return (
        f"| {case} | {rows:.1f} | {sizes['ours', 'none']:.0f} | {added['ours']:.0f} "
        f"| {sizes['theirs', 'none']:.0f} | {added['theirs']:.0f} |"
    )


def report(numbers: list[int], seeds: int, threads: int) -> None:
    steps, climbs, memory = [], [], []
    for number in numbers:
        case = CASES[number]
        print(f"measuring {case}", file=sys.stderr, flush=True)
        first, second = timing_rows(case, ask(threads, "measure", number, seeds))
        steps.append(first)
        climbs += [second] if second else []
        sizes = {
            (library, what): ask(threads, "peak", number, library, what)
            for library in ("ours", "theirs")
            for what in ("none", "fit")
        }
        memory.append(memory_row(case, sizes))
    packages = ("bayesmix", "jax", "jaxlib", "numpyro", "numpy", "scipy", "scikit-learn")
    print(f"Python {platform.python_version()}, " + ", ".join(map(_named, packages)))
    print(f"{os.cpu_count()} cores; threads: {threads or 'as the libraries choose'}\n")
    print("Per iteration, CPU milliseconds; compile time of the first fit, CPU seconds.\n")
    table("rows x columns", "bayesmix", "scikit-learn", "ratio", "compile", "log lik.", lines=steps)
    print(f"To within {NEAR} nats of the optimum, CPU seconds of whole fits, already compiled.\n")
    heads = ("scikit-learn", "steps", "plain", "steps", "accelerated", "steps")
    table("rows x columns", *heads, "ratio plain", "ratio accelerated", lines=climbs)
    print("Peak memory, MB: the rows themselves, imports with the data, and what a fit adds.\n")
    heads = ("bayesmix: before", "fit adds", "scikit-learn: before", "fit adds")
    table("rows x columns", "rows", *heads, lines=memory)


def _named(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except ImportError:
        return f"{package} (not installed)"


def table(*heads: str, lines: list[str]) -> None:
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    print("\n".join(lines) + "\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="EM of bayesmix against scikit-learn")
    parser.add_argument("--quick", action="store_true", help="only the two small cases")
    parser.add_argument("--seeds", type=int, default=3, help="data sets of each case (default 3)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of each library (default 1; 0: no limit)"
    )
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of cases, from 0")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    numbers = options.cases or list(range(2 if options.quick else len(CASES)))
    report(numbers, options.seeds, options.threads)


if __name__ == "__main__":
    main()
