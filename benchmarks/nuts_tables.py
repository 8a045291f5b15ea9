"""Tables (Markdown) and plot of what the NUTS benchmark has measured so far."""

import json
import statistics

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from nuts_cases import CHAINS, DRAWS, FEW, OURS, SAMPLERS, SETS, THEIRS

RHAT, WRONG = 1.01, 6.0  # largest R-hat, and distance of means in errors, that have a rate
WISHED = {  # which of ours; times as fast as the best of THEIRS, as NumPyro; seconds of a cold run
    "univariate K=5 N=1e4": ("bayesmix", 100, 500, 4),
    "univariate K=5 N=1e5": ("bayesmix-bins", 2000, 1000, 4),
    "Poisson K=3 N=1e4": ("bayesmix", 500, 500, 4),
    "faithful 2-D K=2": ("bayesmix", 10, 80, 5),
    "latent class K=4 N=2000": ("bayesmix", 15, 60, 8),
    "8-D K=5 N=1e4": ("bayesmix", 30, 15, 20),
    "galaxies K=3": ("bayesmix-smc", None, None, 10),
}


def lines_of(path):
    """The latest result of each set and sampler, seeds together."""
    latest = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        runs = latest.setdefault((line["set"], line["sampler"]), {})
        runs.pop(line.get("seed", 1), None)  # so that the newest comes last
        runs[line.get("seed", 1)] = line
    return {key: together(list(runs.values())) for key, runs in latest.items()}


def together(runs):
    """One line of the runs that are as long as the newest; without those that came to nothing."""
    long = [line.get("draws", DRAWS) for line in runs]
    runs = [line for line, draws in zip(runs, long, strict=True) if draws == long[-1]]
    done = [line for line in runs if "error" not in line]
    if not done:
        return runs[-1]
    line = done[-1] | {"cold": [each["cold"] for each in done]}
    for name in ("warm", "ess", "rhat"):
        line[name] = [value for each in done for value in each[name]]
    line["all means"] = [each["means"] for each in done]
    if "steps" in line:
        line["steps"] = statistics.mean(each["steps"] for each in done)
        line["divergences"] = sum(each["divergences"] for each in done)
    return line


def apart(line, other):
    """Largest distance of each run's posterior means, in combined Monte-Carlo standard errors."""
    return [_distance(means, other["means"]) for means in line["all means"]]


def _distance(means, others):
    assert [each[0] for each in means] == [each[0] for each in others]
    pairs = zip(means, others, strict=True)
    return max(abs(a[1] - b[1]) / (a[2] ** 2 + b[2] ** 2) ** 0.5 for a, b in pairs)


def reference_of(line, latest):
    """The line of bayesmix on the same set, of SMC where that was run; None without one."""
    for sampler in ("bayesmix-smc", "bayesmix"):
        found = latest.get((line["set"], sampler))
        if found is not None and "error" not in found:
            return found
    return None


def rates(line, latest):
    """ESS per CPU second of each run while sampling, and of each run that was compiled, as a whole.

    Without the runs whose R-hat is too large or whose posterior is not that of bayesmix; () where
    chains of bayesmix do not agree (several modes, which SMC must weigh). SMC has none: its
    particles are not chains.
    """
    if "error" in line or "steps" not in line:
        return (), ()
    reference = reference_of(line, latest) or line
    if not max(reference["rhat"]) <= RHAT:
        return (), ()
    sound = [n for n, _ in enumerate(line["rhat"]) if not wrong(n, line, reference)]
    warm = [line["ess"][n] / line["warm"][n] for n in sound]
    return warm, [line["ess"][n] / line["cold"][n] for n in sound if n < len(line["cold"])]


def wrong(number, line, reference):
    """Why a run has no rate; empty where it has one. Of bayesmix any run speaks for all."""
    rhat = max(line["rhat"]) if line["sampler"] in OURS else line["rhat"][number]
    if rhat > RHAT:
        return f"R-hat {rhat:.3f}"
    away = 0.0 if reference is line else apart(line, reference)[min(number, len(line["cold"]) - 1)]
    return f"R-hat {rhat:.3f}, means {away:.0f} errors away" if away > WRONG else ""


def spread(values, digits=0):
    values = sorted(values)
    middle = f"{statistics.median(values):.{digits}f}"
    few = f"{values[0]:.{digits}f}", f"{values[-1]:.{digits}f}"
    return middle if len(values) == 1 or few[0] == few[1] else f"{middle} ({few[0]}-{few[1]})"


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measured(latest):
    """A row for each sampler on each set."""
    heads = (
        "set|sampler|cold, s|warm, s|again, s|min ESS|R-hat|diverged|gradients per draw|"
        "us per gradient|ESS/s warm|ESS/s cold|apart"
    ).split("|")
    wanted = [(name, sampler) for name in SETS for sampler in SAMPLERS]
    return table(heads, [cells(latest[key], latest) for key in wanted if key in latest])


def against(latest):
    """Effective draws per CPU second over those of the others, beside what was wished for."""
    heads = (
        "set|warm, of the best of PyMC, nutpie, Stan|wished|warm, of NumPyro|wished|"
        "cold, of the best of three|cold, of NumPyro|cold run, s|wished"
    ).split("|")
    rows = []
    for name, (sampler, three, numpyro, seconds) in WISHED.items():
        line = latest.get((name, sampler))
        if line is None or "error" in line:
            continue
        own, said = rates(line, latest), name + ", cells" * (sampler == "bayesmix-bins")
        best = [times(own, name, THEIRS, latest, phase) for phase in (0, 1)]
        plain = [times(own, name, ("numpyro",), latest, phase) for phase in (0, 1)]
        wishes = [str(wish or "") for wish in (three, numpyro, seconds)]
        row = [said, best[0], wishes[0], plain[0], wishes[1], best[1], plain[1]]
        rows.append([*row, spread(line["cold"], 1), wishes[2]])
    return table(heads, rows)


def times(own, name, samplers, latest, phase):
    """Our median rate over the best of theirs in a phase (warm 0, cold 1), and who has none."""
    found, without = {}, []
    for sampler in samplers:
        line = latest.get((name, sampler))
        rate = () if line is None else rates(line, latest)[phase]
        if rate:
            found[sampler] = statistics.median(rate)
        if not rate or len(rate) < len(line["cold"]):
            without.append(f"{sampler} {why(line, latest)}")
    if not (found and own[phase]):
        return "; ".join(without)
    best = max(found, key=found.get)
    note = "; ".join([best] * (len(samplers) > 1) + without)
    return f"{statistics.median(own[phase]) / found[best]:.3g}" + f" ({note})" * bool(note)


def why(line, latest):
    """Why runs of a line have no rate."""
    if line is None:
        return "not run"
    if "error" in line:
        return line["error"]
    reference = reference_of(line, latest) or line
    ours = max(reference["rhat"])
    failed = [wrong(number, line, reference) for number, _ in enumerate(line["rhat"])]
    said = [each for each in failed if each]
    counted = f" ({len(said)} of {len(failed)})" * (len(failed) > 1)
    return ", ".join(said) + counted + f", ours {ours:.3f}" * (ours > RHAT)


def cells(line, latest):
    reference = reference_of(line, latest)
    first = [line["set"], line["sampler"]]
    if "error" in line:
        return [*first, line["error"], *[""] * 10]
    warm, cold = rates(line, latest)
    same = reference in (None, line) or not max(reference["rhat"]) <= RHAT
    known = "steps" in line
    return [
        *first,
        spread(line["cold"], 1),
        spread(line["warm"], 2),
        spread(line["again"], 2) if "again" in line else "",
        spread(line["ess"]) if known else "",
        spread(line["rhat"], 3) if line["sampler"] not in OURS else f"{max(line['rhat']):.3f}",
        str(line["divergences"]) if known else "",
        f"{line['steps']:.1f}" if known else "",
        spread(per_gradient(line)) if known else "",
        spread(warm) if warm else "–",
        spread(cold) if cold else "–",
        "" if same else spread(apart(line, reference), 1),
    ]


def per_gradient(line):
    """CPU microseconds of each warm run over its gradients, those of the warm-up included."""
    draws = CHAINS * line.get("draws", FEW.get(line["set"], DRAWS))
    made = 1.15 if line["sampler"] in OURS else 2
    return [1e6 * seconds / (line["steps"] * draws * made) for seconds in line["warm"]]


def plot(latest, path):
    """ESS per CPU second while sampling, a row for each set that has a rate."""
    shown = {key: rates(line, latest) for key, line in latest.items()}
    shown = {key: found for key, found in shown.items() if found[0]}
    sets = [name for name in SETS if any(name == of for of, _ in shown)]
    samplers = [name for name in SAMPLERS if any(name == by for _, by in shown)]
    colours = dict(zip(samplers, plt.get_cmap("tab10").colors, strict=False))
    figure, ax = plt.subplots(figsize=(7.5, 0.6 * len(sets) + 1.4), layout="constrained")
    for height, name in enumerate(reversed(sets)):
        for sampler, colour in colours.items():
            warm, cold = shown.get((name, sampler), ((), ()))
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
