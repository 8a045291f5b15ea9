"""Effective draws per CPU second: bayesmix, NumPyro, PyMC, nutpie and Stan on the same models.

python benchmarks/nuts_ess.py --others PYTHON                every sampler on the seven sets
python benchmarks/nuts_ess.py faithful --only bayesmix stan  some of it
python benchmarks/nuts_ess.py --only stan --transitions 300  fewer of the others' transitions
python benchmarks/nuts_ess.py --table                        the table and plot of what was run

PYTHON is an interpreter with PyMC, nutpie and PyStan, by default this one. Every run is a process
of its own (imports are not counted) with one thread and a limit of time, and adds one line to
results/nuts.jsonl. ESS is the least bulk ESS over the parameters, relabelled to one pivot; where
R-hat exceeds 1.01 there is none worth quoting, so no rate is given.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

OURS, THEIRS = ("bayesmix", "bayesmix-nuts", "bayesmix-bins", "numpyro"), ("pymc", "nutpie", "stan")
CHAINS, DRAWS, SEEDS = 4, 1000, (2, 3, 4)
RESULTS = Path(__file__).resolve().parent / "results" / "nuts.jsonl"
RHAT, WRONG = 1.01, 6.0  # largest R-hat, and distance of means in errors, that have a rate


def observe(weights, components, x):
    import numpyro
    import numpyro.distributions as dist

    with numpyro.plate("obs_id", x.shape[0]):
        mixture = dist.MixtureSameFamily(dist.Categorical(weights), components)
        numpyro.sample("x", mixture, obs=x)


def normals(x, K, centre, spread, middle):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(centre, spread))
        scale = numpyro.sample("scale", dist.LogNormal(jnp.log(middle), 1.0))
    observe(weights, dist.Normal(loc, scale), x)


def multivariate(x, K, centre, spread):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    D = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        loc = numpyro.sample("loc", dist.Normal(centre, spread).expand([D]).to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([D]).to_event(1))
        corr = numpyro.sample("corr", dist.LKJCholesky(D, 2.0))
    observe(weights, dist.MultivariateNormal(loc, scale_tril=scale[..., None] * corr), x)


def counts(x, K):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2))
    observe(weights, dist.Poisson(rate), x)


def items(x, K):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    weights = numpyro.sample("weights", dist.Dirichlet(2 * jnp.ones(K)))
    with numpyro.plate("cluster", K):
        probs = numpyro.sample("probs", dist.Beta(1.5, 1.5).expand([x.shape[1]]).to_event(1))
    observe(weights, dist.Bernoulli(probs).to_event(1), x)


PROGRAMS = {"normals": normals, "multivariate": multivariate, "counts": counts, "items": items}

# ----------------------------------------------------------------- the sets: kind, rows, constants


def univariate(N):
    import numpy as np

    rng = np.random.default_rng(0)
    loc, scale = np.array([-6.0, -2, 1, 4, 9]), np.array([0.8, 0.6, 1.0, 0.9, 1.5])
    z = rng.choice(5, N, p=[0.15, 0.25, 0.2, 0.25, 0.15])
    constants = {"K": 5, "centre": 0.0, "spread": 10.0, "middle": 1.0}
    return "normals", rng.normal(loc[z], scale[z]), constants


def galaxies():
    import bayesmix as bm

    x = bm.datasets.load_galaxies()["velocity_corrected"].to_numpy(float)
    return "normals", x, {"K": 3, "centre": 20.0, "spread": 10.0, "middle": 2.0}


def faithful():
    import bayesmix as bm

    x = bm.datasets.load_faithful().to_numpy(float)
    constants = {"K": 2, "centre": 0.0, "spread": 10.0}
    return "multivariate", (x - x.mean(0)) / x.std(0), constants


def eight(N):
    import numpy as np

    rng = np.random.default_rng(0)
    K, D = 5, 8
    loc, z = rng.normal(0, 3, (K, D)), rng.choice(K, N)
    factor = 0.4 * rng.normal(size=(K, D, D)) + np.eye(D)
    x = loc[z] + np.einsum("nij,nj->ni", factor[z], rng.normal(size=(N, D)))
    return "multivariate", x, {"K": K, "centre": 0.0, "spread": 10.0}


def poisson():
    import numpy as np

    rng = np.random.default_rng(0)
    z = rng.choice(3, 10_000, p=[0.4, 0.35, 0.25])
    return "counts", rng.poisson(np.array([2.0, 9, 20])[z]), {"K": 3}


def latent_class():
    import numpy as np

    rng = np.random.default_rng(0)
    probs, z = rng.beta(1, 1, (4, 20)), rng.choice(4, 2000, p=[0.4, 0.3, 0.2, 0.1])
    return "items", (rng.random((2000, 20)) < probs[z]).astype(int), {"K": 4}


SETS = {
    "galaxies K=3": galaxies,
    "faithful 2-D K=2": faithful,
    "univariate K=5 N=1e4": partial(univariate, 10_000),
    "univariate K=5 N=1e5": partial(univariate, 100_000),
    "8-D K=5 N=1e4": partial(eight, 10_000),
    "Poisson K=3 N=1e4": poisson,
    "latent class K=4 N=2000": latent_class,
    "univariate K=5 N=1e6": partial(univariate, 1_000_000),  # beyond the seven: ours alone
    "8-D K=5 N=1e6": partial(eight, 1_000_000),
}
FEW = {"8-D K=5 N=1e6": 10}  # draws of each chain, where a pass takes a second
BINS = 1024


def program_of(name):
    kind, x, constants = SETS[name]()
    return partial(PROGRAMS[kind], **constants), x


# --------------------------------------------------------------------------- samplers in this venv


def ours(name, sampler, target):
    """EM and then NUTS: the first run cold, then NUTS alone with further keys."""
    import jax

    import bayesmix as bm

    program, x = program_of(name)
    settings = {
        "bayesmix": {},
        "bayesmix-nuts": {"kernel": "nuts"},
        "bayesmix-bins": {"bins": BINS},
    }
    options = settings[sampler] | {"chains": CHAINS, "draws": FEW.get(name, DRAWS)}
    search = {"bins": BINS} if "bins" in options else {}
    began = time.process_time()
    em = bm.EM(program, progress_bar=False, **search).run(jax.random.key(0), x)
    searched = time.process_time() - began

    def run(seed):
        before = time.process_time()
        sampler = bm.NUTS(program, progress_bar=False, **options)
        found = sampler.run(jax.random.key(seed), x, start=em)
        return time.process_time() - before, found

    first, _ = run(1)
    runs = [run(seed) for seed in (SEEDS if name not in FEW else SEEDS[:1])]
    for number, (_, found) in enumerate(runs):
        save(f"{target}.{number}.npz", found.samples)
    stats = [found.sample_stats for _, found in runs]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "cold": searched + first,
        "em": searched,
        "warm": [seconds for seconds, _ in runs],
        "divergences": sum(int(each["diverging"].sum()) for each in stats),
        "steps": float(sum(each["n_steps"].mean() for each in stats) / len(stats)),
        "peak_mb": peak,
    }


def save(target, samples):
    import numpy as np

    np.savez(target, **{site: np.asarray(value, float) for site, value in samples.items()})


def numpyro_run(name, target, transitions):
    """NumPyro as in its documentation, so many transitions of warm-up and as many draws.

    What it compiles is taken from JAX's own clock.
    """
    import jax
    import numpyro

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
    mcmc.run(jax.random.key(1), x, extra_fields=("diverging", "num_steps"))
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


def one(name, sampler, target, transitions):
    """What is measured of one sampler of this venv; its draws go to files that begin as target."""
    if sampler == "numpyro":
        found = numpyro_run(name, target, int(transitions))
    else:
        found = ours(name, sampler, target)
    found["versions"] = {library: version(library) for library in ("jax", "numpyro")}
    return found


# -------------------------------------------------------------------------------- how good they are


def quality(source, pivot):
    """Least bulk ESS and largest R-hat of sites relabelled to the pivot (K, features), with means
    and Monte-Carlo errors of all of them; without a pivot the first draw is one.
    """
    import numpy as np
    from arviz_stats.base import array_stats

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
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    at, unit = np.asarray(pivot["at"]), np.asarray(pivot["unit"])
    apart = (features[:, :, None] - at[None, None]) / unit
    return np.array([linear_sum_assignment(cost.T)[1] for cost in (apart**2).sum(-1)])


def renamed(value, perm):
    import numpy as np

    return np.take_along_axis(value, perm[:, :, None], 1)


# --------------------------------------------------------------------------------------- processes


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


def run(name, sampler, asked, folder, pivots):
    """One line of the results: one sampler on one set, with the quality of its draws."""
    import numpy as np

    target = str(Path(folder) / "draws")
    here = Path(__file__)
    if sampler in THEIRS:
        kind, x, constants = SETS[name]()
        source = str(Path(folder) / "data.npz")
        np.savez(source, x=x, **constants)
        script = str(here.with_name("nuts_others.py"))
        command = [asked.others, script, sampler, kind, source, f"{target}.0.npz"]
        command += [str(asked.transitions)] * 2
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
            str(here),
            "--one",
            name,
            sampler,
            target,
            str(asked.transitions),
        ]
        found = in_a_process(command, asked.limit)
    line = {"set": name, "sampler": sampler, "limit": asked.limit, "date": time.strftime("%F %R")}
    if sampler not in OURS[:3]:
        line["draws"] = asked.transitions
    if found is None or "error" in found:
        return line | (found or {"error": f"not finished in {asked.limit:.0f} s"})
    ess, rhat = [], []
    for number in range(len(found["warm"])):
        numbers, pivots[name] = quality(f"{target}.{number}.npz", pivots.get(name))
        ess.append(min(each[1] for each in numbers))
        rhat.append(max(each[2] for each in numbers))
    means = [(each[0], each[3], each[4]) for each in numbers]
    pivot = {key: np.asarray(value).tolist() for key, value in pivots[name].items()}
    return line | found | {"ess": ess, "rhat": rhat, "means": means, "pivot": pivot}


# ------------------------------------------------------------------------------------------- table


def lines_of(path):
    """The latest result of each set and sampler."""
    latest = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        latest[line["set"], line["sampler"]] = line
    return latest


def apart(line, other):
    """Largest distance of posterior means, in combined Monte-Carlo standard errors."""
    ours, theirs = line["means"], other["means"]
    assert [each[0] for each in ours] == [each[0] for each in theirs]
    pairs = zip(ours, theirs, strict=True)
    return max(abs(a[1] - b[1]) / (a[2] ** 2 + b[2] ** 2) ** 0.5 for a, b in pairs)


def rates(line, latest):
    """ESS per CPU second of each run while sampling, and of the whole first run.

    () where R-hat is too large, that of bayesmix with it (several modes, which SMC must weigh), or
    where the posterior is not that of bayesmix.
    """
    if "error" in line:
        return (), ()
    reference = latest.get((line["set"], "bayesmix"), line)
    if not max(*line["rhat"], *reference["rhat"]) <= RHAT:
        return (), ()
    if reference is not line and apart(line, reference) > WRONG:
        return (), ()
    warm = [ess / seconds for ess, seconds in zip(line["ess"], line["warm"], strict=True)]
    return warm, (line["ess"][0] / line["cold"],)


def spread(values, digits=0):
    import statistics

    values = sorted(values)
    middle = f"{statistics.median(values):.{digits}f}"
    few = f"{values[0]:.{digits}f}", f"{values[-1]:.{digits}f}"
    return middle if len(values) == 1 or few[0] == few[1] else f"{middle} ({few[0]}-{few[1]})"


def table(latest):
    head = (
        "set|sampler|cold, s|warm, s|min ESS|R-hat|diverged|gradients per draw|"
        "us per gradient|ESS/s warm|ESS/s cold|apart"
    ).split("|")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for name in SETS:
        for sampler in (*OURS, *THEIRS):
            line = latest.get((name, sampler))
            if line is not None:
                print("| " + " | ".join(cells(line, latest)) + " |")


def cells(line, latest):
    reference = latest.get((line["set"], "bayesmix"))
    first = [line["set"], line["sampler"]]
    if "error" in line:
        return [*first, line["error"], *[""] * 9]
    warm, cold = rates(line, latest)
    draws = CHAINS * line.get("draws", FEW.get(line["set"], DRAWS))
    made = 2 if line["sampler"] in (*THEIRS, "numpyro") else 1.15
    each = [1e6 * s / (line["steps"] * draws * made) for s in line["warm"]]
    same = reference in (None, line) or not max(reference.get("rhat", [9])) <= RHAT
    return [
        *first,
        f"{line['cold']:.1f}",
        spread(line["warm"], 2),
        spread(line["ess"]),
        f"{max(line['rhat']):.3f}",
        str(line["divergences"]),
        f"{line['steps']:.1f}",
        spread(each),
        spread(warm) if warm else "–",
        spread(cold) if cold else "–",
        "" if same else f"{apart(line, reference):.1f}",
    ]


def plot(latest, path):
    """ESS per CPU second while sampling, a row for each set that has a rate."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    sets = [
        name
        for name in SETS
        if any(rates(line, latest)[0] for (of, _), line in latest.items() if of == name)
    ]
    colours = dict(zip((*OURS, *THEIRS), plt.get_cmap("tab10").colors, strict=False))
    figure, ax = plt.subplots(figsize=(7.5, 0.6 * len(sets) + 1.4), layout="constrained")
    for height, name in enumerate(reversed(sets)):
        for sampler, colour in colours.items():
            warm, cold = rates(latest.get((name, sampler), {"error": ""}), latest)
            label = sampler if height == 0 else None
            ax.plot(warm, [height + 0.12] * len(warm), "o", color=colour, ms=6)
            ax.plot(cold, [height - 0.12] * len(cold), "|", color=colour, ms=11, mew=2.2)
            ax.plot([], [], "o", color=colour, label=label)
    ax.set_yticks(range(len(sets)), list(reversed(sets)))
    ax.set(xscale="log", xlabel="least effective draws per CPU second")
    ax.set_title("dots: warm, without compiling;  bars: the whole first run", fontsize=9)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sets", nargs="*", help="beginnings of names; the seven without any")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *THEIRS), help="some samplers")
    parser.add_argument("--others", default=sys.executable, help="interpreter with PyMC and Stan")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one run")
    said = "of warm-up, and draws, of each chain of the other samplers"
    parser.add_argument("--transitions", type=int, default=DRAWS, help=said)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="run nothing; print and plot")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(*asked.one)))
        return
    names = [n for n in SETS if any(n.startswith(some) for some in asked.sets)]
    known = lines_of(asked.results)
    pivots = {name: line["pivot"] for (name, _), line in known.items() if "pivot" in line}
    for name in () if asked.table else names or list(SETS)[:7]:
        for sampler in asked.only or (*OURS, *THEIRS):
            if sampler == "bayesmix-bins" and not name.startswith("univariate"):
                continue
            with tempfile.TemporaryDirectory() as folder, asked.results.open("a") as results:
                line = run(name, sampler, asked, folder, pivots)
                print(json.dumps(line), file=results, flush=True)
    latest = lines_of(asked.results)
    table(latest)
    plot(latest, asked.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
