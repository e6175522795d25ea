import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo.datasets.corpus import Document, read_corpus
from tspo.retrieval import bm25_writer, stored_documents
from tspo.retrieval.bm25 import BM25Retriever
from tspo.retrieval.build_index import build_bm25_index

WORDS = st.sampled_from([f"w{n}" for n in range(25)] + ["the", "Ünï", "?!"])


def scores(retriever, query):
    return {passage.id: passage.score for passage in retriever.search([query], 10_000)[0]}


def assert_the_same(documents, folder, queries):
    build_bm25_index(documents, folder)
    streamed, in_memory = BM25Retriever.load(folder), BM25Retriever.build(documents)
    for query in queries:
        expected = scores(in_memory, query)
        found = scores(streamed, query)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), [expected[name] for name in found], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(WORDS, max_size=12).map(" ".join), min_size=1, max_size=40),
    chunk=st.integers(1, 7),
    at_once=st.integers(1, 60),
)
def test_any_corpus_scores_as_the_one_built_in_memory(tmp_path_factory, texts, chunk, at_once):
    documents = [Document(str(n), text) for n, text in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        # many runs and many merges, tokens among them that fill more than one merge
        patch.setattr(stored_documents, "_CHUNK_DOCUMENTS", chunk)
        patch.setattr(bm25_writer, "_RANGE", at_once)
        patch.setattr(bm25_writer, "_STRIDE", 3)
        queries = [*{word for text in texts for word in text.split()}, " ".join(texts[:2])]
        assert_the_same(documents, tmp_path_factory.mktemp("index") / "index", queries)


def test_the_real_corpus_scores_as_the_one_built_in_memory(wiki_qa, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_documents, "_CHUNK_DOCUMENTS", 300)
    monkeypatch.setattr(bm25_writer, "_RANGE", 10_000)
    documents = list(read_corpus(wiki_qa / "corpus.jsonl"))[:1500]
    assert_the_same(documents, tmp_path / "index", [document.title for document in documents[::50]])


def test_nothing_but_the_index_stays(tmp_path):
    build_bm25_index([Document("a", "some words"), Document("b", "")], tmp_path / "index")
    assert not list((tmp_path / "index").glob("*.tmp"))


def test_progress_ends_at_the_total(tmp_path):
    told = {}
    documents = [Document(str(n), f"word number {n}") for n in range(100)]
    build_bm25_index(documents, tmp_path / "index", lambda phase, done, total: told.update({phase: (done, total)}))
    assert list(told) == ["passages", "tokens", "sorting", "checksums"]
    assert told["passages"] == (100, None)
    assert told["tokens"] == (100, 100)
    assert told["sorting"] == (300, 300)
    assert told["checksums"][0] == told["checksums"][1]


BUILD = """
import sys
from tspo.datasets.corpus import Document
from tspo.retrieval import bm25_writer, stored_documents
from tspo.retrieval.build_index import build_bm25_index
stored_documents._CHUNK_DOCUMENTS = 500
bm25_writer._RANGE = 20_000
documents = (Document(str(n), " ".join(f"w{n * m % 2003}" for m in range(1, 60))) for n in range(int(sys.argv[2])))
build_bm25_index(documents, sys.argv[1])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_memory(folder, documents):
    """Bytes that a process building an index had at most."""
    command = [sys.executable, "-c", BUILD, str(folder), str(documents)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return int(result.stdout) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells a process's memory otherwise")
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    small, large = (peak_memory(tmp_path / str(size), size) for size in (1_000, 16_000))
    index = sum(path.stat().st_size for path in (tmp_path / "16000").iterdir())
    assert index > 10e6
    assert large - small < 0.15 * index
