"""The searches of episodes that run side by side, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tspo.retrieval.base import AsyncRetriever, Passage, Retriever, RetrieverError


@dataclass(slots=True)
class SearchLog:
    """How searches went."""

    seconds: list[float] = field(default_factory=list)
    """From each query to its passages, or to its failure."""
    failed: int = 0
    cache_hits: int = 0
    cache_misses: int = 0


Waiting = list[tuple[str, asyncio.Future[list[Passage]]]]


class BatchedSearch:
    """Sends the queries of all episodes that search in the same step as one batch.

    A retriever in this process answers at once, and all wait for it: what follows stays a function of the
    seed. One that is far away is awaited, and episodes that have tokens to sample go on.
    """

    def __init__(self, retriever: Retriever, top_k: int, log: SearchLog) -> None:
        self._retriever = retriever
        self._top_k = top_k
        self._log = log
        self._waiting: Waiting = []
        self._under_way: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks weakly

    async def search(self, query: str) -> list[Passage]:
        """The passages of one query; raises its RetrieverError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Passage]] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append((query, future))
        started = time.perf_counter()
        try:
            return await future
        except RetrieverError:
            self._log.failed += 1
            raise
        finally:
            self._log.seconds.append(time.perf_counter() - started)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if isinstance(self._retriever, AsyncRetriever):
            task = asyncio.get_running_loop().create_task(self._ask(self._retriever, waiting))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            return
        try:
            results = self._retriever.search([query for query, _ in waiting], self._top_k)
            _hand_out(results, waiting)
        except Exception as error:
            _fail(error, waiting)

    async def _ask(self, retriever: AsyncRetriever, waiting: Waiting) -> None:
        try:
            _hand_out(await retriever.asearch([query for query, _ in waiting], self._top_k), waiting)
        except Exception as error:
            _fail(error, waiting)


def _hand_out(results: Sequence[list[Passage] | RetrieverError], waiting: Waiting) -> None:
    if len(results) != len(waiting):
        raise ValueError(f"the retriever gave {len(results)} results for {len(waiting)} queries")
    for (_, future), result in zip(waiting, results, strict=True):
        if future.done():  # its episode was cancelled
            continue
        if isinstance(result, RetrieverError):
            future.set_exception(result)
        else:
            future.set_result(result)


def _fail(error: Exception, waiting: Waiting) -> None:
    for _, future in waiting:
        if not future.done():
            future.set_exception(error)
