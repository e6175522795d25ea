"""Answers that were given before: in memory, the least recently used go first, and if wanted in a file."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tspo.retrieval.base import AsyncRetriever, Passage, Retriever, RetrieverError
from tspo.retrieval.query_cache_file import QueryCacheFile


class QueryCache:
    """A retriever that asks another only what it has not been told before; for one thread at a time.

    `identity` tells the other's answers from those of all other retrievers that share the file. At most
    `entries` answers are in memory; the file holds all. Failures are not kept. Raises BadInput where `file` is
    something else or cannot be used.
    """

    def __init__(self, retriever: Retriever, identity: str, entries: int, file: Path | None = None) -> None:
        self.hits = 0
        """Queries answered without asking, those that stood twice in one search among them."""
        self.misses = 0
        self._retriever = retriever
        self._identity = identity
        self._entries = entries
        self._memory: OrderedDict[bytes, list[Passage]] = OrderedDict()
        self._file = None if file is None else QueryCacheFile(file)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """See `Retriever`."""
        known, unknown = self._look_up(queries, top_k)
        if unknown:
            found = zip(unknown, self._retriever.search(list(unknown), top_k), strict=True)
            known |= self._keep(found, unknown)
        return [list(known[query]) for query in queries]

    def _look_up(self, queries: Sequence[str], top_k: int) -> tuple[dict[str, list[Passage]], dict[str, bytes]]:
        """The answers there are, by query, and the key of each query that has none."""
        known: dict[str, list[Passage]] = {}
        unknown: dict[str, bytes] = {}
        for query in queries:
            if query not in known and query not in unknown:
                key = self._key(query, top_k)
                passages = self._get(key)
                if passages is None:
                    unknown[query] = key
                else:
                    known[query] = passages
        self.misses += len(unknown)
        self.hits += len(queries) - len(unknown)
        return known, unknown

    def _get(self, key: bytes) -> list[Passage] | None:
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        passages = None if self._file is None else self._file.get(key)
        if passages is not None:
            self._remember(key, passages)
        return passages

    def _keep(self, found: Iterable[tuple[str, list[Passage]]], keys: dict[str, bytes]) -> dict[str, list[Passage]]:
        new = dict(found)
        for query, passages in new.items():
            self._remember(keys[query], passages)
        if self._file is not None and new:
            self._file.put((keys[query], passages) for query, passages in new.items())
        return new

    def _remember(self, key: bytes, passages: list[Passage]) -> None:
        self._memory[key] = passages
        if len(self._memory) > self._entries:
            self._memory.popitem(last=False)

    def _key(self, query: str, top_k: int) -> bytes:
        return hashlib.sha256(json.dumps([self._identity, top_k, query]).encode()).digest()


class AsyncQueryCache(QueryCache):
    """A `QueryCache` over a retriever that is far away, which can be searched as that can."""

    def __init__(self, retriever: AsyncRetriever, identity: str, entries: int, file: Path | None = None) -> None:
        super().__init__(retriever, identity, entries, file)
        self._far = retriever

    async def asearch(self, queries: Sequence[str], top_k: int) -> list[list[Passage] | RetrieverError]:
        """See `AsyncRetriever`."""
        known, unknown = self._look_up(queries, top_k)
        results: dict[str, list[Passage] | RetrieverError] = {**known}
        if unknown:
            found = dict(zip(unknown, await self._far.asearch(list(unknown), top_k), strict=True))
            results |= found
            self._keep(((query, answer) for query, answer in found.items() if isinstance(answer, list)), unknown)
        return [list(answer) if isinstance(answer := results[query], list) else answer for query in queries]


def cache_counts(retriever: Retriever) -> tuple[int, int]:
    """The hits and misses so far, both 0 where there is no cache."""
    return (retriever.hits, retriever.misses) if isinstance(retriever, QueryCache) else (0, 0)


def cached(retriever: Retriever, identity: str, entries: int, file: Path | None = None) -> QueryCache:
    """A cache over `retriever` that can be searched in the ways that can."""
    if isinstance(retriever, AsyncRetriever):
        return AsyncQueryCache(retriever, identity, entries, file)
    return QueryCache(retriever, identity, entries, file)
