"""The retrieval service as a process: its port, its life, and how it ends."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tspo.errors import BadInput

_KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than clients keep theirs, so that the server is not the one to close."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the port (0: any that is free) and does not listen yet.

    Raises BadInput where the port is taken or the address is not this machine's.
    """
    if not 0 <= port < 2**16:
        raise BadInput(f"port {port}: there is no such port; choose one from 1 to 65535, or 0 for any that is free")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{host}: not an address of this machine ({error}); choose another --host") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise BadInput(
            f"{host}:{port}: cannot listen here ({error.strerror}); choose another --port or --host"
        ) from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def address_of(bound: socket.socket) -> str:
    """The address that clients on this machine are to be given."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Service:
    """An app on a bound socket, until it is asked to stop."""

    def __init__(
        self, app: FastAPI, bound: socket.socket, *, drain_seconds: float, on_ready: Callable[[], None]
    ) -> None:
        self._bound = bound
        self._server = _Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=int(drain_seconds),
            ),
            on_ready,
        )

    def run(self) -> None:
        """Serve until `stop`; then take nothing new, and answer what was taken, for at most `drain_seconds`."""
        self._server.run(sockets=[self._bound])

    def stop(self) -> None:
        """Ask it to end; may be called from a signal handler."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Signals are for the program that runs the service."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them be."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()
