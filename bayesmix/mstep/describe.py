"""The sheet that printing a Mixture shows: sites, priors, links and EM's plan for each."""

import jax

from bayesmix.blocks import Blocks
from bayesmix.density import density_of, merged_of, spread_out
from bayesmix.families.lines import Lines
from bayesmix.mstep.bounds import boundedness
from bayesmix.mstep.rules import plan_for
from bayesmix.program import Mixture, Site
from bayesmix.sheet import Sheet, Table


def describe(mixture: Mixture) -> Sheet:
    """What was found in the program, as a sheet that a person can read."""
    with jax.enable_x64(True):
        return _describe(mixture)


def _describe(mixture: Mixture) -> Sheet:
    plan = plan_for(mixture)
    update = {name: block.text for block in plan.blocks for name in block.sites}
    rows = tuple(
        (name, _prior(site), _shape(site), _feeds(site), update[name])
        for name, site in mixture.sites.items()
    )
    head = ("site", "prior", "shape", "feeds", "EM update")
    return Sheet((_title(mixture), Table(head, rows, "lllll"), *_notes(mixture)))


def _title(mixture: Mixture) -> str:
    rows = " x ".join(str(n) for n in mixture.rows)
    event = f", {mixture.event_shape[0]} columns" if len(mixture.event_shape) == 1 else ""
    return f"{mixture.name!r}: a mixture of {mixture.K} {mixture.family} ({rows} rows{event})"


def _prior(site: Site) -> str:
    return "flat" if site.improper else site.prior


def _shape(site: Site) -> str:
    return " x ".join(map(str, site.shape)) or "scalar"


def _feeds(site: Site) -> str:
    leaves = [
        link.leaf if link.map in ("identity", None) else f"{link.leaf} ({link.map})"
        for link in site.links
    ]
    return ", ".join([*leaves, *(f"prior of {other}" for other in site.fed_priors)]) or "-"


def _notes(mixture: Mixture) -> list[str]:
    density = density_of(mixture)
    if density.family:
        which = ", a line for each cluster" if isinstance(density.family, Lines) else ""
        sweep = f"exponential-family sweep ({density.family.name}{which}), no N x K array"
    else:
        size = density.portion.size if density.portion else None
        at_once = "one (rows, K) array" if size is None else f"{size} rows at a time"
        sweep = f"general sweep: the components' own log_prob, {at_once}"
    if density.tied:
        sweep += "; one spread for all clusters, so no squares"
    weighted = "" if mixture.weights is None else "; rows are weighted"
    lines = [f"sweep: {sweep}{weighted}"]
    if mixture.partial:
        lines.append(f"data: {mixture.gaps}")
    if isinstance(mixture.value, Blocks):
        lines.append(f"rows: read in blocks of {mixture.value.size}, never held whole")
    if spread_out(mixture):
        lines.append(f"rows: shared out among {mixture.arguments.mesh.size} devices")
    merged = merged_of(mixture)
    if merged is not None:
        lines.append(f"rows: {mixture.N} -> {len(merged.x)} distinct, weighted by their number")
    if mixture.static_data:
        lines.append("the program needs the data's values to run: new data will be compiled again")
    unbounded = boundedness(mixture)
    lines += unbounded or ["the priors keep the log joint bounded"]
    return lines
