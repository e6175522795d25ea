import asyncio
import logging
import sqlite3
import subprocess
import sys
import time

import pytest

from tspo.errors import BadInput
from tspo.retrieval.base import AsyncRetriever, Passage, RetrieverError
from tspo.retrieval.query_cache import QueryCache, cache_counts, cached


class Far:
    """A retriever that is far away: "lost" has no answer."""

    def __init__(self):
        self.asked = []

    def search(self, queries, top_k):
        self.asked.append((list(queries), top_k))
        return [[Passage("1", query, 0.1)] * top_k for query in queries]

    async def asearch(self, queries, top_k):
        await asyncio.sleep(0)
        results = self.search(queries, top_k)
        return [RetrieverError("lost") if q == "lost" else r for q, r in zip(queries, results, strict=True)]


def test_what_was_asked_before_is_not_asked_again(shelf, found):
    cache = QueryCache(shelf, "shelf", 10)
    assert cache.search(["a", "b", "a"], 2) == [found("a", 2), found("b", 2), found("a", 2)]
    assert cache.search(["b", "c"], 2) == [found("b", 2), found("c", 2)]
    assert cache.search(["a", "b"], 2) == [found("a", 2), found("b", 2)]
    assert cache.search([], 2) == []
    assert shelf.batches == [(["a", "b"], 2), (["c"], 2)]
    assert cache_counts(cache) == (cache.hits, cache.misses) == (4, 3)
    assert cache_counts(shelf) == (0, 0)


def test_another_top_k_is_another_question(shelf, found):
    cache = QueryCache(shelf, "shelf", 10)
    assert cache.search(["a"], 1) == [found("a", 1)]
    assert cache.search(["a"], 2) == [found("a", 2)]
    assert len(shelf.batches) == 2


def test_finding_nothing_is_an_answer():
    class Empty(Far):
        def search(self, queries, top_k):
            super().search(queries, top_k)
            return [[] for _ in queries]

    empty = Empty()
    cache = QueryCache(empty, "empty", 10)
    assert cache.search(["a"], 1) == cache.search(["a"], 1) == [[]]
    assert len(empty.asked) == 1


def test_what_is_given_out_is_the_takers_own(shelf, found):
    cache = QueryCache(shelf, "shelf", 10)
    for _ in range(2):
        first, twin = cache.search(["a", "a"], 2)
        first.clear()
        assert twin == found("a", 2)


def test_the_least_recently_used_go_first(shelf):
    cache = QueryCache(shelf, "shelf", 2)
    for query in ("a", "b", "a", "c", "a", "b"):
        cache.search([query], 1)
    assert [queries for queries, _ in shelf.batches] == [["a"], ["b"], ["c"], ["b"]]


def test_more_queries_than_there_is_room_for(shelf, found):
    cache = QueryCache(shelf, "shelf", 2)
    queries = ["a", "b", "c", "d"]
    assert cache.search(queries, 1) == cache.search(queries, 1) == [found(query, 1) for query in queries]


def test_an_error_is_no_answer(shelf, found):
    cache = QueryCache(shelf, "shelf", 10)
    with pytest.raises(RuntimeError):
        cache.search(["a", "broken"], 1)
    assert cache.search(["a"], 1) == [found("a", 1)]
    assert len(shelf.batches) == 2


def test_a_cache_is_as_far_away_as_what_is_behind_it(shelf):
    assert not isinstance(cached(shelf, "shelf", 10), AsyncRetriever)
    assert isinstance(cached(Far(), "far", 10), AsyncRetriever)


def test_far_away_failures_are_the_queries_own_and_are_not_kept(tmp_path):
    far = Far()
    cache = cached(far, "far", 10, tmp_path / "cache.db")

    async def twice():
        return [await cache.asearch(["a", "lost", "a"], 1) for _ in range(2)]

    for first, lost, again in asyncio.run(twice()):
        assert first == again == [Passage("1", "a", 0.1)]
        assert isinstance(lost, RetrieverError)
    assert far.asked == [(["a", "lost"], 1), (["lost"], 1)]
    assert cache.search(["a"], 1) == [[Passage("1", "a", 0.1)]]
    assert len(far.asked) == 2
    assert cache_counts(cache) == (4, 3)


def test_a_file_keeps_answers_for_the_next_process_and_for_each_retriever_apart(tmp_path):
    file = tmp_path / "folder" / "cache.db"
    query = "é \ud800 \x00 '; DROP TABLE answers"
    first = Far()
    answer = cached(first, "one", 1, file).search([query, "b"], 2)
    other = Far()
    again = cached(other, "one", 1, file)
    assert again.search([query, "b"], 2) == answer
    assert (other.asked, again.hits, again.misses) == ([], 2, 0)
    apart = Far()
    cached(apart, "two", 1, file).search([query], 2)
    assert apart.asked == [([query], 2)]


WRITER = """
import sys
from pathlib import Path
from tspo.retrieval.base import Passage
from tspo.retrieval.query_cache import cached

class Echo:
    def search(self, queries, top_k):
        return [[Passage("1", query, 0.5)] for query in queries]

cache = cached(Echo(), "echo", 1, Path(sys.argv[1]))
for i in range(200):
    query = f"q{i % 100}" if i % 2 else f"{sys.argv[2]}-{i}"
    assert cache.search([query], 1) == [[Passage("1", query, 0.5)]]
"""


def test_several_processes_share_a_file(tmp_path):
    file = tmp_path / "cache.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(file), str(i)], stderr=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    # 100 of each process's own, and 50 that all of them asked
    assert connection.execute("SELECT count(*) FROM answers").fetchone() == (450,)
    connection.close()


def test_a_process_that_is_killed_leaves_a_file_that_works(tmp_path):
    file = tmp_path / "cache.db"
    endless = WRITER.replace("range(200)", "__import__('itertools').count()").replace("i % 100", "i")
    process = subprocess.Popen([sys.executable, "-c", endless, str(file), "x"])
    while not file.with_name("cache.db-wal").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    process.wait()
    far = Far()
    cached(far, "echo", 10, file).search(["new"], 1)
    assert sqlite3.connect(file).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def make_folder(path):
    path.mkdir()


def make_text(path):
    path.write_text("my notes " * 1000)


def make_other_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (a)")


def make_other_version(path):
    cached(Far(), "far", 1, path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("make", [make_folder, make_text, make_other_database, make_other_version])
def test_a_file_that_is_something_else_is_left_as_it_is(tmp_path, make):
    path = tmp_path / "cache.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BadInput, match=r"cannot be used as a query cache .*; delete it or choose another") as raised:
        cached(Far(), "far", 10, path)
    assert "\n" not in str(raised.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_file_that_fails_later_stops_nobody(tmp_path, caplog):
    file = tmp_path / "cache.db"
    far = Far()
    cache = cached(far, "far", 1, file)
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TABLE answers")
    with caplog.at_level(logging.WARNING):
        for query in ("a", "b", "a"):
            assert cache.search([query], 1) == [[Passage("1", query, 0.1)]]
    assert caplog.text.count("the query cache is used no more") == 1
    assert len(far.asked) == 3
