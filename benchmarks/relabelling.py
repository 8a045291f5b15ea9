"""CPU time and peak memory of relabelling 4 x 1000 draws of 20 clusters and 1000 observations.

The responsibilities (640 MB) are not stored, so every pass computes them anew. Draws are made
around the truth, their clusters under random names; all methods must find the same names.

    python benchmarks/relabelling.py
"""

import json
import resource
import time

import numpy as np
import xarray

import bayesmix as bm
from bayesmix.relabel.task import METHODS

K, N, CHAINS, DRAWS = 20, 1000, 4, 1000
SAMPLE = ("chain", "draw")


def task(seed=0):
    """(tree without responsibilities, mixture) of two-dimensional Gaussian clusters."""
    rng = np.random.default_rng(seed)
    centre = 6 * rng.normal(size=(K, 2))
    x = centre[rng.integers(0, K, size=N)] + rng.normal(size=(N, 2))
    perm = np.argsort(rng.random((CHAINS, DRAWS, K)), axis=-1)
    loc = centre + 0.05 * rng.normal(size=(CHAINS, DRAWS, K, 2))
    weights = rng.dirichlet(np.full(K, 50.0), size=(CHAINS, DRAWS))
    cov = np.eye(2) * rng.uniform(0.9, 1.1, size=(CHAINS, DRAWS, K, 1, 1))
    posterior = {
        "loc": ((*SAMPLE, "cluster", "column"), loc),
        "weights": ((*SAMPLE, "cluster"), weights),
        "cov": ((*SAMPLE, "cluster", "column", "column_2"), cov),
    }
    shuffled = {
        name: (dims, np.take_along_axis(v, perm.reshape(*perm.shape, *[1] * (v.ndim - 3)), axis=2))
        for name, (dims, v) in posterior.items()
    }
    tree = xarray.DataTree.from_dict(
        {
            "posterior": xarray.Dataset(shuffled),
            "invariant": xarray.Dataset({"log_joint": (SAMPLE, rng.normal(size=perm.shape[:2]))}),
            "observed_data": xarray.Dataset({"x": (("obs_id", "column"), x)}),
        }
    )
    tree.attrs |= {"exchangeable": json.dumps([list(range(K))]), "n_clusters": K, "site": "x"}
    return tree, bm.trace(bm.models.gaussian(K), x)


def main():
    tree, mixture = task()
    names = bm.relabel(tree, mixture=mixture)["relabelling"]["permutation"]  # compiles
    print(f"{'':18} CPU s  as ECR")
    for method in METHODS:
        by = ("loc", 0) if method == "order" else None
        began = time.process_time()
        new = bm.relabel(tree, method, by=by, mixture=mixture)
        spent = time.process_time() - began
        same = (new["relabelling"]["permutation"] == names).all("cluster").mean()
        print(f"{method:18} {spent:5.1f}  {float(same):6.3f}")
    for report in (bm.label_report, bm.diagnose):
        began = time.process_time()
        report(tree, mixture=mixture)
        print(f"{report.__name__:18} {time.process_time() - began:5.1f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
