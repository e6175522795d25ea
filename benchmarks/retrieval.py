"""Time, size and recall of the BM25 index on real questions, beside rank_bm25 where that is installed.

python benchmarks/retrieval.py [FOLDER]
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from tspo.datasets.corpus import Document, normalise_title, read_corpus
from tspo.datasets.questions import Question, read_questions
from tspo.retrieval.bm25 import SETTINGS, BM25Retriever
from tspo.retrieval.build_index import build_bm25_index

WIKI_QA = Path(__file__).resolve().parents[1] / "../shared/data/wiki-qa"
TOP_K, BATCH = 3, 64
REPEATS = 5

HEADER = """\
{documents:,} passages, {questions} questions as queries, top {top_k}; the median of {repeats} repeats.
build: seconds from documents to an index in memory; open: milliseconds to open it from disk; size: MB on
disk, passages included; less is better. batch, single: queries a second, {batch} at a time and one at a time;
recall@{top_k}: share of a question's supporting titles among its passages, the mean over questions; more is
better. The questions need several passages each, so that one search cannot find them all.
"""

Search = Callable[[Sequence[str]], list[list[Document]]]


def median_seconds(function: Callable[[], object]) -> float:
    """The median time of a call."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def recall(search: Search, questions: Sequence[Question]) -> float:
    """The mean over questions of the share of supporting titles that one search finds."""
    shares = []
    for question, documents in zip(questions, search([q.question for q in questions]), strict=True):
        wanted = {normalise_title(title) for title in question.supporting_titles}
        found = {normalise_title(document.title) for document in documents}
        shares.append(len(wanted & found) / len(wanted))
    return float(np.mean(shares))


def print_row(name: str, build: float, on_disk: tuple[str, str], search: Search, questions: Sequence[Question]) -> None:
    """Measure the searches and print one line of the table."""
    queries = [question.question for question in questions]
    batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    batched = len(queries) / median_seconds(lambda: [search(batch) for batch in batches])
    single = len(queries) / median_seconds(lambda: [search([query]) for query in queries])
    share = recall(search, questions)
    opening, size = on_disk
    print(f"{name:<18} {build:>8.2f} {opening:>8} {size:>8} {batched:>9,.0f} {single:>9,.0f} {share:>9.3f}")


def search_with(retriever: BM25Retriever) -> Search:
    """The retriever's passages as documents."""
    return lambda queries: [
        [Document(passage.id, passage.contents) for passage in passages]
        for passages in retriever.search(queries, TOP_K)
    ]


def benchmark_tspo(documents: list[Document], questions: list[Question]) -> None:
    """The index in memory, and opened from disk."""
    build = median_seconds(lambda: BM25Retriever.build(documents))
    retriever = BM25Retriever.build(documents)
    print_row("tspo, in memory", build, ("-", "-"), search_with(retriever), questions)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "index"
        build_bm25_index(documents, folder)
        opening = 1000 * median_seconds(lambda: BM25Retriever.load(folder))
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        loaded = search_with(BM25Retriever.load(folder))
        print_row("tspo, from disk", build, (f"{opening:.1f}", f"{size:.1f}"), loaded, questions)


def benchmark_rank_bm25(documents: list[Document], questions: list[Question]) -> None:
    """rank_bm25 with the same words and the same k1 and b."""
    try:
        from rank_bm25 import BM25Okapi
    except ImportError:
        print("rank_bm25 is not installed; to compare: pip install rank_bm25")
        return
    stop_words = frozenset(STOPWORDS_EN)

    def tokens(text: str) -> list[str]:
        return [word for word in re.findall(r"\w+", text.lower()) if word not in stop_words]

    def build_index() -> BM25Okapi:
        return BM25Okapi([tokens(document.contents) for document in documents], k1=SETTINGS["k1"], b=SETTINGS["b"])

    index = build_index()

    def search(queries: Sequence[str]) -> list[list[Document]]:
        return [index.get_top_n(tokens(query), documents, n=TOP_K) for query in queries]

    print_row("rank_bm25", median_seconds(build_index), ("-", "-"), search, questions)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=WIKI_QA, help="corpus.jsonl and questions")
    folder = parser.parse_args().folder
    documents = list(read_corpus(folder / "corpus.jsonl"))
    paths = sorted(path for path in folder.glob("*.jsonl") if path.name != "corpus.jsonl")
    questions = [question for question in read_questions(paths) if question.supporting_titles]
    sizes = {"documents": len(documents), "questions": len(questions)}
    print(HEADER.format(**sizes, top_k=TOP_K, repeats=REPEATS, batch=BATCH))
    headings = ("build s", "open ms", "size MB", "batch", "single", f"recall@{TOP_K}")
    print("{:<18} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}".format("", *headings))
    benchmark_tspo(documents, questions)
    benchmark_rank_bm25(documents, questions)


if __name__ == "__main__":
    main()
