"""The cases of the EM benchmark, and the same EM run by each library from the same parameters."""

import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MCLUST = {"full": "VVV", "tied": "EEE", "diag": "VVI", "spherical": "VII"}


class Case(NamedTuple):
    """A data set, and what is timed on it.

    A pair of per-iteration times takes ``repeats`` runs of ``steps`` steps from each library, on
    each of ``seeds`` data sets ``pairs`` times; whole fits are timed on ``climbs`` data sets.
    """

    N: int
    D: int
    K: int
    covariance: str = "full"
    steps: int = 4
    repeats: int = 1
    pairs: int = 1
    seeds: int = 5
    climbs: int = 0
    dtype: str = "float64"

    def __str__(self) -> str:
        single = ", float32" if self.dtype == "float32" else ""
        return f"{self.N} x {self.D}, K={self.K}, {self.covariance}{single}"


CASES = (
    Case(272, 2, 2, steps=300, repeats=20, climbs=5),
    Case(10_000, 2, 5, steps=100, pairs=2, climbs=5),
    Case(100_000, 8, 8, steps=10, pairs=2, climbs=5),
    Case(100_000, 8, 8, "diag", steps=10, pairs=2, climbs=5),
    Case(100_000, 8, 8, "tied", steps=10, pairs=2),
    Case(100_000, 8, 8, "spherical", steps=10, pairs=2),
    Case(100_000, 32, 32, steps=3, seeds=5),
    Case(1_000_000, 2, 50, steps=3),
    Case(1_000_000, 16, 16, steps=6, climbs=5),
    Case(1_000_000, 1, 5, steps=6, seeds=5, climbs=5),
    Case(10_000, 2, 5, steps=100, pairs=2, dtype="float32"),
    Case(100_000, 8, 8, steps=10, pairs=2, dtype="float32"),
    Case(1_000_000, 16, 16, steps=8, dtype="float32"),
)


def data(case: Case, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Overlapping clusters, rows (N, D), and the parameters that all libraries begin from."""
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


def ours(
    case: Case,
    x: np.ndarray,
    start: Any,
    steps: int,
    accelerate: bool = False,
    bins: int | None = None,
    tol: float = 1e-9,
) -> Any:
    """An EMResult after ``steps`` steps, or fewer where the log joint no longer moves."""
    import jax

    import bayesmix as bm

    program = bm.models.gaussian(case.K, covariance=case.covariance, prior="flat")
    em = bm.EM(
        program,
        max_steps=steps,
        tol=tol,
        accelerate=accelerate,
        dtype=case.dtype,
        bins=bins,
        progress_bar=False,
    )
    return em.run(jax.random.key(0), x, init_params=start)


def theirs(case: Case, x: np.ndarray, start: Any, steps: int) -> Any:
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


def gmmx(case: Case, x: np.ndarray, start: Any, steps: int) -> Any:
    """gmmx's result after exactly ``steps`` iterations; it knows float32 only."""
    import jax
    import jax.numpy as jnp
    from gmmx import EMFitter, GaussianMixtureModelJax

    given = [jnp.asarray(start[name], np.float32) for name in ("loc", "cov", "weights")]
    model = GaussianMixtureModelJax.from_squeezed(*given)
    fitter = EMFitter(max_iter=steps, tol=-1.0, reg_covar=0.0)
    return jax.block_until_ready(fitter.fit(x=jnp.asarray(x), gmm=model))


def pomegranate(case: Case, x: np.ndarray, start: Any, steps: int) -> Any:
    """pomegranate's model after exactly ``steps`` iterations, full or diagonal covariances."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    def tensor(a: np.ndarray) -> Any:
        return torch.tensor(np.asarray(a, case.dtype))

    spreads = start["cov"] if case.covariance == "full" else start["var"]
    parts = [
        Normal(tensor(loc), tensor(spread), covariance_type=case.covariance, check_data=False)
        for loc, spread in zip(start["loc"], spreads, strict=True)
    ]
    weights = tensor(start["weights"])
    model = GeneralMixtureModel(parts, weights, max_iter=steps, tol=-np.inf, check_data=False)
    return model.fit(torch.tensor(x))


def run_r(script: str, *arrays: np.ndarray) -> list[float]:
    """The numbers that an R script prints; it reads ``arrays`` as the matrices a1, a2, ..."""
    with tempfile.TemporaryDirectory() as folder:
        lines = ["suppressMessages(library(mclust))"]
        for number, array in enumerate(arrays, 1):
            matrix = np.asarray(array, np.float64)
            path = Path(folder) / f"a{number}"
            np.asfortranarray(matrix).ravel(order="F").tofile(path)
            n, d = matrix.shape
            lines.append(f"a{number} <- matrix(readBin('{path}', 'double', {n * d}), {n}, {d})")
        source = Path(folder) / "run.R"
        source.write_text("\n".join([*lines, script]))
        done = subprocess.run(["Rscript", str(source)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def of_mclust(case: Case, x: np.ndarray, resp: np.ndarray, steps: int, short: int) -> list[float]:
    """CPU seconds per iteration of mclust's EM from responsibilities, by ``case.repeats``."""
    name = MCLUST[case.covariance] if case.D > 1 else "V"
    script = f"""
      em <- function(n) suppressWarnings(
        me(a1, "{name}", a2, control = emControl(tol = c(0, 0), itmax = c(n, n))))
      cpu <- function(n) sum(system.time(for (i in 1:{case.repeats}) em(n))[1:2])
      invisible(em(2))
      cat((cpu({steps + short}) - cpu({short})) / ({steps} * {case.repeats}))
    """
    return run_r(script, x, resp)
