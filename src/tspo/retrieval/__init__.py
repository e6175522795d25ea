"""Searching a corpus: one protocol, and the retrievers that speak it."""

from __future__ import annotations

from pathlib import Path

from tspo.errors import BadInput
from tspo.retrieval.base import Passage, Retriever, RetrieverError

__all__ = ["RETRIEVERS", "Passage", "Retriever", "RetrieverError", "open_retriever"]

RETRIEVERS = ("bm25",)


def open_retriever(kind: str, source: str | Path, cache_dir: str | Path) -> Retriever:
    """The retriever named `kind` over `source`: a saved index folder, or a corpus file.

    The index of a corpus file is built once and kept in `cache_dir`. Raises BadInput for an unknown
    `kind` and for a source that cannot be used.
    """
    if kind == "bm25":
        from tspo.retrieval.bm25 import BM25Retriever, cached_bm25

        return BM25Retriever.load(source) if Path(source).is_dir() else cached_bm25(source, cache_dir)
    raise BadInput(f"retriever {kind!r} is not known; choose one of: {', '.join(RETRIEVERS)}")
