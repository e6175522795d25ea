"""The metrics file: one JSON line per step; docs/training.md says what each name means, here and everywhere else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tspo.errors import BadInput
from tspo.files import atomic_write
from tspo.trajectory import read_json_lines, write_json_line

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


def append_metrics(line: dict[str, Any], path: Path) -> None:
    """Add a step's line to the file."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(without_nan(line)) + "\n")


def without_nan(line: dict[str, Any]) -> dict[str, Any]:
    """The line with None for what is not finite: JSON has no NaN and no infinity, and it could not be read back."""
    unknown = {name for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)}
    return line | dict.fromkeys(unknown)


def truncate_metrics(path: Path, last_step: int) -> None:
    """Drop the lines after `last_step`, which a resumed run will write again, and a line cut short.

    Raises BadInput where the lines up to it are not one for each step.
    """
    if not path.exists():
        return
    whole = path.read_bytes().splitlines(keepends=True)
    if whole and not whole[-1].endswith(b"\n"):
        whole.pop()
    lines = []
    steps = []
    for _, line in read_json_lines(whole, str(path)):
        step = line.get("step") if isinstance(line, dict) else None
        if type(step) is not int or step <= last_step:
            lines.append(line)
            steps.append(step)
    if steps != list(range(1, last_step + 1)):
        raise BadInput(
            f"{path}: is damaged: it holds {len(lines)} lines of the {last_step} steps before the checkpoint; mend it, "
            "or move it away to go on without them"
        )
    with atomic_write(path) as stream:
        for line in lines:
            write_json_line(line, stream)
