"""Processes that benchmarks measure in: each has its own memory, and their rounds take turns."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")


def resident_mb() -> float:
    """What this process has in memory, mapped files among it."""
    return _status("VmRSS")


def peak_mb() -> float:
    """The most that this process ever had in memory."""
    return _status("VmHWM")


def _status(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit("these benchmarks read /proc, which only Linux has")
    return int(found[1]) / 1e3


def folder_mb(folder: Path) -> float:
    """The size of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


class Worker:
    """An object in a process of its own: `make(*args)` there, then its methods, called from here."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self._here, there = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(there, make, args), daemon=True)
        self._process.start()
        there.close()

    def __enter__(self) -> Worker:
        """The worker; its object is made."""
        self._answer()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the process."""
        self._here.close()
        self._join()

    def call(self, method: str, *args: Any) -> Any:
        """What the object's method returns."""
        self._here.send((method, args))
        return self._answer()

    def _answer(self) -> Any:
        try:
            went_well, answer = self._here.recv()
        except EOFError:
            raise SystemExit("a worker died; is there memory enough?") from None
        if not went_well:
            raise SystemExit(answer)
        return answer

    def _join(self) -> None:
        self._process.join()


class ForeignWorker(Worker):
    """A worker that another interpreter runs, with `environment` over this process's own.

    `make`, its arguments and what methods return cross by pickle: both interpreters must be able to import them.
    """

    def __init__(self, python: Path, environment: Mapping[str, str], make: Callable[..., Any], *args: Any) -> None:
        self._here, there = multiprocessing.Pipe()
        with there:
            number = there.fileno()
            command = [str(python), __file__, str(number)]
            self._child = subprocess.Popen(command, env={**os.environ, **environment}, pass_fds=[number])
        self._here.send((make, args))

    def _join(self) -> None:
        self._child.wait()


def _serve(there: Connection, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    made: Any = None

    def answer(function: Callable[..., Any], *given: Any) -> Any:
        try:
            found = function(*given)
        except Exception:
            there.send((False, traceback.format_exc()))
            raise SystemExit(1) from None
        return found

    made = answer(make, *args)
    there.send((True, None))
    while True:
        try:
            method, given = there.recv()
        except EOFError:
            return
        there.send((True, answer(getattr(made, method), *given)))


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """What `function` returns in a process that does nothing else."""
    with Worker(_Call, function, args) as worker:
        return worker.call("run")


class _Call:
    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args

    def run(self) -> Any:
        return self._function(*self._args)


if __name__ == "__main__":  # the other side of a ForeignWorker
    connection = Connection(int(sys.argv[1]))
    _serve(connection, *connection.recv())
