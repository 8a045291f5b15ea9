"""A search that outlives its process: finished runs, and the unfinished one, in one file.

A search is a function of its seed and of where its runs ended. So a second process searches again
from the same seed, is told the end of each run that the first had finished, goes on with the one it
was in, and decides the same. Knows arrays only.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from bayesmix.saved import another_run, write_whole

EVERY = 2.0  # seconds between two writings, at least

Record = dict[str, np.ndarray]


class Checkpoint:
    """A search that is kept nowhere."""

    kept = False

    def finished(self) -> Record | None:
        """The end of the run that begins now, if an earlier process came to it."""
        return None

    def unfinished(self) -> Record | None:
        """Where an earlier process was in the run that begins now; told once."""
        return None

    def add(self, run: Callable[[], Record]) -> None:
        """Keep the end of a run."""

    def note(self, here: Callable[[], Record]) -> None:
        """Keep where a run is, now and then."""

    def close(self, here: Callable[[], Record] | None = None) -> None:
        """Write what is known, and where a run is that was interrupted."""

    def write(self) -> None:
        """Write what is known, as where an interrupt came between runs."""


class File(Checkpoint):
    """A search kept in a file, which is replaced as a whole every few seconds.

    run : {what: text} says whose search it is. Raises ValueError where the file holds another one
    or is no checkpoint, and OSError, naming it, where it cannot be written.
    """

    kept = True

    def __init__(self, path: str | os.PathLike[str], run: dict[str, str]) -> None:
        self.path, self._label = Path(path), run
        self._runs: list[Record] = []
        self._under_way: list[Record] = []
        if self.path.exists():
            self._read()
        self._again, self._told = deque(self._runs), bool(self._under_way)
        self.write()

    def finished(self) -> Record | None:
        return self._again.popleft() if self._again else None

    def unfinished(self) -> Record | None:
        told, self._told = self._told, False
        return self._under_way[0] if told else None

    def add(self, run: Callable[[], Record]) -> None:
        self._runs.append(run())
        self._under_way = []
        if self._due:
            self.write()

    def note(self, here: Callable[[], Record]) -> None:
        if self._due:
            self.close(here)

    def close(self, here: Callable[[], Record] | None = None) -> None:
        self._under_way = [here()] if here else []
        self.write()

    @property
    def _due(self) -> bool:
        return time.monotonic() - self._written > EVERY

    def write(self) -> None:
        groups = {"run": self._runs, "here": self._under_way}
        arrays = {
            f"{group}/{number}/{name}": value
            for group, records in groups.items()
            for number, record in enumerate(records)
            for name, value in record.items()
        }
        label = np.array(json.dumps(self._label))
        try:
            write_whole(self.path, lambda file: np.savez(file, label=label, **arrays))  # type: ignore[arg-type]
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint cannot be written ({error.strerror or error}); what it held "
                "before is safe, and the same call goes on from there once there is room",
                str(self.path),
            ) from error
        self._written = time.monotonic()

    def _read(self) -> None:
        try:
            with np.load(self.path) as arrays:
                found = json.loads(str(arrays["label"]))
                stored = {name: arrays[name] for name in arrays if name != "label"}
        except (ValueError, KeyError, OSError, BadZipFile) as error:
            raise ValueError(
                f"checkpoint {str(self.path)!r} is a file of another kind: choose a new name"
            ) from error
        other = [what for what in self._label if found.get(what) != self._label[what]]
        if other:
            raise another_run("checkpoint", self.path, other)
        groups: dict[str, list[Record]] = {"run": self._runs, "here": self._under_way}
        for name, value in stored.items():
            group, number, part = name.split("/", 2)
            records = groups[group]
            if int(number) == len(records):
                records.append({})
            records[int(number)][part] = value
