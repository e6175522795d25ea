"""The service as a process: its port, and its end."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx

from tspo.errors import BadInput
from tspo.retrieval.serving import address_of, bind, is_loopback

# Every search takes as long as its query says.
SLOW_SERVICE = """
import sys, time
from tspo.retrieval.base import Passage
from tspo.retrieval.server import create_app
from tspo.retrieval.serving import Service, address_of, bind
from tspo.training.signals import stop_on_signals

class Slow:
    def search(self, queries, top_k):
        print("searching", flush=True)
        time.sleep(max(map(float, queries)))
        return [[Passage("1", query, 1.0)] for query in queries]

with bind("127.0.0.1", 0) as bound:
    service = Service(create_app(Slow()), bound, drain_seconds=float(sys.argv[1]),
                      on_ready=lambda: print(address_of(bound), flush=True))
    with stop_on_signals(service.stop):
        service.run()
print("ended well", flush=True)
"""


@pytest.fixture
def start_slow_service():
    started = []

    def start(drain_seconds):
        command = [sys.executable, "-c", SLOW_SERVICE, str(drain_seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def post(address, query):
    return httpx.post(f"{address}/retrieve", json={"queries": [query]}, timeout=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_was_taken_be_answered(start_slow_service, number):
    process, address = start_slow_service(20)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, address, "2")
        assert process.stdout.readline() == "searching\n"
        second = pool.submit(post, address, "0.1")  # waits while the first is searched
        while httpx.get(f"{address}/healthz").json()["waiting"] < 2:
            time.sleep(0.01)
        os.kill(process.pid, number)
        time.sleep(0.6)
        with pytest.raises(httpx.ConnectError):
            post(address, "0")
        for request, query in ((first, "2"), (second, "0.1")):
            assert request.result().json() == {"result": [[{"id": "1", "contents": query}]]}
    assert process.wait(10) == 0
    assert process.stdout.read() == "searching\nended well\n"


def test_a_search_that_never_ends_does_not_keep_the_service(start_slow_service):
    process, address = start_slow_service(1)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(post, address, "60")
        assert process.stdout.readline() == "searching\n"
        os.kill(process.pid, signal.SIGTERM)
        with pytest.raises(httpx.HTTPError):
            request.result().raise_for_status()
    assert process.wait(10) == 0
    assert process.stdout.read() == "ended well\n"


def test_a_second_signal_ends_it_at_once(start_slow_service):
    process, address = start_slow_service(60)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(post, address, "60")
        assert process.stdout.readline() == "searching\n"
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        with pytest.raises(httpx.HTTPError):
            request.result().raise_for_status()
        assert process.wait(10) != 0


def test_a_free_port_is_found():
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", 0) as second:
        assert address_of(first) != address_of(second)
        assert address_of(first) == f"http://127.0.0.1:{first.getsockname()[1]}"


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"^127.0.0.1:{port}: cannot listen here .*in use.*; choose another --port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not(port):
    with pytest.raises(BadInput, match=f"port {port}: there is no such port"):
        bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a" * 300, "\ud800"])
def test_an_address_that_is_not_this_machines(host):
    with pytest.raises(BadInput, match="choose another") as raised:
        bind(host, 0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_who_can_reach_it(host, loopback):
    with bind(host, 0) as bound:
        assert is_loopback(bound) is loopback


def test_an_address_of_version_6():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        bound = bind("::1", 0)
    except BadInput:
        pytest.skip("this machine has no IPv6")
    with bound:
        assert is_loopback(bound)
        assert address_of(bound) == f"http://[::1]:{bound.getsockname()[1]}"
