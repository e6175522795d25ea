"""The client against services that work, fail, stall, lie, go away and come back."""

import asyncio
import json
import threading
import time
from dataclasses import replace

import pytest

pytest.importorskip("httpx")

from tspo.errors import BadInput
from tspo.retrieval.base import AsyncRetriever, Passage, RetrieverError, RetrieverGone
from tspo.retrieval.call_settings import CallSettings
from tspo.retrieval.client import BATCH, HTTPRetriever, read_reply
from tspo.retrieval.http_calls import Malformed

QUICK = CallSettings(deadline=1.0, attempt=0.3, give_up_after=60.0, first_delay=0.01, longest_delay=0.05)


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("TSPO_RETRIEVER_TOKEN", raising=False)


def answers(queries, top_k):
    """The reply of a service that works."""
    hits = [[{"document": {"id": "7", "contents": query}, "score": 0.5}] * top_k for query in queries]
    return {"result": hits}


def works(method, path, body):
    asked = json.loads(body)
    return 200, answers(asked["queries"], asked["topk"])


def expected(*queries, top_k=1):
    return [[Passage("7", query, 0.5)] * top_k for query in queries]


class Then:
    """Answers with one thing after another, and with the last for good."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.lock = threading.Lock()

    def __call__(self, *request):
        with self.lock:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(*request) if callable(answer) else answer


def test_both_ways_to_search_give_the_same(stand_in):
    service = stand_in(works)
    retriever = HTTPRetriever(service.address)
    assert isinstance(retriever, AsyncRetriever)
    assert retriever.search(["a", "é\n\ud800"], 2) == expected("a", "é\n\ud800", top_k=2)
    assert asyncio.run(retriever.asearch(["a", "é\n\ud800"], 2)) == expected("a", "é\n\ud800", top_k=2)
    assert retriever.search([], 2) == asyncio.run(retriever.asearch([], 2)) == []
    assert [(method, path) for method, path, _ in service.asked] == [("POST", "/retrieve")] * 2
    assert json.loads(service.asked[0][2]) == {"queries": ["a", "é\n\ud800"], "topk": 2, "return_scores": True}
    with pytest.raises(ValueError, match="top_k is 0"):
        retriever.search(["a"], 0)


def test_tspos_own_service(run_app, shelf, found):
    from tspo.retrieval.server import create_app

    retriever = HTTPRetriever(run_app(create_app(shelf, index="abc")))
    assert retriever.search(["a", "b"], 2) == [found("a", 2), found("b", 2)]
    assert retriever.identity() == f"{retriever.address} abc"


@pytest.mark.parametrize("ending", ["/retrieve", "/", ""])
def test_an_address_may_end_in_retrieve(stand_in, ending):
    service = stand_in(works)
    assert HTTPRetriever(f"{service.address}{ending}").search(["a"], 1) == expected("a")
    assert service.asked[0][1] == "/retrieve"


@pytest.mark.parametrize(
    "address", ["", "localhost:8000", "ftp://a", "http://", "http://a:b:c", "http://[", "http://a:70000", "http://\x00"]
)
def test_an_address_that_is_none(address):
    with pytest.raises(BadInput, match="not an address"):
        HTTPRetriever(address)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(BadInput, match="leave name and password out") as raised:
        HTTPRetriever("http://me:secret@host:8000")
    assert "secret" not in str(raised.value)


def test_connections_are_kept_from_one_event_loop_to_the_next(stand_in):
    service = stand_in(works)
    retriever = HTTPRetriever(service.address)
    threads = threading.active_count()
    for _ in range(5):
        asyncio.run(retriever.asearch(["a"], 1))
        retriever.search(["a"], 1)
    assert threading.active_count() <= threads + 2  # the client's, and the stand-in's: it has one a connection


def test_many_queries_go_in_several_requests(stand_in):
    service = stand_in(works)
    queries = [f"q{i}" for i in range(2 * BATCH + 1)]
    assert HTTPRetriever(service.address).search(queries, 1) == expected(*queries)
    assert sorted(len(json.loads(body)["queries"]) for _, _, body in service.asked) == [1, BATCH, BATCH]


FAILURES = {
    "500": (500, {"detail": "oops"}),
    "503": (503, b""),
    "429": (429, {"detail": "later"}),
    "408": (408, b""),
    "no JSON": (200, b"<html>"),
    "no UTF-8": (200, b'{"result": [["\xff"]]}'),
    "no object": (200, []),
    "no result": (200, {"results": []}),
    "too few results": (200, {"result": []}),
    "too many results": (200, {"result": [[], []]}),
    "results that are none": (200, {"result": ["a"]}),
    "a passage without contents": (200, {"result": [[{"id": "1"}]]}),
    "a score that is none": (200, {"result": [[{"document": {"id": "1", "contents": "a"}, "score": "high"}]]}),
    "nothing": (204, b""),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failure_that_passes_is_not_seen(stand_in, failure):
    service = stand_in(Then(failure, failure, works))
    assert HTTPRetriever(service.address, QUICK).search(["a"], 1) == expected("a")
    assert len(service.asked) == 3


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failure_that_stays_is_the_queries_failure(stand_in, failure):
    service = stand_in(lambda *_: failure)
    retriever = HTTPRetriever(service.address, replace(QUICK, deadline=0.2))
    with pytest.raises(RetrieverError, match=service.address) as raised:
        retriever.search(["a"], 1)
    assert "\n" not in str(raised.value)


def test_a_service_that_stalls_is_left_at_the_deadline(stand_in):
    hold = threading.Event()
    service = stand_in(lambda *_: (hold.wait(10), (200, {}))[1])
    started = time.monotonic()
    with pytest.raises(RetrieverError, match=r"no answer within 1 s \(no reply within"):
        HTTPRetriever(service.address, QUICK).search(["a"], 1)
    assert 0.5 < time.monotonic() - started < 2.0
    assert len(service.asked) >= 2
    hold.set()


def test_a_reply_without_end_is_not_read_to_it(stand_in):
    service = stand_in(lambda *_: (200, b"[" * 100_000))
    settings = CallSettings(deadline=0.3, first_delay=0.01, reply_bytes=1000)
    with pytest.raises(RetrieverError, match="a reply of more than 1000 bytes"):
        HTTPRetriever(service.address, settings).search(["a"], 1)


def test_the_service_says_when_to_come_back(stand_in):
    service = stand_in(Then((429, b"", {"Retry-After": "1"}), works))
    settings = CallSettings(deadline=5.0, first_delay=0.01)
    started = time.monotonic()
    assert HTTPRetriever(service.address, settings).search(["a"], 1) == expected("a")
    assert 1.0 <= time.monotonic() - started < 2.0


@pytest.mark.parametrize("after", ["", "soon", "-3", "1e9", "٣", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_time_to_come_back_that_is_none_is_not_kept(stand_in, after):
    service = stand_in(Then((429, b"", {"Retry-After": after.encode().decode("latin-1")}), works))
    assert HTTPRetriever(service.address, QUICK).search(["a"], 1) == expected("a")


def test_a_time_beyond_the_deadline_is_not_waited_for(stand_in):
    service = stand_in(lambda *_: (503, b"", {"Retry-After": "3600"}))
    started = time.monotonic()
    with pytest.raises(RetrieverError, match="503"):
        HTTPRetriever(service.address, QUICK).search(["a"], 1)
    assert time.monotonic() - started < QUICK.deadline


def refuses(*bad):
    """A service that will have no request with one of these queries in it."""

    def answer(method, path, body):
        asked = json.loads(body)
        if set(bad) & set(asked["queries"]):
            return 422, {"detail": "a query\nis too long"}
        return works(method, path, body)

    return answer


def test_a_bad_query_fails_alone(stand_in):
    service = stand_in(refuses("bad", "worse"))
    queries = ["a", "b", "bad", "c", "d", "worse", "e"]
    results = asyncio.run(HTTPRetriever(service.address, QUICK).asearch(queries, 1))
    for query, result in zip(queries, results, strict=True):
        if query in ("bad", "worse"):
            assert isinstance(result, RetrieverError)
            assert f"refused the query '{query}' (422: " in str(result)
            assert "\n" not in str(result)
        else:
            assert [result] == expected(query)
    with pytest.raises(RetrieverError, match="refused the query 'bad'"):
        HTTPRetriever(service.address, QUICK).search(queries, 1)


def test_a_query_that_breaks_the_service_fails_alone(stand_in):
    def breaks(method, path, body):
        return (500, b"oops") if "bad" in json.loads(body)["queries"] else works(method, path, body)

    retriever = HTTPRetriever(stand_in(breaks).address, QUICK)
    good, bad, other = asyncio.run(retriever.asearch(["a", "bad", "b"], 1))
    assert [good, other] == expected("a", "b")
    assert isinstance(bad, RetrieverError)


def test_a_service_that_goes_away_and_comes_back(stand_in):
    service = stand_in(works)
    retriever = HTTPRetriever(service.address, CallSettings(deadline=5.0, first_delay=0.01, longest_delay=0.1))
    assert retriever.search(["a"], 1) == expected("a")
    service.stop()
    back = threading.Timer(0.5, service.start)
    back.start()
    started = time.monotonic()
    assert retriever.search(["b"], 1) == expected("b")
    assert time.monotonic() - started > 0.3
    back.join()


def search_until_gone(retriever):
    for _ in range(5):
        with pytest.raises(RetrieverError):
            retriever.search(["a"], 1)


def test_a_service_that_stays_away_is_given_up(stand_in):
    service = stand_in(works)
    service.stop()
    settings = CallSettings(deadline=0.3, give_up_after=0.8, first_delay=0.02, longest_delay=0.1)
    retriever = HTTPRetriever(service.address, settings)
    for _ in range(2):
        with pytest.raises(RetrieverError, match=r"no answer within 0\.3 s"):
            retriever.search(["a"], 1)
        time.sleep(1.0)  # nobody asks meanwhile: that is no outage
    with pytest.raises(RetrieverGone, match=f"{service.address}: has answered nothing for .*; start the service"):
        search_until_gone(retriever)
    service.start()
    assert retriever.search(["a"], 1) == expected("a")


def test_an_answer_ends_an_outage(stand_in):
    service = stand_in(Then(*[(503, b"")] * 3, works, *[(503, b"")] * 3, works))
    settings = CallSettings(deadline=5.0, give_up_after=0.5, first_delay=0.1, longest_delay=0.1)
    retriever = HTTPRetriever(service.address, settings)
    for _ in range(2):
        assert retriever.search(["a"], 1) == expected("a")


def test_many_searches_at_one_time_share_a_few_connections(stand_in):
    now = most = 0
    lock = threading.Lock()

    def slow(*request):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return works(*request)

    retriever = HTTPRetriever(stand_in(slow).address, CallSettings(connections=3))

    async def searches():
        return await asyncio.gather(*(retriever.asearch([f"q{i}"], 1) for i in range(20)))

    assert asyncio.run(searches()) == [expected(f"q{i}") for i in range(20)]
    assert most <= 3


def test_the_callers_loop_goes_on_during_a_search_and_may_leave_it(stand_in):
    hold = threading.Event()
    service = stand_in(lambda *request: (hold.wait(10), works(*request))[1])

    async def main():
        search = asyncio.create_task(HTTPRetriever(service.address).asearch(["a"], 1))
        while not service.asked:
            await asyncio.sleep(0.01)
        assert not search.done()
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search

    asyncio.run(main())
    hold.set()


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((401, b""), "will not let us search (401); put its token in TSPO_RETRIEVER_TOKEN"),
        ((403, {"detail": "no"}), "put its token in TSPO_RETRIEVER_TOKEN"),
        ((404, b"not found"), "no search service at this address (404: not found)"),
        ((405, b""), "no search service at this address (405)"),
        ((501, b""), "no search service at this address (501)"),
        ((302, b"", {"Location": "http://elsewhere/"}), "no search service at this address (302)"),
    ],
)
def test_a_wrong_address_or_token_ends_everything_at_once(stand_in, answer, line):
    service = stand_in(lambda *_: answer)
    with pytest.raises(RetrieverGone) as raised:
        HTTPRetriever(service.address).search(["a", "b"], 1)
    assert f"{service.address}: " in str(raised.value)
    assert line in str(raised.value)
    assert len(service.asked) == 1


def test_the_token_of_the_environment_is_sent(stand_in, monkeypatch):
    monkeypatch.setenv("TSPO_RETRIEVER_TOKEN", "secret")
    service = stand_in(works)
    HTTPRetriever(service.address).search(["a"], 1)
    assert service.headers[0]["authorization"] == "Bearer secret"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(stand_in, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert HTTPRetriever(stand_in(works).address, QUICK).search(["a"], 1) == expected("a")


def test_search_r1s_server_is_told_by_its_address(stand_in):
    service = stand_in(lambda method, path, body: (404, b"") if path == "/healthz" else works(method, path, body))
    assert HTTPRetriever(service.address).identity() == service.address


def test_the_programs_random_numbers_are_not_touched(stand_in):
    import random

    state = random.getstate()
    HTTPRetriever(stand_in(Then((503, b""), works)).address, QUICK).search(["a"], 1)
    assert random.getstate() == state


def test_every_form_of_a_passage_is_read():
    reply = {
        "result": [
            [{"id": 3, "contents": "plain"}, {"id": "4", "contents": "more than was asked for"}],
            [{"document": {"title": "no id", "contents": "of Lucene"}, "score": 2}],
            [{"document": {"contents": "of a web search"}}],
            [],
        ]
    }
    assert read_reply(json.dumps(reply).encode(), 4, 1) == [
        [Passage("3", "plain", 0.0)],
        [Passage("", "of Lucene", 2.0)],
        [Passage("", "of a web search", 0.0)],
        [],
    ]


@pytest.mark.parametrize(
    "hit",
    [
        "text",
        None,
        {},
        {"contents": 3},
        {"document": "text"},
        {"document": {"contents": None}},
        {"id": True, "contents": "a"},
        {"id": 1.5, "contents": "a"},
        {"document": {"contents": "a"}, "score": None},
        {"document": {"contents": "a"}, "score": True},
        {"document": {"contents": "a"}, "score": float("nan")},
        {"document": {"contents": "a"}, "score": float("inf")},
        {"document": {"contents": "a"}, "score": 10**400},
    ],
)
def test_a_passage_of_no_known_form_is_malformed(hit):
    with pytest.raises(Malformed):
        read_reply(json.dumps({"result": [[hit]]}).encode(), 1, 3)


def test_deep_json_is_malformed():
    with pytest.raises(Malformed):
        read_reply(b"[" * 100_000, 1, 3)
