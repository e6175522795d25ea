"""The retriever of a run, from its settings; services on real ports."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("transformers")
pytest.importorskip("httpx")

from tspo.config import RolloutSection
from tspo.datasets.corpus import Document
from tspo.errors import BadInput
from tspo.retrieval.base import AsyncRetriever
from tspo.retrieval.bm25 import BM25Retriever
from tspo.retrieval.build_index import build_bm25_index
from tspo.retrieval.query_cache import QueryCache
from tspo.training import retriever as module
from tspo.training.retriever import retriever_of

CORPUS = [Document("0", '"Cat"\nthe cat purrs'), Document("1", '"Dog"\nthe dog barks')]


@pytest.fixture
def service():
    """A service like Search-R1's, and the queries that it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            asked.append(queries)
            reply = json.dumps({"result": [[{"id": "1", "contents": query}] for query in queries]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_none_is_bm25_over_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path / "cache")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": d.id, "contents": d.contents}) + "\n" for d in CORPUS))
    assert retriever_of(RolloutSection(), corpus).search(["purrs"], 1)[0][0].id == "0"


def test_an_index_folder_with_and_without_a_cache(tmp_path):
    build_bm25_index(CORPUS, tmp_path / "index")
    place = str(tmp_path / "index")
    assert isinstance(retriever_of(RolloutSection(retriever=place), None), BM25Retriever)
    section = RolloutSection(retriever=place, query_cache={"path": tmp_path / "cache.db"})
    for hits in (0, 1):  # the second finds what the first left in the file
        cache = retriever_of(section, None)
        assert isinstance(cache, QueryCache)
        assert not isinstance(cache, AsyncRetriever)
        assert cache.search(["barks"], 1)[0][0].id == "1"
        assert cache.hits == hits


def test_a_service_is_asked_once_before_the_run(service):
    address, asked = service
    retriever = retriever_of(RolloutSection(retriever=address, query_cache={}), None)
    assert isinstance(retriever, AsyncRetriever)
    assert len(asked) == 1
    assert retriever.search(["cat"], 1)[0][0].contents == "cat"
    assert asked[1:] == [["cat"]]


def test_a_service_that_is_not_there_is_one_line_and_soon():
    section = RolloutSection(retriever="http://127.0.0.1:9", retriever_deadline=0.2)
    with pytest.raises(BadInput, match=r"^http://127.0.0.1:9: no answer within 0.2 s \(ConnectError: .*\)$"):
        retriever_of(section, None)


def test_a_folder_that_is_no_index_is_one_line(tmp_path):
    with pytest.raises(BadInput, match=str(tmp_path)):
        retriever_of(RolloutSection(retriever=str(tmp_path)), None)
