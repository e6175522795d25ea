"""A `.npy` file written row by row, whose length is known only at its end."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike, NDArray


class NpyWriter:
    """Appends rows; `numpy.load`, memory-mapped or not, reads the file once it is closed."""

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._rows = 0
        self._stream = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._write_header()

    def __enter__(self) -> NpyWriter:
        """Write in the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file; it is whole if the block ended well."""
        try:
            if error is None:
                self._stream.seek(0)
                self._write_header()
        finally:
            self._stream.close()

    def __len__(self) -> int:
        """The number of rows so far."""
        return self._rows

    def append(self, rows: NDArray[np.generic]) -> None:
        """Add `rows`, (N, *row_shape), converted to the file's dtype."""
        if rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} do not go with {self._row_shape}")
        self._stream.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self._rows += len(rows)

    def _write_header(self) -> None:
        # NumPy pads headers so that they keep their size whatever the first axis grows to
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._stream, header)
