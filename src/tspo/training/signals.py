"""SIGINT and SIGTERM: ask a run to stop at its next safe place; a second one stops it at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """The user or the system asked the run to stop; what was finished is saved."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


_ECHO_SECONDS = 2.0
"""A launcher hands on a signal that its processes may have had from the terminal: within this time it is the same."""

Agree = Callable[[int | None], int | None]
"""Given the signal that this process has had, the one that any has; all processes ask at one place."""


class StopRequest:
    """Whether a stop was asked for, and by which signal; several processes `agree` on it."""

    def __init__(self, on_request: Callable[[], None], agree: Agree | None = None) -> None:
        self.signal_number: int | None = None
        self._on_request = on_request
        self._agree = agree
        self._since = 0.0

    def __bool__(self) -> bool:
        """Whether a stop was asked for, of any of the processes."""
        if self._agree is not None:
            self.signal_number = self._agree(self.signal_number)
        return self.signal_number is not None

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal_number is not None:
            if self._agree is not None and time.monotonic() - self._since < _ECHO_SECONDS:
                return
            raise KeyboardInterrupt
        self.signal_number, self._since = signal_number, time.monotonic()
        self._on_request()

    def check(self) -> None:
        """Raise Stopped if a stop was asked for; called where nothing is half-done."""
        if self:
            assert self.signal_number is not None
            raise Stopped(self.signal_number, "stopped")


@contextmanager
def stop_on_signals(on_request: Callable[[], None], agree: Agree | None = None) -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM while the block runs; `on_request` is called on the first of them."""
    request = StopRequest(on_request, agree)
    previous = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
