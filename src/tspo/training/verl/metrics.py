"""The metrics of a run that may have been stopped and gone on with: each step once, under this project's names too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tspo.files import atomic_write
from tspo.training.metrics_log import without_nan
from tspo.training.verl.names import METRIC_PREFIX
from tspo.trajectory import write_json_line

_FROM_VERL = {
    "actor/loss": "loss",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/kl_loss": "kl",
    "actor/pg_clipfrac": "clip_share",
    "timing_s/step": "step_seconds",
}

_LATEST = "latest_checkpointed_iteration.txt"


def last_checkpoint(checkpoints: Path) -> int:
    """The step of the last checkpoint that verl has written to its end, 0 where there is none.

    verl names it in a file after all of its parts are written, and starts from there.
    """
    try:
        return int((checkpoints / _LATEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def session_file(folder: Path, start: int) -> Path:
    """Where verl writes the metrics of a session that starts after step `start`; it empties the file first."""
    return folder / f"metrics-{start:06d}.jsonl"


def merge_sessions(folder: Path, target: Path) -> None:
    """Write the metrics of all sessions to `target`: of a step that was done twice, those that the run went on from.

    verl's own keep their names; those that mean the same stand there again under ours.
    """
    steps: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob("metrics-*.jsonl")):
        start = int(path.stem.removeprefix("metrics-"))
        steps = {step: line for step, line in steps.items() if step <= start}
        steps |= dict(_lines(path))
    with atomic_write(target) as stream:
        for step in sorted(steps):
            theirs = {name: value for name, value in steps[step].items() if not name.startswith(METRIC_PREFIX)}
            write_json_line(without_nan(metrics_line(step, steps[step]) | theirs), stream)


def metrics_line(step: int, logs: dict[str, Any]) -> dict[str, Any]:
    """One step's line from what verl's trainer logs, under the names of every other run, our own metrics among it.

    The update is all of a step that is not its rollout; its tokens are those of whole trajectories.
    """
    line: dict[str, Any] = {"step": step}
    line |= {name: logs[theirs] for theirs, name in _FROM_VERL.items() if theirs in logs}
    own = {name: value for name, value in logs.items() if name.startswith(METRIC_PREFIX)}
    line |= {name.removeprefix(METRIC_PREFIX): value for name, value in own.items()}
    trained_tokens = line.pop("trained_tokens", None)
    if trained_tokens is not None and "step_seconds" in line and "rollout_seconds" in line:
        line["update_seconds"] = line["step_seconds"] - line["rollout_seconds"]
        line["update_tokens_per_second"] = trained_tokens / line["update_seconds"]
    return line


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # the last line of a session that was killed
            return
        yield line["step"], line["data"]
