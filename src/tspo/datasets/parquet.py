"""Rows of Parquet files, a few in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tspo.errors import BadInput

_ROWS = 1024
_BUFFER = 1 << 20  # bytes of a column that are read at a time


def is_parquet(path: str | Path) -> bool:
    """Whether a file's name says that it is Parquet."""
    return Path(path).suffix == ".parquet"


def read_rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's place ("file, row n", from 0) and those of `columns` that the file has.

    Raises BadInput where the file cannot be read or is damaged, or pyarrow is not installed.
    """
    with _opened(path) as table:
        present = [name for name in columns if name in table.schema_arrow.names]
        index = 0
        for batch in table.iter_batches(batch_size=_ROWS, columns=present):
            for row in batch.to_pylist():
                yield f"{path}, row {index}", row
                index += 1


def count_rows(path: str | Path) -> int:
    """The number of rows; raises BadInput as `read_rows`."""
    with _opened(path) as table:
        return int(table.metadata.num_rows)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError:
        raise BadInput(f"{path}: Parquet needs pyarrow; install it with: pip install 'tspo[train]'") from None
    try:
        # opened by Python, so that a folder is an error and not a data set of many files
        with (
            open(path, "rb") as stream,
            parquet.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False) as table,
        ):
            yield table
    except pyarrow.ArrowException as error:
        raise BadInput(f"{path}: not a whole Parquet file ({error}); fetch or write it again") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error}); give a Parquet file") from None
