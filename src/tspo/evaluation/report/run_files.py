"""What a run folder holds, read as far as it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tspo.bounded_yaml import load_yaml
from tspo.credit import CreditConfig
from tspo.errors import BadInput
from tspo.evaluation.metrics import ADDED, METRICS, Estimate, SourceSummary, Summary
from tspo.trajectory import Trajectory, read_json_lines, read_records

STAGES = {"before": "before", "after-warm-up": "after warm-up", "after-training": "after training"}
"""Folders of evaluations in the order they are made, and what people read."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run's files; what is missing is empty."""

    folder: Path
    settings: dict[str, Any]
    metrics: list[dict[str, float]]
    """A step's numbers, the step among them."""
    summaries: dict[str, Summary]
    """By the name of the stage, in the order of STAGES."""
    evaluated: dict[str, list[Trajectory]]
    """The trajectories behind `summaries`."""
    steps: dict[int, Path]
    """Trajectory files by step, ascending."""


def read_run(folder: Path, settings: dict[str, Any] | None = None) -> RunFiles:
    """Read a run folder; raises BadInput where it is no folder, holds no run, or a file in it is damaged.

    `settings` are those of a run that may not have written them yet.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: is not a folder; name the output_dir of a run")
    summaries = {}
    evaluated = {}
    for stage in STAGES:
        place = folder / "evaluation" / stage
        if (place / "summary.json").is_file():  # written last: without it the evaluation was cut short
            summaries[stage] = read_summary(place / "summary.json")
            if (place / "trajectories.jsonl").is_file():
                evaluated[stage] = read_trajectories(place / "trajectories.jsonl")
    found = (folder / "trajectories").glob("*.jsonl")
    steps = {int(path.stem): path for path in found if path.stem.isdecimal()}
    run = RunFiles(
        folder=folder,
        settings=read_settings(folder / "config.yaml") if settings is None else settings,
        metrics=read_metrics(folder / "metrics.jsonl"),
        summaries=summaries,
        evaluated=evaluated,
        steps=dict(sorted(steps.items())),
    )
    if not (run.settings or run.metrics or run.summaries or run.steps):
        raise BadInput(f"{folder}: holds no run; name the output_dir of one")
    return run


def read_trajectories(path: Path) -> list[Trajectory]:
    """A trajectory file's trajectories without their tokens, which take most of the room; raises BadInput."""
    trajectories = []
    with _opened(path) as stream:
        for _, trajectory in read_records(stream, str(path)):
            trajectory.prompt_token_ids = None
            for turn in trajectory.turns:
                turn.token_ids = turn.logprobs = turn.feedback_token_ids = None
            trajectories.append(trajectory)
    return trajectories


def read_summary(path: Path) -> Summary:
    """What `summary_to_json` wrote; raises BadInput where it is something else."""
    try:
        with _opened(path) as stream:
            value = json.load(stream)
        return Summary(
            overall=_source(value["all"]),
            by_source={str(name): _source(one) for name, one in value["by_source"].items()},
            by_hops={int(hops): _source(one) for hops, one in value.get("by_hops", {}).items()},
            macro={str(name): _estimate(one) for name, one in value.get("macro", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise BadInput(f"{path}: is not the summary of an evaluation; evaluate again") from None


def _source(value: Any) -> SourceSummary:
    known = value["metrics"]
    return SourceSummary(
        questions=int(value["questions"]),
        trajectories=int(value["trajectories"]),
        # runs of earlier versions lack what was added since
        metrics={name: _estimate(known[name]) for name in METRICS if name in known or name not in ADDED},
        stop_reasons=dict(value["stop_reasons"]),
        pass_at={int(k): _estimate(one) for k, one in value.get("pass_at", {}).items()},
    )


def _estimate(value: Any) -> Estimate:
    return Estimate(*(float(value[name]) for name in ("mean", "low", "high")))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's config.yaml, empty where there is none; raises BadInput where it is damaged."""
    if not path.is_file():
        return {}
    try:
        with _opened(path) as stream:
            settings = load_yaml(stream.read().decode("utf-8-sig"))
    except ValueError as error:
        raise BadInput(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(settings, dict):
        raise BadInput(f"{path}: expected a mapping of settings")
    return settings


def credit_of(settings: dict[str, Any], path: Path) -> CreditConfig:
    """The credit in a run's settings, which are from `path`, defaults where they do not tell; raises BadInput."""
    try:
        # what a preset stands for is written beside it
        options = {name: value for name, value in (settings.get("credit") or {}).items() if name != "preset"}
        return CreditConfig(**options)
    except (BadInput, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: credit: {error}") from None


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The steps of a metrics file but for a line cut short, none where there is no file; raises BadInput."""
    if not path.is_file():
        return []
    with _opened(path) as stream:
        lines = stream.readlines()
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()  # training was killed as it wrote this one
    steps = []
    for where, line in read_json_lines(lines, str(path)):
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            raise BadInput(f"{where}: expected the numbers of one step, 'step' among them")
        try:
            steps.append({name: float(value) for name, value in line.items() if type(value) in (int, float)})
        except OverflowError:
            raise BadInput(f"{where}: holds a number that is too large") from None
    return steps


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
