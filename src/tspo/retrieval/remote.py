"""What retrievers over a network share: one way to search, for callers with and without an event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tspo.background_loop import BackgroundLoop
from tspo.retrieval.base import Passage, RetrieverError


class RemoteRetriever(ABC):
    """A retriever whose connections are used and reused in an event loop of its own, whoever asks."""

    def __init__(self) -> None:
        self._loop = BackgroundLoop("retriever")

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
