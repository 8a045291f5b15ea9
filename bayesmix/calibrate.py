"""Simulation-based calibration: do posteriors say what they should, on data whose truth is known.

Parameters are drawn from the prior and data from the parameters; the posterior given those data
then treats the true parameters as one more draw, so their rank among the draws is uniform. What is
ranked does not depend on the clusters' names: log joint, mean entropy of the responsibilities,
sorted weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from tqdm.auto import tqdm

from bayesmix.draws import evaluate_draws
from bayesmix.laplace import refuse_improper
from bayesmix.predict import replicate
from bayesmix.program import Mixture, trace
from bayesmix.smc.prior import draw_prior, refuse_weighted

if TYPE_CHECKING:
    import pandas as pd

RANKED = 99  # draws that the truth is ranked among
BINS = 10
SIMULATED = 2000
FALSE_ALARM = 0.01


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the truth among posterior draws, {quantity: (replicate,)}, from 0 to ``among``."""

    name: str
    ranks: dict[str, np.ndarray]
    among: int

    def to_frame(self) -> pd.DataFrame:
        """One row per quantity.

        mean_rank (0.5 expected), p_bins (chi-squared over ten bins) and p_ecdf (largest
        standardised distance of the empirical distribution function from the uniform one, by
        simulation). Source: Talts et al. (2018), arXiv:1804.06788; Saeilynoja, Buerkner & Vehtari
        (2022), Stat. Comput. 32, for the second.
        """
        import pandas as pd

        rows = {
            name: {
                "mean_rank": ranks.mean() / self.among,
                "p_bins": p_bins(ranks, self.among),
                "p_ecdf": p_ecdf(ranks, self.among),
            }
            for name, ranks in self.ranks.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity")

    @property
    def passed(self) -> bool:
        """Whether no p-value is below 1 % over the number of tests."""
        table = self.to_frame()[["p_bins", "p_ecdf"]]
        return bool(table.min().min() >= FALSE_ALARM / table.size)

    def __repr__(self) -> str:
        count = len(next(iter(self.ranks.values())))
        verdict = (
            "nothing speaks against uniform ranks: the posteriors are calibrated"
            if self.passed
            else "ranks are not uniform: the posteriors are not calibrated"
        )
        return f"{self.name}, {count} replicates: {verdict}\n{self.to_frame().round(3).to_string()}"


def calibrate(
    key: Any, sampler: Any, *args: Any, replicates: int = 200, progress_bar: bool = True, **kw: Any
) -> Calibration:
    """Simulation-based calibration of ``bm.NUTS(program, ...)`` or ``bm.SMC(program, ...)``.

    args, kw : the program's own arguments, data of the size and kind to be simulated; what is
    observed is replaced by data drawn from the prior. Data of one shape compile once.

    Raises ValueError where the observed values are not themselves arguments, and for priors that
    cannot be drawn from.
    """
    mixture = trace(sampler.program, *args, **kw)
    refuse_improper(mixture, "calibration")
    refuse_weighted(mixture)
    for_prior, for_data, for_runs = jax.random.split(key, 3)
    truth = draw_prior(mixture, for_prior, replicates)
    data = replicate(for_data, mixture, {name: v[None] for name, v in truth.items()})
    by_site = data if isinstance(data, dict) else {mixture.name: data}
    arguments = _arguments(mixture)
    bar = tqdm(total=replicates, desc="calibration", leave=False, disable=not progress_bar)
    found = []
    with bar:
        for number, run_key in enumerate(jax.random.split(for_runs, replicates)):
            values = {name: np.asarray(value[0, number]) for name, value in by_site.items()}
            some_args, some_kw = arguments(values)
            result = sampler.run(run_key, *some_args, **some_kw)
            found.append(_ranks(result, {n: v[number] for n, v in truth.items()}))
            bar.update()
    ranks = {name: np.array([one[name] for one in found]) for name in found[0]}
    return Calibration(mixture.name, ranks, RANKED)


def _arguments(mixture: Mixture) -> Callable[[dict[str, np.ndarray]], Any]:
    """Function of {observed site: values}: the program's arguments with those values in them."""
    places = {}
    for site in mixture.observed:
        same = (i for i, array in enumerate(mixture.arguments.arrays) if array is site.value)
        place = next(same, None)
        if place is None:
            raise ValueError(
                f"the values of site {site.name!r} are not an argument of the program as they are, "
                "so they cannot be replaced by simulated ones: hand them to the program"
            )
        places[site.name] = place

    def build(values: dict[str, np.ndarray]) -> Any:
        arrays = list(mixture.arguments.arrays)
        for name, place in places.items():
            arrays[place] = values[name].astype(arrays[place].dtype)
        return mixture.arguments.rebuild(arrays)

    return build


def _ranks(result: Any, truth: dict[str, np.ndarray]) -> dict[str, int]:
    """Of the truth among RANKED draws spread over the result's, by quantity."""
    samples = result.get_samples()
    total = len(next(iter(samples.values())))
    chosen = np.linspace(0, total - 1, RANKED).round().astype(int)
    draws = {name: np.concatenate([truth[name][None], v[chosen]]) for name, v in samples.items()}
    found = evaluate_draws(result.mixture, {name: v[None] for name, v in draws.items()})
    return {name: int((x[1:] < x[0]).sum()) for name, x in _quantities(found)}


def _quantities(found: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    yield "log_joint", found["log_joint"][0]
    yield "entropy", found["entropy"][0]
    ordered = np.sort(found["weights"][0], -1)[:, ::-1]
    for k in range(ordered.shape[1] - 1):
        if np.ptp(ordered[:, k]) > 0:
            yield f"sorted_weights[{k}]", ordered[:, k]


def p_bins(ranks: np.ndarray, among: int) -> float:
    """Chance of a chi-squared statistic over BINS bins at least as large, were ranks uniform."""
    from scipy.stats import chisquare

    edges = np.linspace(-0.5, among + 0.5, BINS + 1)
    return float(chisquare(np.histogram(ranks, edges)[0]).pvalue)


def p_ecdf(ranks: np.ndarray, among: int) -> float:
    """Chance of an empirical distribution function at least as far away, were ranks uniform."""
    rng = np.random.default_rng(0)
    simulated = rng.integers(0, among + 1, (SIMULATED, len(ranks)))
    far = np.array([_distance(one, among) for one in simulated])
    return float((1 + (far >= _distance(ranks, among)).sum()) / (1 + SIMULATED))


def _distance(ranks: np.ndarray, among: int) -> float:
    """Largest standardised distance of the ranks' distribution function from the uniform one."""
    at = np.arange(1, among + 1) / (among + 1)
    below = np.searchsorted(np.sort(ranks), np.arange(1, among + 1)) / len(ranks)
    return float(np.max(np.abs(below - at) / np.sqrt(at * (1 - at))))
