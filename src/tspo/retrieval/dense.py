"""Search by meaning: passages whose vector is near the query's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tspo.datasets.corpus import Document
from tspo.errors import BadInput
from tspo.retrieval.base import Passage, check_top_k
from tspo.retrieval.encoder import EncoderSettings, TextEncoder
from tspo.retrieval.index_folder import Report, broken_index, no_report, read_manifest
from tspo.retrieval.npy_writer import NpyWriter
from tspo.retrieval.stored_documents import StoredDocuments
from tspo.retrieval.vector_store import VectorStore, build_store, check_mode, open_store, vectors_file

_PROBE = "encoder.probe.npy"
_PROBE_TEXT = "Paris is the capital of France."
_PROBE_LIKENESS = 0.995  # leaves room for other hardware and half precision; another model is far away
_ENCODED_AT_ONCE = 1024


class DenseRetriever:
    """Nearest passages by inner product of vectors of length one; blank queries find nothing."""

    def __init__(self, store: VectorStore, encoder: TextEncoder, documents: Sequence[Document]) -> None:
        self._store = store
        self._encoder = encoder
        self._documents = documents

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._documents)

    @classmethod
    def load(cls, folder: str | Path, encoder: str | None = None) -> DenseRetriever:
        """Open an index folder of kind dense, memory-mapped; see `open`."""
        folder = Path(folder)
        manifest = read_manifest(folder, "dense")
        return cls.open(folder, manifest.settings, StoredDocuments(folder, manifest.passages), encoder)

    @classmethod
    def open(cls, folder: Path, settings: Any, documents: StoredDocuments, encoder: str | None) -> DenseRetriever:
        """The dense part of an index folder; `encoder` is where its model lies now, if it has moved.

        Raises BadInput where the index is damaged, or the encoder is not the one it was made with.
        """
        try:
            mode = settings["mode"]
            encoder_settings = EncoderSettings(**{**settings["encoder"], **({"model": encoder} if encoder else {})})
            probe = np.load(folder / _PROBE)
            check_mode(mode)
        except (OSError, ValueError, KeyError, TypeError, BadInput) as error:
            raise broken_index(folder, str(error)) from None
        store = open_store(folder, mode)
        if store.size != len(documents) or probe.shape != (store.dimensions,):
            raise broken_index(folder, "its parts disagree on the number of passages")
        text_encoder = TextEncoder(encoder_settings)
        if text_encoder.dimensions != store.dimensions or _probe(text_encoder) @ probe < _PROBE_LIKENESS:
            raise BadInput(
                f"{folder}: made with another encoder than {encoder_settings.model!r} is now; "
                "name that encoder, or build the index again"
            )
        return cls(store, text_encoder, documents)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query its `top_k` nearest passages, best first; none for a query without text."""
        check_top_k(top_k)
        found: list[list[Passage]] = [[] for _ in queries]
        asked = [number for number, query in enumerate(queries) if query.strip()]
        if not asked:
            return found
        scores, places = self._store.search(self._encoder.encode_queries([queries[n] for n in asked]), top_k)
        for number, row_scores, row_places in zip(asked, scores.tolist(), places.tolist(), strict=True):
            for score, place in zip(row_scores, row_places, strict=True):
                if place >= 0:
                    document = self._documents[place]
                    found[number].append(Passage(document.id, document.contents, score))
        return found


def dense_settings(encoder: TextEncoder, mode: str) -> dict[str, Any]:
    """What the manifest says of a dense part; raises BadInput for an unknown mode."""
    check_mode(mode)
    return {"mode": mode, "dimensions": encoder.dimensions, "encoder": asdict(encoder.settings)}


def write_dense(
    folder: Path, documents: Sequence[Document], report: Report = no_report, *, encoder: TextEncoder, mode: str
) -> None:
    """Encode `documents`, which are read once and in order, into `folder`; raises BadInput as `build_store`."""
    check_mode(mode, len(documents))
    np.save(folder / _PROBE, _probe(encoder))
    with NpyWriter(vectors_file(folder), np.float32, (encoder.dimensions,)) as vectors:
        for texts in _batches(documents):
            vectors.append(encoder.encode_passages(texts))
            report("embedding", len(vectors), len(documents))
    build_store(folder, mode, report)


def _probe(encoder: TextEncoder) -> Any:
    return encoder.encode_passages([_PROBE_TEXT])[0]


def _batches(documents: Sequence[Document]) -> Iterator[list[str]]:
    texts = (document.contents for document in documents)
    return iter(lambda: list(islice(texts, _ENCODED_AT_ONCE)), [])
