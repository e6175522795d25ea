"""An index folder of any kind as the retriever that it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tspo.errors import BadInput
from tspo.retrieval.base import Retriever
from tspo.retrieval.index_folder import broken_index, read_manifest
from tspo.retrieval.stored_documents import StoredDocuments

DENSE_PACKAGES = {"faiss": "faiss-cpu", "torch": "torch", "transformers": "transformers"}


def open_index(
    folder: str | Path, *, encoder: str | None = None, reranker: str | None = None, checksums: bool = False
) -> Retriever:
    """The retriever over an index folder, memory-mapped.

    `encoder` is where the encoder lies now, if it has moved; `reranker` is a cross-encoder that orders what is
    found; `checksums` reads every file and compares. Raises BadInput where the index is not whole, or a
    model or a library is missing.
    """
    retriever = _open(Path(folder), encoder, checksums)
    if reranker is None:
        return retriever
    require_dense()
    from tspo.retrieval.rerank import CrossEncoder, RerankedRetriever

    return RerankedRetriever(retriever, CrossEncoder(reranker))


def require_dense() -> None:
    """Raise BadInput where a library is missing that dense retrieval needs."""
    for module, package in DENSE_PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise BadInput(f"dense retrieval needs {package}; pip install 'tspo[dense]'")


def _open(folder: Path, encoder: str | None, checksums: bool) -> Retriever:
    manifest = read_manifest(folder, checksums=checksums)
    documents = StoredDocuments(folder, manifest.passages)
    if manifest.kind == "bm25":
        from tspo.retrieval.bm25 import BM25Retriever

        return BM25Retriever.open(folder, manifest.settings, documents)
    if manifest.kind not in ("dense", "hybrid"):
        raise broken_index(folder, f"its kind {manifest.kind!r} is not known")
    require_dense()
    from tspo.retrieval.dense import DenseRetriever

    if manifest.kind == "dense":
        return DenseRetriever.open(folder, manifest.settings, documents, encoder)
    from tspo.retrieval.bm25 import BM25Retriever
    from tspo.retrieval.hybrid import HybridRetriever

    settings = manifest.settings
    return HybridRetriever(
        [
            BM25Retriever.open(folder, settings.get("bm25"), documents),
            DenseRetriever.open(folder, settings.get("dense"), documents, encoder),
        ]
    )
