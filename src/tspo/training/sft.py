"""SFT on demonstrations: the update of every other step, with an advantage of 1 on each token that the policy writes.

-A log pi with A = 1, in the mean over tokens, is the cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from tspo.credit import Credit
from tspo.training.batch import make_batch
from tspo.training.learner import LearnerSettings
from tspo.training.objective import Objective
from tspo.training.step import share
from tspo.training.update import Learner, update_policy
from tspo.trajectory import Trajectory

CROSS_ENTROPY = Objective(surrogate="reinforce")

OnStep = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, the step's loss)."""


def sft_steps(demonstrations: int, epochs: float, batch_size: int) -> int:
    """Steps of `batch_size` demonstrations in so many epochs; the last of an epoch may have fewer."""
    return math.ceil(epochs * math.ceil(demonstrations / batch_size))


def sft_settings(steps: int, learning_rate: float, autocast: torch.dtype | None, max_rows: int) -> LearnerSettings:
    """A learning rate that rises over a tenth of the steps, and falls to 0 as a cosine does."""
    return LearnerSettings(
        steps=steps,
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_steps=math.ceil(steps / 10),
        autocast=autocast,
        max_rows=max_rows,
    )


def fine_tune(
    learner: Learner, demonstrations: Sequence[Trajectory], *, steps: int, batch_size: int, seed: int, on_step: OnStep
) -> float:
    """Train the learner's policy in place on demonstrations; the mean loss over the steps.

    Each epoch has an order of its own, drawn from the seed. Each process takes its share of every step.
    """
    written = [Credit(1.0, None, [], [1.0] * len(shown.turns)) for shown in demonstrations]
    batch = make_batch(demonstrations, written, range(len(demonstrations)), [False] * len(demonstrations))
    steps_per_epoch = math.ceil(len(demonstrations) / batch_size)
    losses = []
    for step in range(steps):
        epoch, place = divmod(step, steps_per_epoch)
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        rows = order[place * batch_size : (place + 1) * batch_size]
        accelerator = learner.accelerator
        mine = rows[share(len(rows), accelerator.process_index, accelerator.num_processes)]
        losses.append(update_policy(learner, batch.take(mine), CROSS_ENTROPY).metrics["loss"])
        on_step(step + 1, steps, losses[-1])
    return sum(losses) / len(losses)
