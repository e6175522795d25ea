"""What is kept of single policy tokens for `tspo view`: where they stand in the text, and their ratio in the update."""

from __future__ import annotations

from pathlib import Path


def log_ratio_file(trajectories: Path) -> Path:
    """Where the log ratios of a trajectory file's policy tokens are: a NumPy array beside it, in the file's order."""
    return trajectories.with_name(f"{trajectories.stem}.log_ratios.npy")
