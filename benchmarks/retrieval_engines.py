"""BM25 engines side by side: build, memory, time of a query, quality, at several sizes.

pip install tantivy rank_bm25
python benchmarks/retrieval_engines.py --corpora wiki-qa,10k,100k,1m --cache FOLDER
"""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corpora import Corpus, arguments, corpus, recall
from workers import Worker, folder_mb, in_own_process, peak_mb, resident_mb

TOP_K, BATCH, ROUNDS = 3, 64, 5
SECONDS = 6.0  # of one round, after which its queries are enough
LARGEST_FOR_RANK_BM25 = 100_000

HEADER = f"""\
One thread, top {TOP_K}, {ROUNDS} rounds in which the engines take turns. build: seconds from the corpus file to an
index on disk (rank_bm25: in memory, it has no other). peak: MB that building took at the most, over what the process
had before; index: MB on disk, passages included; resident: MB more in memory after all queries than before opening,
libraries and mapped files included. p50, p99: milliseconds of one query. q/s: queries a second, {BATCH} at a time:
median, [least, greatest]; ratio: its medians over rank_bm25's. recall@{TOP_K}: share of supporting titles found by the
question as it stands (rank_bm25: the first 100 questions).
"""

Titles = list[list[str]]


class Engine:
    """One engine; `build` and `open` are called in processes of their own."""

    name = ""
    needs = ""

    def build(self, path: Path, folder: Path) -> None:
        """Make an index of the corpus file in `folder`."""
        raise NotImplementedError

    def open(self, path: Path, folder: Path) -> Callable[[Sequence[str]], Titles]:
        """A function from queries to the titles that they find."""
        raise NotImplementedError


class Ours(Engine):
    """`tspo index` and what `tspo serve` searches."""

    name = "tspo (bm25s, mapped)"

    def build(self, path: Path, folder: Path) -> None:
        """Streamed, checked, with checksums."""
        from tspo.datasets.corpus import read_corpus
        from tspo.retrieval.build_index import build_bm25_index

        build_bm25_index(read_corpus(path), folder / "index")

    def open(self, path: Path, folder: Path) -> Callable[[Sequence[str]], Titles]:
        """Memory-mapped."""
        from tspo.retrieval.bm25 import BM25Retriever

        retriever = BM25Retriever.load(folder / "index")
        return lambda queries: [
            [title_of(passage.contents) for passage in found] for found in retriever.search(queries, TOP_K)
        ]


class Bm25s(Engine):
    """bm25s as its README has it."""

    name = "bm25s as it comes"

    def build(self, path: Path, folder: Path) -> None:
        """All in memory, then saved with the corpus."""
        import bm25s

        texts = list(contents_of(path))
        retriever = bm25s.BM25()
        retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        retriever.save(folder / "bm25s", corpus=texts, show_progress=False)

    def open(self, path: Path, folder: Path) -> Callable[[Sequence[str]], Titles]:
        """Memory-mapped."""
        import bm25s

        retriever = bm25s.BM25.load(folder / "bm25s", load_corpus=True, mmap=True)

        def search(queries: Sequence[str]) -> Titles:
            tokens = bm25s.tokenize(list(queries), stopwords="en", show_progress=False)
            found, _ = retriever.retrieve(tokens, k=TOP_K, show_progress=False)
            return [[title_of(hit["text"]) for hit in hits] for hits in found]

        return search


class Tantivy(Engine):
    """Tantivy with its default tokenizer."""

    name = "tantivy"
    needs = "tantivy"

    def build(self, path: Path, folder: Path) -> None:
        """One writer thread; contents stored."""
        import tantivy

        schema = tantivy.SchemaBuilder().add_text_field("contents", stored=True).build()
        index = tantivy.Index(schema, path=str(folder))
        writer = index.writer(heap_size=128_000_000, num_threads=1)
        for contents in contents_of(path):
            writer.add_document(tantivy.Document(contents=contents))
        writer.commit()
        writer.wait_merging_threads()

    def open(self, path: Path, folder: Path) -> Callable[[Sequence[str]], Titles]:
        """Memory-mapped, as Tantivy does."""
        import tantivy

        index = tantivy.Index.open(str(folder))
        searcher = index.searcher()

        def search(queries: Sequence[str]) -> Titles:
            found = []
            for query in queries:
                parsed, _ = index.parse_query_lenient(query, ["contents"])
                hits = searcher.search(parsed, TOP_K).hits
                found.append([title_of(searcher.doc(place)["contents"][0]) for _, place in hits])
            return found

        return search


class RankBm25(Engine):
    """rank_bm25 with the same words, k1 and b as ours."""

    name = "rank_bm25"
    needs = "rank_bm25"

    def build(self, path: Path, folder: Path) -> None:
        """In memory: what `open` does again."""
        self._index(list(contents_of(path)))

    def open(self, path: Path, folder: Path) -> Callable[[Sequence[str]], Titles]:
        """Built, for there is nothing to open."""
        texts = list(contents_of(path))
        index = self._index(texts)
        return lambda queries: [
            [title_of(text) for text in index.get_top_n(self._tokens(query), texts, n=TOP_K)] for query in queries
        ]

    def _index(self, texts: Sequence[str]) -> Any:
        from rank_bm25 import BM25Okapi

        from tspo.retrieval.bm25_writer import SETTINGS

        self._stop_words = frozenset(SETTINGS["stop_words"])
        return BM25Okapi([self._tokens(text) for text in texts], k1=SETTINGS["k1"], b=SETTINGS["b"])

    def _tokens(self, text: str) -> list[str]:
        return [word for word in re.findall(r"\w+", text.lower()) if word not in self._stop_words]


ENGINES: tuple[type[Engine], ...] = (Ours, Bm25s, Tantivy, RankBm25)


def contents_of(path: Path) -> Iterator[str]:
    """The passages of a corpus file, without any check."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["contents"]


def title_of(contents: str) -> str:
    """A passage's title."""
    return contents.partition("\n")[0].strip('"')


def measured_build(kind: type[Engine], path: Path, folder: Path) -> dict[str, float]:
    """Time, memory and size of one build, in a process of its own."""
    before = resident_mb()
    started = time.perf_counter()
    kind().build(path, folder)
    return {"build": time.perf_counter() - started, "peak": peak_mb() - before, "index": folder_mb(folder)}


class Opened:
    """An engine that answers."""

    def __init__(self, kind: type[Engine], path: Path, folder: Path) -> None:
        self._before = resident_mb()
        self._search = kind().open(path, folder)

    def titles(self, queries: Sequence[str]) -> Titles:
        """What is found."""
        return self._search(queries)

    def one_by_one(self, queries: Sequence[str]) -> list[float]:
        """Milliseconds of each query, until the time of a round is over."""
        taken: list[float] = []
        for query in queries:
            started = time.perf_counter()
            self._search([query])
            taken.append(1e3 * (time.perf_counter() - started))
            if sum(taken) > 1e3 * SECONDS:
                break
        return taken

    def in_batches(self, queries: Sequence[str]) -> float:
        """Queries a second, until the time of a round is over."""
        started, done = time.perf_counter(), 0
        while done < len(queries) and time.perf_counter() - started < SECONDS:
            done += len(self._search(queries[done : done + BATCH]))
        return done / (time.perf_counter() - started)

    def resident(self) -> float:
        """MB more than before it was opened."""
        return resident_mb() - self._before


def measure(on: Corpus, kinds: Sequence[type[Engine]], folder: Path) -> dict[str, dict[str, Any]]:
    """All figures of all engines on one corpus."""
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        (folder / kind.__name__).mkdir()
        found[kind.name] = in_own_process(measured_build, kind, on.path, folder / kind.__name__)
    workers = {kind.name: Worker(Opened, kind, on.path, folder / kind.__name__) for kind in kinds}
    for name, worker in workers.items():
        worker.__enter__().call("titles", on.queries[:TOP_K])  # not counted
        found[name] |= {"ms": [], "rates": []}
    for _ in range(ROUNDS):
        for name, worker in workers.items():
            found[name]["ms"] += worker.call("one_by_one", on.queries)
            found[name]["rates"].append(worker.call("in_batches", on.queries))
    for name, worker in workers.items():
        asked = on.questions[: 100 if name == RankBm25.name else None]
        found[name]["recall"] = recall(asked, worker.call("titles", [question.question for question in asked]))
        found[name]["resident"] = worker.call("resident")
        worker.__exit__(None, None, None)
    return found


def print_table(on: Corpus, passages: int, found: dict[str, dict[str, Any]]) -> None:
    """One table, a line an engine."""
    slowest = found.get(RankBm25.name)
    print(f"\n{on.name}: {passages:,} passages, {len(on.questions)} questions")
    names = ("build", "peak", "index", "resident", "p50", "p99", "q/s", "", "ratio", f"recall@{TOP_K}")
    print("{:<22}{:>8}{:>8}{:>8}{:>10}{:>9}{:>9}{:>9} {:<18}{:>7}{:>10}".format("", *names))
    for name, row in found.items():
        middle = statistics.median(row["rates"])
        p50, p99 = np.percentile(row["ms"], [50, 99])
        ratio = f"{middle / statistics.median(slowest['rates']):.0f}x" if slowest else "-"
        spread = f"[{min(row['rates']):,.0f}, {max(row['rates']):,.0f}]"
        print(
            f"{name:<22}{row['build']:>8.2f}{row['peak']:>8,.0f}{row['index']:>8,.1f}{row['resident']:>10,.0f}"
            f"{p50:>9.2f}{p99:>9.2f}{middle:>9,.0f} {spread:<18}{ratio:>7}{row['recall']:>10.3f}",
            flush=True,
        )


def main() -> None:
    """Print a table a corpus."""
    args = arguments(__doc__, "wiki-qa,10k,100k").parse_args()
    print(HEADER)
    for name in args.corpora.split(","):
        on = corpus(name, args.cache)
        passages = sum(1 for _ in contents_of(on.path))
        kinds = [kind for kind in ENGINES if not kind.needs or importlib.util.find_spec(kind.needs)]
        if passages > LARGEST_FOR_RANK_BM25:
            kinds = [kind for kind in kinds if kind is not RankBm25]
        with tempfile.TemporaryDirectory(dir=args.cache) as folder:
            print_table(on, passages, measure(on, kinds, Path(folder)))


if __name__ == "__main__":
    main()
