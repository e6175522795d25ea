"""Running an agent over questions, and writing what it did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tspo.datasets.questions import Question
from tspo.evaluation.metrics import Summary, summarize
from tspo.evaluation.table import summary_to_json
from tspo.files import atomic_write
from tspo.progress import bar
from tspo.rollout.episode import AgentLoop, Request
from tspo.trajectory import Trajectory, read_records, write_trajectories

_ALL = slice(None)


def run_questions(
    loop: AgentLoop,
    questions: Sequence[Question],
    *,
    samples: int,
    seed: int,
    console: Console,
    label: str,
    share: slice = _ALL,
) -> list[Trajectory]:
    """`samples` trajectories a question, a group each, in the questions' order; only the `share` of them."""
    requests = [
        Request(question, question.id, f"{question.id}-{sample}", f"{seed}/evaluation/{question.id}/{sample}")
        for question in questions
        for sample in range(samples)
    ][share]
    with bar(label, len(requests), console) as advance:
        ended = 0

        def on_done(_: Trajectory) -> None:
            nonlocal ended
            ended += 1
            advance(ended)

        return loop.rollout(requests, on_done)


def write_evaluation(trajectories: Sequence[Trajectory], folder: Path) -> Summary:
    """Write `trajectories.jsonl` and then `summary.json` to `folder`; returns the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize(trajectories)
    with atomic_write(folder / "trajectories.jsonl") as stream:
        write_trajectories(trajectories, stream)
    with atomic_write(folder / "summary.json") as stream:
        json.dump(summary_to_json(summary), stream, indent=1)
    return summary


def read_evaluation(folder: Path) -> Summary | None:
    """The summary of an evaluation that was written to its end, or None."""
    if not (folder / "summary.json").is_file():
        return None
    path = folder / "trajectories.jsonl"
    with path.open("rb") as stream:
        return summarize([trajectory for _, trajectory in read_records(stream, str(path))])
