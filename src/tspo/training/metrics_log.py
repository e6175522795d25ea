"""The metrics file: one JSON line a step, under names of this project."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tspo.files import atomic_write
from tspo.training.diagnostics import PREFIX
from tspo.trajectory import read_json_lines, write_json_line

_FROM_TRL = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clip_share",
    "step_time": "step_seconds",
    "num_tokens": "tokens_seen",
}

TIMINGS = frozenset(
    {
        "step_seconds",
        "rollout_seconds",
        "update_seconds",
        "rollout_tokens_per_second",
        "update_tokens_per_second",
        "search_seconds",
        "cache_hit_share",
    }
)
"""Fields that differ between two runs of the same seed: times, and what a cache remembers from before."""


def metrics_line(step: int, logs: dict[str, Any], names: Mapping[str, str] = _FROM_TRL) -> dict[str, Any]:
    """One step's line from what a trainer logs, this project's own metrics among it; `names` has ours by the trainer's.

    The update is all of a step that is not its rollout; its tokens are those of whole trajectories.
    """
    line: dict[str, Any] = {"step": step}
    line |= {name: logs[theirs] for theirs, name in names.items() if theirs in logs}
    line |= {name.removeprefix(PREFIX): value for name, value in logs.items() if name.startswith(PREFIX)}
    if "step_seconds" in line and "rollout_seconds" in line:
        line["update_seconds"] = line["step_seconds"] - line["rollout_seconds"]
        line["update_tokens_per_second"] = line.pop("trained_tokens") / line["update_seconds"]
    return line


def without_nan(line: dict[str, Any]) -> dict[str, Any]:
    """The line with None for what is not finite: JSON has no NaN and no infinity, and it could not be read back."""
    unknown = {name for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)}
    return line | dict.fromkeys(unknown)


def truncate_metrics(path: Path, last_step: int) -> None:
    """Drop the lines after `last_step`, which a resumed run will write again, and a line cut short."""
    if not path.exists():
        return
    whole = path.read_bytes().splitlines(keepends=True)
    if whole and not whole[-1].endswith(b"\n"):
        whole.pop()
    with atomic_write(path) as stream:
        for _, line in read_json_lines(whole, str(path)):
            if line["step"] <= last_step:
                write_json_line(line, stream)


class MetricsLog(TrainerCallback):
    """Appends each step's line to `path`, and keeps the last for whoever shows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: dict[str, Any] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write the line of a training step."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        self.last = metrics_line(state.global_step, logs)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(without_nan(self.last)) + "\n")
