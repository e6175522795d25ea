"""The steps of a run, from where it is to its end: what is shown, logged and saved after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tspo.training.signals import StopRequest
from tspo.training.step import StepInputs, StepSettings, training_step
from tspo.training.training_state import Progress

OnStep = Callable[[dict[str, Any]], None]
"""Called with the step's line of metrics."""

Save = Callable[[Progress], None]
"""Called where a checkpoint is due."""


def train(
    inputs: StepInputs,
    settings: StepSettings,
    *,
    steps: int,
    done: Progress,
    save_every: int,
    save: Save,
    on_step: OnStep,
    stop: StopRequest,
) -> Progress:
    """Train up to step number `steps`; how far the run is then.

    It saves every `save_every` steps, after the last, and after the one in which a stop was asked for, which ends it.
    """
    while done.step < steps:
        metrics = training_step(done.step + 1, inputs, settings)
        done = Progress(done.step + 1, done.tokens_seen + int(metrics.pop("tokens")))
        on_step({"step": done.step} | metrics | {"tokens_seen": done.tokens_seen})
        stopped = bool(stop)  # all processes ask
        if stopped or done.step == steps or done.step % save_every == 0:
            save(done)
        if stopped:
            break
    return done
