"""A request to /retrieve: read, checked against the service's limits, or refused with a reason."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import HTTPException, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from starlette.requests import ClientDisconnect

from tspo.errors import BadInput


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much the service takes on; raises BadInput where no request could be answered under them."""

    body_bytes: int = 4 * 2**20
    """Bytes of one request's body."""
    queries: int = 4096
    """Queries of one request; Search-R1 sends those of a whole batch of episodes in one."""
    query_chars: int = 8192
    top_k: int = 100
    passages: int = 100_000
    """Passages of one reply, counted as queries x top k."""
    waiting: int = 16_384
    """Queries that may wait; a request that would make them more is refused."""
    requests: int = 2048
    """Requests under way at one time; one more is refused. Trainers ask for each episode by itself, all at once."""
    when_full: int = 429
    """The status that a request is refused with because of others: 429, or 503, which some clients alone try again."""
    seconds: float = 60.0
    """For a request's body to arrive, and as long again for its search."""

    def __post_init__(self) -> None:
        """Check that the limits are positive and that the largest request can wait."""
        for name in self.__dataclass_fields__:
            if not 0 < getattr(self, name) < 10**9:
                raise BadInput(f"the limit of {name} is {getattr(self, name)}; it must be above 0 and below 10^9")
        if self.when_full not in (429, 503):
            raise BadInput(f"the status of a full service is {self.when_full}; it must be 429 or 503")
        if self.waiting < self.queries:
            raise BadInput(
                f"{self.waiting} queries may wait, but one request may have {self.queries}; raise the one or lower the "
                "other"
            )


@dataclass(frozen=True, slots=True)
class RetrieveRequest:
    """A request that can be answered."""

    queries: list[str]
    top_k: int
    return_scores: bool
    searched: list[bool]
    """For each query whether it is one: nothing is found by a blank one, nor by one that is too long."""


class RequestReader:
    """Reads requests under some limits; `default_top_k` is for those that name none.

    As Search-R1's clients send them: a batch keeps its other results where one query is empty or too long, `query` may
    hold a single one in the place of `queries`, and numbers and booleans may be written as text.
    """

    def __init__(self, limits: ServerLimits, default_top_k: int) -> None:
        self._limits = limits
        self._default_top_k = default_top_k
        top_k = Annotated[int, Field(ge=1, le=limits.top_k), BeforeValidator(_whole)]
        self._body: type[BaseModel] = create_model(
            "RetrieveRequest",
            __config__=ConfigDict(extra="forbid", strict=True),
            queries=(Annotated[list[str], Field(max_length=limits.queries)] | None, None),
            query=(str | None, None),
            topk=(top_k | None, None),
            return_scores=(Annotated[bool, BeforeValidator(_truth)], False),
        )

    def schema(self) -> dict[str, Any]:
        """The body as OpenAPI describes it."""
        one_of = [
            {"required": [name], "properties": {name: {"not": {"type": "null"}}, other: {"type": "null"}}}
            for name, other in (("queries", "query"), ("query", "queries"))
        ]
        schema = self._body.model_json_schema() | {"oneOf": one_of}
        return {"required": True, "content": {"application/json": {"schema": schema}}}

    async def read(self, request: Request) -> RetrieveRequest:
        """The request, checked; raises HTTPException 400, 408, 413, 415 or 422."""
        # A page in a browser can send text without asking, but not JSON: the corpus stays with who may have it.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415, "send the request as application/json")
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await self._read_body(request)
        except TimeoutError:
            raise HTTPException(408, f"the request did not arrive within {self._limits.seconds:g} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection was closed before the request had arrived") from None
        return self._parse(body)

    async def _read_body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._limits.body_bytes:
                raise HTTPException(413, f"the body is larger than {self._limits.body_bytes} bytes; send fewer queries")
        return bytes(body)

    def _parse(self, body: bytes) -> RetrieveRequest:
        try:
            asked: Any = self._body.model_validate_json(body)
        except ValidationError as error:
            raise HTTPException(422, _explain(error)) from None
        top_k = self._default_top_k if asked.topk is None else asked.topk
        if (asked.queries is None) == (asked.query is None):
            raise HTTPException(422, "queries: give the queries, or a single one as query, and not both")
        queries: list[str] = [asked.query] if asked.queries is None else asked.queries
        if len(queries) * top_k > self._limits.passages:
            raise HTTPException(
                422,
                f"{len(queries)} queries x {top_k} passages are more than {self._limits.passages}; "
                "send fewer queries, or a lower topk",
            )
        searched = [bool(query.strip()) and len(query) <= self._limits.query_chars for query in queries]
        return RetrieveRequest(queries, top_k, asked.return_scores, searched)


def _whole(number: Any) -> Any:
    """3.0 is the integer 3 in JSON, though not in Python; and so is "3" where a client writes numbers as text."""
    if isinstance(number, str) and number.isascii() and number.strip().isdecimal() and len(number) < 10:
        return int(number)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _truth(value: Any) -> Any:
    """A boolean that was written as text."""
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one line without the input."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:100] for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place}: there is no such field; there are queries, query, topk and return_scores"
    return f"{place}: {first['msg']}" if place else first["msg"]
