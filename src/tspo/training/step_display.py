"""What a person sees of training: a bar on a terminal, a line per step, and a trajectory now and then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

_SHOWN = (
    ("EM", "exact_match", ".3f"),
    ("turn reward", "turn_reward", ".3f"),
    ("near miss", "near_miss_share", ".3f"),
    ("answer found", "answer_in_feedback", ".3f"),
    ("turns", "turns", ".2f"),
    ("entropy", "entropy", ".3f"),
    ("sampled/s", "rollout_tokens_per_second", ".0f"),
    ("trained/s", "update_tokens_per_second", ".0f"),
)

_SAMPLES = 6
"""Trajectories that are shown in the course of a run."""


def step_text(line: dict[str, Any], steps: int) -> str:
    """A step's line of metrics as a person reads it; those that it lacks are left out."""
    shown = (f"{label} {line[name]:{form}}" for label, name, form in _SHOWN if line.get(name) is not None)
    return "  ".join([f"step {line['step']}/{steps}", *shown])


def shows_sample(step: int, steps: int) -> bool:
    """Whether a trajectory of this step is shown."""
    return (step - 1) % max(steps // _SAMPLES, 1) == 0


def print_lines(lines: Sequence[str], console: Console, style: str | None = None) -> None:
    """Print text that means nothing but itself."""
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
