"""Progress bars with rates and time left, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f}/s" if speed < 10 else f"{speed:.0f}/s")


def bars(console: Console) -> Progress:
    """A set of bars on `console`; nothing is drawn where that is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def bar(description: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """One bar; the block is given a function that takes how many of `total` are done."""
    with bars(console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def phase_bars(console: Console, totals: Mapping[str, int | None]) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar a phase, as phases come; the block is given a function of the phase, how much is done, and of how much.

    `totals` are those of phases that do not know their own.
    """
    with bars(console) as progress:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int | None) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=totals.get(phase))
            progress.update(tasks[phase], completed=done, total=total)

        yield report
