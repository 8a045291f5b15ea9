"""Files that outlive a process: written whole or not at all, and known to be of the same run."""

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from bayesmix.program import Mixture


def write_whole(path: Path, write: Callable[[Any], Any]) -> None:
    """Write a file under another name and rename it once it is on the disk."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def another_run(argument: str, path: str | os.PathLike[str], other: Sequence[str]) -> ValueError:
    """The refusal of what holds a run of something else; ``other`` says what differs."""
    return ValueError(
        f"{argument} {str(path)!r} holds another run ({', '.join(other)} differ): choose a new "
        "one, or delete what is there"
    )


def outline(mixture: Mixture) -> str:
    """What a mixture consists of, in one line; numbers within the program do not show."""
    sites = [(site.name, site.shape, site.prior) for site in mixture.sites.values()]
    return repr([mixture.K, mixture.family, *sites])


def digest(*arrays: Any) -> str:
    """A short text that two equal sequences of arrays share."""
    found = sha256()
    for array in map(np.ascontiguousarray, arrays):
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]
