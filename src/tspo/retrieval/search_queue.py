"""Requests that wait for one retriever: bounded in number, searched together in one thread."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from tspo.retrieval.base import Passage, Retriever

MAX_BATCH = 256
"""Queries of one search: a request of more of them lets others in between."""

_LONGEST_RETRY = 30
_SMOOTHING = 0.2


class QueueFull(Exception):
    """So many queries wait already that these were not taken; `SearchQueue.retry_after` says when to come back."""


@dataclass(slots=True, eq=False)
class _Request:
    """Queries that arrived together; `found` grows until there is one result each."""

    queries: Sequence[str]
    top_k: int
    done: asyncio.Future[list[list[Passage]]]
    found: list[list[Passage]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Part:
    """The queries of one request that are in one batch."""

    request: _Request
    queries: Sequence[str]


class SearchQueue:
    """Lets many callers share a retriever that is asked from one thread only.

    While a batch is being searched, requests gather; those with the oldest one's `top_k` are the next batch,
    each different query in it once. `on_batch` is told of each: its different queries, and its seconds.
    """

    def __init__(
        self, retriever: Retriever, max_waiting: int, on_batch: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self.waiting = 0
        """Queries taken and not answered yet."""
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._requests: deque[_Request] = deque()
        self._seconds_per_query = 0.0
        self._thread = _SearchThread(retriever)
        self._worker: asyncio.Task[None] | None = None

    async def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query its passages; raises QueueFull, and what the retriever raises for these queries."""
        if not queries:
            return []
        if self.waiting + len(queries) > self._max_waiting:
            raise QueueFull
        request = _Request(queries, top_k, asyncio.get_running_loop().create_future())
        self.waiting += len(queries)
        self._requests.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            return await request.done
        finally:
            self.waiting -= len(queries)
            if request in self._requests:  # whoever asked is gone
                self._requests.remove(request)

    def retry_after(self) -> int:
        """Seconds until what waits now should be answered, from 1 to 30."""
        return min(max(math.ceil(self.waiting * self._seconds_per_query), 1), _LONGEST_RETRY)

    def close(self) -> None:
        """Let the thread end after the batch that it is at."""
        self._thread.end()

    async def _work(self) -> None:
        while parts := self._next_batch():
            try:
                found = await self._search_parts(parts)
            except Exception:
                # One request's query must not fail the others that were put together with it.
                for part in parts:
                    try:
                        found = await self._search_parts([part])
                    except Exception as error:
                        self._fail(part.request, error)
                    else:
                        self._answer([part], found)
            else:
                self._answer(parts, found)

    def _next_batch(self) -> list[_Part]:
        parts: list[_Part] = []
        room = MAX_BATCH
        for request in list(self._requests):
            if room == 0:
                break
            if parts and request.top_k != parts[0].request.top_k:
                continue
            first = len(request.found)
            part = _Part(request, request.queries[first : first + room])
            parts.append(part)
            room -= len(part.queries)
            self._requests.remove(request)
        return parts

    async def _search_parts(self, parts: Sequence[_Part]) -> dict[str, list[Passage]]:
        queries = list(dict.fromkeys(query for part in parts for query in part.queries))
        started = time.perf_counter()
        results = await asyncio.wrap_future(self._thread.search(queries, parts[0].request.top_k))
        seconds = time.perf_counter() - started
        self._seconds_per_query += _SMOOTHING * (seconds / len(queries) - self._seconds_per_query)
        self._on_batch(len(queries), seconds)
        return dict(zip(queries, results, strict=True))

    def _answer(self, parts: Sequence[_Part], found: dict[str, list[Passage]]) -> None:
        for part in parts:
            request = part.request
            request.found += [found[query] for query in part.queries]
            if request.done.done():
                continue
            if len(request.found) == len(request.queries):
                request.done.set_result(request.found)
            else:
                self._requests.append(request)  # behind those that came meanwhile

    def _fail(self, request: _Request, error: Exception) -> None:
        if not request.done.done():
            request.done.set_exception(error)


_Results = list[list[Passage]]


class _SearchThread:
    """The one thread that asks the retriever. A daemon: a search that never ends does not keep the program."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._calls: queue.SimpleQueue[tuple[Future[_Results], Sequence[str], int] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="search", daemon=True).start()

    def search(self, queries: Sequence[str], top_k: int) -> Future[_Results]:
        future: Future[_Results] = Future()
        self._calls.put((future, queries, top_k))
        return future

    def end(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, queries, top_k = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._retriever.search(queries, top_k))
                except Exception as error:
                    future.set_exception(error)
