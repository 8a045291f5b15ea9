"""Where the draws go: kept in memory, or written block by block to a folder.

A folder outlives the process. Each block is one file with the draws and the sampler's state after
them; it is written under another name and renamed when it is whole, so that a run that was killed
goes on from its last whole block and ends with the same draws. Nothing of a folder is held in
memory: sites are read when they are asked for.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from zipfile import is_zipfile

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.saved import another_run, write_whole

PHASES = ("warmup", "draws")
RECENT = 50  # transitions that ``last`` can be asked for

Block = dict[str, np.ndarray]  # {"sites/loc" or "stats/lp": (draw, chain, ...)}


class Record(Protocol):
    """What the sampler writes to. ``done``: transitions per chain so far, by phase."""

    done: dict[str, int]

    def once(self, name: str, make: Callable[[], Block]) -> Block:
        """Arrays that are made at the beginning of a run and kept for all of it."""
        ...

    def resume(self, states: Any) -> Any:
        """The sampler's states after the last block; ``states`` where there is none."""
        ...

    def add(self, phase: str, block: Block, states: Any) -> None:
        """Commit a block of draws with the states after it."""
        ...

    def last(self, count: int) -> Block:
        """The ``count`` transitions added last, however they were divided into blocks."""
        ...

    def draws(self, kind: str, most: int) -> Mapping[str, np.ndarray]:
        """{name: (chain, draw, ...)} of the "sites" or "stats", at most so many draws."""
        ...


class Memory:
    """Draws in memory, gone with the process."""

    def __init__(self) -> None:
        self.done = dict.fromkeys(PHASES, 0)
        self._kept: list[Block] = []
        self._recent: list[Block] = []

    def once(self, name: str, make: Callable[[], Block]) -> Block:
        return make()

    def resume(self, states: Any) -> Any:
        return states

    def add(self, phase: str, block: Block, states: Any) -> None:
        self._recent = [*_newest(self._recent, RECENT), block]
        if phase == "draws":
            self._kept.append(block)
        self.done[phase] += _count(block)

    def last(self, count: int) -> Block:
        return _end(_newest(self._recent, count), count)

    def draws(self, kind: str, most: int) -> Mapping[str, np.ndarray]:
        return {
            name.removeprefix(f"{kind}/"): _joined([block[name] for block in self._kept], most)
            for name in self._recent[-1]
            if name.startswith(f"{kind}/")
        }


class Folder:
    """Draws in a folder of .npz files, one for each block.

    run : {what: text} says whose run it is. Raises ValueError where the folder holds another run,
    and OSError, naming the path, where it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], run: dict[str, str]) -> None:
        self.path = Path(path)
        self._open(run)
        self._files = self._whole_blocks()
        self.done = {
            phase: sum(count for _, of, count in self._files if of == phase) for phase in PHASES
        }

    def _open(self, run: dict[str, str]) -> None:
        label = self.path / "run.json"
        if label.exists():
            found = json.loads(label.read_text(encoding="utf-8"))
            other = [what for what in run if found.get(what) != run[what]]
            if other:
                raise another_run("path", self.path, other)
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if any(self.path.iterdir()):
            raise ValueError(
                f"path {str(self.path)!r} is a folder that holds other files: choose a new folder"
            )
        text = json.dumps(run, indent=1)
        self._commit("run.json", lambda file: file.write(text.encode()))

    def _whole_blocks(self) -> list[tuple[Path, str, int]]:
        """(file, phase, transitions) of the blocks, up to the first that is missing or cut off."""
        found: list[tuple[Path, str, int]] = []
        for file in sorted(self.path.glob("block-*.npz")):
            _, number, phase, count = file.stem.split("-")
            if int(number) != len(found) or not is_zipfile(file):
                break
            found.append((file, phase, int(count)))
        return found

    def once(self, name: str, make: Callable[[], Block]) -> Block:
        file = self.path / f"{name}.npz"
        if not file.exists():
            made = make()
            self._save(file.name, made)
            return made
        with np.load(file) as arrays:
            return dict(arrays)

    def resume(self, states: Any) -> Any:
        if not self._files:
            return states
        leaves, tree = jax.tree.flatten(states)
        with np.load(self._files[-1][0]) as arrays:
            saved = [arrays[f"state/{number}"] for number in range(len(leaves))]
        return jax.tree.unflatten(tree, map(_as_leaf, saved, leaves))

    def add(self, phase: str, block: Block, states: Any) -> None:
        state = {f"state/{i}": _as_array(leaf) for i, leaf in enumerate(jax.tree.leaves(states))}
        name = f"block-{len(self._files):06d}-{phase}-{_count(block)}.npz"
        self._save(name, block | state)
        self._files.append((self.path / name, phase, _count(block)))
        self.done[phase] += _count(block)

    def last(self, count: int) -> Block:
        found: list[Block] = []
        for file, _, _ in reversed(self._files):
            if sum(map(_count, found)) >= count:
                break
            with np.load(file) as arrays:
                names = [name for name in arrays if not name.startswith("state/")]
                found.insert(0, {name: arrays[name] for name in names})
        return _end(found, count)

    def draws(self, kind: str, most: int) -> Mapping[str, np.ndarray]:
        return Stored([file for file, phase, _ in self._files if phase == "draws"], kind, most)

    def _save(self, name: str, arrays: Block) -> None:
        self._commit(name, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def _commit(self, name: str, write: Callable[[Any], Any]) -> None:
        try:
            write_whole(self.path / name, write)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OSError:
        kept = getattr(self, "done", {}).get("draws", 0)
        return OSError(
            error.errno,
            f"the draws cannot be written ({error.strerror or error}); {kept} draws of each chain "
            "are safe there, and the same call goes on from them once there is room",
            str(self.path),
        )


class Stored(Mapping[str, np.ndarray]):
    """{name: (chain, draw, ...)} read from the blocks of a folder each time it is asked for."""

    def __init__(self, files: list[Path], kind: str, most: int) -> None:
        self._files = [file.absolute() for file in files]  # found from another folder, too
        self._kind, self._most = f"{kind}/", most
        with np.load(files[0]) as arrays:
            self._names = [n.removeprefix(self._kind) for n in arrays if n.startswith(self._kind)]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return _joined(map(self._read, self._files, [name] * len(self._files)), self._most)

    def _read(self, file: Path, name: str) -> np.ndarray:
        with np.load(file) as arrays:
            return arrays[self._kind + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _count(block: Block) -> int:
    return len(next(iter(block.values())))


def _newest(blocks: list[Block], count: int) -> list[Block]:
    """The fewest of the last blocks that hold ``count`` transitions; all where they do not."""
    held = 0
    for number in reversed(range(len(blocks))):
        held += _count(blocks[number])
        if held >= count:
            return blocks[number:]
    return blocks


def _end(blocks: list[Block], count: int) -> Block:
    return {name: np.concatenate([block[name] for block in blocks])[-count:] for name in blocks[0]}


def _joined(parts: Any, most: int) -> np.ndarray:
    """(chain, draw, ...) of parts (draw, chain, ...)."""
    return np.moveaxis(np.concatenate(list(parts))[:most], 0, 1)


def _as_array(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _as_leaf(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    return jnp.asarray(array)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
