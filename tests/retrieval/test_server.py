"""The service on a real port, asked as its clients ask it."""

import asyncio
import json
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx

from tspo.errors import BadInput
from tspo.retrieval.base import Passage
from tspo.retrieval.retrieve_request import ServerLimits
from tspo.retrieval.server import create_app

JSON = {"Content-Type": "application/json"}
HTTP = httpx.Client(verify=False, timeout=20)  # to make one takes a while


def post(address, body, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HTTP.post(f"{address}/retrieve", content=body, headers=JSON | headers)


def documents(passages):
    return [{"id": passage.id, "contents": passage.contents} for passage in passages]


def scored(passages):
    return [
        {"document": document, "score": passage.score}
        for document, passage in zip(documents(passages), passages, strict=True)
    ]


def until(true):
    ends = time.monotonic() + 10
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_search_r1s_request_and_both_of_its_replies(shelf, found, run_app):
    address = run_app(create_app(shelf))
    reply = post(address, {"queries": ["a", "b"], "topk": 2, "return_scores": True})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json() == {"result": [scored(found("a", 2)), scored(found("b", 2))]}
    plain = post(address, {"queries": ["a", "b"], "topk": 2})
    assert plain.json() == {"result": [documents(found("a", 2)), documents(found("b", 2))]}


@pytest.mark.parametrize("request_", [{"queries": ["a"]}, {"queries": ["a"], "topk": None}])
def test_without_topk_it_is_the_services_own(shelf, found, run_app, request_):
    assert post(run_app(create_app(shelf)), request_).json() == {"result": [documents(found("a", 3))]}
    assert post(run_app(create_app(shelf, top_k=1)), request_).json() == {"result": [documents(found("a", 1))]}


def test_a_whole_number_may_be_written_as_a_fraction(shelf, found, run_app):
    reply = post(run_app(create_app(shelf)), b'{"queries": ["a"], "topk": 2.0}')
    assert reply.json() == {"result": [documents(found("a", 2))]}


def test_no_queries_no_results(shelf, run_app):
    assert post(run_app(create_app(shelf)), {"queries": []}).json() == {"result": []}


BAD = {
    "an empty query": ({"queries": [None]}, 422, "queries.0: Input should be a valid string"),
    "queries and a query": ({"queries": ["a"], "query": "a"}, 422, "queries: give the queries, or a single one"),
    "a body of 8 MB": ({"queries": ["a" * 8000] * 1000}, 413, "larger than 4194304 bytes"),
    "not UTF-8": (b'{"queries": ["\xff\xfe"]}', 422, "invalid unicode"),
    "half a surrogate pair": (b'{"queries": ["\\ud800"]}', 422, "hex escape"),
    "topk 0": ({"queries": ["a"], "topk": 0}, 422, "topk: Input should be greater than or equal to 1"),
    "topk -1": ({"queries": ["a"], "topk": -1}, 422, "topk: Input should be greater than or equal to 1"),
    "topk 10^9": ({"queries": ["a"], "topk": 10**9}, 422, "topk: Input should be less than or equal to 100"),
    "topk 1.5": ({"queries": ["a"], "topk": 1.5}, 422, "topk: Input should be a valid integer"),
    "topk no number": (b'{"queries": ["a"], "topk": NaN}', 422, "topk: Input should be a valid integer"),
    "topk as text": ({"queries": ["a"], "topk": "three"}, 422, "topk: Input should be a valid integer"),
    "return_scores as text": ({"queries": ["a"], "return_scores": "perhaps"}, 422, "return_scores: Input should be"),
    "an unknown field": ({"queries": ["a"], "k": 3}, 422, "k: there is no such field"),
    "no queries": ({"topk": 3}, 422, "queries: give the queries, or a single one"),
    "queries as text": ({"queries": "a"}, 422, "queries: Input should be a valid array"),
    "too many queries": ({"queries": ["a"] * 4097}, 422, "queries: List should have at most 4096 items"),
    "too many passages": ({"queries": ["a"] * 1001, "topk": 100}, 422, "1001 queries x 100 passages"),
    "a list": ([], 422, "Input should be an object"),
    "nothing": (b"", 422, "Invalid JSON"),
    "no JSON": (b"{queries", 422, "Invalid JSON"),
    "a deep list": (b'{"queries": ' + b"[" * 100_000, 422, "Invalid JSON"),
}


def test_a_query_that_finds_nothing_costs_the_others_of_its_batch_nothing(shelf, found, run_app):
    """Search-R1's trainer sends a batch of episodes at once, and reads ["result"] without a look at the status."""
    address = run_app(create_app(shelf))
    reply = post(address, {"queries": ["a", "", " \n", "a" * 9000, "b"], "topk": 2, "return_scores": True})
    assert reply.status_code == 200
    assert reply.json() == {"result": [scored(found("a", 2)), [], [], [], scored(found("b", 2))]}
    assert {query for queries, _ in shelf.batches for query in queries} == {"a", "b"}
    assert post(address, {"queries": [""]}).json() == {"result": [[]]}


@pytest.mark.parametrize(
    "body",
    [
        {"query": "a", "topk": 2, "return_scores": True},  # SkyRL-gym's SearchToolGroup, and verl-agent
        {"queries": ["a"], "topk": "2", "return_scores": "true"},
        {"queries": ["a"], "topk": " 2 ", "return_scores": "True"},
        {"queries": None, "query": "a", "topk": 2.0, "return_scores": True},
    ],
)
def test_requests_as_other_clients_write_them(shelf, found, run_app, body):
    assert post(run_app(create_app(shelf)), body).json() == {"result": [scored(found("a", 2))]}


def test_eight_hundred_searches_at_once_wait_for_each_other(shelf, found, run_app):
    """slime asks for each episode by itself, and takes a refusal for a search without passages."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files[1] < 4096:
        pytest.skip("the system allows too few open files")
    address = run_app(create_app(shelf))

    async def everyone():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
            asked = [{"queries": [f"q{i}"], "topk": 1} for i in range(800)]
            return await asyncio.gather(*(client.post(f"{address}/retrieve", json=body) for body in asked))

    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, files[1]))
    try:
        for i, reply in enumerate(asyncio.run(everyone())):
            assert reply.json() == {"result": [documents(found(f"q{i}", 1))]}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)


def test_a_full_service_may_say_503(shelf, found, run_app):
    address = run_app(create_app(shelf, limits=ServerLimits(queries=1, waiting=1, when_full=503)))
    shelf.open.clear()
    with ThreadPoolExecutor(2) as pool:
        taken = pool.submit(post, address, {"queries": ["taken"]})
        until(lambda: HTTP.get(f"{address}/healthz").json()["waiting"] == 1)
        refused = post(address, {"queries": ["more"]})
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        shelf.open.set()
        assert taken.result().status_code == 200
    with pytest.raises(BadInput, match="must be 429 or 503"):
        ServerLimits(when_full=500)


def test_bad_input_is_refused_with_a_reason_and_the_service_goes_on(shelf, found, run_app):
    address = run_app(create_app(shelf))
    for name, (body, status, reason) in BAD.items():
        reply = post(address, body)
        assert reply.status_code == status, name
        assert reason in reply.json()["detail"], name
        assert len(reply.text) < 300, name
        assert post(address, {"queries": ["a"]}).json() == {"result": [documents(found("a", 3))]}, name
    assert {tuple(queries) for queries, _ in shelf.batches} == {("a",)}


def test_only_json_is_taken(shelf, run_app):
    address = run_app(create_app(shelf))
    body = b'{"queries": ["a"]}'
    assert post(address, body, **{"Content-Type": "text/plain"}).status_code == 415
    assert HTTP.post(f"{address}/retrieve", content=body).status_code == 415
    assert post(address, body, **{"Content-Type": "Application/JSON; charset=utf-8"}).status_code == 200


def test_a_corpus_with_half_a_surrogate_pair_is_served(run_app):
    class Half:
        def search(self, queries, top_k):
            return [[Passage("é", "\ud800 ü", 1.0)] for _ in queries]

    reply = post(run_app(create_app(Half())), {"queries": ["ü"]})
    assert json.loads(reply.content) == {"result": [[{"id": "é", "contents": "\ud800 ü"}]]}


def test_a_search_that_fails_is_told_and_fails_nobody_else(shelf, found, run_app, caplog):
    address = run_app(create_app(shelf))
    shelf.open.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, address, {"queries": ["first"]})
        until(lambda: shelf.batches)
        bad = pool.submit(post, address, {"queries": ["b", "broken"]})
        good = pool.submit(post, address, {"queries": ["c"]})
        until(lambda: HTTP.get(f"{address}/healthz").json()["waiting"] == 4)
        shelf.open.set()
        assert first.result().status_code == 200
        assert bad.result().status_code == 500
        assert bad.result().json() == {"detail": "the search failed; the server's log says why"}
        assert good.result().json() == {"result": [documents(found("c", 3))]}
    assert "a passage cannot be read" in caplog.text
    assert "broken" in shelf.batches[1][0]
    assert "c" in shelf.batches[1][0]


def test_concurrent_requests_are_searched_together(shelf, found, run_app):
    address = run_app(create_app(shelf))
    shelf.open.clear()
    with ThreadPoolExecutor(17) as pool:
        first = pool.submit(post, address, {"queries": ["first"]})
        until(lambda: shelf.batches)
        others = [pool.submit(post, address, {"queries": [f"q{i % 4}"]}) for i in range(16)]
        until(lambda: HTTP.get(f"{address}/healthz").json()["waiting"] == 17)
        shelf.open.set()
        assert first.result().status_code == 200
        for i, other in enumerate(others):
            assert other.result().json() == {"result": [documents(found(f"q{i % 4}", 3))]}
    _, (queries, top_k) = shelf.batches
    assert (sorted(queries), top_k) == (["q0", "q1", "q2", "q3"], 3)


@pytest.mark.parametrize("limits", [ServerLimits(queries=2, waiting=2), ServerLimits(requests=2)])
def test_overload_is_refused_with_the_time_to_come_back(shelf, found, run_app, limits):
    address = run_app(create_app(shelf, limits=limits))
    shelf.open.clear()
    with ThreadPoolExecutor(20) as pool:
        taken = [pool.submit(post, address, {"queries": [f"taken {i}"]}) for i in range(2)]
        until(lambda: HTTP.get(f"{address}/healthz").json()["waiting"] == 2)
        refused = [pool.submit(post, address, {"queries": ["more"]}) for _ in range(18)]
        for reply in (request.result() for request in refused):
            assert reply.status_code == 429
            assert 1 <= int(reply.headers["retry-after"]) <= 30
            assert "try again in" in reply.json()["detail"]
        assert HTTP.get(f"{address}/healthz").status_code == 200
        shelf.open.set()
        for i, request in enumerate(taken):
            assert request.result().json() == {"result": [documents(found(f"taken {i}", 3))]}
    assert post(address, {"queries": ["more"]}).status_code == 200


def test_a_search_that_takes_too_long_is_given_up(shelf, run_app):
    address = run_app(create_app(shelf, limits=ServerLimits(seconds=0.2)))
    shelf.open.clear()
    reply = post(address, {"queries": ["slow"]})
    assert (reply.status_code, reply.json()) == (504, {"detail": "the search took longer than 0.2 s"})
    assert HTTP.get(f"{address}/healthz").json()["waiting"] == 0
    shelf.open.set()
    until(lambda: post(address, {"queries": ["fast"]}).status_code == 200)


def raw(address, *parts):
    """What comes back for bytes that are sent as they are, the connection then being left open."""
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        return connection.recv(10_000)


HEAD = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_a_body_that_does_not_arrive_is_given_up(shelf, run_app):
    address = run_app(create_app(shelf, limits=ServerLimits(seconds=0.2)))
    assert raw(address, HEAD + b"Content-Length: 100\r\n\r\n{").startswith(b"HTTP/1.1 408 ")


def test_a_body_of_unknown_length_is_read_no_further_than_allowed(shelf, run_app):
    address = run_app(create_app(shelf, limits=ServerLimits(body_bytes=1000)))
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    assert raw(address, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_hangs_up_leaves_nothing_behind(shelf, run_app, caplog):
    address = run_app(create_app(shelf))
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        until(lambda: "tspo_requests_under_way 1.0" in HTTP.get(f"{address}/metrics").text)
    until(lambda: "tspo_requests_under_way 0.0" in HTTP.get(f"{address}/metrics").text)
    assert "Traceback" not in caplog.text


def test_with_a_token_only_those_who_have_it_search(shelf, run_app):
    address = run_app(create_app(shelf, token="secret"))
    query = {"queries": ["a"]}
    for wrong in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}, {"Authorization": "Bearer é"}):
        headers = {name: value.encode("latin-1") for name, value in wrong.items()}
        refused = post(address, query, **headers)
        assert (refused.status_code, refused.json()) == (401, {"detail": "a bearer token is needed"})
        assert refused.headers["www-authenticate"] == "Bearer"
        assert HTTP.get(f"{address}/metrics", headers=headers).status_code == 401
    assert shelf.batches == []
    right = {"Authorization": "Bearer secret"}
    assert post(address, query, **right).status_code == 200
    assert HTTP.get(f"{address}/metrics", headers=right).status_code == 200
    assert HTTP.get(f"{address}/healthz").status_code == 200


def test_health_and_metrics(shelf, run_app):
    address = run_app(create_app(shelf, index="abc"))
    assert HTTP.get(f"{address}/healthz").json() == {"status": "ok", "index": "abc", "waiting": 0}
    post(address, {"queries": ["a", "b", "a"]})
    post(address, {"queries": "a"})
    reply = HTTP.get(f"{address}/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    lines = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    assert lines['tspo_retrieve_requests_total{status="200"}'] == "1.0"
    assert lines['tspo_retrieve_requests_total{status="422"}'] == "1.0"
    assert lines["tspo_retrieve_queries_total"] == "3.0"
    assert lines["tspo_search_batch_queries_sum"] == "2.0"
    assert lines["tspo_retrieve_request_seconds_count"] == "2.0"
    assert float(lines["tspo_search_seconds_sum"]) > 0
    assert lines["tspo_waiting_queries"] == "0.0"


def test_limits_that_nobody_could_be_served_under_are_refused(shelf):
    with pytest.raises(BadInput, match="limit of queries is 0"):
        ServerLimits(queries=0)
    with pytest.raises(BadInput, match="limit of seconds is nan"):
        ServerLimits(seconds=float("nan"))
    with pytest.raises(BadInput, match="10 queries may wait, but one request may have 4096"):
        ServerLimits(waiting=10)
    with pytest.raises(BadInput, match="top k is 101; it must be from 1 to 100"):
        create_app(shelf, top_k=101)


def test_the_retriever_is_asked_from_one_thread(shelf, run_app):
    address = run_app(create_app(shelf))
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda i: post(address, {"queries": [f"q{i}"], "topk": 1 + i % 3}), range(40)))
    assert {reply.status_code for reply in replies} == {200}
    assert len(shelf.threads) == 1
    assert threading.get_ident() not in shelf.threads
