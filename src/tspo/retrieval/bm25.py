"""BM25 over a corpus, in memory or memory-mapped from an index folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tspo.datasets.corpus import Document, read_corpus
from tspo.errors import BadInput
from tspo.retrieval.base import Passage, check_top_k
from tspo.retrieval.bm25_ranking import best_passages
from tspo.retrieval.bm25_writer import SETTINGS, empty_index, tokenize
from tspo.retrieval.build_index import build_bm25_index
from tspo.retrieval.index_folder import FORMAT, FORMAT_VERSION, broken_index, read_manifest
from tspo.retrieval.plain_bm25s import bm25s
from tspo.retrieval.stored_documents import StoredDocuments

__all__ = ["SETTINGS", "BM25Retriever", "cached_bm25"]


class BM25Retriever:
    """Lexical search: the same corpus and queries give the same passages, ties in corpus order."""

    def __init__(self, index: bm25s.BM25, documents: Sequence[Document]) -> None:
        self._index = index
        self._documents = documents

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._documents)

    @classmethod
    def build(cls, corpus: Iterable[Document]) -> BM25Retriever:
        """Index a corpus in memory; raises BadInput where it is empty."""
        documents = list(corpus)
        if not documents:
            raise BadInput("the corpus holds no documents; give at least one")
        index = empty_index()
        tokens = tokenize([document.contents for document in documents], return_ids=True)
        with np.errstate(invalid="ignore"):  # where no document has any token, the mean length divides 0 by 0
            index.index(tokens, create_empty_token=False, show_progress=False)
        return cls(index, documents)

    @classmethod
    def load(cls, folder: str | Path) -> BM25Retriever:
        """Open an index folder of kind bm25, memory-mapped; raises BadInput where it is not whole."""
        folder = Path(folder)
        manifest = read_manifest(folder, "bm25")
        return cls.open(folder, manifest.settings, StoredDocuments(folder, manifest.passages))

    @classmethod
    def open(cls, folder: Path, settings: Any, documents: StoredDocuments) -> BM25Retriever:
        """The BM25 part of an index folder; raises BadInput where it was made with other settings or is damaged."""
        if settings != SETTINGS:
            raise broken_index(folder, "made by another version of tspo")
        try:
            index = bm25s.BM25.load(folder, mmap=True, backend="numpy")
            # plain views of the mapped arrays: np.memmap pays at every slice
            for name in ("data", "indices", "indptr"):
                index.scores[name] = np.asarray(index.scores[name])
            postings = int(index.scores["indptr"][-1])
            lengths = [len(index.scores[name]) for name in ("data", "indices")]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise broken_index(folder, str(error)) from None
        if index.scores["num_docs"] != len(documents) or lengths != [postings, postings]:
            raise broken_index(folder, "its parts disagree on the number of passages")
        return cls(index, documents)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query at most `top_k` passages that share a token with it, best first."""
        check_top_k(top_k)
        return [self._search_one(tokens, top_k) for tokens in tokenize(queries, return_ids=False)]

    def _search_one(self, tokens: list[str], top_k: int) -> list[Passage]:
        token_ids = self._index.get_tokens_ids(tokens)
        places, scores = best_passages(self._index.scores, np.asarray(token_ids, dtype=np.int64), top_k)
        passages = []
        for place, score in zip(places.tolist(), scores.tolist(), strict=True):
            document = self._documents[place]
            passages.append(Passage(document.id, document.contents, score))
        return passages


def cached_bm25(corpus_path: str | Path, cache_dir: str | Path) -> BM25Retriever:
    """The retriever over a corpus file: built once, loaded from `cache_dir` ever after.

    The index is found by the file's checksum, the settings and the library's version. Processes that ask
    at the same time wait for the one that builds. Raises BadInput as `read_corpus` and `build_bm25_index` do.
    """
    folder = Path(cache_dir) / f"bm25-{_cache_key(corpus_path)}"
    if (retriever := _load_if_whole(folder)) is not None:
        return retriever
    with _one_at_a_time(folder.with_suffix(".lock")):
        if (retriever := _load_if_whole(folder)) is not None:
            return retriever
        if folder.exists():  # damaged, and nobody else's
            shutil.rmtree(folder, ignore_errors=True)
        build_bm25_index(read_corpus(corpus_path), folder)
        return BM25Retriever.load(folder)


def _load_if_whole(folder: Path) -> BM25Retriever | None:
    try:
        return BM25Retriever.load(folder)
    except BadInput:
        return None


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a lock file, which the system releases if the process dies.

    Where there are no locks each process builds, and the last one's index stays.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise BadInput(f"{lock.parent}: cannot keep an index here ({error.strerror}); choose another folder") from None
    with open(lock, "rb") as stream:
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield


def _cache_key(corpus_path: str | Path) -> str:
    try:
        with open(corpus_path, "rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise BadInput(f"{corpus_path}: cannot be read ({error.strerror}); give a corpus in JSON Lines") from None
    checksum.update(json.dumps([FORMAT, FORMAT_VERSION, SETTINGS, bm25s.__version__]).encode())
    return checksum.hexdigest()[:24]
