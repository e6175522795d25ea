"""Calls to a service that may fail: pooled connections, retries with back-off, a deadline, and giving up for good."""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from tspo.errors import BadInput
from tspo.retrieval.base import RetrieverError, RetrieverGone
from tspo.retrieval.call_settings import CallSettings

T = TypeVar("T")


class Refused(Exception):
    """The service works but will not answer this call: asking again is of no use, asking otherwise may be."""


class Malformed(Exception):
    """A reply that is not of the service's form; raised by whoever reads it, and asked for again."""


class HttpCalls:
    """Calls to the service at `address`; all of them from one event loop."""

    def __init__(
        self,
        address: str,
        settings: CallSettings,
        headers: Mapping[str, str],
        when_denied: str,
        service: str = "search service",
        verb: str = "search",
    ) -> None:
        """`when_denied` says what to do about 401 and 403; `service` and `verb` what is asked of whom."""
        self.address = address
        self._service = service
        self._verb = verb
        self._settings = settings
        self._when_denied = when_denied
        self._client = httpx.AsyncClient(
            headers=dict(headers),
            timeout=httpx.Timeout(settings.attempt, connect=min(settings.attempt, 10.0)),
            limits=httpx.Limits(max_connections=settings.connections, keepalive_expiry=30.0),
            # a proxy of the environment cannot reach this machine's own services
            trust_env=not _is_loopback(address),
        )
        self._turn = asyncio.Semaphore(settings.connections)
        self._random = random.Random()  # the program's own random numbers are for what it does, not for delays
        self._outage = _Outage(address, settings.give_up_after)

    async def call(self, method: str, url: str, read: Callable[[bytes], T], **request: Any) -> T:
        """What `read` makes of the reply; `request` is as httpx takes it.

        Raises Refused for a 4xx that is about this call, RetrieverError once the deadline has passed, and
        RetrieverGone where the service will never answer or has not for too long. 500 is a Refused where it
        comes three times: something in this call may be what breaks the service.
        """
        async with self._turn:
            ends = time.monotonic() + self._settings.deadline
            delay = self._settings.first_delay
            broken = 0
            with self._outage:
                while True:
                    failed = await self._attempt(method, url, read, request, ends)
                    if not isinstance(failed, _Failed):
                        self._outage.over()
                        return failed
                    self._outage.goes_on(failed.reason)
                    broken += failed.status == 500
                    if broken == 3:
                        raise Refused(failed.reason)
                    pause = max(delay * self._random.uniform(0.5, 1.0), failed.retry_after)
                    if time.monotonic() + pause >= ends:
                        raise RetrieverError(
                            f"{self.address}: no answer within {self._settings.deadline:g} s ({failed.reason})"
                        )
                    await asyncio.sleep(pause)
                    delay = min(delay * 2, self._settings.longest_delay)

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    async def _attempt(
        self, method: str, url: str, read: Callable[[bytes], T], request: dict[str, Any], ends: float
    ) -> T | _Failed:
        seconds = min(self._settings.attempt, ends - time.monotonic())
        try:
            async with asyncio.timeout(seconds), self._client.stream(method, url, **request) as reply:
                if reply.is_success:
                    return read(await self._body(reply, self._settings.reply_bytes))
                reason = f"{reply.status_code}{_detail(await self._body(reply, 10_000))}"
        except TimeoutError:
            return _Failed(f"no reply within {seconds:.1f} s")
        except Malformed as malformed:
            return _Failed(str(malformed))
        except httpx.HTTPError as error:
            return _Failed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        status = reply.status_code
        if status in (404, 405, 501) or status < 400:
            raise RetrieverGone(f"{self.address}: no {self._service} at this address ({reason}); give its address")
        if status in (429, 408) or status >= 500:
            return _Failed(reason, status, _retry_after(reply.headers.get("retry-after")))
        if status in (401, 403):
            raise RetrieverGone(f"{self.address}: will not let us {self._verb} ({reason}); {self._when_denied}")
        self._outage.goes_on(reason)
        raise Refused(reason)

    async def _body(self, reply: httpx.Response, most: int) -> bytes:
        body = bytearray()
        async for chunk in reply.aiter_bytes():
            body += chunk
            if len(body) > most:
                if reply.is_success:
                    raise Malformed(f"a reply of more than {most} bytes")
                break
        return bytes(body)


def read_json(reply: bytes) -> Any:
    """What a reply says; raises Malformed where it is not JSON."""
    try:
        return json.loads(reply)
    except (ValueError, RecursionError):
        raise Malformed("a reply that is not JSON") from None


def checked_address(address: str) -> str:
    """`address` without a slash at its end; raises BadInput where it is not http(s)://HOST and maybe a path."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(address)
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable:
        raise BadInput(f"{address}: not an address; expected for example http://127.0.0.1:8000")
    if parts.username or parts.password:
        raise BadInput(f"{parts.scheme}://{parts.hostname}: leave name and password out of the address")
    return address.rstrip("/")


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why an attempt failed, and how long the service wants to be left alone."""

    reason: str
    status: int | None = None
    retry_after: float = 0.0


class _Outage:
    """How long a service has answered nobody; time in which nobody asked does not count."""

    def __init__(self, address: str, patience: float) -> None:
        self._address = address
        self._patience = patience
        self._watching = 0
        self._since: float | None = None
        self._left_at = 0.0

    def __enter__(self) -> None:
        if self._watching == 0 and self._since is not None:
            self._since += time.monotonic() - self._left_at
        self._watching += 1

    def __exit__(self, *_: object) -> None:
        self._watching -= 1
        self._left_at = time.monotonic()

    def over(self) -> None:
        self._since = None

    def goes_on(self, reason: str) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since >= self._patience:
            raise RetrieverGone(
                f"{self._address}: has answered nothing for {now - self._since:.0f} s ({reason}); "
                "start the service, then go on"
            )


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for: a number of them, or a date."""
    if value is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def _detail(body: bytes) -> str:
    """The start of what a service says about its refusal, on one line."""
    text = " ".join(body.decode("utf-8", "replace").split())
    text = "".join(character for character in text if character.isprintable())
    return f": {text[:200]}" if text else ""
