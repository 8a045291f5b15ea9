"""Effective draws per CPU second: bayesmix against plain NumPyro on the same programs.

python benchmarks/nuts_ess.py                     every set; prints a Markdown table
python benchmarks/nuts_ess.py faithful poisson    some sets

Every run has a process of its own (imports are not counted) and one thread. ESS is the least bulk
ESS of the relabelled parameters and of the log joint; where R-hat exceeds 1.01 there is none worth
quoting, so no ratio is given.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version

SAMPLERS = ("bayesmix", "numpyro")
CHAINS, DRAWS, NUMPYRO_WARMUP = 4, 1000, 1000
RHAT = 1.01


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


def univariate(N):
    import numpy as np

    rng = np.random.default_rng(0)
    loc, scale = np.array([-6.0, -2, 1, 4, 9]), np.array([0.8, 0.6, 1.0, 0.9, 1.5])
    z = rng.choice(5, N, p=[0.15, 0.25, 0.2, 0.25, 0.15])
    return partial(normals, K=5, centre=0.0, spread=10.0, middle=1.0), rng.normal(loc[z], scale[z])


def galaxies():
    import bayesmix as bm

    x = bm.datasets.load_galaxies().to_numpy(float).ravel()
    x = x / 1000 if x.max() > 1000 else x
    return partial(normals, K=3, centre=20.0, spread=10.0, middle=2.0), x


def faithful():
    import bayesmix as bm

    x = bm.datasets.load_faithful().to_numpy(float)
    return partial(multivariate, K=2, centre=0.0, spread=10.0), (x - x.mean(0)) / x.std(0)


def eight():
    import numpy as np

    rng = np.random.default_rng(0)
    K, D, N = 5, 8, 10_000
    loc, z = rng.normal(0, 3, (K, D)), rng.choice(K, N)
    factor = 0.4 * rng.normal(size=(K, D, D)) + np.eye(D)
    x = loc[z] + np.einsum("nij,nj->ni", factor[z], rng.normal(size=(N, D)))
    return partial(multivariate, K=K, centre=0.0, spread=10.0), x


def poisson():
    import numpy as np

    rng = np.random.default_rng(0)
    z = rng.choice(3, 10_000, p=[0.4, 0.35, 0.25])
    return partial(counts, K=3), rng.poisson(np.array([2.0, 9, 20])[z])


def latent_class():
    import numpy as np

    rng = np.random.default_rng(0)
    probs, z = rng.beta(1, 1, (4, 20)), rng.choice(4, 2000, p=[0.4, 0.3, 0.2, 0.1])
    return partial(items, K=4), (rng.random((2000, 20)) < probs[z]).astype(int)


SETS = {
    "galaxies K=3": galaxies,
    "faithful 2-D K=2": faithful,
    "univariate K=5 N=1e4": partial(univariate, 10_000),
    "univariate K=5 N=1e5": partial(univariate, 100_000),
    "8-D K=5 N=1e4": eight,
    "Poisson K=3 N=1e4": poisson,
    "latent class K=4 N=2000": latent_class,
}


def ours(program, x):
    """A function that samples: EM and everything after it."""
    import jax

    import bayesmix as bm

    def run(seed):
        em = bm.EM(program, progress_bar=False).run(jax.random.key(0), x)
        sampler = bm.NUTS(program, progress_bar=False, chains=CHAINS, draws=DRAWS)
        result = sampler.run(jax.random.key(seed), x, start=em)
        stats = result.sample_stats
        return result.samples, int(stats["diverging"].sum()), int(stats["n_steps"].sum())

    return run


def plain(program, x):
    """NumPyro as in its documentation."""
    import jax
    import numpyro

    numpyro.enable_x64()
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(program),
        num_warmup=NUMPYRO_WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )

    def run(seed):
        mcmc.run(jax.random.key(seed), x, extra_fields=("diverging", "num_steps"))
        extra = mcmc.get_extra_fields()
        steps = int(extra["num_steps"].sum())
        return mcmc.get_samples(group_by_chain=True), int(extra["diverging"].sum()), steps

    return run


def measured(name, sampler):
    """One cold and one warm run: CPU seconds, ESS, R-hat, divergences, gradients."""
    import bayesmix as bm

    program, x = SETS[name]()
    run = plain(program, x) if sampler == "numpyro" else ours(program, x)
    began = time.process_time()
    run(1)
    cold = time.process_time() - began
    began = time.process_time()
    samples, divergences, steps = run(2)
    warm = time.process_time() - began
    ess, rhat = quality(bm.trace(program, x), samples)
    return {
        "cold": cold,
        "warm": warm,
        "ess": ess,
        "rhat": rhat,
        "divergences": divergences,
        "steps": steps / (CHAINS * DRAWS),
    }


def quality(mixture, samples):
    """Least bulk ESS and largest R-hat of sites relabelled to one draw's clusters."""
    import numpy as np
    from arviz_stats.base import array_stats
    from scipy.optimize import linear_sum_assignment

    samples = {name: np.asarray(samples[name], float) for name in mixture.sites}
    flat = {n: v.reshape(-1, *v.shape[2:]) for n, v in samples.items()}
    own = [flat[n].reshape(len(flat[n]), mixture.K, -1) for n in flat if n != "corr"]
    features = np.concatenate(own, 2)
    features = features / features.std((0, 1))
    pivot = features[0]
    for _ in range(3):
        cost = ((features[:, :, None] - pivot[None, None]) ** 2).sum(-1)
        perm = np.array([linear_sum_assignment(c.T)[1] for c in cost])
        pivot = np.take_along_axis(features, perm[:, :, None], 1).mean(0)
    ess, rhat = [], []
    for value in flat.values():
        named = np.take_along_axis(value.reshape(len(value), mixture.K, -1), perm[:, :, None], 1)
        for column in named.reshape(CHAINS, DRAWS, -1).transpose(2, 0, 1):
            if np.ptp(column) > 0:
                axes = {"chain_axis": 0, "draw_axis": 1}
                ess.append(float(array_stats.ess(column, method="bulk", **axes)))
                rhat.append(float(array_stats.rhat(column, **axes)))
    return min(ess), max(rhat)


def in_a_process(name, sampler, limit):
    single = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = os.environ | {"XLA_FLAGS": single, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, sampler]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def row(name, sampler, found):
    if found is None:
        return f"| {name} | {sampler} | not finished | | | | | | |"
    trusted = found["rhat"] <= RHAT
    rates = [f"{found['ess'] / found[kind]:.0f}" if trusted else "–" for kind in ("warm", "cold")]
    return (
        f"| {name} | {sampler} | {found['cold']:.1f} | {found['warm']:.1f} | {found['ess']:.0f} | "
        f"{found['rhat']:.3f} | {found['divergences']} | {found['steps']:.1f} | "
        f"{' / '.join(rates)} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sets", nargs="*", help="beginnings of names; all without any")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one process")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(*asked.one)))
        return
    libraries = ("jax", "numpyro", "numpy")
    print(f"Python {sys.version.split()[0]},", ", ".join(f"{n} {version(n)}" for n in libraries))
    print(
        "| set | sampler | cold, s | warm, s | ESS | R-hat | diverged | steps | ESS/s warm / cold |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in SETS:
        if not asked.sets or any(name.startswith(some) for some in asked.sets):
            for sampler in asked.samplers:
                print(row(name, sampler, in_a_process(name, sampler, asked.limit)), flush=True)


if __name__ == "__main__":
    main()
