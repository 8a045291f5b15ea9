"""The sets of nuts_ess.py as PyMC and Stan programs, with the same priors; run by it.

python nuts_others.py pymc|nutpie|stan kind data.npz draws.npz warmup draws seed

draws.npz gets the sites, each (chain, draw, *shape), and prints one line of JSON: CPU seconds of
compiling and of warm-up with draws, divergences, gradients. Needs no bayesmix.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

CHAINS = 4


def cpu():
    """CPU seconds of this process and its children, those that still run (Stan's) among them."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) + running(os.getpid())


def running(parent):
    """CPU seconds of the processes below one, from Linux's /proc."""
    total = 0
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + running(child)
    return total


# ------------------------------------------------------------------------------------- PyMC


def pymc_model(kind, x, K, centre=0.0, spread=1.0, middle=1.0):
    import pymc as pm
    import pytensor.tensor as pt

    with pm.Model() as model:
        weights = pm.Dirichlet("weights", 2 * np.ones(K))
        if kind == "normals":
            loc = pm.Normal("loc", centre, spread, shape=K)
            scale = pm.LogNormal("scale", np.log(middle), 1.0, shape=K)
            pm.NormalMixture("x", weights, loc, sigma=scale, observed=x)
        elif kind == "counts":
            rate = pm.Gamma("rate", 2.0, 0.2, shape=K)
            pm.Mixture("x", weights, pm.Poisson.dist(rate), observed=x)
        elif kind == "items":
            probs = pm.Beta("probs", 1.5, 1.5, shape=(K, x.shape[1]))
            score = pt.log(weights) + x @ pt.log(probs).T + (1 - x) @ pt.log1p(-probs).T
            pm.Potential("x", pt.logsumexp(score, axis=1).sum())
        else:
            D = x.shape[1]
            loc = pm.Normal("loc", centre, spread, shape=(K, D))
            spreads = pm.LogNormal.dist(0.0, 1.0, shape=D)
            found = [
                pm.LKJCholeskyCov(f"cov{k}", n=D, eta=2.0, sd_dist=spreads, store_in_trace=False)
                for k in range(K)
            ]
            scale = pm.Deterministic("scale", pt.stack([each[2] for each in found]))
            factors = [each[0] / each[2][:, None] for each in found]
            pm.Deterministic("corr", pt.stack(factors))
            parts = [pm.MvNormal.dist(loc[k], chol=found[k][0]) for k in range(K)]
            pm.Mixture("x", weights, parts, observed=x)
    return model


def by_pymc(kind, given, warmup, draws, seed):
    import pymc as pm

    began = cpu()
    with pymc_model(kind, **given):
        tree = pm.sample(
            draws,
            tune=warmup,
            chains=CHAINS,
            cores=1,
            random_seed=seed,
            progressbar=False,
            compute_convergence_checks=False,
            discard_tuned_samples=False,
        )
    whole = cpu() - began
    warm = ("warmup_sample_stats", "sample_stats")
    sampling = sum(float(tree[group]["process_time_diff"].sum()) for group in warm)
    steps = sum(int(tree[group]["n_steps"].sum()) for group in warm)
    return tree["posterior"], tree["sample_stats"]["diverging"], whole - sampling, sampling, steps


def by_nutpie(kind, given, warmup, draws, seed):
    import nutpie

    began = cpu()
    compiled = nutpie.compile_pymc_model(pymc_model(kind, **given))
    compiling = cpu() - began
    tree = nutpie.sample(
        compiled,
        draws=draws,
        tune=warmup,
        chains=CHAINS,
        cores=1,
        seed=seed,
        progress_bar=False,
        save_warmup=True,
    )
    sampling = cpu() - began - compiling
    warm = ("warmup_sample_stats", "sample_stats")
    steps = sum(int(tree[group]["n_steps"].sum()) for group in warm)
    return tree["posterior"], tree["sample_stats"]["diverging"], compiling, sampling, steps


# ------------------------------------------------------------------------------------- Stan

HEAD = {
    "normals": "vector[N] x; real centre; real spread; real middle;",
    "counts": "array[N] int x;",
    "items": "int D; matrix[N, D] x;",
    "multivariate": "int D; matrix[N, D] x; real centre; real spread;",
}
PARAMETERS = {
    "normals": "vector[K] loc; vector<lower=0>[K] scale;",
    "counts": "vector<lower=0>[K] rate;",
    "items": "array[K] vector<lower=0, upper=1>[D] probs;",
    "multivariate": (
        "array[K] vector[D] loc; array[K] vector<lower=0>[D] scale; "
        "array[K] cholesky_factor_corr[D] corr;"
    ),
}
PRIORS = {
    "normals": "loc ~ normal(centre, spread); scale ~ lognormal(log(middle), 1);",
    "counts": "rate ~ gamma(2, 0.2);",
    "items": "for (k in 1:K) probs[k] ~ beta(1.5, 1.5);",
    "multivariate": (
        "array[K] matrix[D, D] factor; for (k in 1:K) { loc[k] ~ normal(centre, spread); "
        "scale[k] ~ lognormal(0, 1); corr[k] ~ lkj_corr_cholesky(2); "
        "factor[k] = diag_pre_multiply(scale[k], corr[k]); }"
    ),
}
ROWS = """for (n in 1:N) {{
        vector[K] score = log_weights;
        for (k in 1:K) score[k] += {};
        target += log_sum_exp(score);
      }}"""
LIKELIHOOD = {
    "normals": ROWS.format("normal_lpdf(x[n] | loc[k], scale[k])"),
    "counts": ROWS.format("poisson_lpmf(x[n] | rate[k])"),
    # One product or solve for all rows, as densities of vectors would take them one by one.
    "items": """matrix[K, N] score;
      for (k in 1:K)
        score[k] = (log_weights[k] + x * log(probs[k]) + (1 - x) * log1m(probs[k]))';
      for (n in 1:N) target += log_sum_exp(score[, n]);""",
    "multivariate": """matrix[K, N] score;
      for (k in 1:K) {
        matrix[D, N] z = mdivide_left_tri_low(factor[k], x' - rep_matrix(loc[k], N));
        score[k] = log_weights[k] - sum(log(diagonal(factor[k]))) - 0.5 * columns_dot_self(z);
      }
      for (n in 1:N) target += log_sum_exp(score[, n]);""",
}


def stan_program(kind):
    return f"""
    // {time.time_ns()}: a program of its own, so that nothing is found compiled
    data {{ int N; int K; {HEAD[kind]} }}
    parameters {{ simplex[K] weights; {PARAMETERS[kind]} }}
    model {{
      weights ~ dirichlet(rep_vector(2, K));
      {PRIORS[kind]}
      vector[K] log_weights = log(weights);
      {LIKELIHOOD[kind]}
    }}
    """


def by_stan(kind, given, warmup, draws, seed):
    import stan

    x = given["x"]
    data = {name: value for name, value in given.items() if name != "x"}
    data |= {"N": len(x), "x": x.tolist()} | ({"D": x.shape[1]} if x.ndim > 1 else {})
    began = cpu()
    model = stan.build(stan_program(kind), data=data, random_seed=seed)
    compiling = cpu() - began
    fit = model.sample(num_chains=CHAINS, num_warmup=warmup, num_samples=draws, save_warmup=True)
    sampling = cpu() - began - compiling

    def chains(name):
        values = np.moveaxis(fit[name], -1, 0)
        return np.moveaxis(values.reshape(-1, CHAINS, *values.shape[1:]), 1, 0)

    sites = [name.split()[-1] for name in f"x weights; {PARAMETERS[kind]}".split(";")[:-1]]
    steps = int(fit["n_leapfrog__"].sum())
    sites = {name: chains(name)[:, warmup:] for name in sites}
    return sites, chains("divergent__")[:, warmup:], compiling, sampling, steps


def main(sampler, kind, source, target, *numbers):
    with np.load(source) as arrays:
        given = {name: value if value.ndim else value.item() for name, value in arrays.items()}
    given["K"] = int(given["K"])
    run = {"pymc": by_pymc, "nutpie": by_nutpie, "stan": by_stan}[sampler]
    sites, diverging, compiling, sampling, steps = run(kind, given, *map(int, numbers))
    names = {"weights", "loc", "scale", "corr", "rate", "probs"} & set(sites)
    np.savez(target, **{name: np.asarray(sites[name], float) for name in names})
    measured = {"compiling": compiling, "sampling": sampling, "steps": steps}
    print(json.dumps(measured | {"divergences": int(np.asarray(diverging).sum())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
