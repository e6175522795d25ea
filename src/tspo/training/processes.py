"""Several processes as one run: how they join, and how a failure of one ends all with one message."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tspo.config import RunConfig
from tspo.errors import BadInput
from tspo.training.agent import device_of
from tspo.training.signals import Stopped

_T = TypeVar("_T")

_PATIENCE = timedelta(hours=6)
"""How long processes wait for each other: one may index a large corpus. That one is gone is noticed otherwise."""

_LOOK_SECONDS = 0.3
_LEAVE_SECONDS = 5.0
"""How long the process that failed waits for the others to be gone, so that its message is the last one."""


def join_processes(config: RunConfig) -> PartialState:
    """This process's place among those that a launcher started; without a launcher there is one.

    Raises BadInput where a launcher was asked for several processes and started one.
    """
    alone = "WORLD_SIZE" not in os.environ and "MASTER_PORT" in os.environ and "ACCELERATE_USE_CPU" in os.environ
    state = PartialState(cpu=device_of(config).type == "cpu", timeout=_PATIENCE)
    if alone and state.num_processes == 1:
        raise BadInput(
            "accelerate launch --cpu starts one process, whatever --num_processes says, unless it has MPI; say "
            "accelerate launch --multi_gpu --num_processes N -m tspo train CONFIG device=cpu"
        )
    return state


def of_main(value: _T) -> _T:
    """The main process's `value`, in every process."""
    found: list[_T] = broadcast_object_list([value])
    return found[0]


def any_signal(mine: int | None) -> int | None:
    """The signal that any of the processes has had; they all ask at one place."""
    return next((number for number in gather_object([mine]) if number is not None), None)


@contextmanager
def failing_together(state: PartialState) -> Iterator[None]:
    """While the block runs, an error in one process ends all: the first prints its message, the others nothing.

    A process that waits for the others in a collective does not see its errors; a thread of it looks for them.
    """
    if state.num_processes == 1:
        yield
        return
    failures = _Failures(state)
    try:
        yield
    except Stopped as stopped:  # all processes stop at one place
        failures.leave()
        if not state.is_main_process:
            raise SystemExit(stopped.exit_code) from None
        raise
    except BaseException as error:
        failures.report(error)
    failures.leave()


class _Failures:
    """The run's failure, if there is one, as a key in the store that the processes met at."""

    def __init__(self, state: PartialState) -> None:
        self._others = state.num_processes - 1
        # A restart by the launcher is another run, at the same store.
        attempt = [os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")]
        self._key = "/".join(["tspo", *attempt, "failed"])
        self._ended = threading.Event()
        self._store = self._connect()
        self._looking = threading.Thread(target=self._look, args=(self._connect(),), daemon=True)
        self._looking.start()

    def _connect(self) -> TCPStore:
        """A connection of its own: one that waits holds up who shares it."""
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))

    def _look(self, store: TCPStore) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                failed = store.check([self._key])
            except RuntimeError:  # the process with the store is gone, and with it the run
                failed = True
            if failed and not self._ended.is_set():
                store.add(f"{self._key}/left", 1)
                os._exit(1)

    def report(self, error: BaseException) -> None:
        """Say what went wrong if no other process has, and end this one."""
        self._ended.set()
        if self._store.add(f"{self._key}/count", 1) > 1:
            self._store.add(f"{self._key}/left", 1)
            os._exit(1)
        code = _say(error)
        self._store.set(self._key, "")
        waited = threading.Event()
        for _ in range(int(_LEAVE_SECONDS / _LOOK_SECONDS)):
            if self._store.add(f"{self._key}/left", 0) >= self._others:
                break
            waited.wait(_LOOK_SECONDS)
        os._exit(code)

    def leave(self) -> None:
        """Look no further: what the others do is no concern of this process any more."""
        self._ended.set()
        self._looking.join()  # a thread that is in the store while the interpreter ends would abort the process


def _say(error: BaseException) -> int:
    """Print the error as the command would, and give the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, BadInput):
        print(f"tspo: error: {error}", file=sys.stderr, flush=True)
        return 2
    if isinstance(error, distributed.DistError) or "gloo" in str(error):
        reason = str(error).strip().splitlines()[0]
        print(
            f"tspo: error: another process of this run is gone without a word, killed or out of memory ({reason}); "
            "--resume goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        return 1
    traceback.print_exception(error)
    sys.stderr.flush()
    return 1
