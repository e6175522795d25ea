"""A retriever that asks a retrieval service over HTTP: tspo's own, or Search-R1's."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from tspo.retrieval.base import Passage, RetrieverError, RetrieverGone, check_top_k
from tspo.retrieval.bearer_token import TOKEN_VARIABLE, find_token
from tspo.retrieval.call_settings import CallSettings
from tspo.retrieval.http_calls import HttpCalls, Malformed, Refused, checked_address, read_json
from tspo.retrieval.remote import RemoteRetriever

BATCH = 256
"""Queries of one request."""
_HEALTH_SECONDS = 10.0


class HTTPRetriever(RemoteRetriever):
    """The service at `address`, which may end in /retrieve.

    The token, where the service wants one, is taken from the environment. Raises BadInput for an address that
    is none.
    """

    def __init__(self, address: str, settings: CallSettings | None = None) -> None:
        super().__init__()
        self.address = checked_address(address).removesuffix("/retrieve")
        token = find_token()
        self._calls = HttpCalls(
            self.address,
            settings or CallSettings(),
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            when_denied=f"put its token in {TOKEN_VARIABLE}",
        )

    async def _answers(self, queries: Sequence[str], top_k: int) -> list[list[Passage] | RetrieverError]:
        check_top_k(top_k)
        batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
        answers = await asyncio.gather(*(self._ask(batch, top_k) for batch in batches))
        return [result for answer in answers for result in answer]

    async def _ask(self, queries: Sequence[str], top_k: int) -> list[list[Passage] | RetrieverError]:
        """The results of one batch; where the service refuses it, of its halves, down to the query at fault."""
        try:
            return list(await self._retrieve(queries, top_k))
        except RetrieverError as error:
            return [error] * len(queries)
        except Refused as refused:
            if len(queries) == 1:
                return [RetrieverError(f"{self.address}: refused the query {queries[0][:60]!r} ({refused})")]
        middle = len(queries) // 2
        first, second = await asyncio.gather(self._ask(queries[:middle], top_k), self._ask(queries[middle:], top_k))
        return first + second

    async def _retrieve(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        # ASCII alone: a query may hold half a surrogate pair, which UTF-8 has not
        body = json.dumps({"queries": list(queries), "topk": top_k, "return_scores": True}).encode()
        return await self._calls.call(
            "POST",
            f"{self.address}/retrieve",
            lambda reply: read_reply(reply, len(queries), top_k),
            content=body,
            headers={"Content-Type": "application/json"},
        )

    async def _identity(self) -> str:
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                index = await self._calls.call("GET", f"{self.address}/healthz", _read_index)
        except (RetrieverError, RetrieverGone, Refused, TimeoutError):  # Search-R1's server has no such page
            return self.address
        return f"{self.address} {index}"


def read_reply(reply: bytes, count: int, top_k: int) -> list[list[Passage]]:
    """The passages in a reply of either of Search-R1's forms, with scores or without, at most `top_k` a query.

    Raises Malformed where it is of neither form, or has not `count` results.
    """
    content = read_json(reply)
    results = content.get("result") if isinstance(content, dict) else None
    if not isinstance(results, list) or not all(isinstance(hits, list) for hits in results):
        raise Malformed("a reply without a list of results")
    if len(results) != count:
        raise Malformed(f"a reply with {len(results)} results for {count} queries")
    return [[_passage(hit) for hit in hits[:top_k]] for hits in results]


def _passage(hit: Any) -> Passage:
    scored = isinstance(hit, dict) and "document" in hit
    document, score = (hit["document"], hit.get("score", 0.0)) if scored else (hit, 0.0)
    if not isinstance(document, dict) or not isinstance(document.get("contents"), str):
        raise Malformed("a reply with a passage without contents")
    # Search-R1's server has no ids where its Lucene index holds the passages
    identifier = document.get("id", "")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise Malformed("a reply with an id that is neither a string nor a whole number")
    if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= sys.float_info.max:
        raise Malformed("a reply with a score that is not a number")
    return Passage(str(identifier), document["contents"], float(score))


def _read_index(reply: bytes) -> str:
    try:
        return str(json.loads(reply)["index"])
    except (ValueError, RecursionError, LookupError, TypeError):
        raise Malformed("a reply without an index") from None
