import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from tspo.datasets.benchmarks import BENCHMARKS, Benchmark, HubFile

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A server on this machine that answers for files as the hub does; `cut` breaks the next answers off."""

    def __init__(self):
        self.files = {}
        self.cut = []
        """How many bytes of its body each of the next answers sends before the connection breaks."""
        self.requests = []
        """Method, path and Range of each request."""
        self.wrong_etag = False
        self.pause_after = None
        """After how many bytes of a body to send no more, the connection open."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                self._answer(head=True)

            def do_GET(self):
                self._answer(head=False)

            def _answer(self, head):
                hub.requests.append((self.command, self.path, self.headers.get("Range")))
                body = hub.files.get(self.path)
                if body is None:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start = 0
                if wanted := self.headers.get("Range"):
                    start = int(wanted.removeprefix("bytes=").partition("-")[0])
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                digest = "0" * 64 if hub.wrong_etag else hashlib.sha256(body).hexdigest()
                self.send_header("ETag", f'"{digest}"')
                self.send_header("X-Repo-Commit", REVISION)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                if head:
                    return
                if hub.cut:
                    self.wfile.write(body[start : start + hub.cut.pop(0)])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                pause = len(body) if hub.pause_after is None else hub.pause_after
                self.wfile.write(body[start:pause])
                self.wfile.flush()
                while hub.pause_after is not None:  # until the test ends it
                    time.sleep(0.05)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def serve(self, benchmark, split, body):
        """Answer with `body` where a split's file is asked for."""
        path = benchmark.files[split].path
        self.files[f"/datasets/{benchmark.repository}/resolve/{benchmark.revision}/{path}"] = body

    def bodies_sent_from(self):
        """The byte that each download began at."""
        ranges = [wanted for method, path, wanted in self.requests if method == "GET" and "/resolve/" in path]
        return [int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0 for wanted in ranges]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine that HF_ENDPOINT names, with the cache and data folder in `tmp_path`."""
    pytest.importorskip("huggingface_hub")
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("TSPO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # not 10 MB: what a break may lose
    yield server
    server.close()


def rows(name, count, **fields):
    """JSON Lines as FlashRAG has them."""
    lines = [
        {"id": f"test_{n}", "question": f"who is number {n}", "golden_answers": [f"Person {n}"]} | fields
        for n in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.fixture
def small(hub, monkeypatch):
    """A function that puts a small data set into the table and on the hub, and returns it."""

    def make(name="tiny", body=None, split="test", sha256=None, count=50, path=None, kind="questions"):
        body = rows(name, count) if body is None else body
        benchmark = Benchmark(
            name=name,
            repository="RUC-NLPIR/FlashRAG_datasets",
            revision=REVISION,
            files={split: HubFile(path or f"{name}/{split}.jsonl", 0.01, count, sha256)},
            licence="CC BY-SA 4.0",
            original_licence="unknown",
            hops="1",
            evaluation=split,
            kind=kind,
        )
        monkeypatch.setitem(BENCHMARKS, name, benchmark)
        hub.serve(benchmark, split, body)
        return benchmark

    return make
