import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tspo.retrieval.base import Passage


class StandIn:
    """A real HTTP server on a real port that answers as `answer(method, path, body)` says and notes what it was asked.

    An answer is (status, JSON value or bytes) and maybe headers. `stop` and `start` take it away and bring it back.
    """

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self.connections: list[socket.socket] = []
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                stand_in.connections.append(self.request)
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stand_in.asked.append((self.command, self.path, body))
                stand_in.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, content, *headers = stand_in.answer(self.command, self.path, body)
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in (headers[0] if headers else {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                pass  # a client that hung up

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        while self.connections:
            with suppress(OSError):  # it is closed already
                self.connections.pop().shutdown(socket.SHUT_RDWR)


@pytest.fixture
def stand_in() -> Iterator[Callable[..., StandIn]]:
    """A function that starts a `StandIn`."""
    with ExitStack() as stack:

        def start(answer: Callable[..., Any]) -> StandIn:
            server = StandIn(answer)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def run_app() -> Iterator[Callable[[Any], str]]:
    """A function that serves an app on a port of its own and gives the address."""
    pytest.importorskip("uvicorn")
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serving_app(app))


@contextmanager
def serving_app(app: Any) -> Iterator[str]:
    from tspo.retrieval.serving import Service, address_of, bind

    ready = threading.Event()
    with bind("127.0.0.1", 0) as bound:
        service = Service(app, bound, drain_seconds=5, on_ready=ready.set)
        thread = threading.Thread(target=service.run)
        thread.start()
        try:
            assert ready.wait(10)
            yield address_of(bound)
        finally:
            service.stop()
            thread.join(10)
        assert not thread.is_alive()


class Shelf:
    """A retriever whose passages repeat the query; it notes its batches, raises for "broken", and can be held up."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], int]] = []
        self.threads: set[int] = set()
        self.open = threading.Event()
        self.open.set()

    def search(self, queries: Any, top_k: int) -> list[list[Passage]]:
        self.threads.add(threading.get_ident())
        self.batches.append((list(queries), top_k))
        assert self.open.wait(10)
        if "broken" in queries:
            raise RuntimeError("a passage cannot be read")
        return [passages(query, top_k) for query in queries]


def passages(query: str, top_k: int) -> list[Passage]:
    return [Passage(str(i), f'"{query}"\ntext {i}', 1 / (i + 1)) for i in range(min(top_k, 5))]


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A `Shelf`."""
    shelf = Shelf()
    yield shelf
    shelf.open.set()


@pytest.fixture
def found() -> Callable[[str, int], list[Passage]]:
    """What a `Shelf` finds for a query."""
    return passages
