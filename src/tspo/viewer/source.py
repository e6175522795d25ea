"""What the viewer is given: a run's folder or one trajectory file, and the files of trajectories in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo.credit import CreditConfig
from tspo.errors import BadInput
from tspo.evaluation.report.run_files import STAGES, credit_of, read_metrics, read_settings
from tspo.training.token_details import log_ratio_file

BEFORE_TRAINING = {"before": -2, "after-warm-up": -1}
AFTER_TRAINING = 2**40
"""Evaluations on the axis of training steps."""


@dataclass(frozen=True, slots=True)
class TrajectoryFile:
    """One file of trajectories, and where it stands on the axis of training steps."""

    path: Path
    at: int
    """The step; before step 1 and after the last for evaluations; 0 where a line's own `step` says it, if any."""

    @property
    def log_ratios(self) -> Path:
        """Where the update's token ratios are, if they were written."""
        return log_ratio_file(self.path)


@dataclass(frozen=True, slots=True)
class Source:
    """A run folder or a trajectory file."""

    path: Path

    @property
    def name(self) -> str:
        """What people call it."""
        return self.path.resolve().name

    @property
    def index_path(self) -> Path:
        """Where its index belongs: it goes where the run goes."""
        return (
            self.path / ".view.sqlite" if self.path.is_dir() else self.path.with_name(f".{self.path.name}.view.sqlite")
        )

    def files(self) -> list[TrajectoryFile]:
        """The trajectory files that are there now."""
        if not self.path.is_dir():
            return [TrajectoryFile(self.path, 0)]
        steps = [path for path in (self.path / "trajectories").glob("*.jsonl") if path.stem.isdecimal()]
        found = [TrajectoryFile(path, int(path.stem)) for path in sorted(steps, key=lambda path: int(path.stem))]
        if (self.path / "trajectories.jsonl").is_file():  # of tspo evaluate
            found.append(TrajectoryFile(self.path / "trajectories.jsonl", 0))
        for stage in STAGES:
            path = self.path / "evaluation" / stage / "trajectories.jsonl"
            if path.is_file():
                found.append(TrajectoryFile(path, BEFORE_TRAINING.get(stage, AFTER_TRAINING)))
        return found

    def metrics(self) -> list[dict[str, float]]:
        """The numbers of each step so far."""
        return read_metrics(self.path / "metrics.jsonl") if self.path.is_dir() else []

    def settings(self) -> dict[str, Any]:
        """The run's settings, empty where they are not known."""
        return read_settings(self.path / "config.yaml") if self.path.is_dir() else {}

    def credit(self) -> CreditConfig:
        """The run's credit settings, defaults where it does not tell them."""
        return credit_of(self.settings(), self.path / "config.yaml")


def open_source(path: Path) -> Source:
    """The source at `path`; raises BadInput where there is nothing to look at."""
    source = Source(path)
    if not path.exists():
        raise BadInput(f"{path}: is not there; name the output_dir of a run, or a trajectory file")
    if (path / "grid.json").is_file() and (runs := sorted(path.glob("runs/*/seed-*"))):
        raise BadInput(f"{path}: holds a comparison of {len(runs)} runs; name one of them, for example {runs[0]}")
    if path.is_dir() and not (source.files() or (path / "metrics.jsonl").is_file() or (path / "config.yaml").is_file()):
        raise BadInput(f"{path}: holds no run; name the output_dir of a run")
    source.credit()
    return source
