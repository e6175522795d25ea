"""A policy whose parameters are spread over processes (FSDP, ZeRO-3), whole again in each: sampling needs all of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from tspo.errors import BadInput


def check_distribution(accelerator: Accelerator) -> None:
    """Raise BadInput where a policy's parameters would be spread so that they could not be gathered."""
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise BadInput("accelerate's configuration: fsdp_version 1 flattens parameters; say fsdp_version: 2")


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a process holds only its part of the parameters."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return True
    return accelerator.distributed_type == DistributedType.DEEPSPEED and _zero_stage(accelerator) == 3


def _zero_stage(accelerator: Accelerator) -> int:
    return int(accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage"])


class WholePolicy:
    """A whole copy of a policy in each process.

    It is made before the policy is spread, in `dtype` or the policy's own, and lies where the policy lies then: in
    the host's memory.
    """

    def __init__(self, policy: PreTrainedModel, dtype: torch.dtype | None) -> None:
        if hasattr(policy, "peft_config"):
            raise BadInput(
                "training.lora: adapters are trained with whole parameters in each process; launch with --multi_gpu "
                "instead of FSDP or ZeRO-3, or leave training.lora out"
            )
        self.model = copy.deepcopy(policy).eval().requires_grad_(False)
        for module in self.model.modules():
            # Trainers patch `forward` on the instance; a copied patch would still call the original.
            module.__dict__.pop("forward", None)
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(dtype or policy.dtype)

    @torch.no_grad()
    def take_over(self, spread: nn.Module) -> None:
        """Copy the weights of the policy, which each process holds a part of; all of them must call this."""
        for mine, theirs in zip(self.model.parameters(), spread.parameters(), strict=True):
            with _whole(theirs) as whole:
                mine.copy_(whole)


@contextmanager
def _whole(parameter: Any) -> Iterator[torch.Tensor]:
    if isinstance(parameter, DTensor):
        yield parameter.full_tensor()
    elif hasattr(parameter, "ds_id"):
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([parameter]):
            yield parameter.data
    else:
        yield parameter.data
