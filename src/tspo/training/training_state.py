"""What a checkpoint holds beside the weights: optimizer, schedule, random numbers, and how far the run is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from tspo.training.checkpoints import STATE
from tspo.training.update import Learner

_DEEPSPEED = "deepspeed"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the steps that are done, and the tokens of all their trajectories."""

    step: int = 0
    tokens_seen: int = 0


def save_state(checkpoint: Path, learner: Learner, progress: Progress) -> None:
    """Write to `checkpoint` what a run needs beside its weights to go on; all processes must call it."""
    state = {
        "step": progress.step,
        "tokens_seen": progress.tokens_seen,
        "schedule": learner.schedule.state_dict(),
        "random": gather_object([_random_states()]),
    }
    if learner.accelerator.distributed_type == DistributedType.DEEPSPEED:
        learner.accelerator.save_state(str(checkpoint / _DEEPSPEED))
    else:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state["optimizer"] = get_optimizer_state_dict(learner.model, _plain(learner.optimizer), options=options)
    if learner.accelerator.is_main_process:
        torch.save(state, checkpoint / STATE)


def load_state(checkpoint: Path, learner: Learner) -> Progress:
    """Take over what `save_state` wrote, but for the policy's weights; how far the run was."""
    state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    if learner.accelerator.distributed_type == DistributedType.DEEPSPEED:
        learner.accelerator.load_state(str(checkpoint / _DEEPSPEED))
    elif state["optimizer"]["state"]:  # plain SGD has none
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(learner.model, _plain(learner.optimizer), state["optimizer"], options=options)
    learner.schedule.load_state_dict(state["schedule"])
    for group, rate in zip(learner.optimizer.param_groups, learner.schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    # another number of processes than before has other shares anyway
    random = state["random"][learner.accelerator.process_index % len(state["random"])]
    torch.set_rng_state(random["cpu"])
    if torch.cuda.is_available() and "device" in random:
        torch.cuda.set_rng_state(random["device"])
    return Progress(state["step"], state["tokens_seen"])


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"device": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer within accelerate's wrapper."""
    plain: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return plain
