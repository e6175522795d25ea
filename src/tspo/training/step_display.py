"""What a person sees of training: bars on a terminal, and a line a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from transformers import TrainerCallback

from tspo.training.metrics_log import MetricsLog
from tspo.training.sample_display import sample_lines
from tspo.training.signals import StopRequest

_SHOWN = (
    ("reward", "turn_reward", ".3f"),
    ("EM", "exact_match", ".3f"),
    ("near miss", "near_miss_share", ".3f"),
    ("answer found", "answer_in_feedback", ".3f"),
    ("turns", "turns", ".2f"),
    ("entropy", "entropy", ".3f"),
    ("sampled/s", "rollout_tokens_per_second", ".0f"),
    ("trained/s", "update_tokens_per_second", ".0f"),
)


_SAMPLES = 6
"""Trajectories that are shown in the course of a run."""


class StepDisplay(TrainerCallback):
    """Draws the bars, prints a line a step and a trajectory now and then, and ends training when asked to."""

    def __init__(
        self,
        progress: Progress,
        task: TaskID,
        log: MetricsLog,
        trajectories: Path,
        stop: StopRequest,
        console: Console,
    ) -> None:
        self.progress, self.task, self.log, self.stop, self.console = progress, task, log, stop, console
        self.trajectories = trajectories

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show a step that is over."""
        if "loss" not in (logs or {}) or not state.is_world_process_zero:
            return
        line = self.log.last
        # A step that reuses the last rollout has no metrics of one.
        shown = (f"{label} {line[name]:{form}}" for label, name, form in _SHOWN if line.get(name) is not None)
        self.progress.update(self.task, completed=line["step"])
        text = "  ".join([f"step {line['step']}/{state.max_steps}", *shown])
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        sample = self.trajectories / f"{line['step']:06d}.jsonl"
        if (line["step"] - 1) % max(state.max_steps // _SAMPLES, 1) == 0 and sample.is_file():
            for text in sample_lines(sample):
                self.console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop after this step if a stop was asked for."""
        if self.stop:
            control.should_save = True
            control.should_training_stop = True
