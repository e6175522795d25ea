"""What retrievers over a network share: one way to search, for callers with and without an event loop."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from tspo.retrieval.base import Passage, RetrieverError

T = TypeVar("T")


class RemoteRetriever(ABC):
    """A retriever whose connections are used and reused in an event loop of its own, whoever asks."""

    def __init__(self) -> None:
        self._loop = _BackgroundLoop()

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """See `Retriever`; raises the first query's RetrieverError, if any has one."""
        found = []
        for result in self._loop.wait(self._answers(queries, top_k)):
            if isinstance(result, RetrieverError):
                raise result
            found.append(result)
        return found

    async def asearch(self, queries: Sequence[str], top_k: int) -> list[list[Passage] | RetrieverError]:
        """See `AsyncRetriever`."""
        return await self._loop.run(self._answers(queries, top_k))

    def identity(self) -> str:
        """What tells its answers from those of another service, or of the same with another index."""
        return self._loop.wait(self._identity())

    @abstractmethod
    async def _answers(self, queries: Sequence[str], top_k: int) -> list[list[Passage] | RetrieverError]: ...

    @abstractmethod
    async def _identity(self) -> str: ...


class _BackgroundLoop:
    """An event loop in a thread that starts with the first call and ends with Python."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result, for a caller without a loop; interrupting the caller cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result, for a caller whose own loop goes on meanwhile; cancelling the caller cancels the work."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._running()))

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # a daemon, so that a call under way keeps no program from ending
                threading.Thread(target=self._loop.run_forever, name="retriever", daemon=True).start()
            return self._loop
