"""The house of rooms: imports point down, ArviZ comes late, the front door stays light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bayesmix"

# From the ground up. A room may import the rooms listed before it.
ROOMS = (
    "sheet",
    "blocks",
    "device",
    "effort",
    "graph",
    "linear",
    "rowwise",
    "arguments",
    "lookups",
    "vector_mixture",
    "skew_normal",
    "groups",
    "ellipsoid",
    "missing",
    "factors",
    "parameters",
    "marginal",
    "observed",
    "reader",
    "carry",
    "portion",
    "checks",
    "program",
    "saved",
    "families",
    "merge",
    "sweep",
    "density",
    "coordinates",
    "expansion",
    "curvature",
    "laplace",
    "mstep",
    "start",
    "accelerate",
    "modes",
    "portrait",
    "symmetry",
    "draws",
    "predict",
    "expected",
    "engine",
    "hasten",
    "checkpoint",
    "climb",
    "search",
    "estimate",
    "em",
    "sampled",
    "smc",
    "nuts",
    "posterior",
    "adopt",
    "relabel",
    "diagnose",
    "importance",
    "weigh",
    "calibrate",
    "approximate",
    "bootstrap",
    "allocations",
    "impute",
    "similarity",
    "partition",
    "compare",
    "card",
    "certify",
    "models",
    "datasets",
    "plots",
    "cli",
    "__main__",
    "__init__",
)

# Methods that reach up import inside the function: (room, room above it). Exactly these.
REACHING_UP = {
    ("program", "mstep"),  # printing a Mixture tells which update EM will use
    ("estimate", "posterior"),  # result.to_datatree()
    ("estimate", "approximate"),  # result.laplace()
    ("estimate", "bootstrap"),  # result.bootstrap()
    ("sampled", "relabel"),  # summaries and predictions are of the relabelled draws
    ("sampled", "posterior"),  # result.expected()
    ("smc", "posterior"),
    ("smc", "diagnose"),
    ("nuts", "posterior"),
    ("nuts", "diagnose"),
    ("nuts", "weigh"),  # what SMC, Laplace and stacking say about the chains' modes
}

# Slow to import: only inside functions. The rooms below `posterior` do without xarray and ArviZ.
LATE = {"arviz_base", "arviz_stats", "arviz_plots", "xarray", "pandas", "matplotlib", "sklearn"}
ARVIZ = {"arviz_base", "arviz_stats", "arviz_plots", "xarray"}


def room_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file):
    """(dotted name, at module level?) of each import that runs; TYPE_CHECKING blocks do not."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = ("bayesmix", *file.relative_to(PACKAGE).parent.parts)

    def visit(node, top):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*base, *filter(None, [node.module])))
            yield from ((f"{source}.{alias.name}", top) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, top and not inside)

    yield from visit(tree, True)


def rooms_imported(file):
    for name, top in imports(file):
        parts = name.split(".")
        if parts[0] == "bayesmix":
            yield (parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"), top


def test_every_room_is_listed():
    unlisted = {room_of(file) for file in FILES} - set(ROOMS)
    assert not unlisted, f"give these rooms their place in ROOMS: {sorted(unlisted)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_at_the_top_point_down(file):
    room = room_of(file)
    height = ROOMS.index(room)
    for other, top in rooms_imported(file):
        assert not top or other == room or ROOMS.index(other) < height, f"{room} imports {other}"


@pytest.mark.parametrize(
    "room", sorted({room_of(file) for file in FILES if file.parent != PACKAGE})
)
def test_modules_of_a_room_have_an_order(room):
    """Each imports only those before it, in some order; Python itself lets some circles pass."""
    inside = {file.stem: file for file in FILES if room_of(file) == room}
    before = {}
    for module, file in inside.items():
        names = [name.split(".") for name, top in imports(file) if top]
        own = [name[2] for name in names if name[:2] == ["bayesmix", room]]
        before[module] = set(own) & set(inside)
    TopologicalSorter(before).prepare()  # a CycleError names the circle


def test_functions_reach_up_only_where_listed():
    found = {
        (room_of(file), other)
        for file in FILES
        for other, top in rooms_imported(file)
        if not top and ROOMS.index(other) > ROOMS.index(room_of(file))
    }
    assert found == REACHING_UP


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_slow_libraries_come_late(file):
    below_posterior = ROOMS.index(room_of(file)) < ROOMS.index("posterior")
    for name, top in imports(file):
        library = name.split(".")[0]
        assert library != "arviz", "import arviz_base, arviz_stats or arviz_plots instead"
        assert not (top and library in LATE), f"import {library} inside the function"
        assert not (below_posterior and library in ARVIZ), f"{library} begins at posterior"


def test_front_door_is_light_and_leaves_jax_alone():
    late = sorted(LATE | {"arviz"})
    check = (
        "import sys, jax, bayesmix\n"
        f"print([m for m in {late} if m in sys.modules], jax.config.jax_enable_x64)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    assert done.stdout.strip() == "[] False"
