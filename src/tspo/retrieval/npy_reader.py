"""Rows of a `.npy` file, read when they are asked for: the pages of a memory map would count as memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NpyReader:
    """The rows of a two-dimensional file; one thread may use it at a time."""

    def __init__(self, path: Path) -> None:
        """Open it; raises OSError and ValueError where it is not such a file, or is cut short."""
        mapped = np.load(path, mmap_mode="r")
        if mapped.ndim != 2 or not mapped.flags.c_contiguous:
            raise ValueError("its vectors are not what they should be")
        self.shape: tuple[int, int] = mapped.shape
        self.dtype: np.dtype[Any] = mapped.dtype
        self._first = mapped.offset
        self._row = self.dtype.itemsize * self.shape[1]
        self._stream = open(path, "rb", buffering=0)  # noqa: SIM115 - open as long as the store is

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`, fewer at the end of the file."""
        rows = np.empty((max(min(stop, self.shape[0]) - start, 0), self.shape[1]), dtype=self.dtype)
        self._fill(start, rows)
        return rows

    def take(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at `places`, (places, columns)."""
        rows = np.empty((len(places), self.shape[1]), dtype=self.dtype)
        for number, place in enumerate(places.tolist()):
            self._fill(place, rows[number])
        return rows

    def _fill(self, start: int, rows: NDArray[Any]) -> None:
        self._stream.seek(self._first + start * self._row)
        if self._stream.readinto(rows.data) != rows.nbytes:
            raise OSError("a file of vectors has become shorter")
