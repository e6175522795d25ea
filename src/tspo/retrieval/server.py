"""Search-R1's retrieval service over any retriever: POST /retrieve, GET /healthz, GET /metrics.

Requests and replies are Search-R1's. What its server falls over is refused with a reason: bodies that are no
JSON or too large, fields that there are not, numbers out of range, more work than can be done in time.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import compress
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from tspo.errors import BadInput
from tspo.retrieval.base import Passage, Retriever
from tspo.retrieval.retrieve_request import RequestReader, RetrieveRequest, ServerLimits
from tspo.retrieval.search_queue import QueueFull, SearchQueue
from tspo.retrieval.server_metrics import ServerMetrics

_log = logging.getLogger(__name__)


class Document(BaseModel):
    """An entry of the corpus."""

    id: str
    contents: str


class ScoredDocument(BaseModel):
    """An entry of the corpus, and how well it fits the query."""

    document: Document
    score: float


class Found(BaseModel):
    """For each query its passages, best first; with scores where the request asked for them."""

    result: list[list[ScoredDocument]] | list[list[Document]]


class Problem(BaseModel):
    """Why there is no reply."""

    detail: str


class Health(BaseModel):
    """What /healthz says."""

    status: str
    index: str
    waiting: int


def create_app(
    retriever: Retriever,
    *,
    top_k: int = 3,
    limits: ServerLimits | None = None,
    token: str | None = None,
    index: str = "",
) -> FastAPI:
    """The service over `retriever`, which is asked from one thread only.

    `top_k` is for requests that name none. With a `token`, /retrieve and /metrics want it as a bearer token.
    `index` identifies what is searched; /healthz says it. Raises BadInput where `top_k` is not within `limits`.
    """
    limits = limits or ServerLimits()
    if not 1 <= top_k <= limits.top_k:
        raise BadInput(f"the default top k is {top_k}; it must be from 1 to {limits.top_k}")
    metrics = ServerMetrics(waiting=lambda: queue.waiting)
    queue = SearchQueue(retriever, limits.waiting, metrics.searched)
    reader = RequestReader(limits, top_k)

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    async def authorise(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    async def answer(request: Request) -> tuple[RetrieveRequest, list[list[Passage]]]:
        if metrics.under_way > limits.requests:
            raise _busy(queue, limits)
        asked = await reader.read(request)
        try:
            async with asyncio.timeout(limits.seconds):
                found = iter(await queue.search(list(compress(asked.queries, asked.searched)), asked.top_k))
        except QueueFull:
            raise _busy(queue, limits) from None
        except TimeoutError:
            raise HTTPException(504, f"the search took longer than {limits.seconds:g} s") from None
        except Exception:
            _log.exception("the search failed")
            raise HTTPException(500, "the search failed; the server's log says why") from None
        return asked, [next(found) if searched else [] for searched in asked.searched]

    app = FastAPI(title="tspo retrieval", docs_url=None, redoc_url=None, lifespan=closing)

    @app.post(
        "/retrieve",
        dependencies=[Depends(authorise)],
        response_model=Found,
        responses=_problems(400, 401, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra={"requestBody": reader.schema()},
    )
    async def retrieve(request: Request) -> Response:
        """Search the corpus for each query."""
        with metrics.request() as answered:
            try:
                asked, results = await answer(request)
            except HTTPException as problem:
                answered(problem.status_code, 0)
                raise
            answered(200, len(asked.queries))
            return Response(_to_json(results, asked.return_scores), media_type="application/json")

    @app.get("/healthz", response_model=Health)
    async def healthz() -> Health:
        """Whether the service works, and what it searches."""
        return Health(status="ok", index=index, waiting=queue.waiting)

    @app.get(
        "/metrics",
        dependencies=[Depends(authorise)],
        response_class=Response,
        responses=_problems(401) | {200: {"content": {metrics.content_type: {"schema": {"type": "string"}}}}},
    )
    async def show_metrics() -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(metrics.render(), headers={"Content-Type": metrics.content_type})

    return app


def _busy(queue: SearchQueue, limits: ServerLimits) -> HTTPException:
    seconds = queue.retry_after()
    return HTTPException(
        limits.when_full, f"too much is waiting; try again in {seconds} s", {"Retry-After": str(seconds)}
    )


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


def _to_json(results: Sequence[Sequence[Passage]], scores: bool) -> bytes:
    def entry(passage: Passage) -> dict[str, Any]:
        document = {"id": passage.id, "contents": passage.contents}
        return {"document": document, "score": passage.score} if scores else document

    # ASCII alone: a corpus may hold half a surrogate pair, which UTF-8 has not
    return json.dumps({"result": [[entry(passage) for passage in found] for found in results]}).encode()
