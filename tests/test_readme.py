"""What the README and the pages in docs/ show is run, block after block, as written."""

import ast
import linecache
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """(line number of the first line, text) of every fenced block in one language."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: found.start(2)].count("\n"), found.group(2))
        for found in FENCE.finditer(text)
        if found.group(1) == language
    ]


def section_at(page, line):
    """The heading above a line."""
    above = page.read_text(encoding="utf-8").splitlines()[:line]
    return next((text for text in reversed(above) if text.startswith("## ")), "")


def shell_lines(page):
    return [line for _, text in blocks(page, "sh") for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_runs_as_written(page, tmp_path, monkeypatch):
    """Blocks of a page share one namespace, of docs/choosing.md those of a section; files they
    write land in an empty folder.
    """
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    namespace, section = {}, None
    for lines_above, text in blocks(page, "python"):
        if page.name == "choosing.md" and section != (section := section_at(page, lines_above)):
            namespace = {}
        namespace["__name__"] = f"page_{page.stem}"
        code = "\n" * lines_above + text  # errors name the line of the page
        linecache.cache[str(page)] = (len(code), None, code.splitlines(True), str(page))
        exec(compile(code, str(page), "exec"), namespace)
    plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    """Relative links of a page name files of the repository."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []


def test_the_test_command_is_the_one_that_ci_ends_with():
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().splitlines()[-1]
    assert last in shell_lines(ROOT / "README.md")


def test_the_main_command_is_one_that_the_command_line_takes():
    """It sets everything up by itself, and its arguments are understood."""
    from bayesmix.cli import _parser

    (line,) = [line for line in shell_lines(ROOT / "README.md") if "bayesmix fit" in line]
    setup, fit = line.split(" && .venv/bin/bayesmix ")
    assert setup == (
        "python3 -m venv .venv && .venv/bin/python -m pip install -q -c constraints.txt ."
    )
    assert _parser().parse_args(fit.split()).example == "faithful"


def test_the_pages_use_public_names():
    """`bm.name` in the pages is a name that the front door lists, or a module of it."""
    import bayesmix as bm

    used = {
        node.attr
        for page in PAGES
        for _, text in blocks(page, "python")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "bm"
    }
    assert used <= {*bm.__all__, "em"}
