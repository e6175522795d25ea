"""BM25 over a corpus, in memory or memory-mapped from an index folder.

An index folder appears whole or not at all: it is written beside its place, its manifest last, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN
from numpy.typing import NDArray

from tspo.datasets.corpus import Document, read_corpus
from tspo.errors import BadInput
from tspo.retrieval.base import Passage

# bm25s asks for every debug message, whatever the program's own logging says
logging.getLogger("bm25s").setLevel(logging.WARNING)

FORMAT = "tspo-bm25"
FORMAT_VERSION = 1
# Lucene's BM25. One-character tokens count: initials and numbers tell titles apart.
SETTINGS = {
    "method": "lucene",
    "k1": 1.2,
    "b": 0.75,
    "token_pattern": r"(?u)\b\w+\b",
    "stop_words": list(STOPWORDS_EN),
}

_MANIFEST = "manifest.json"
_PASSAGES = "passages.jsonl"
_OFFSETS = "passages.offsets.npy"


class BM25Retriever:
    """Lexical search: the same corpus and queries give the same passages, ties in corpus order."""

    def __init__(self, index: bm25s.BM25, documents: Sequence[Document] | _StoredDocuments) -> None:
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
        index = bm25s.BM25(method=SETTINGS["method"], k1=SETTINGS["k1"], b=SETTINGS["b"], backend="numpy")
        tokens = _tokenize([document.contents for document in documents], return_ids=True)
        with np.errstate(invalid="ignore"):  # where no document has any token, the mean length divides 0 by 0
            index.index(tokens, create_empty_token=False, show_progress=False)
        return cls(index, documents)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query at most `top_k` passages that share a token with it, best first."""
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1")
        return [self._search_one(tokens, top_k) for tokens in _tokenize(queries, return_ids=False)]

    def save(self, folder: str | Path) -> None:
        """Write the index folder; an index that stands there already is replaced.

        Raises BadInput where the folder holds anything else or cannot be written.
        """
        folder = Path(folder)
        try:
            part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            try:
                self._write(part)
                _put_in_place(part, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        except OSError as error:
            raise BadInput(
                f"{folder}: index not written ({error.strerror}); free some space or choose another place"
            ) from None

    @classmethod
    def load(cls, folder: str | Path) -> BM25Retriever:
        """Open an index folder, memory-mapped; raises BadInput where it is not whole."""
        folder = Path(folder)
        manifest = _read_manifest(folder)
        try:
            index = bm25s.BM25.load(folder, mmap=True, backend="numpy")
            # plain views of the mapped arrays: np.memmap pays at every slice
            for name in ("data", "indices", "indptr"):
                index.scores[name] = np.asarray(index.scores[name])
            documents = _StoredDocuments(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _broken(folder, str(error)) from None
        if not len(documents) == index.scores["num_docs"] == manifest.get("passages"):
            raise _broken(folder, "its parts disagree on the number of passages")
        return cls(index, documents)

    def _search_one(self, tokens: list[str], top_k: int) -> list[Passage]:
        token_ids = self._index.get_tokens_ids(tokens)
        if not token_ids:
            return []
        scores: NDArray[np.float32] = self._index.get_scores_from_ids(token_ids)
        found = np.flatnonzero(scores)
        if len(found) > top_k:
            # everything that ties with the last place stays, so that the stable sort decides by corpus order
            found = found[scores[found] >= np.partition(scores[found], -top_k)[-top_k]]
        ranked = found[np.argsort(-scores[found], kind="stable")][:top_k]
        passages = []
        for position in ranked.tolist():
            document = self._documents[position]
            passages.append(Passage(document.id, document.contents, float(scores[position])))
        return passages

    def _write(self, folder: Path) -> None:
        self._index.save(folder, show_progress=False)
        digest = hashlib.sha256()
        offsets = [0]
        with open(folder / _PASSAGES, "wb") as stream:
            for position in range(len(self._documents)):
                document = self._documents[position]
                line = _encode(document)
                digest.update(line)
                stream.write(line)
                offsets.append(offsets[-1] + len(line))
        np.save(folder / _OFFSETS, np.array(offsets, dtype=np.int64))
        files = sorted(folder.iterdir())
        for path in files:
            _sync(path)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "passages": len(self._documents),
            "settings": SETTINGS,
            "corpus_sha256": digest.hexdigest(),
            "library": f"bm25s {bm25s.__version__}",
            "files": {path.name: path.stat().st_size for path in files},
        }
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _sync(folder / _MANIFEST)


def cached_bm25(corpus_path: str | Path, cache_dir: str | Path) -> BM25Retriever:
    """The retriever over a corpus file: built once, loaded from `cache_dir` ever after.

    The index is found by the file's checksum, the settings and the library's version. Processes that ask
    at the same time wait for the one that builds. Raises BadInput as `read_corpus` and `save` do.
    """
    folder = Path(cache_dir) / f"bm25-{_cache_key(corpus_path)}"
    if (retriever := _load_if_whole(folder)) is not None:
        return retriever
    with _one_at_a_time(folder.with_suffix(".lock")) as alone:
        if (retriever := _load_if_whole(folder)) is not None:
            return retriever
        if alone:  # then what is half-written was left by a process that was killed
            for part in folder.parent.glob(f".{folder.name}.*"):
                shutil.rmtree(part, ignore_errors=True)
        BM25Retriever.build(read_corpus(corpus_path)).save(folder)
        return BM25Retriever.load(folder)


class _StoredDocuments:
    """Documents read one at a time from a memory-mapped index folder."""

    def __init__(self, folder: Path) -> None:
        self._offsets: NDArray[np.int64] = np.asarray(np.load(folder / _OFFSETS, mmap_mode="r"))
        with open(folder / _PASSAGES, "rb") as stream:
            self._lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: int) -> Document:
        start, end = self._offsets[position : position + 2].tolist()
        return Document(**json.loads(self._lines[start:end]))


def _load_if_whole(folder: Path) -> BM25Retriever | None:
    try:
        return BM25Retriever.load(folder)
    except BadInput:
        return None


def _tokenize(texts: Sequence[str], return_ids: bool) -> Any:
    """Each text's tokens: as words, or as bm25s's ids with their vocabulary."""
    return bm25s.tokenize(
        list(texts),
        token_pattern=SETTINGS["token_pattern"],
        stopwords=SETTINGS["stop_words"],
        return_ids=return_ids,
        show_progress=False,
    )


def _encode(document: Document) -> bytes:
    line = json.dumps({"id": document.id, "contents": document.contents}, ensure_ascii=False)
    # JSON may escape half a surrogate pair; json.loads reads it back from these bytes
    return line.encode("utf-8", "surrogatepass") + b"\n"


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        expected = (FORMAT, FORMAT_VERSION, SETTINGS, sizes)
        found = tuple(manifest[name] for name in ("format", "format_version", "settings", "files"))
    except OSError as error:
        raise _broken(folder, f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(folder, f"{_MANIFEST} cannot be read: {error!r}") from None
    if found[:3] != expected[:3]:
        raise _broken(folder, "made by another version of tspo")
    if found != expected or not sizes:
        raise _broken(folder, "a file was cut short or changed")
    return dict(manifest)


def _broken(folder: Path, why: str) -> BadInput:
    return BadInput(
        f"{folder}: not a whole BM25 index ({why}); "
        f"build it again with BM25Retriever.build(read_corpus(CORPUS)).save({str(folder)!r})"
    )


def _put_in_place(part: Path, folder: Path) -> None:
    """Rename `part` to `folder`, moving an older index out of the way."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(part, 0o777 & ~umask)  # mkdtemp makes folders for the owner alone
    if folder.is_dir():
        foreign = {path.name for path in folder.iterdir()} - {path.name for path in part.iterdir()}
        if foreign:
            raise BadInput(f"{folder}: holds other files ({min(foreign)}); choose another folder")
        old = part.with_name(f"{part.name}.old")
        os.rename(folder, old)
        os.rename(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(part, folder)


def _sync(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[bool]:
    """Hold a lock file, which the system releases if the process dies; False where there are no locks.

    Without locks each process builds, and the last one's index stays.
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
            alone = True
        except (ImportError, OSError):
            alone = False
        yield alone


def _cache_key(corpus_path: str | Path) -> str:
    try:
        with open(corpus_path, "rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise BadInput(f"{corpus_path}: cannot be read ({error.strerror}); give a corpus in JSON Lines") from None
    checksum.update(json.dumps([FORMAT_VERSION, SETTINGS, bm25s.__version__]).encode())
    return checksum.hexdigest()[:24]
