"""What a finished run left: each question's scores after training, and each step's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tspo.errors import BadInput
from tspo.evaluation.metrics import METRICS, question_means
from tspo.trajectory import group_trajectories, read_json_lines, read_records

HELD_OUT = ("exact_match", "f1", "answer_in_feedback", "searches")
"""Scores that are compared question by question, by their names in TrajectoryScores."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the steps that have it: both (T,), T may be 0."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RunResult:
    """Scores by question id, sources by question id, and curves by the metric's name."""

    scores: dict[str, dict[str, float]]
    sources: dict[str, str]
    curves: dict[str, Curve]


def read_run(folder: Path) -> RunResult:
    """Read a finished run's `metrics.jsonl` and its evaluation after training.

    A question's score is the mean over its trajectories. Raises BadInput where a file is missing or not as
    `tspo train` writes it.
    """
    scores, sources = _read_scores(folder / "evaluation" / "after-training" / "trajectories.jsonl")
    return RunResult(scores, sources, _read_curves(folder / "metrics.jsonl"))


def common_steps(curves: Sequence[Curve]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The steps (T,) that all curves have, and the curves there as one table (S, T)."""
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    return steps, np.stack([curve.values[np.isin(curve.steps, steps)] for curve in curves])


def score_tables(runs: Sequence[RunResult], questions: Sequence[str]) -> NDArray[np.float64]:
    """The scores of `questions` in each of `runs`, a table a metric: (len(HELD_OUT), S, Q)."""
    return np.array([[[run.scores[question][name] for question in questions] for run in runs] for name in HELD_OUT])


def common_questions(runs: Sequence[RunResult], source: str | None = None) -> list[str]:
    """The ids, sorted, of the questions that all runs answered; only those of `source` where one is named."""
    ids = set.intersection(*(set(run.scores) for run in runs))
    return sorted(question for question in ids if source is None or runs[0].sources.get(question) == source)


def _read_scores(path: Path) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    try:
        with path.open("rb") as stream:
            trajectories = [trajectory for _, trajectory in read_records(stream, str(path))]
    except OSError as error:
        raise BadInput(f"{path}: cannot read ({error.strerror}); delete the run's folder to run it again") from None
    scores, sources = {}, {}
    for group in group_trajectories(trajectories):
        means = dict(zip(METRICS, question_means(group).tolist(), strict=True))
        scores[group.group_id] = {name: means[name] for name in HELD_OUT}
        if isinstance(source := group.trajectories[0].extra.get("data_source"), str):
            sources[group.group_id] = source
    return scores, sources


def _read_curves(path: Path) -> dict[str, Curve]:
    points: dict[str, list[tuple[int, float]]] = {}
    try:
        with path.open("rb") as stream:
            for where, line in read_json_lines(stream, str(path)):
                if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                    raise BadInput(f"{where}: not a line of metrics; delete the run's folder to run it again")
                for name, value in line.items():
                    # A step that reused a rollout has no metrics of one, and what was not finite is null.
                    if isinstance(value, int | float) and name != "step":
                        points.setdefault(name, []).append((line["step"], float(value)))
    except OSError as error:
        raise BadInput(f"{path}: cannot read ({error.strerror}); delete the run's folder to run it again") from None
    return {
        name: Curve(np.array([step for step, _ in column]), np.array([value for _, value in column]))
        for name, column in points.items()
    }
