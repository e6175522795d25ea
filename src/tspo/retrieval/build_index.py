"""A corpus made into an index folder, in memory that does not grow with the corpus.

The passages are stored first, which checks all of them; then each retriever's part is made from what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tspo.datasets.corpus import Document
from tspo.errors import BadInput
from tspo.retrieval.bm25_writer import SETTINGS, write_bm25
from tspo.retrieval.index_folder import Contents, Report, no_report, write_index
from tspo.retrieval.stored_documents import DocumentWriter, StoredDocuments, chunks

if TYPE_CHECKING:
    from tspo.retrieval.encoder import TextEncoder

_BM25_LIBRARIES = ("bm25s", "numpy")
_DENSE_LIBRARIES = ("faiss-cpu", "numpy", "torch", "transformers")


class _WritePart(Protocol):
    """Writes one retriever's part of an index folder."""

    def __call__(self, folder: Path, documents: Sequence[Document], report: Report) -> None: ...


def build_bm25_index(corpus: Iterable[Document], folder: str | Path, report: Report = no_report) -> None:
    """Write an index of kind bm25; raises BadInput where the corpus is empty, and as `write_index`."""
    _build(corpus, folder, "bm25", SETTINGS, [write_bm25], _BM25_LIBRARIES, report)


def build_dense_index(
    corpus: Iterable[Document], folder: str | Path, encoder: TextEncoder, mode: str, report: Report = no_report
) -> None:
    """Write an index of kind dense, with vectors in one of vector_store.MODES; raises BadInput as its `build_store`."""
    from tspo.retrieval.dense import dense_settings, write_dense

    write = partial(write_dense, encoder=encoder, mode=mode)
    _build(corpus, folder, "dense", dense_settings(encoder, mode), [write], _DENSE_LIBRARIES, report)


def build_hybrid_index(
    corpus: Iterable[Document], folder: str | Path, encoder: TextEncoder, mode: str, report: Report = no_report
) -> None:
    """Write an index of kind hybrid: the parts of both of the others over the same passages."""
    from tspo.retrieval.dense import dense_settings, write_dense

    settings = {"bm25": SETTINGS, "dense": dense_settings(encoder, mode)}
    parts: list[_WritePart] = [write_bm25, partial(write_dense, encoder=encoder, mode=mode)]
    _build(corpus, folder, "hybrid", settings, parts, ("bm25s", *_DENSE_LIBRARIES), report)


def _build(
    corpus: Iterable[Document],
    folder: str | Path,
    kind: str,
    settings: dict[str, Any],
    parts: Sequence[_WritePart],
    libraries: Sequence[str],
    report: Report,
) -> None:
    def write(part: Path) -> Contents:
        with DocumentWriter(part) as writer:
            for chunk in chunks(corpus):
                writer.add(chunk)
                report("passages", len(writer), None)
        if not len(writer):
            raise BadInput("the corpus holds no documents; give at least one")
        documents = StoredDocuments(part, len(writer))
        for write_part in parts:
            write_part(part, documents, report)
        return Contents(len(writer), writer.sha256)

    write_index(folder, kind, settings, write, libraries=libraries, report=report)
