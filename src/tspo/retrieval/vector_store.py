"""Vectors that are searched for the largest inner product, exactly or nearly so, memory-mapped from a folder.

faiss and not usearch: it has all of the modes, and maps each of them. What a vector of D numbers takes:

exact   4 D bytes; every vector is compared
int8    D bytes; every vector is compared, each number rounded to 8 bits
hnsw    D + 140 bytes; a graph over the rounded vectors is walked
ivf-pq  D / 4 bytes are searched, in the lists nearest to the query; the best are compared again with what
        is on disk, 2 D bytes, of which only those few are read
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tspo.errors import BadInput
from tspo.retrieval.index_folder import Report, broken_index, no_report
from tspo.retrieval.npy_reader import NpyReader
from tspo.retrieval.npy_writer import NpyWriter

MODES = ("exact", "int8", "hnsw", "ivf-pq")

_VECTORS = "vectors.npy"
_INDEX = "vectors.faiss"
_CHUNK = 1 << 14
_SAMPLE = 1 << 17  # vectors to learn from
_LEAST_FOR_IVF = 10_000  # 256 centroids a number need about 39 vectors each

_HNSW_NEIGHBOURS = 16
_HNSW_BUILD_WIDTH = 100
_HNSW_SEARCH_WIDTH = 256
_LISTS_SEARCHED = 128
_COMPARED_AGAIN = 100

_Found = tuple[NDArray[np.float32], NDArray[np.int64]]


class VectorStore:
    """Vectors of an index folder."""

    def __init__(self, size: int, dimensions: int, search: Callable[[NDArray[np.float32], int], _Found]) -> None:
        self.size = size
        self.dimensions = dimensions
        self._search = search

    def search(self, queries: NDArray[np.float32], top_k: int) -> _Found:
        """The largest inner products, in falling order, and where they are found: both (queries, k).

        k is `top_k`, or `size` if that is less; a place is -1 where an approximate search found no more.
        """
        top_k = min(top_k, self.size)
        scores, places = self._search(np.ascontiguousarray(queries, dtype=np.float32), top_k)
        # ties in the order of the corpus, wherever a search has put them
        order = np.lexsort((places, -scores))
        return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)


def check_mode(mode: str, size: int | None = None) -> None:
    """Raise BadInput for an unknown mode, and for one that so few vectors are not enough for."""
    if mode not in MODES:
        raise BadInput(f"mode {mode!r} is not known; choose one of: {', '.join(MODES)}")
    if mode == "ivf-pq" and size is not None and size < _LEAST_FOR_IVF:
        raise BadInput(f"mode ivf-pq learns from at least {_LEAST_FOR_IVF:,} passages, here are {size:,}; choose int8")


def vectors_file(folder: Path) -> Path:
    """Where the vectors have to be, as float32 in NumPy's format, when `build_store` is called."""
    return folder / _VECTORS


def build_store(folder: Path, mode: str, report: Report = no_report) -> None:
    """Make the vectors of `vectors_file`, (N, D), searchable; raises BadInput as `check_mode`.

    The vectors are learned from and added in chunks: memory holds what is searched, and one sample.
    """
    vectors = NpyReader(folder / _VECTORS)
    size, dimensions = vectors.shape
    check_mode(mode, size)
    if mode == "exact":
        return
    index = _untrained(mode, size, dimensions)
    report("training", 0, None)
    index.train(vectors.take(np.sort(np.random.default_rng(0).choice(size, min(size, _SAMPLE), replace=False))))
    for start in range(0, size, _CHUNK):
        index.add(vectors.read(start, start + _CHUNK))
        report("vectors", index.ntotal, size)
    try:
        faiss.write_index(index, str(folder / _INDEX))
    except RuntimeError as error:
        raise OSError(str(error).splitlines()[0]) from None
    if mode == "ivf-pq":
        _halve(folder / _VECTORS, vectors)
    else:
        (folder / _VECTORS).unlink()


def open_store(folder: Path, mode: str) -> VectorStore:
    """Map the store that `build_store` left; raises BadInput where it is damaged."""
    check_mode(mode)
    try:
        if mode == "exact":
            mapped = np.asarray(np.load(folder / _VECTORS, mmap_mode="r"))
            if mapped.ndim != 2 or mapped.dtype != np.float32:
                raise ValueError("its vectors are not what they should be")
            return VectorStore(len(mapped), mapped.shape[1], _exact_search(mapped))
        index = faiss.read_index(str(folder / _INDEX), faiss.IO_FLAG_MMAP_IFC)
        if mode != "ivf-pq":
            return VectorStore(index.ntotal, index.d, _hnsw_search(index) if mode == "hnsw" else index.search)
        vectors = NpyReader(folder / _VECTORS)
        if vectors.dtype != np.float16 or vectors.shape != (index.ntotal, index.d):
            raise ValueError("its vectors are not those of its index")
        return VectorStore(index.ntotal, index.d, _ivf_search(index, vectors))
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise broken_index(folder, str(error).splitlines()[0]) from None


def _untrained(mode: str, size: int, dimensions: int) -> Any:
    inner_product, eight_bits = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    if mode == "int8":
        return faiss.IndexScalarQuantizer(dimensions, eight_bits, inner_product)
    if mode == "hnsw":
        graph = faiss.IndexHNSWSQ(dimensions, eight_bits, _HNSW_NEIGHBOURS, inner_product)
        graph.hnsw.efConstruction = _HNSW_BUILD_WIDTH
        return graph
    lists = min(round(2 * math.sqrt(size)), _SAMPLE // 40)
    # the quantizer is faiss's to free, and has to outlive this function
    quantizer = faiss.IndexFlatIP(dimensions)
    numbers = next(numbers for numbers in (4, 3, 2, 1) if dimensions % numbers == 0)
    index = faiss.IndexIVFPQ(quantizer, dimensions, lists, dimensions // numbers, 8, inner_product)
    quantizer.this.disown()
    index.own_fields = True
    return index


def _exact_search(vectors: NDArray[np.float32]) -> Callable[[NDArray[np.float32], int], _Found]:
    def search(queries: NDArray[np.float32], top_k: int) -> _Found:
        scores, places = faiss.knn(queries, vectors, top_k, metric=faiss.METRIC_INNER_PRODUCT)
        return scores, places

    return search


def _hnsw_search(index: Any) -> Callable[[NDArray[np.float32], int], _Found]:
    def search(queries: NDArray[np.float32], top_k: int) -> _Found:
        width = faiss.SearchParametersHNSW(efSearch=max(_HNSW_SEARCH_WIDTH, 2 * top_k))
        scores, places = index.search(queries, top_k, params=width)
        return scores, places

    return search


def _ivf_search(index: Any, vectors: NpyReader) -> Callable[[NDArray[np.float32], int], _Found]:
    index.nprobe = min(_LISTS_SEARCHED, index.nlist)

    def search(queries: NDArray[np.float32], top_k: int) -> _Found:
        candidates = min(index.ntotal, max(_COMPARED_AGAIN, 4 * top_k))
        _, places = index.search(queries, candidates)
        scores = np.full((len(queries), top_k), -np.inf, dtype=np.float32)
        best = np.full((len(queries), top_k), -1, dtype=np.int64)
        for number, query in enumerate(queries):
            found = np.sort(places[number][places[number] >= 0])
            products = vectors.take(found).astype(np.float32) @ query
            order = np.argsort(-products, kind="stable")[:top_k]
            scores[number, : len(order)] = products[order]
            best[number, : len(order)] = found[order]
        return scores, best

    return search


def _halve(path: Path, vectors: NpyReader) -> None:
    """Rewrite a file of vectors with 16 bits a number."""
    halved = path.with_name("halved.tmp")
    size, dimensions = vectors.shape
    with NpyWriter(halved, np.float16, (dimensions,)) as writer:
        for start in range(0, size, _CHUNK):
            writer.append(vectors.read(start, start + _CHUNK))
    os.replace(halved, path)
