"""Web search against local servers that speak SearxNG's and Serper's JSON."""

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("httpx")

from tspo.datasets.corpus import Document
from tspo.errors import BadInput
from tspo.retrieval.base import AsyncRetriever, Passage, RetrieverError, RetrieverGone
from tspo.retrieval.call_settings import CallSettings
from tspo.retrieval.web_search import SERPER, SearxNGRetriever, SerperRetriever

QUICK = CallSettings(deadline=0.5, first_delay=0.01)

# what the two return, without fields that nobody reads
PAGES = [
    {"title": "Faust -\n Wikipedia", "excerpt": "Faust is a   tragic play by Goethe.", "address": "https://a.example/"},
    {"title": 'The "Faust" book', "excerpt": "A chapbook.", "address": "https://b.example/"},
    {"title": "A page without an excerpt", "address": "https://c.example/"},
    {"title": None, "excerpt": 3, "address": "https://d.example/"},
    {"title": "Doctor Faustus", "excerpt": "</information> A play.", "address": "https://e.example/"},
]
EXPECTED = [
    Passage("https://a.example/", '"Faust - Wikipedia"\nFaust is a tragic play by Goethe.', 1.0),
    Passage("https://b.example/", '"The "Faust" book"\nA chapbook.', 0.5),
    Passage("https://e.example/", '"Doctor Faustus"\n</information> A play.', 1 / 3),
]


def pages(**names):
    return [{names.get(name, name): value for name, value in page.items()} for page in PAGES]


class SearxNG:
    def __call__(self, method, path, body):
        asked = parse_qs(urlsplit(path).query)
        if (method, urlsplit(path).path, asked.get("format")) != ("GET", "/search", ["json"]):
            return 403, b"<h1>Forbidden</h1>"
        (query,) = asked["q"]
        if query == "bad":
            return 400, {"error": "no such query"}
        results = [] if query == "nothing" else pages(excerpt="content", address="url")
        return 200, {"query": query, "number_of_results": 0, "results": results, "answers": [], "infoboxes": []}

    def open(self, address, settings=QUICK):
        return SearxNGRetriever(address, settings)


class Serper:
    def __call__(self, method, path, body):
        if (method, path) != ("POST", "/search"):
            return 404, {"message": "not found"}
        query = json.loads(body)["q"]
        if query == "bad":
            return 400, {"message": "Query not allowed", "statusCode": 400}
        organic = [] if query == "nothing" else pages(excerpt="snippet", address="link")
        return 200, {"searchParameters": {"q": query}, "organic": organic, "credits": 1}

    def open(self, address, settings=QUICK):
        return SerperRetriever(address, settings)


@pytest.fixture(params=[SearxNG, Serper])
def engine(request, monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "key")
    return request.param()


def test_pages_are_passages(engine, stand_in):
    retriever = engine.open(stand_in(engine).address)
    assert isinstance(retriever, AsyncRetriever)
    assert retriever.search(["faust", "nothing"], 5) == [EXPECTED, []]
    assert retriever.search(["faust"], 2) == [EXPECTED[:2]]
    assert asyncio.run(retriever.asearch(["faust é \ud800 &=?", "nothing"], 1)) == [EXPECTED[:1], []]
    assert Document("1", EXPECTED[1].contents).title == 'The "Faust" book'
    with pytest.raises(ValueError, match="top_k is 0"):
        retriever.search(["faust"], 0)


def test_a_query_that_is_refused_fails_alone(engine, stand_in):
    service = stand_in(engine)
    good, bad = asyncio.run(engine.open(service.address).asearch(["faust", "bad"], 1))
    assert good == EXPECTED[:1]
    assert isinstance(bad, RetrieverError)
    assert str(bad).startswith(f"{service.address}: refused the query 'bad' (400: ")


def test_serper_leaves_the_list_out_where_nothing_is_found(stand_in, monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "key")
    asked = []

    def nothing(*call):
        asked.append(call)
        return 200, {"searchParameters": {"q": "zzz", "type": "search"}, "credits": 1}

    assert Serper().open(stand_in(nothing).address).search(["zzz"], 3) == [[]]
    assert len(asked) == 1


@pytest.mark.parametrize("reply", [b"<html>", [], {}, {"results": "a", "organic": 3}, {"results": [1], "organic": [1]}])
def test_a_reply_of_another_form_is_a_failure(engine, stand_in, reply):
    with pytest.raises(RetrieverError, match=r"no answer within .* \(a reply "):
        engine.open(stand_in(lambda *_: (200, reply)).address, CallSettings(deadline=0.1)).search(["faust"], 1)


def test_an_engine_that_has_enough_of_us_is_left_alone_for_a_while(engine, stand_in):
    refused = []

    def busy(*request):
        if len(refused) < 2:
            refused.append(request)
            return 429, b""
        return engine(*request)

    assert engine.open(stand_in(busy).address).search(["faust"], 1) == [EXPECTED[:1]]


def test_what_is_to_be_done_about_a_refusal_is_said(stand_in, monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "key")
    forbids = stand_in(lambda *_: (403, {"message": "Unauthorized."})).address
    with pytest.raises(RetrieverGone, match=r"add json to search\.formats"):
        SearxNGRetriever(forbids).search(["faust"], 1)
    with pytest.raises(RetrieverGone, match="check the key in SERPER_API_KEY"):
        SerperRetriever(forbids).search(["faust"], 1)


def test_the_key_is_sent_and_never_shown(stand_in, monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", " a-secret-key\n")
    service = stand_in(Serper())
    retriever = SerperRetriever(service.address)
    retriever.search(["faust"], 7)
    assert service.headers[0]["x-api-key"] == "a-secret-key"
    assert json.loads(service.asked[0][2]) == {"q": "faust", "num": 7}
    assert "secret" not in retriever.identity()


@pytest.mark.parametrize("key", ["", " ", "é", "a\nb"])
def test_without_a_key_there_is_no_serper(monkeypatch, key):
    monkeypatch.setenv("SERPER_API_KEY", key)
    with pytest.raises(BadInput, match="SERPER_API_KEY: no key for Serper"):
        SerperRetriever(SERPER)
