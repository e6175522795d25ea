"""Running an agent over questions: episodes are kept as they end, and a run that was cut short goes on from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tspo.datasets.questions import Question
from tspo.evaluation.metrics import Summary, summarize
from tspo.evaluation.places import SUMMARY, TRAJECTORIES
from tspo.evaluation.table import summary_to_json
from tspo.files import atomic_write
from tspo.progress import bar
from tspo.rollout.episode import AgentLoop, Request
from tspo.trajectory import StopReason, Trajectory, read_records, trajectory_to_json, write_json_line

_PARTS = ".episodes*.part"
_AT_ONCE = 4096
"""Episodes that are asked for together: what is in memory does not grow with the suite."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part that this process has in an evaluation: every `of`-th episode from its `index` on."""

    index: int = 0
    of: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when all processes came as far."""

    @property
    def part(self) -> str:
        """The name of the file that this process adds its episodes to."""
        return _PARTS.replace("*", f"-{self.index}" if self.index else "")


_ALL = Share()


def evaluate_questions(
    loop: AgentLoop,
    questions: Sequence[Question],
    folder: Path,
    *,
    samples: int,
    seed: int,
    console: Console,
    label: str,
    complete: Callable[[Trajectory], None] | None = None,
    share: Share = _ALL,
) -> Summary:
    """`samples` trajectories a question, written to `folder` in the questions' order, and their summary, last.

    Each episode is appended to a file as it ends, once `complete` has added to it what it likes. Those that an earlier
    call left there are not run again, unless the retriever had cut them off. Of several processes each runs its
    `share`, and the first puts them together.
    """
    requests = episode_requests(questions, samples, seed)
    kept = _kept_episodes(folder)
    share.wait()  # from here on the files grow
    left = [request for request in requests[share.index :: share.of] if request.trajectory_id not in kept]
    if kept:
        console.print(f"{label}: {len(kept):,} of {len(requests):,} episodes are there", highlight=False)
    with (
        bar(label, len(left), console) as advance,
        (folder / share.part).open("a", encoding="utf-8", newline="\n") as stream,
    ):
        ended = 0

        def on_done(trajectory: Trajectory) -> None:
            nonlocal ended
            if complete is not None:
                complete(trajectory)
            write_json_line(trajectory_to_json(trajectory), stream)
            stream.flush()
            ended += 1
            advance(ended)

        for start in range(0, len(left), _AT_ONCE):
            loop.rollout(left[start : start + _AT_ONCE], on_done)
    share.wait()
    summary = _put_together(requests, folder) if share.index == 0 else None
    share.wait()
    return _summary_of(folder) if summary is None else summary


def _put_together(requests: Sequence[Request], folder: Path) -> Summary:
    """Write the files of episodes as one, in the requests' order, and its summary."""
    places = _kept_episodes(folder, cut_off=True)
    with ExitStack() as opened, atomic_write(folder / TRAJECTORIES) as out:
        parts = {path: opened.enter_context(path.open("rb")) for path in folder.glob(_PARTS)}
        for request in requests:
            path, place = places[request.trajectory_id]
            parts[path].seek(place)
            out.write(parts[path].readline().decode("utf-8"))
    summary = _summary_of(folder)
    with atomic_write(folder / SUMMARY) as out:
        json.dump(summary_to_json(summary), out, indent=1)
    for path in parts:
        path.unlink()
    return summary


def episode_requests(questions: Sequence[Question], samples: int, seed: int) -> list[Request]:
    """`samples` episodes a question, a group each, in the questions' order."""
    return [
        Request(question, question.id, f"{question.id}-{sample}", f"{seed}/evaluation/{question.id}/{sample}")
        for question in questions
        for sample in range(samples)
    ]


def read_evaluation(folder: Path) -> Summary | None:
    """The summary of an evaluation that was written to its end, or None."""
    return _summary_of(folder) if (folder / SUMMARY).is_file() else None


def _summary_of(folder: Path) -> Summary:
    path = folder / TRAJECTORIES
    with path.open("rb") as stream:
        return summarize(trajectory for _, trajectory in read_records(stream, str(path)))


def forget_evaluation(folder: Path) -> None:
    """Delete what an evaluation wrote: its summary first, which says that it is whole."""
    for path in (folder / SUMMARY, folder / TRAJECTORIES, *folder.glob(_PARTS)):
        path.unlink(missing_ok=True)


def _kept_episodes(folder: Path, cut_off: bool = False) -> dict[str, tuple[Path, int]]:
    """In which file and where each episode's line begins; what a kill left half-written is cut from the files.

    Episodes that the retriever cut off count with `cut_off` only; of several lines one that it did not cut off, else
    the last one.
    """
    places: dict[str, tuple[Path, int]] = {}
    cut: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.glob(_PARTS)):
        whole = 0
        with path.open("rb+") as stream:
            for place, line in _whole_lines(stream):
                whole = stream.tell()
                found = cut if line.get("stop_reason") == StopReason.RETRIEVER_ERROR else places
                found[str(line["trajectory_id"])] = path, place
            stream.truncate(whole)
    return cut | places if cut_off else places


def _whole_lines(stream: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's place and value, up to the first that is not whole."""
    place = 0
    while (raw := stream.readline()).endswith(b"\n"):
        try:
            line = json.loads(raw)
        except ValueError:
            return
        if not isinstance(line, dict) or "trajectory_id" not in line:
            return
        yield place, line
        place = stream.tell()
