"""Data on disk: rows that are read block by block and never held whole."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

CELLS = 2**18  # numbers in a block, 2 MB in float64
SHORTEST = 4096  # rows


class Blocks:
    """Rows on disk, in place of an array among the arguments of a program.

    source : an array that is read by slices (numpy.memmap, zarr, h5py), or an iterable of arrays or
        tables that can be started again (a list, an object with ``__iter__``); (N,) or (N, D).

    Statistics are taken block by block, so that no more than two blocks are ever held: one in use
    and the next being read. ``shape`` and ``dtype`` are those of the whole; asking an iterable for
    them reads it once. Raises ValueError for a generator, for pieces that do not fit together, and
    for values that are missing or infinite, naming the row.
    """

    def __init__(self, source: Any) -> None:
        self._sliced = hasattr(source, "shape") and hasattr(source, "__getitem__")
        if not self._sliced and (not hasattr(source, "__iter__") or iter(source) is source):
            raise ValueError(
                "Blocks needs data that can be read more than once: an array that is read by "
                "slices, or an iterable that can be started again; a generator cannot"
            )
        self.source = source

    @cached_property
    def shape(self) -> tuple[int, ...]:
        if self._sliced:
            shape = tuple(self.source.shape)
        else:
            shapes = [piece.shape for piece in self._pieces()]
            if not shapes:
                raise ValueError("Blocks has no rows: its source is empty")
            if len({shape[1:] for shape in shapes}) > 1:
                raise ValueError(f"the pieces of Blocks differ in their columns: {set(shapes)}")
            shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if len(shape) not in (1, 2) or 0 in shape:
            raise ValueError(f"Blocks must hold rows of shape (N,) or (N, D), not {shape}")
        return shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @cached_property
    def dtype(self) -> np.dtype:
        """float64, or the integer or boolean type of the source."""
        kind = np.asarray(next(self._pieces())[:1]).dtype
        if kind.kind not in "biuf":
            raise ValueError(f"Blocks holds {kind}, which is not a number")
        return np.dtype(np.float64) if kind.kind == "f" else kind

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Blocks({' x '.join(map(str, self.shape))})"

    @property
    def size(self) -> int:
        """Rows in a block."""
        return max(SHORTEST, CELLS // (self.shape[1] if self.ndim == 2 else 1))

    def held(self) -> Any:
        """The rows as one array where they are no more than a block, else these Blocks."""
        return next(iter(self)) if len(self) <= self.size else self

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of ``size`` rows, the last one shorter; the next is read while one is in use."""
        with ThreadPoolExecutor(1) as reader:
            blocks = self._blocks()
            coming = reader.submit(next, blocks, None)
            while (block := coming.result()) is not None:
                coming = reader.submit(next, blocks, None)
                yield block

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Some of the rows by number, in one pass."""
        rows = np.asarray(rows)
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        start = 0
        for block in self:
            here = (start <= rows) & (rows < start + len(block))
            found[here] = block[rows[here] - start]
            start += len(block)
        return found

    def _blocks(self) -> Iterator[np.ndarray]:
        held: list[np.ndarray] = []
        for piece in self._pieces():
            while len(piece):
                room = self.size - sum(map(len, held))
                held.append(piece[:room])
                piece = piece[room:]
                if sum(map(len, held)) == self.size:
                    yield np.concatenate(held)
                    held = []
        if held:
            yield np.concatenate(held)

    def _pieces(self) -> Iterator[np.ndarray]:
        """The source's rows in order, in pieces of any size."""
        if not self._sliced:
            yield from map(_plain, self.source)
            return
        step = max(SHORTEST, CELLS // int(np.prod(self.source.shape[1:])))
        for start in range(0, self.source.shape[0], step):
            yield _plain(self.source[start : start + step])


def _plain(piece: Any) -> np.ndarray:
    """Rows as an array in memory: float64, or whole numbers as they are."""
    piece = np.asarray(piece)
    return np.array(piece, np.float64 if piece.dtype.kind == "f" else piece.dtype)
