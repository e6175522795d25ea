"""The trajectories that a training step learned from, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tspo.credit import Credit
from tspo.files import atomic_write
from tspo.trajectory import Trajectory, trajectory_to_json, write_json_line


def save_step(trajectories: Sequence[Trajectory], credits: Sequence[Credit], step: int, folder: Path) -> None:
    """Write the trajectories that `step` trains on, with their credit, to `folder`/STEP.jsonl, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{step:06d}.jsonl") as stream:
        for trajectory, credit in zip(trajectories, credits, strict=True):
            write_json_line(trajectory_to_json(trajectory) | {"step": step} | asdict(credit), stream)
