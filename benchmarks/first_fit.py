"""CPU time of the first EM fit of every ready-made program, each in a fresh process.

    python benchmarks/first_fit.py [--repeat 3] [names ...]

The clock is the process's CPU time (all threads), from after the imports to the end of `EM.run`:
tracing the program, compiling, 16 starts and the verdict on the modes. The same fit again says what
of it was not compiling. Data are small, as in a notebook.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

import bayesmix as bm

models = bm.models


def _data() -> dict[str, np.ndarray]:
    """Small data of every kind, two clusters of 150 rows each, three columns where a table."""
    rng = np.random.default_rng(0)
    second = np.arange(300) >= 150
    x = rng.normal(size=(300, 3)) + np.outer(second, [3.0, 2.0, 0.0])
    rate = np.where(second[:, None], [9.0, 1.0, 4.0], [2.0, 3.0, 4.0])
    counts = rng.poisson(rate)
    positive = rng.gamma(np.where(second, 9.0, 3.0), 0.5)
    shares = np.array([rng.dirichlet([2, 3, 5] if one else [6, 3, 1]) for one in second])
    gaps = x.copy()
    gaps[rng.random(x.shape) < 0.1] = np.nan
    few = counts[:, 0].astype(float)
    few[rng.random(300) < 0.1] = np.nan
    covariate = rng.normal(size=300)
    line = np.where(second, 1 + covariate, -1 - covariate)
    return {
        "x": x,
        "x1": x[:, 0],
        "gaps": gaps,
        "counts": counts,
        "count": counts[:, 0],
        "count_gaps": few,
        "zeros": np.where(rng.random(300) < 0.3, 0, counts[:, 0]),
        "bits": (rng.random((300, 4)) < np.where(second, 0.8, 0.2)[:, None]).astype(int),
        "answers": np.minimum(counts, 3),
        "positive": positive,
        "shares": shares,
        "share": np.clip(shares[:, 0], 1e-3, 1 - 1e-3),
        "angles": rng.vonmises(np.where(second, 2.0, -1.0), 3.0),
        "design": covariate[:, None],
        "response": line + rng.normal(scale=0.3, size=300),
        "events": rng.poisson(np.exp(0.5 * line)),
        "hits": rng.binomial(1, 1 / (1 + np.exp(-2 * line))),
    }


def _gaussians() -> dict[str, tuple[Callable, tuple[str, ...]]]:
    names = ["full", "tied", "diag", "spherical"]
    structures = ["EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV"]
    made = {
        f"gaussian {each}": (lambda each=each: models.gaussian(2, covariance=each), ("x",))
        for each in names + structures
    }
    mclust = {
        f"gaussian {each} mclust": (
            lambda each=each: models.gaussian(2, covariance=each, prior="mclust"),
            ("x",),
        )
        for each in names[:4]
    }
    return made | mclust


def _students() -> dict[str, tuple[Callable, tuple[str, ...]]]:
    made = {
        f"student_t {each}": (lambda each=each: models.student_t(2, covariance=each), ("x",))
        for each in ("full", "tied", "diag", "spherical")
    }
    return made | {
        "student_t full, shared df": (lambda: models.student_t(2, df="shared"), ("x",)),
        "student_t one column": (lambda: models.student_t(2), ("x1",)),
    }


def _noise(name: str) -> Callable:
    return lambda: models.gaussian_noise(2, low=-4.0, high=8.0, covariance=name)


def _simple() -> dict[str, tuple[Callable, tuple[str, ...]]]:
    """Programs that take the number of clusters alone."""
    return {
        "gaussian factor": (lambda: models.gaussian(2, covariance="factor", factors=1), ("x",)),
        "gaussian one column": (lambda: models.gaussian(2), ("x1",)),
        "gaussian full, gaps": (lambda: models.gaussian(2), ("gaps",)),
        "gaussian_noise full": (_noise("full"), ("x",)),
        "gaussian_noise diag": (_noise("diag"), ("x",)),
        "gaussian_noise one column": (_noise("full"), ("x1",)),
        "skew_normal": (lambda: models.skew_normal(2), ("x",)),
        "skew_normal one column": (lambda: models.skew_normal(2), ("x1",)),
        "poisson": (lambda: models.poisson(2), ("counts",)),
        "poisson, gaps": (lambda: models.poisson(2), ("count_gaps",)),
        "zero_inflated_poisson": (lambda: models.zero_inflated_poisson(2), ("counts",)),
        "zero_inflated_poisson one column": (lambda: models.zero_inflated_poisson(2), ("zeros",)),
        "zero_inflated_negative_binomial": (
            lambda: models.zero_inflated_negative_binomial(2),
            ("counts",),
        ),
        "hurdle_poisson": (lambda: models.hurdle_poisson(2), ("counts",)),
        "hurdle_negative_binomial": (lambda: models.hurdle_negative_binomial(2), ("counts",)),
        "hurdle_negative_binomial one column": (
            lambda: models.hurdle_negative_binomial(2),
            ("zeros",),
        ),
        "negative_binomial": (lambda: models.negative_binomial(2), ("counts",)),
        "negative_binomial one column": (lambda: models.negative_binomial(2), ("count",)),
        "negative_binomial, gaps": (lambda: models.negative_binomial(2), ("count_gaps",)),
        "bernoulli": (lambda: models.bernoulli(2), ("bits",)),
        "categorical": (lambda: models.categorical(2), ("answers",)),
        "multinomial": (lambda: models.multinomial(2), ("counts",)),
        "geometric": (lambda: models.geometric(2), ("counts",)),
        "log_normal": (lambda: models.log_normal(2), ("positive",)),
        "gamma": (lambda: models.gamma(2), ("positive",)),
        "inverse_gamma": (lambda: models.inverse_gamma(2), ("positive",)),
        "weibull": (lambda: models.weibull(2), ("positive",)),
        "exponential": (lambda: models.exponential(2), ("positive",)),
        "beta": (lambda: models.beta(2), ("share",)),
        "dirichlet": (lambda: models.dirichlet(2), ("shares",)),
        "von_mises": (lambda: models.von_mises(2), ("angles",)),
    }


def _several() -> dict[str, tuple[Callable, tuple[str, ...]]]:
    """Programs of several arguments, and of a table."""
    return {
        "binomial": (lambda: models.binomial(2), ("count", "trials")),
        "mixed normal + poisson + categorical": (lambda: models.mixed(KINDS, 2), ("table",)),
        "mixed skew_normal + hurdle_poisson + categorical": (
            lambda: models.mixed(HIDDEN, 2),
            ("table",),
        ),
        "regression normal": (lambda: models.regression(2), ("design", "response")),
        "regression poisson": (
            lambda: models.regression(2, family="poisson"),
            ("design", "events"),
        ),
        "regression bernoulli": (
            lambda: models.regression(2, family="bernoulli"),
            ("design", "hits"),
        ),
    }


KINDS = {"height": "normal", "visits": "poisson", "region": "categorical"}
HIDDEN = {"height": "skew_normal", "visits": "hurdle_poisson", "region": "categorical"}
PROGRAMS = _gaussians() | _students() | _simple() | _several()


def measure(name: str) -> tuple[float, float]:
    """CPU seconds of the first fit in this process, and of the same fit again."""
    data = _data()
    make, wanted = PROGRAMS[name]
    data["trials"] = np.full(300, 30)
    if "table" in wanted:
        import pandas as pd

        columns = {"height": data["x1"], "visits": data["count"], "region": data["answers"][:, 0]}
        data["table"] = pd.DataFrame(columns)
    args = [data[each] for each in wanted]
    jax.random.key(0)
    times = []
    for _ in range(2):
        began = time.process_time()
        bm.EM(make(), progress_bar=False).run(jax.random.key(0), *args)
        times.append(time.process_time() - began)
    return times[0], times[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names; all where none is given")
    parser.add_argument("--repeat", type=int, default=1, help="processes for each program")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    print("| program | first fit | again |\n|---|---|---|", flush=True)
    for name in PROGRAMS:
        if args.names and not any(name.startswith(each) for each in args.names):
            continue
        command = [sys.executable, __file__, "--one", name]
        made = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(args.repeat)
        ]
        first, again = (statistics.median(column) for column in zip(*made, strict=True))
        print(f"| {name} | {first:.1f} | {again:.2f} |", flush=True)


if __name__ == "__main__":
    main()
