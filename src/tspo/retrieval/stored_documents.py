"""The passages of an index on disk: written as they come, read one at a time from a memory map."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tspo.datasets.corpus import Document
from tspo.retrieval.index_folder import broken_index
from tspo.retrieval.npy_writer import NpyWriter

_PASSAGES = "passages.jsonl"
_OFFSETS = "passages.offsets.npy"
_CHUNK_CHARACTERS = 1 << 23
_CHUNK_DOCUMENTS = 1 << 14


def chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in lists of bounded size."""
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.contents)
        if characters >= _CHUNK_CHARACTERS or len(chunk) >= _CHUNK_DOCUMENTS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


class DocumentWriter:
    """Writes passages to an index folder; its SHA-256 is that of all their lines."""

    def __init__(self, folder: Path) -> None:
        self._offsets = NpyWriter(folder / _OFFSETS, np.int64)
        self._offsets.append(np.zeros(1))
        self._stream = open(folder / _PASSAGES, "wb")  # noqa: SIM115 - closed by __exit__
        self._digest = hashlib.sha256()
        self._end = 0

    def __enter__(self) -> DocumentWriter:
        """Write in the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the files; they are whole if the block ended well."""
        self._stream.close()
        self._offsets.__exit__(kind, error, at)

    def __len__(self) -> int:
        """The number of passages so far."""
        return len(self._offsets) - 1

    @property
    def sha256(self) -> str:
        """The checksum of the lines so far, in hexadecimal."""
        return self._digest.hexdigest()

    def add(self, documents: Iterable[Document]) -> None:
        """Write some passages."""
        ends = []
        for document in documents:
            line = _encode(document)
            self._digest.update(line)
            self._stream.write(line)
            self._end += len(line)
            ends.append(self._end)
        self._offsets.append(np.array(ends, dtype=np.int64))


class StoredDocuments(Sequence[Document]):
    """The passages of an index folder in corpus order, memory-mapped."""

    def __init__(self, folder: Path, passages: int) -> None:
        """Open the files; raises BadInput where they do not hold `passages` passages."""
        self._path = folder / _PASSAGES
        try:
            self._offsets: NDArray[np.int64] = np.asarray(np.load(folder / _OFFSETS, mmap_mode="r"))
            with open(self._path, "rb") as stream:
                self._lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise broken_index(folder, str(error)) from None
        if self._offsets.shape != (passages + 1,) or self._offsets[-1] != len(self._lines):
            raise broken_index(folder, "its parts disagree on the number of passages")

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._offsets) - 1

    def __iter__(self) -> Iterator[Document]:
        """All passages in order."""
        # read, not mapped: a build goes through all of them, and a map would count as its memory
        with open(self._path, "rb") as stream:
            for line in stream:
                yield Document(**json.loads(line))

    @overload
    def __getitem__(self, position: int) -> Document: ...
    @overload
    def __getitem__(self, position: slice) -> list[Document]: ...
    def __getitem__(self, position: int | slice) -> Document | list[Document]:
        """One passage, or some of them."""
        if isinstance(position, slice):
            return [self[place] for place in range(*position.indices(len(self)))]
        if not 0 <= position < len(self):
            raise IndexError(f"there is no passage {position}")
        start, end = self._offsets[position : position + 2].tolist()
        return Document(**json.loads(self._lines[start:end]))


def _encode(document: Document) -> bytes:
    line = json.dumps({"id": document.id, "contents": document.contents}, ensure_ascii=False)
    # JSON may escape half a surrogate pair; json.loads reads it back from these bytes
    return line.encode("utf-8", "surrogatepass") + b"\n"
