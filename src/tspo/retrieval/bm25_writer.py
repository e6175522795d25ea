"""BM25 built in bounded memory, into the files that bm25s searches.

The postings, one a document and distinct token, are an external sort: chunks of the corpus are sorted by token
and written as runs, then merged a range of tokens at a time. Memory holds the vocabulary, four bytes a document
and a token, one chunk and one range; the disk holds 12 bytes a posting besides the index while it is built.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspo.datasets.corpus import Document
from tspo.retrieval.index_folder import Report, no_report
from tspo.retrieval.npy_writer import NpyWriter
from tspo.retrieval.plain_bm25s import STOPWORDS_EN, bm25s
from tspo.retrieval.stored_documents import chunks
from tspo.scripts import ANALYSIS, in_pairs, word_pattern

# bm25s asks for every debug message, whatever the program's own logging says
logging.getLogger("bm25s").setLevel(logging.WARNING)

# Lucene's BM25. One-character tokens count: initials and numbers tell titles apart.
SETTINGS: dict[str, Any] = {
    "method": "lucene",
    "k1": 1.2,
    "b": 0.75,
    "analysis": ANALYSIS,
    "stop_words": list(STOPWORDS_EN),
}

_RANGE = 1 << 22  # postings merged at a time
_STRIDE = 1 << 12
_DOCUMENT_BITS = (1 << 32) - 1  # a posting's key is token << 32 | document

_Postings = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Keys, and how often the document has the token."""


def tokenize(texts: Sequence[str], return_ids: bool) -> Any:
    """Each text's tokens: as words, or as bm25s's ids with their vocabulary."""
    return bm25s.tokenize(
        [in_pairs(text) for text in texts],
        token_pattern=word_pattern(),
        stopwords=SETTINGS["stop_words"],
        return_ids=return_ids,
        show_progress=False,
    )


def empty_index() -> bm25s.BM25:
    """A bm25s index with our settings and nothing in it."""
    return bm25s.BM25(method=SETTINGS["method"], k1=SETTINGS["k1"], b=SETTINGS["b"], backend="numpy")


def write_bm25(folder: Path, documents: Sequence[Document], report: Report = no_report) -> None:
    """Index `documents`, which are read once and in order, into `folder`."""
    vocabulary: dict[str, int] = {}
    having: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # documents that have the token, (tokens,)
    lengths: NDArray[np.int32] = np.zeros(len(documents), dtype=np.int32)  # tokens of the document
    runs = _Runs(folder)
    done = 0
    for chunk in chunks(documents):
        ids, lengths[done : done + len(chunk)] = _token_ids(chunk, vocabulary)
        places = np.repeat(np.arange(done, done + len(chunk)), lengths[done : done + len(chunk)])
        keys, counts = np.unique(ids << 32 | places, return_counts=True)
        runs.append(keys, counts.astype(np.int32))
        so_far, having = having, np.bincount(keys >> 32, minlength=len(vocabulary))
        having[: len(so_far)] += so_far
        done += len(chunk)
        report("tokens", done, len(documents))

    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(having)])
    stub, nothing = empty_index(), np.zeros(0, dtype=np.float32)
    stub.scores = {"data": nothing, "indices": nothing, "indptr": starts, "num_docs": len(documents)}
    stub.vocab_dict, stub.nonoccurrence_array = vocabulary, None
    stub.save(folder, show_progress=False)  # all but the two large arrays, which follow
    idf = np.log(1 + (len(documents) - having + 0.5) / (having + 0.5)).astype(np.float32)
    mean_length = float(lengths.mean())
    with (
        NpyWriter(folder / "data.csc.index.npy", np.float32) as data,
        NpyWriter(folder / "indices.csc.index.npy", np.int32) as indices,
    ):
        for keys, counts in runs.merged(starts):
            places = keys & _DOCUMENT_BITS
            data.append(idf[keys >> 32] * _saturated(counts, lengths[places], mean_length))
            indices.append(places)
            report("sorting", len(data), int(starts[-1]))
    runs.remove()


def _token_ids(
    documents: Sequence[Document], vocabulary: dict[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The tokens of all documents in a row, and each document's number of them; new tokens get the next ids."""
    found = tokenize([document.contents for document in documents], return_ids=True)
    lengths = np.array([len(tokens) for tokens in found.ids], dtype=np.int32)
    flat = np.fromiter(chain.from_iterable(found.ids), np.int64, int(lengths.sum()))
    ids = np.array([vocabulary.setdefault(token, len(vocabulary)) for token in found.vocab], dtype=np.int64)
    return ids[flat], lengths


class _Runs:
    """Sorted runs of postings on disk."""

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / "keys.tmp", folder / "counts.tmp")
        self._ends = [0]
        self._landmarks: list[NDArray[np.int64]] = []  # every so many keys of each run

    def append(self, keys: NDArray[np.int64], counts: NDArray[np.int32]) -> None:
        """Write one run; `keys` are sorted."""
        keys_path, counts_path = self._paths
        with open(keys_path, "ab") as stream:
            stream.write(keys.data)
        with open(counts_path, "ab") as stream:
            stream.write(counts.data)
        self._ends.append(self._ends[-1] + len(keys))
        self._landmarks.append(keys[::_STRIDE].copy())

    def merged(self, starts: NDArray[np.int64]) -> Iterator[_Postings]:
        """All postings by token, then document, in blocks; those of token t are starts[t] to starts[t + 1]."""
        read_to = self._ends[:-1]
        first = 0
        while first < len(starts) - 1:
            end = max(first + 1, int(np.searchsorted(starts, starts[first] + _RANGE, side="right")) - 1)
            cuts = [self._first_of(end, run) for run in range(len(read_to))]
            blocks = (self._read(start, cut) for start, cut in zip(read_to, cuts, strict=True) if cut > start)
            if end == first + 1:  # one token: in order already, however many documents have it
                yield from blocks
            else:
                parts = list(blocks)
                merged_keys, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
                order = np.argsort(merged_keys, kind="stable")
                yield merged_keys[order], counts[order]
            first, read_to = end, cuts

    def remove(self) -> None:
        """Remove the files."""
        for path in self._paths:
            path.unlink()

    def _first_of(self, token: int, run: int) -> int:
        """Where the postings of `token`, or what follows them, begin in a run."""
        # one block is read: a memory map of all keys would, block by block, become as large as the file
        key = np.int64(token << 32)
        block = max(int(np.searchsorted(self._landmarks[run], key)) - 1, 0)
        start = self._ends[run] + block * _STRIDE
        keys, _ = self._read(start, min(start + _STRIDE, self._ends[run + 1]))
        return start + int(np.searchsorted(keys, key))

    def _read(self, start: int, stop: int) -> _Postings:
        keys, counts = self._paths
        return (
            np.fromfile(keys, np.int64, stop - start, offset=8 * start),
            np.fromfile(counts, np.int32, stop - start, offset=4 * start),
        )


def _saturated(counts: NDArray[np.int32], lengths: NDArray[np.int32], mean_length: float) -> NDArray[np.float64]:
    """BM25's share of a token's idf that a document earns, in [0, 1); as bm25s computes it."""
    k1, b = SETTINGS["k1"], SETTINGS["b"]
    share: NDArray[np.float64] = counts / (k1 * ((1 - b) + b * lengths / mean_length) + counts)
    return share
