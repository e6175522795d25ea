"""Running an agent over questions: episodes are kept as they end, and a run that was cut short goes on from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
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

_PART = ".episodes.part"
_AT_ONCE = 4096
"""Episodes that are asked for together: what is in memory does not grow with the suite."""


def evaluate_questions(
    loop: AgentLoop,
    questions: Sequence[Question],
    folder: Path,
    *,
    samples: int,
    seed: int,
    console: Console,
    label: str,
    detail: Callable[[Trajectory], None] | None = None,
) -> Summary:
    """`samples` trajectories a question, written to `folder` in the questions' order, and their summary, last.

    Each episode is appended to a file as it ends, once `detail` has added to it what it likes. Those that an earlier
    call left there are not run again, unless the retriever had cut them off.
    """
    requests = episode_requests(questions, samples, seed)
    part = folder / _PART
    kept = _kept_episodes(part)
    left = [request for request in requests if request.trajectory_id not in kept]
    if kept:
        console.print(
            f"{label}: {len(requests) - len(left):,} of {len(requests):,} episodes are there", highlight=False
        )
    with bar(label, len(requests), console) as advance, part.open("a", encoding="utf-8", newline="\n") as stream:
        ended = len(requests) - len(left)

        def on_done(trajectory: Trajectory) -> None:
            nonlocal ended
            if detail is not None:
                detail(trajectory)
            write_json_line(trajectory_to_json(trajectory), stream)
            stream.flush()
            ended += 1
            advance(ended)

        for start in range(0, len(left), _AT_ONCE):
            loop.rollout(left[start : start + _AT_ONCE], on_done)
    places = _kept_episodes(part, cut_off=True)
    with part.open("rb") as episodes, atomic_write(folder / TRAJECTORIES) as out:
        for request in requests:
            episodes.seek(places[request.trajectory_id])
            out.write(episodes.readline().decode("utf-8"))
    with (folder / TRAJECTORIES).open("rb") as read:
        summary = summarize(trajectory for _, trajectory in read_records(read, str(folder / TRAJECTORIES)))
    with atomic_write(folder / SUMMARY) as out:
        json.dump(summary_to_json(summary), out, indent=1)
    part.unlink()
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
    if not (folder / SUMMARY).is_file():
        return None
    path = folder / TRAJECTORIES
    with path.open("rb") as stream:
        return summarize(trajectory for _, trajectory in read_records(stream, str(path)))


def forget_evaluation(folder: Path) -> None:
    """Delete what an evaluation wrote: its summary first, which says that it is whole."""
    for name in (SUMMARY, TRAJECTORIES, _PART):
        (folder / name).unlink(missing_ok=True)


def _kept_episodes(path: Path, cut_off: bool = False) -> dict[str, int]:
    """Where each episode's line begins, by trajectory id; what a kill left half-written is cut from the file.

    Episodes that the retriever cut off count with `cut_off` only; of several lines the last one counts.
    """
    places: dict[str, int] = {}
    if not path.exists():
        return places
    whole = 0
    with path.open("rb+") as stream:
        for place, line in _whole_lines(stream):
            whole = stream.tell()
            if cut_off or line.get("stop_reason") != StopReason.RETRIEVER_ERROR:
                places[str(line["trajectory_id"])] = place
        stream.truncate(whole)
    return places


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
