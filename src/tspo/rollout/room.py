"""How many sessions a sampler has open at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """Room for `size` sessions; all of them belong to one event loop at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place, once there is one."""
        loop = asyncio.get_running_loop()
        if self._free is None or self._loop is not loop:
            self._free, self._loop = asyncio.Semaphore(self._size), loop
        async with self._free:
            yield
