"""CPU time of the partition search on 4000 draws of 1000 observations: cases x losses.

Three cases are draws from the exact responsibilities of Gaussian clusters in the plane (clear or
overlapping); in the other two half of the observations keep their cluster and half are in a
random one in every draw, on which a search can lose itself.

    python benchmarks/partition.py [--case over12] [--loss vi]
"""

import argparse
import time

import jax
import numpy as np

import bayesmix as bm

N, S = 1000, 4000
LOSSES = {"vi": None, "binder": None, "gvi": 0.5, "gbinder": 1.5}
LOSSES |= dict.fromkeys(("omari", "nvi", "id", "nid"))


def gaussian(K, spread, seed=0):
    """Labels (S, N) of clusters whose centres vary a little from draw to draw."""
    rng = np.random.default_rng(seed)
    centre = spread * rng.normal(size=(K, 2))
    x = centre[rng.integers(0, K, N)] + rng.normal(size=(N, 2))
    draws = np.empty((S, N), np.int32)
    for s in range(S):
        loc = centre + 0.15 * rng.normal(size=(K, 2))
        log_p = -0.5 * np.square(x[:, None] - loc).sum(axis=-1)
        draws[s] = (log_p + rng.gumbel(size=log_p.shape)).argmax(axis=1)
    return draws


def half_random(K, seed=0):
    """Labels (S, N) of which those of the second half of the observations mean nothing."""
    rng = np.random.default_rng(seed)
    fixed, noise = rng.integers(0, K, N), rng.integers(0, K, (S, N))
    return np.where(np.arange(N) < N // 2, fixed, noise).astype(np.int32)


CASES = {
    "clear5": lambda: gaussian(5, 6.0),
    "clear8": lambda: gaussian(8, 5.0),
    "over12": lambda: gaussian(12, 2.0),
    "half5": lambda: half_random(5),
    "half12": lambda: half_random(12),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--loss", choices=LOSSES)
    asked = parser.parse_args()
    key = jax.random.key(0)
    bm.partition(key, np.zeros((2, 2), int))  # imports
    print("| case | loss | CPU s | wall s | expected loss | clusters | starts that agree |")
    print("|---|---|---|---|---|---|---|")
    for case in [asked.case] if asked.case else CASES:
        draws = CASES[case]()
        for loss in [asked.loss] if asked.loss else LOSSES:
            a = LOSSES[loss]
            began, clock = time.process_time(), time.perf_counter()
            found = bm.partition(key, draws, loss, a=a)
            spent, clock = time.process_time() - began, time.perf_counter() - clock
            name = loss if a is None else f"{loss}, a={a:g}"
            agree = f"{round(found.reached * found.runs)} of {found.runs}"
            print(
                f"| {case} | {name} | {spent:.1f} | {clock:.1f} | {found.expected_loss:.6f} +- "
                f"{found.mcse:.1g} | {found.n_clusters} | {agree}"
                f"{', stopped' if found.stopped else ''} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
