"""What every retriever gives and promises, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tspo.errors import BadInput


class RetrieverError(BadInput):
    """The retriever did not answer this query: the service is away, or its reply cannot be read."""


class RetrieverGone(BadInput):
    """The retriever answers nobody any more, or never will: no query is worth asking, and the run stops."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One hit: a corpus entry (`contents` is the quoted title, a line break, the text) and its score."""

    id: str
    contents: str
    score: float


def check_top_k(top_k: int) -> None:
    """Raise ValueError where so many passages cannot be asked for."""
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")


class Retriever(Protocol):
    """Anything that can be asked for passages."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query at most `top_k` passages, best first; raises RetrieverError and RetrieverGone."""
        ...


@runtime_checkable
class AsyncRetriever(Retriever, Protocol):
    """A retriever that is far away: others can work while it searches, and some queries may fail alone."""

    async def asearch(self, queries: Sequence[str], top_k: int) -> list[list[Passage] | RetrieverError]:
        """For each query what `search` gives, or why it has no answer; raises RetrieverGone."""
        ...
