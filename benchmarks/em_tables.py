"""Tables (Markdown) and plot of what the EM benchmark has measured so far."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from em_cases import CASES, Case
from em_measure import AGREE, NEAR, PEERS, SIZES

Records = dict[str, dict]


def tables(records: Records) -> str:
    """All tables, as Markdown; a case that was not measured has no row."""
    parts = [
        ("Per iteration, CPU milliseconds, and times as fast as each.", per_iteration),
        (f"To within {NEAR} nats of the optimum, CPU seconds of whole fits, compiled.", climbs),
        ("Fits with each one's defaults: CPU seconds, and nats below the best of all.", defaults),
        ("Peak memory, MB: imports with the data, and what a fit adds.", memory),
        ("First fits of 272 x 2 after import, CPU seconds.", latency),
        ("Per iteration on N x 2, K=5: CPU microseconds, and nanoseconds per row.", sizes),
        ("A million values, K=5, default fits: CPU seconds.", bins),
    ]
    shown = [f"{title}\n\n{table}" for title, make in parts if (table := make(records))]
    return "\n\n".join([*shown, conditions(records)])


def found(records: Records, *words: object) -> dict | None:
    """What a piece gave, or None."""
    record = records.get(" / ".join(map(str, words)))
    return None if record is None else record["found"]


def per_iteration(records: Records) -> str:
    heads = ("rows x columns", "seeds", "bayesmix", "scikit-learn", "ratio")
    heads += (*PEERS, "of the limit", "compile, s", "log lik.")
    rows = []
    for case in CASES:
        piece = found(records, "iterations", case)
        if piece is None:
            continue
        own, other = (np.array(piece["seconds"][name]) for name in ("ours", "sklearn"))
        seeds = str(len(own) // case.pairs)
        cells = [str(case), seeds, spread(1e3 * own, ".3g"), spread(1e3 * other, ".3g")]
        cells.append(spread(other / own))
        last = own[case.pairs - 1 :: case.pairs]  # of each seed; the peers' runs come after it
        for name in PEERS:
            peer = np.array(piece["seconds"].get(name, []))
            cells.append(spread(peer / last[: len(peer)]) if len(peer) else "")
        cells.append(f"{100 * piece['limit'] / np.median(own):.0f} %")
        cells += [f"{piece['compile']:.1f}", agreement(case, piece["differences"])]
        rows.append(cells)
    return table(heads, rows)


def agreement(case: Case, differences: list[float]) -> str:
    """Whether the log likelihoods agree after the same number of steps."""
    if not differences:
        return ""
    verdict = "agree" if max(differences) <= AGREE[case.dtype] else "DISAGREE"
    return f"{verdict} ({max(differences):.0e})"


def climbs(records: Records) -> str:
    heads = ("rows x columns", "scikit-learn", "plain", "accelerated")
    heads += ("steps, plain and accelerated", "ratio plain", "ratio accelerated")
    heads += ("with bins, and ratio",)
    rows = []
    for case in CASES:
        piece = found(records, "climbs", case)
        if piece is None:
            continue
        spent = {name: np.array([run[name] for run in piece["seconds"]]) for name in LIBRARIES}
        needed = [
            spread([steps[name] for steps in piece["needed"]], ".0f")
            for name in ("plain", "accelerated")
        ]
        cells = [str(case), *(spread(spent[name], ".3g") for name in LIBRARIES), ", ".join(needed)]
        cells += [spread(spent["sklearn"] / spent[name]) for name in ("plain", "accelerated")]
        binned = [run["binned"] for run in piece["seconds"] if "binned" in run]
        ratio = spread(spent["sklearn"] / binned) if binned else ""
        cells.append(f"{spread(binned, '.3g')}: {ratio}" if binned else "")
        rows.append(cells)
    return table(heads, rows)


LIBRARIES = ("sklearn", "plain", "accelerated")


def defaults(records: Records) -> str:
    rows = []
    for case in CASES:
        piece = found(records, "defaults", case)
        if piece is None:
            continue
        fits = piece["fits"]
        reached = [[each[1] for each in runs] for name, runs in fits.items() if "first" not in name]
        best = np.max(reached, 0)
        for name, runs in fits.items():
            seconds, own = np.array(runs).T
            lost = best[: len(own)] - own
            rows.append([str(case), name, spread(seconds, ".3g"), spread(lost, ".2f")])
    return table(("rows x columns", "library", "CPU seconds", "nats below the best"), rows)


def memory(records: Records) -> str:
    rows = []
    for case in CASES:
        sizes = [
            found(records, "memory", case, library, what)
            for library in ("ours", "sklearn")
            for what in ("none", "fit")
        ]
        if None in sizes:
            continue
        before, fit, their_before, their_fit = (each["peak"] for each in sizes)
        data = case.N * case.D * np.dtype(case.dtype).itemsize / 2**20
        numbers = (data, before, fit - before, their_before, their_fit - their_before)
        rows.append([str(case), *(f"{number:.0f}" for number in numbers)])
    heads = ("bayesmix: before", "fit adds", "scikit-learn: before", "fit adds")
    return table(("rows x columns", "rows", *heads), rows)


def latency(records: Records) -> str:
    rows = []
    for which in ("gaussian", "README"):
        piece = found(records, "latency", which)
        if piece is not None:
            parts = ("first", "trace", "lower", "compile")
            cells = [f"{piece[part]:.2f}" for part in parts] + [str(piece["compilations"])]
            cells += [f"{1e3 * piece[part]:.1f} ms" for part in ("again", "one start")]
            rows.append([which, *cells])
    heads = ("program", "first fit", "of it tracing", "lowering", "compiling", "compilations")
    return table((*heads, "the same again", "one start, warm"), rows)


def sizes(records: Records) -> str:
    rows = []
    for N in SIZES:
        piece = found(records, "size", N)
        if piece is not None:
            row = [f"{N}"]
            for name in ("ours", "sklearn"):
                known = name in piece
                row.append(f"{1e6 * piece[name]:.0f}" if known else "")
                row.append(f"{1e9 * piece[name] / N:.1f}" if known else "")
            rows.append(row)
    heads = ("rows", "bayesmix", "ns per row", "scikit-learn", "ns per row")
    return table(heads, rows)


def bins(records: Records) -> str:
    piece = found(records, "bins")
    if piece is None:
        return ""
    rows = [[name, f"{seconds:.2f}", f"{value:.4f}"] for name, (seconds, value) in piece.items()]
    return table(("bins", "CPU seconds", "log likelihood"), rows)


def conditions(records: Records) -> str:
    """Machine, versions, dates and loads of all pieces."""
    newest = list(records.values())[-1:]
    dates = sorted({record["date"] for record in records.values()})
    loads = [record["load"] for record in records.values()]
    return "\n".join(
        f"{record['machine']}; load {min(loads):.0f} to {max(loads):.0f}; "
        f"{dates[0]} to {dates[-1]}; threads: {record['threads']}; Python {record['python']}, "
        + ", ".join(f"{name} {number}" for name, number in record["versions"].items())
        for record in newest
    )


def spread(values: object, form: str = ".1f") -> str:
    """Median and range as text: "9.1 (8.0-10.2)"; one value as it is."""
    numbers = np.asarray(values, float)
    low, middle, high = (f"{v:{form}}" for v in np.quantile(numbers, [0, 0.5, 1]))
    return middle if len(numbers) == 1 else f"{middle} ({low}-{high})"


def table(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table; "" without rows."""
    if not rows:
        return ""
    return "\n".join(_line(cells) for cells in (heads, ["---"] * len(heads), *rows))


def _line(cells: object) -> str:
    return "| " + " | ".join(cells) + " |"


# --------------------------------------------------------------------------------------- the plot


def plot(records: Records, path: Path) -> None:
    """Ratios per iteration by case, and the cost of an iteration against N."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), width_ratios=(3, 2))
    _ratios(left, list(_ratios_of(records)))
    for name, label, mark in (("ours", "bayesmix", "o"), ("sklearn", "scikit-learn", "s")):
        pieces = ((N, found(records, "size", N)) for N in SIZES)
        points = [(N, 1e3 * piece[name]) for N, piece in pieces if piece and name in piece]
        if points:
            right.loglog(*zip(*points, strict=True), marker=mark, label=label)
    right.set(xlabel="rows (2 columns, K = 5)", ylabel="CPU ms per EM iteration")
    right.grid(visible=True, alpha=0.3)
    if right.lines:
        right.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _ratios_of(records: Records) -> Iterator[tuple[str, np.ndarray]]:
    for case in reversed(CASES):
        piece = found(records, "iterations", case)
        if piece is not None:
            own, other = (np.array(piece["seconds"][name]) for name in ("ours", "sklearn"))
            yield str(case), other / own


def _ratios(axes: object, named: list[tuple[str, np.ndarray]]) -> None:
    for height, (_, ratio) in enumerate(named):
        axes.plot([ratio.min(), ratio.max()], [height, height], color="C0", lw=2, alpha=0.5)
        axes.plot(np.median(ratio), height, "o", color="C0")
    axes.set_xscale("log")
    ticks = (1, 2, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(named)), [name for name, _ in named])
    axes.set(xlabel="CPU time per EM iteration: scikit-learn / bayesmix (median, range)")
    axes.grid(visible=True, axis="x", alpha=0.3)
