"""The viewer as a web application: one page, its files, and what it asks for as JSON.

Text from models and passages goes out as JSON only; the page puts it in as text, and its policy runs no script but
the page's own.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles

from tspo.errors import BadInput
from tspo.evaluation.report.choose import State
from tspo.viewer.content import curves_content, runs_content
from tspo.viewer.group_view import group_view
from tspo.viewer.index import Index
from tspo.viewer.listing import Wanted, page_of_groups

PAGE_FOLDER = Path(__file__).parent / "page"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SECONDS_BETWEEN_LOOKS = 2.0
_LARGEST = 2**53


class Viewer:
    """The indexes of the runs that are shown, looked after while the page is open."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self.indexes = indexes
        self.problems: list[str | None] = [None] * len(indexes)
        self._looked = time.monotonic()

    def refresh(self) -> None:
        """Index what is new in the runs, not more often than every few seconds; a damaged file is a problem to show."""
        if time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        for number, index in enumerate(self.indexes):
            try:
                index.refresh()
                self.problems[number] = None
            except BadInput as error:
                self.problems[number] = str(error)

    def index(self, run: int) -> Index:
        """The index of a run by its number; raises a 404."""
        if not 0 <= run < len(self.indexes):
            raise HTTPException(404, "there is no such run")
        return self.indexes[run]


def create_app(indexes: Sequence[Index], *, host: str = "127.0.0.1") -> FastAPI:
    """The application over these indexes, for requests whose Host is this machine or `host`."""
    viewer = Viewer(indexes)
    app = FastAPI(title="tspo view", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        # A page from elsewhere that has its own name point to this machine must not be able to read a run.
        if not is_this_machine(request.headers.get("host", ""), host):
            response: Response = PlainTextResponse("this name is not the viewer's", 421)
        else:
            response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(BadInput)
    async def explain(_: Request, error: BadInput) -> Response:
        return _json({"detail": str(error)}, status=409)

    @app.get("/api/runs")
    def runs() -> Response:
        """What is shown: each run's name, settings and counts."""
        viewer.refresh()
        return _json(runs_content(viewer.indexes, viewer.problems))

    @app.get("/api/curves")
    def curves() -> Response:
        """The curves of all runs."""
        return _json(curves_content(viewer.indexes))

    @app.get("/api/runs/{run}/groups")
    def groups(
        run: int,
        state: Annotated[list[State], Query(default_factory=list)],
        all_wrong: bool = False,
        text: Annotated[str, Query(max_length=1000)] = "",
        first: Annotated[int | None, Query(ge=-_LARGEST, le=_LARGEST)] = None,
        last: Annotated[int | None, Query(ge=-_LARGEST, le=_LARGEST)] = None,
        offset: Annotated[int, Query(ge=0, le=_LARGEST)] = 0,
    ) -> Response:
        """One page of the groups that are wanted."""
        wanted = Wanted(frozenset(state), all_wrong, text, first, last)
        return _json(page_of_groups(viewer.index(run), wanted, offset))

    @app.get("/api/runs/{run}/groups/{number}")
    def group(run: int, number: int) -> Response:
        """One group with all its trajectories."""
        found = group_view(viewer.index(run), number) if abs(number) <= _LARGEST else None
        if found is None:
            raise HTTPException(404, "there is no such group")
        return _json(found)

    app.mount("/", StaticFiles(directory=PAGE_FOLDER, html=True))
    return app


def is_this_machine(host_header: str, host: str) -> bool:
    """Whether a request was sent to an address, to this machine's own name, or to the name it was told to listen on."""
    name = re.sub(r":\d+$", "", host_header).strip("[]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in {"localhost", socket.gethostname().lower(), host.lower()}
    return True


def _json(content: Any, status: int = 200) -> Response:
    # ASCII alone, for a text may hold half a surrogate pair.
    return Response(json.dumps(content, allow_nan=False).encode(), status, media_type="application/json")
