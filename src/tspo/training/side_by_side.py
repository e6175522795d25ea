"""Runs as processes side by side: started, shown, stopped together, and gone on with."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from tspo.progress import bars
from tspo.training.checkpoints import checkpoints_in, is_whole
from tspo.training.signals import StopRequest

_POLL_SECONDS = 0.2
_PATIENCE = 120.0
"""Seconds that a run of before is waited for."""
_SET_PARENT_DEATH_SIGNAL = 1
_TAIL = 65_536  # bytes, many lines of metrics


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: what to call it, its configuration and seed, its folder, and how many steps it has."""

    label: str
    config: Path
    seed: int
    folder: Path
    steps: int

    @property
    def log(self) -> Path:
        """Where its process writes what it prints, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that ended without its result."""

    run: Run
    code: int

    def __str__(self) -> str:
        """What ended, how, and where to read on."""
        said = _tail(self.run.log).decode(errors="replace").strip().splitlines()
        return f"{self.run.label}: exit code {self.code}, log: {self.run.log}" + (f"\n    {said[-1]}" if said else "")


def is_done(folder: Path) -> bool:
    """Whether the run in `folder` was trained and evaluated to its end."""
    return (folder / "evaluation" / "after-training" / "summary.json").is_file() and is_whole(folder / "model")


def train_command(run: Run) -> list[str]:
    """`tspo train` for a run, going on where its folder holds one already."""
    place = json.dumps(str(run.folder), ensure_ascii=False)  # quoted, as the value of a setting is YAML
    command = [sys.executable, "-m", "tspo", "train", str(run.config), f"output_dir={place}", f"seed={run.seed}"]
    return [*command, "--resume"] if (run.folder / "config.yaml").exists() else command


def run_side_by_side(
    runs: Sequence[Run],
    jobs: int,
    console: Console,
    stop: StopRequest,
    command: Callable[[Run], list[str]] = train_command,
) -> list[Failure]:
    """Run what is not done, `jobs` at a time, in order; returns the runs that failed.

    When `stop` is asked for, the processes get SIGTERM and are waited for; an exception kills them.
    """
    done = [run for run in runs if is_done(run.folder)]
    waiting = [run for run in runs if run not in done]
    for run in done:  # one that was stopped between its end and its tidying still has them
        _drop_checkpoints(run.folder)
    if done:
        console.print(f"{len(done)} of {len(runs)} runs are done already", highlight=False)
    failures: list[Failure] = []
    with bars(console) as progress:
        # Counted in steps, so that the time left is told before the first run is done.
        all_steps = progress.add_task("", total=sum(run.steps for run in runs))
        active = _Active(progress, command, jobs)
        try:
            while active.processes or (waiting and not stop):
                while waiting and not stop and len(active.processes) < jobs:
                    active.start(waiting.pop(0))
                if stop:
                    active.terminate()
                for run, code in active.ended():
                    if is_done(run.folder):
                        _drop_checkpoints(run.folder)
                        done.append(run)
                        _say(progress, f"done: {run.label}")
                    elif not stop:
                        failures.append(Failure(run, code))
                        _say(progress, f"failed: {run.label}")
                steps = sum(run.steps for run in done) + active.steps()
                progress.update(all_steps, completed=steps, description=f"runs {len(done)}/{len(runs)}")
                time.sleep(_POLL_SECONDS)
        finally:
            active.kill()
    return failures


class _Active:
    """The processes that run now, each with its bar."""

    def __init__(self, progress: Progress, command: Callable[[Run], list[str]], jobs: int) -> None:
        self.progress, self.command = progress, command
        self.processes: dict[Run, subprocess.Popen[bytes]] = {}
        self.bars: dict[Run, TaskID] = {}
        self.terminated = False
        # Processes that each take every core would mostly wait for each other.
        threads = str(max(1, _cores() // jobs))
        self.environment = {"OMP_NUM_THREADS": threads} | os.environ | {"PYTHONUNBUFFERED": "1"}

    def start(self, run: Run) -> None:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        _wait_for(run.folder / ".lock")
        self.bars[run] = self.progress.add_task(run.label, total=run.steps)
        with run.log.open("ab") as log:
            # In a session of its own: Ctrl-C in the terminal reaches only this process, which then asks once.
            self.processes[run] = subprocess.Popen(
                self.command(run),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
                preexec_fn=_stop_with_parent(os.getpid()),
            )

    def ended(self) -> list[tuple[Run, int]]:
        """The runs that ended since the last call, with their exit codes."""
        ended = [(run, code) for run, process in self.processes.items() if (code := process.poll()) is not None]
        for run, _ in ended:
            del self.processes[run]
            self.progress.remove_task(self.bars.pop(run))
        return ended

    def steps(self) -> int:
        """The steps that the runs have made together; moves their bars."""
        steps = {run: last_step(run.folder / "metrics.jsonl") for run in self.processes}
        for run, step in steps.items():
            self.progress.update(self.bars[run], completed=step)
        return sum(steps.values())

    def terminate(self) -> None:
        """Ask all to save and stop, once: a second signal would stop them without saving."""
        if not self.terminated:
            self.terminated = True
            for process in self.processes.values():
                process.terminate()

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()


def _stop_with_parent(parent: int) -> Callable[[], None] | None:
    """What a child does before it runs, so that it saves and stops where its parent is killed; None but on Linux."""
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError, TypeError):
        return None

    def arrange() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed in between
            os.kill(os.getpid(), signal.SIGTERM)

    return arrange


def _wait_for(lock: Path) -> None:
    """Wait, for a while, until no run holds `lock`: one whose parent was killed is saving what it has."""
    ends = time.monotonic() + _PATIENCE
    while lock.exists() and time.monotonic() < ends:
        with lock.open("a") as stream, suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_POLL_SECONDS)


def last_step(metrics: Path) -> int:
    """The step of the last whole line of a metrics file; 0 where there is none."""
    for line in reversed(_tail(metrics).split(b"\n")[:-1]):
        with suppress(ValueError, KeyError, TypeError):
            return int(json.loads(line)["step"])
    return 0


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL))
            return stream.read()
    except OSError:
        return b""


def _drop_checkpoints(folder: Path) -> None:
    """Checkpoints are for going on, and take the most of a run's space."""
    for checkpoint in checkpoints_in(folder):
        shutil.rmtree(checkpoint)


def _cores() -> int:
    """The cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(progress: Progress, text: str) -> None:
    progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
