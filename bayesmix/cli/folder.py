"""A result directory: written beside its place and put there whole, never over other files."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesmix.cli.table import Refusal

if TYPE_CHECKING:
    from bayesmix.cli.job import Task

ABOUT = "about.json"
FILES = (
    ABOUT, "card.txt", "card.html", "card.csv", "observations.csv", "calibration.csv",
    "partitions.csv", "em.nc", "nuts.nc", "figures"
)  # fmt: skip


def check_target(target: Path, force: bool) -> None:
    """Refuses a target that is a file, another folder, or (without force) a finished result."""
    for place in (target, *target.parents):
        if place.exists() and not place.is_dir():
            raise Refusal(f"{place} is a file, not a directory: choose another --out")
    if not target.exists() or not any(target.iterdir()):
        return
    if not _is_ours(target):
        raise Refusal(f"{target} holds files that bayesmix did not write: choose another --out")
    if not force:
        raise Refusal(f"{target} holds a finished result: choose another --out, or add --force")
    foreign = sorted({entry.name for entry in target.iterdir()} - set(FILES))
    if foreign:
        raise Refusal(
            f'{target} also holds "{foreign[0]}", which bayesmix did not write: move it away, or '
            "choose another --out"
        )


def _is_ours(folder: Path) -> bool:
    try:
        return "bayesmix" in json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


@contextmanager
def whole_directory(target: Path, force: bool) -> Iterator[Path]:
    """A new folder beside the target that takes its place at the end, or disappears."""
    target = target.resolve()
    part = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
    except OSError as error:
        raise Refusal(f"cannot write in {target.parent}: {error.strerror or error}") from error
    try:
        yield part
        check_target(target, force)
        _replace(target, part)
    except OSError as error:
        raise Refusal(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(target: Path, part: Path) -> None:
    """Put the finished folder in place of the target; the old one comes back if that fails."""
    old = part.with_suffix(".old")
    if target.exists():
        target.rename(old)
    try:
        part.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


# What is in it.


def write(
    folder: Path, task: Task, options: argparse.Namespace, em: Any, nuts: Any, card: Any
) -> None:
    """Every file of a result, into the folder."""
    em.to_datatree().to_netcdf(folder / "em.nc", engine="h5netcdf")
    nuts.to_datatree().to_netcdf(folder / "nuts.nc", engine="h5netcdf")
    card.to_frame().to_csv(folder / "card.csv")
    for name in ("observations", "calibration", "partitions"):
        getattr(card, name).to_csv(folder / f"{name}.csv")
    (folder / "card.txt").write_text(f"{card}\n", encoding="utf-8")
    figures = {} if options.no_figures else _figures(folder / "figures", task, em, nuts)
    (folder / "card.html").write_text(_page(task, card, figures), encoding="utf-8")
    (folder / ABOUT).write_text(json.dumps(_about(task, options), indent=1), encoding="utf-8")


def _about(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "bayesmix": version_text(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": task.source,
        "rows": len(task.table),
        "columns": list(task.table.columns),
        "clusters": task.clusters,
        "model": task.model,
        "kinds": task.kinds if task.model == "mixed" else None,
        "covariance": task.covariance if task.model in ("gaussian", "student_t") else None,
        "seed": options.seed,
        "chains": options.chains,
        "draws": options.draws,
    }


def _figures(folder: Path, task: Task, em: Any, nuts: Any) -> dict[str, bytes]:
    """Each figure as PNG, written into the folder; name -> bytes."""
    from io import BytesIO

    from bayesmix import plots

    draw = {
        "clusters": lambda: plots.clusters(nuts),
        "density": lambda: plots.density(nuts),
        "responsibilities": lambda: plots.responsibilities(em, nuts),
        "forest": lambda: plots.forest(em, nuts),
        "history": lambda: plots.history(em),
        "trace": lambda: plots.trace(nuts),
        "rank": lambda: plots.rank(nuts),
    }
    del draw["density" if task.table.shape[1] > 1 else "clusters"]
    if task.model == "bernoulli":
        draw.pop("clusters", None)  # 0 and 1 in a scatter show nothing
    if len(em.history) < 2:
        del draw["history"]
    folder.mkdir()
    drawn = {}
    with _without_windows():
        for name, function in draw.items():
            picture = BytesIO()
            function().savefig(picture, format="png", dpi=140)
            drawn[name] = picture.getvalue()
            (folder / f"{name}.png").write_bytes(drawn[name])
    return drawn


@contextmanager
def _without_windows() -> Iterator[None]:
    """matplotlib draws into memory in here, and as before afterwards."""
    import matplotlib as mpl

    before = dict.__getitem__(mpl.rcParams, "backend")  # may still be "choose one later"
    mpl.use("Agg")
    try:
        yield
    finally:
        if isinstance(before, str):
            mpl.use(before)
        else:
            mpl.rcParams["backend"] = before


def _page(task: Task, card: Any, figures: dict[str, bytes]) -> str:
    """The card and the figures as one page that needs no other file."""
    from base64 import b64encode
    from html import escape

    pictures = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{b64encode(data).decode()}">'
        for name, data in figures.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(task.name)}: EM against NUTS</title>"
        '<meta name="viewport" content="width=device-width">'
        "<style>body{max-width:62em;margin:1.5em auto;padding:0 1em;background:#fff;color:#22262b}"
        "img{max-width:100%;display:block;margin:1.5em auto}</style></head>"
        f"<body>{card.to_html()}{pictures}</body></html>\n"
    )


def list_written(target: Path, figures: bool) -> str:
    """What was written, in one line."""
    names = [name for name in FILES if name != "figures"]
    return f"{target}/{{{', '.join(names)}}}" + (f", {target}/figures/*.png" if figures else "")


def version_text() -> str:
    """The package's version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bayesmix")
    except PackageNotFoundError:
        return "0+unknown"
