"""The files of what a step trains on: its trajectories, and the log ratios of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tspo.credit import Credit
from tspo.files import atomic_write
from tspo.training.token_details import log_ratio_file
from tspo.trajectory import Trajectory, trajectory_to_json, write_json_line


def step_file(folder: Path, step: int) -> Path:
    """Where the trajectories that `step` trains on are."""
    return folder / f"{step:06d}.jsonl"


def save_step(trajectories: Sequence[Trajectory], credits: Sequence[Credit], step: int, folder: Path) -> None:
    """Write the trajectories that `step` trains on, with their credit, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(step_file(folder, step)) as stream:
        for trajectory, credit in zip(trajectories, credits, strict=True):
            write_json_line(trajectory_to_json(trajectory) | {"step": step} | asdict(credit), stream)


def save_log_ratios(rows: Sequence[NDArray[np.float16]], step: int, folder: Path) -> None:
    """Write the log ratios of the step's trajectories, in their order, whole or not at all."""
    with atomic_write(log_ratio_file(step_file(folder, step))) as stream:
        np.save(stream.buffer, np.concatenate(rows), allow_pickle=False)
