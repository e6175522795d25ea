"""Live web search as a retriever: a SearxNG server, or Serper."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from tspo.errors import BadInput
from tspo.retrieval.base import Passage, RetrieverError, check_top_k
from tspo.retrieval.call_settings import CallSettings
from tspo.retrieval.http_calls import HttpCalls, Malformed, Refused, checked_address, read_json
from tspo.retrieval.remote import RemoteRetriever

SERPER = "https://google.serper.dev"
SERPER_KEY = "SERPER_API_KEY"


class _WebSearch(RemoteRetriever):
    """One call a query; a page is a passage of its title and the engine's excerpt, its id the page's address.

    Scores are 1 / rank.
    """

    _calls: HttpCalls

    async def _answers(self, queries: Sequence[str], top_k: int) -> list[list[Passage] | RetrieverError]:
        check_top_k(top_k)
        return list(await asyncio.gather(*(self._answer(query, top_k) for query in queries)))

    async def _answer(self, query: str, top_k: int) -> list[Passage] | RetrieverError:
        # half a surrogate pair is no text that an engine could be sent
        text = query.encode("utf-8", "replace").decode()
        try:
            return (await self._find(text, top_k))[:top_k]
        except RetrieverError as error:
            return error
        except Refused as refused:
            return RetrieverError(f"{self._calls.address}: refused the query {query[:60]!r} ({refused})")

    async def _identity(self) -> str:
        return self._calls.address

    @abstractmethod
    async def _find(self, query: str, top_k: int) -> list[Passage]: ...


class SearxNGRetriever(_WebSearch):
    """A SearxNG server at `address`, which must permit JSON (`search.formats` in its settings)."""

    def __init__(self, address: str, settings: CallSettings | None = None) -> None:
        super().__init__()
        self._calls = HttpCalls(
            checked_address(address),
            settings or CallSettings(),
            headers={},
            when_denied="add json to search.formats in its settings.yml",
        )

    async def _find(self, query: str, top_k: int) -> list[Passage]:
        return await self._calls.call(
            "GET",
            f"{self._calls.address}/search",
            lambda reply: _passages(_pages(reply, "results"), address="url", excerpt="content"),
            params={"q": query, "format": "json"},
        )


class SerperRetriever(_WebSearch):
    """Google through serper.dev; raises BadInput where the environment has no SERPER_API_KEY."""

    def __init__(self, address: str, settings: CallSettings | None = None) -> None:
        super().__init__()
        key = os.environ.get(SERPER_KEY, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise BadInput(f"{SERPER_KEY}: no key for Serper; put the one from serper.dev in this variable")
        self._calls = HttpCalls(
            checked_address(address),
            settings or CallSettings(),
            headers={"X-API-KEY": key},
            when_denied=f"check the key in {SERPER_KEY}",
        )

    async def _find(self, query: str, top_k: int) -> list[Passage]:
        return await self._calls.call(
            "POST",
            f"{self._calls.address}/search",
            lambda reply: _passages(
                _pages(reply, "organic", beside="searchParameters"), address="link", excerpt="snippet"
            ),
            json={"q": query, "num": top_k},
        )


def _pages(reply: bytes, field: str, beside: str | None = None) -> list[dict[str, Any]]:
    """The reply's list `field`; none where `beside` is there and it is not: Serper leaves it out where nothing is."""
    content = read_json(reply)
    pages = content.get(field, [] if beside in content else None) if isinstance(content, dict) else None
    if not isinstance(pages, list) or not all(isinstance(page, dict) for page in pages):
        raise Malformed(f"a reply without a list of {field}")
    return pages


def _passages(pages: Sequence[dict[str, Any]], address: str, excerpt: str) -> list[Passage]:
    """Pages in the form of corpus entries; those without a title or an excerpt say nothing and are left out."""
    found: list[Passage] = []
    for page in pages:
        title, text = _line(page.get("title")), _line(page.get(excerpt))
        if title and text:
            found.append(Passage(_line(page.get(address)), f'"{title}"\n{text}', 1 / (len(found) + 1)))
    return found


def _line(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
