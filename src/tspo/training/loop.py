"""The steps of a run, from where it is to its end: what is shown, logged and saved after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tspo.errors import NotFinite
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
    max_skipped: int = 3,
) -> Progress:
    """Train up to step number `steps`; how far the run is then.

    It saves every `save_every` steps, after the last, and after the one in which a stop was asked for, which ends it.
    Raises NotFinite, which names the step, where the policy cannot be sampled from, and after `max_skipped` steps in a
    row of which no gradient was finite; these have changed nothing.
    """
    skipped = 0
    while done.step < steps:
        try:
            metrics = training_step(done.step + 1, inputs, settings)
        except NotFinite as error:
            raise NotFinite(f"step {done.step + 1}: {error}") from None
        skipped = skipped + 1 if metrics["skipped"] == 1.0 else 0
        done = Progress(done.step + 1, done.tokens_seen + int(metrics.pop("tokens")))
        on_step({"step": done.step} | metrics | {"tokens_seen": done.tokens_seen})
        stopped = bool(stop)  # all processes ask
        if stopped or done.step == steps or done.step % save_every == 0:
            save(done)
        if skipped >= max_skipped:
            raise NotFinite(
                f"step {done.step}: no gradient was finite in {skipped} steps, and nothing was learned from them; go "
                "on from the last checkpoint with a lower training.learning_rate, or look at training.dtype and rewards"
            )
        if stopped:
            break
    return done
