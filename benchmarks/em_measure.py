"""What is measured of EM: one piece of the benchmark in one process, as a JSON object."""

import importlib.util
import resource
import shutil
import sys
import time
import warnings
from typing import Any

import numpy as np
from em_cases import Case, data, gmmx, of_mclust, ours, pomegranate, run_r, theirs

# Relative difference of the log likelihoods after the same number of steps.
AGREE = {"float64": 1e-8, "float32": 1e-4}
NEAR = 1e-2  # nats below the optimum that count as having reached it
SHORT = 2  # steps of the shorter of two runs whose difference is timed
ENOUGH = 4000  # steps in which plain EM converges
LARGE = 1_000_000  # rows from which scikit-learn's whole fits are extrapolated
FITS = 100  # of one start, whose mean is told
BINS = 1000
ROOM = 1e9  # bytes that gmmx may take for its (N, K, D, D) arrays
SLOW = 1e8  # work (N K D^2) beyond which R's EM is not timed
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SKLEARN_LIMIT = 1_000_000
PEERS = ("mclust", "gmmx", "pomegranate")  # measured where they are installed


def cpu(function: Any, *args: Any) -> float:
    """CPU seconds of one call, over all threads."""
    began = time.process_time()
    function(*args)
    return time.process_time() - began


def per_step(fit: Any, case: Case, x: Any, start: Any, repeats: int) -> tuple[float, Any]:
    """CPU seconds per iteration, and the result of the longer run.

    A longer run less a shorter one, so that what a fit costs once cancels.
    """
    began = time.process_time()
    for _ in range(repeats):
        result = fit(case, x, start, case.steps + SHORT)
    middle = time.process_time()
    for _ in range(repeats):
        fit(case, x, start, SHORT)
    spent = (middle - began) - (time.process_time() - middle)
    return spent / (case.steps * repeats), result


def iterations(case: Case) -> dict:
    """CPU seconds per iteration of each library, in turn, over data seeds; the compile time."""
    first = cpu(ours, case, *data(case, 0), SHORT)
    compile_time = first - cpu(ours, case, *data(case, 0), SHORT)
    found: dict[str, list] = {name: [] for name in ("ours", "sklearn", *PEERS)}
    differences = []
    work = case.N * case.K * case.D**2
    for seed in range(case.seeds):
        x, start = data(case, seed)
        if seed == 0:
            theirs(case, x, start, 1)  # ours has been warmed up
        for _ in range(case.pairs):
            own, mine = per_step(ours, case, x, start, case.repeats)
            other, yours = per_step(theirs, case, x, start, case.repeats)
            found["ours"].append(own)
            found["sklearn"].append(other)
        if mine.steps == case.steps + SHORT:
            a, b = mine.log_likelihood / case.N, yours.lower_bound_
            differences.append(abs(a - b) / max(abs(a), 1.0))
        if has("gmmx") and case.dtype == "float32" and 4 * work < ROOM:
            gmmx(case, x, start, case.steps + SHORT), gmmx(case, x, start, SHORT)
            found["gmmx"].append(per_step(gmmx, case, x, start, case.repeats)[0])
        few = seed == 0 or case.N < LARGE  # it takes minutes there
        if has("pomegranate") and case.covariance in ("full", "diag") and few:
            pomegranate(case, x, start, SHORT)
            found["pomegranate"].append(per_step(pomegranate, case, x, start, case.repeats)[0])
        if shutil.which("Rscript") and case.dtype == "float64" and work < SLOW:
            resp = ours(case, x, start, 1).responsibilities
            found["mclust"] += of_mclust(case, x, resp, case.steps, SHORT)
    return {
        "compile": compile_time,
        "seconds": found,
        "differences": differences,
        "limit": limit(case),
    }


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def limit(case: Case) -> float:
    """Seconds that the two products and the exponentials of one pass take by themselves.

    At the rates of one large product and of exponentials in the cache, measured here.
    """
    import jax
    import jax.numpy as jnp

    import bayesmix as bm
    from bayesmix.density import density_of
    from bayesmix.sweep import count_statistics

    x, _ = data(case._replace(N=1000), 0)
    mixture = bm.trace(bm.models.gaussian(case.K, covariance=case.covariance, prior="flat"), x)
    with jax.enable_x64(True):
        density = density_of(mixture)
        F = 1 + case.D if density.tied else count_statistics(density.family, case.D)
        a = jnp.ones((768, 768), case.dtype)
        b = -jnp.ones((16, 1024), case.dtype)
        product = jax.jit(lambda a: a @ a)
        power = jax.jit(lambda b: jax.lax.fori_loop(0, 64, lambda _, c: jnp.exp(-c), b))
        rate = 2 * 768**3 / best(product, a)
        pace = 64 * b.size / best(power, b)
    return 4 * case.N * case.K * F / rate + case.N * case.K / pace


def best(function: Any, value: Any) -> float:
    """CPU seconds of the quickest of ten calls."""
    function(value).block_until_ready()
    return min(cpu(lambda: function(value).block_until_ready()) for _ in range(10))


# ---------------------------------------------------------------------------------- whole fits


def climbs(case: Case) -> dict:
    """CPU seconds and steps of whole fits until the log likelihood is near the optimum."""
    needed, times = [], []
    for seed in range(case.climbs):
        x, start = data(case, seed)
        steps, spent = climb(case, x, start)
        needed.append(steps)
        times.append(spent)
    return {"needed": needed, "seconds": times}


def climb(case: Case, x: np.ndarray, start: dict) -> tuple[dict, dict]:
    """The number of steps is found first, untimed; then each is timed with exactly that many."""
    plain, fast = (ours(case, x, start, ENOUGH, accelerate) for accelerate in (False, True))
    goal = plain.log_likelihood - NEAR
    needed = {"plain": _reached(plain, goal), "accelerated": _reached(fast, goal)}
    needed["sklearn"] = needed["plain"]
    fits = {
        "plain": lambda: ours(case, x, start, needed["plain"]),
        "accelerated": lambda: ours(case, x, start, needed["accelerated"], True),
    }
    if case.D == 1:  # to its own optimum, whose cells need more moves than the goal's rows
        fits["binned"] = lambda: ours(case, x, start, 2 * ENOUGH, True, BINS, NEAR)
    reached = {name: fit() for name, fit in fits.items()}
    if min(result.log_likelihood for result in reached.values()) < goal - 1e-10 * abs(goal):
        raise RuntimeError(f"{case}: not all reached {goal}: {reached}")
    spent = {name: cpu(fit) for name, fit in fits.items()}
    return needed, spent | {"sklearn": theirs_to(case, x, start, needed["sklearn"])}


def theirs_to(case: Case, x: np.ndarray, start: dict, steps: int) -> float:
    """CPU seconds of scikit-learn's fit of so many steps; of large data, from a shorter one."""
    few = case.steps + SHORT
    if case.N < LARGE or steps <= few:
        return cpu(theirs, case, x, start, steps)
    theirs(case, x, start, 1)  # what a first call costs is not the steps'
    short, longer = (cpu(theirs, case, x, start, n) for n in (SHORT, few))
    return longer + (steps - few) * (longer - short) / case.steps


def _reached(result: Any, goal: float) -> int:
    """Steps until the log likelihood has passed ``goal``; the prior of a flat program is constant.

    Raises RuntimeError where it never does.
    """
    path = result.history - (result.log_joint - result.log_likelihood)
    if not (path >= goal).any():
        raise RuntimeError(f"another optimum: {path.max()} is below {goal}")
    return int(np.argmax(path >= goal)) + 1


def defaults(case: Case) -> dict:
    """CPU seconds and log likelihood of each library's fit with its own defaults, by data seed."""
    import jax
    from sklearn.mixture import GaussianMixture

    import bayesmix as bm

    program = bm.models.gaussian(case.K, covariance=case.covariance, prior="flat")
    found: dict[str, list] = {}

    def note(name: str, seconds: float, log_likelihood: float) -> None:
        found.setdefault(name, []).append([seconds, float(log_likelihood)])

    def timed(fit: Any, *args: Any) -> tuple[float, Any]:
        began = time.process_time()
        result = fit(*args)
        return time.process_time() - began, result

    for seed in range(case.seeds):
        x, _ = data(case, seed)
        em = bm.EM(program, progress_bar=False)
        for name in ["bayesmix, first call"] * (seed == 0) + ["bayesmix"]:
            seconds, result = timed(em.run, jax.random.key(seed), x)
            note(name, seconds, result.log_likelihood)
        for tries in (1, 10):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other = GaussianMixture(case.K, n_init=tries, random_state=seed)
                seconds, _ = timed(other.fit, x)
            note(f"scikit-learn, n_init={tries}", seconds, other.score(x) * case.N)
        if shutil.which("Rscript"):
            script = f"""
              spent <- system.time(m <- Mclust(a1, G = {case.K}, modelNames = "VVV",
                                               verbose = FALSE))
              cat(sum(spent[1:2]), format(m$loglik, digits = 15))
            """
            note("mclust", *run_r(script, x))
    return {"fits": found}


# ------------------------------------------------------------------------- memory, size, latency


def memory(case: Case, library: str, fit: bool) -> dict:
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
    return {"peak": size / (1024 if sys.platform != "darwin" else 1024**2)}


def loop(case: Case, x: Any, start: dict) -> float:
    """CPU seconds per iteration of the compiled loop of plain steps alone, the least of five."""
    import jax

    import bayesmix as bm
    from bayesmix.density import data_of, density_of
    from bayesmix.engine import Engine, advance, entered
    from bayesmix.mstep import plan_for

    mixture = bm.trace(bm.models.gaussian(case.K, covariance=case.covariance, prior="flat"), x)
    with jax.enable_x64(True):
        engine = Engine(density_of(mixture), plan_for(mixture))
        prepared = data_of(mixture)
        state = entered(engine, start, prepared)[0]

        def run(steps: int) -> None:
            jax.block_until_ready(advance(engine, state, prepared, 1e-9, 1 + steps))

        run(1)
        return min(cpu(run, case.steps) for _ in range(5)) / case.steps


def size(N: int) -> dict:
    """CPU seconds per iteration on N rows of 2 columns, K = 5, of each library.

    Ours are those of the loop alone: at 1e7 rows, laying them out hides some steps more or less.
    """
    steps = int(np.clip(3e6 / N, 4, 100))
    case = Case(N, 2, 5, steps=steps, repeats=max(1, 20_000 // N))
    x, start = data(case, 0)
    found = {"ours": loop(case, x, start)}
    if N <= SKLEARN_LIMIT:
        found["sklearn"] = per_step(theirs, case, x, start, case.repeats)[0]
    return found


def binned() -> dict:
    """CPU seconds of default fits of a million values, with and without bins."""
    import jax

    import bayesmix as bm

    x = data(Case(1_000_000, 1, 5), 0)[0][:, 0]
    program, found = bm.models.gaussian(5, prior="flat"), {}
    for bins in (None, BINS):
        em = bm.EM(program, bins=bins, progress_bar=False)
        em.run(jax.random.key(0), x)
        began = time.process_time()
        result = em.run(jax.random.key(0), x)
        found[str(bins)] = [time.process_time() - began, result.log_likelihood]
    return found


def latency(which: str) -> dict:
    """CPU seconds of the first fit of 272 x 2 after import, and of what it consists."""
    import jax

    import bayesmix as bm

    spent = {"trace": 0.0, "lower": 0.0, "compile": 0.0, "compilations": 0}
    names = {"jaxpr_trace": "trace", "jaxpr_to_mlir": "lower", "backend_compile": "compile"}

    def listen(event: str, seconds: float, **_: Any) -> None:
        for part, name in names.items():
            if part in event:
                spent[name] += seconds
                spent["compilations"] += name == "compile"

    x = np.asarray(bm.datasets.load_faithful())
    program = bm.models.gaussian(2, covariance="full", prior="flat")
    if which == "README":
        from readme_program import program
    key = jax.random.key(0)
    jax.monitoring.register_event_duration_secs_listener(listen)
    em = bm.EM(program, progress_bar=False)
    spent["first"] = cpu(em.run, key, x)
    spent = dict(spent)  # no longer listened for
    spent["again"] = cpu(em.run, key, x)
    params = em.run(key, x).params

    def fits() -> None:
        for _ in range(FITS):
            em.run(key, x, init_params=params)

    fits()  # after some dozens the loop is compiled anew, with all effort
    spent["one start"] = cpu(fits) / FITS
    return spent
