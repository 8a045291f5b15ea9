"""What is measured of bayesmix and NumPyro, in this process, and how good anyone's draws are."""

import resource
import time
from importlib.metadata import version

import jax
import numpy as np
import numpyro
from arviz_stats.base import array_stats
from nuts_cases import BINS, CHAINS, DRAWS, FEW, program_of
from scipy.optimize import linear_sum_assignment

import bayesmix as bm

SEEDS, SMC_SEEDS = (2, 3, 4), range(2, 12)  # of the keys of warm runs


def ours(name, sampler, target):
    """EM and then NUTS: the first run of both, cold; NUTS on the rows in other orders, and again.

    In another order the posterior is the same, but of the first runs nothing serves except what
    was compiled. On the same rows further keys find the program read and the curvature known.
    """
    program, x = program_of(name)
    settings = {
        "bayesmix": {},
        "bayesmix-nuts": {"kernel": "nuts"},
        "bayesmix-bins": {"bins": BINS},
    }
    options = settings[sampler] | {"chains": CHAINS, "draws": FEW.get(name, DRAWS)}
    search = {"bins": BINS} if "bins" in options else {}

    def climbed(rows):
        em = bm.EM(program, progress_bar=False, **search)
        return timed(em.run, jax.random.key(0), rows)

    def sampled(seed, rows, em):
        nuts = bm.NUTS(program, progress_bar=False, **options)
        return timed(nuts.run, jax.random.key(seed), rows, start=em)

    searched, em = climbed(x)
    first, _ = sampled(1, x, em)
    runs, again = [], []
    for seed in SEEDS if name not in FEW else SEEDS[:1]:
        rows = np.random.default_rng(seed).permutation(x)
        _, em = climbed(rows)
        runs.append(sampled(seed, rows, em))
        again.append(sampled(seed + len(SEEDS), rows, em)[0])
    for number, (_, found) in enumerate(runs):
        save(f"{target}.{number}.npz", found.samples)
    stats = [found.sample_stats for _, found in runs]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "cold": searched + first,
        "em": searched,
        "warm": [seconds for seconds, _ in runs],
        "again": again,
        "divergences": sum(int(each["diverging"].sum()) for each in stats),
        "steps": float(sum(each["n_steps"].mean() for each in stats) / len(stats)),
        "peak_mb": peak,
    }


def timed(function, *args, **kwargs):
    """CPU seconds of a call, all threads, and what it returns."""
    began = time.process_time()
    found = function(*args, **kwargs)
    return time.process_time() - began, found


def by_smc(name, target):
    """SMC: the first run cold, then further keys, whose draws count as a chain each."""
    program, x = program_of(name)

    def run(seed):
        return timed(bm.SMC(program, progress_bar=False).run, jax.random.key(seed), x)

    cold, _ = run(1)
    seconds, runs = zip(*map(run, SMC_SEEDS), strict=True)
    sites = runs[0].params
    save(
        f"{target}.0.npz", {site: np.stack([each.params[site] for each in runs]) for site in sites}
    )
    low = [each.estimate(each.params["loc"].min(-1) < 12) for each in runs]
    return {
        "cold": cold,
        "warm": list(seconds),
        "smallest mean below 12": [[float(each.mean), float(each.error)] for each in low],
        "log evidence": [[each.log_evidence, each.log_evidence_error] for each in runs],
    }


def save(target, samples):
    np.savez(target, **{site: np.asarray(value, float) for site, value in samples.items()})


def numpyro_run(name, target, transitions, seed):
    """NumPyro as in its documentation, so many transitions of warm-up and as many draws.

    What it compiles is taken from JAX's own clock.
    """
    program, x = program_of(name)
    spent = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: spent.append(seconds) if event in COMPILING else None
    )
    numpyro.enable_x64()
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(program),
        num_warmup=transitions,
        num_samples=transitions,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    began, wall = time.process_time(), time.perf_counter()
    mcmc.run(jax.random.key(seed), x, extra_fields=("diverging", "num_steps"))
    cold = time.process_time() - began
    compiling = sum(spent) * min(1.0, cold / (time.perf_counter() - wall))
    save(f"{target}.0.npz", mcmc.get_samples(group_by_chain=True))
    extra = mcmc.get_extra_fields()
    return {
        "cold": cold,
        "warm": [cold - compiling],
        "divergences": int(extra["diverging"].sum()),
        "steps": float(extra["num_steps"].mean()),
    }


COMPILING = {
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
}


def one(name, sampler, target, transitions, seed):
    """What is measured of one sampler of this venv; its draws go to files that begin as target."""
    if sampler == "numpyro":
        found = numpyro_run(name, target, int(transitions), int(seed))
    elif sampler == "bayesmix-smc":
        found = by_smc(name, target)
    else:
        found = ours(name, sampler, target)
    found["versions"] = {library: version(library) for library in ("jax", "numpyro")}
    return found


# -------------------------------------------------------------------------------- how good they are


def quality(source, pivot):
    """Least bulk ESS and largest R-hat of sites relabelled to the pivot (K, features), with means
    and Monte-Carlo errors of all of them; without a pivot the first draw is one.
    """
    with np.load(source) as arrays:
        samples = {name: arrays[name] for name in sorted(arrays)}
    K = samples["weights"].shape[-1]
    lead = samples["weights"].shape[:2]
    flat = {n: v.reshape(lead[0] * lead[1], K, -1) for n, v in samples.items()}
    features = np.concatenate([value for n, value in flat.items() if n != "corr"], 2)
    if pivot is None:
        pivot = {"at": features[0], "unit": features.std((0, 1))}
        for _ in range(3):
            pivot["at"] = renamed(features, naming(features, pivot)).mean(0)
    perm = naming(features, pivot)
    numbers = []
    for name, value in flat.items():
        for column in renamed(value, perm).reshape(*lead, -1).transpose(2, 0, 1):
            if np.ptp(column) > 1e-9:
                axes = {"chain_axis": 0, "draw_axis": 1}
                ess = float(array_stats.ess(column, method="bulk", **axes))
                rhat = float(array_stats.rhat(column, **axes)) if lead[1] >= 4 else np.nan
                error = float(array_stats.mcse(column, method="mean", **axes))
                numbers.append((name, ess, rhat, float(column.mean()), error))
    return numbers, pivot


def naming(features, pivot):
    """For every draw the clusters that are named as the pivot's, (draw, K)."""
    at, unit = np.asarray(pivot["at"]), np.asarray(pivot["unit"])
    apart = (features[:, :, None] - at[None, None]) / unit
    return np.array([linear_sum_assignment(cost.T)[1] for cost in (apart**2).sum(-1)])


def renamed(value, perm):
    return np.take_along_axis(value, perm[:, :, None], 1)
