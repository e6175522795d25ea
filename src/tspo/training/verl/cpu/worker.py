"""verl's FSDP engines and workers on gloo, and the trainer mode that uses them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import ray
import torch
from transformers import AutoModelForTokenClassification
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, register_trainer
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from tspo.training.verl.names import CPU, MODE_PREFIX


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")
class CPUFSDPEngine(FSDPEngineWithLMHead):
    """verl's engine; a reference policy stays where it is, for verl offloads it to pinned memory, which GPUs have."""

    engine_config: Any

    def _build_fsdp_module(self, module: Any) -> Any:
        config = self.engine_config
        self.engine_config = dataclasses.replace(config, forward_only=False)
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config = config


@EngineRegistry.register(model_type="value_model", backend="fsdp2", device="cpu")
class CPUCriticEngine(FSDPEngineWithValueHead):
    """verl's engine; the critic is loaded here, for verl asks for flash attention, which GPUs have."""

    model_config: Any

    def _build_module(self) -> Any:
        config = self.model_config.hf_config
        config.num_labels, config.classifier_dropout = 1, 0.0
        return AutoModelForTokenClassification.from_pretrained(
            self.model_config.local_path, config=config, dtype=torch.float32
        )


class _OnGloo:
    """A mixin before one of verl's workers: the process group is there before verl names the CPU's backend twice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "gloo", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
            )
        super().__init__(*args, **kwargs)


class CPUActorRolloutRefWorker(_OnGloo, ActorRolloutRefWorker):
    """verl's worker of the policy and its reference."""


class CPUTrainingWorker(_OnGloo, TrainingWorker):
    """verl's worker of the critic."""


@register_trainer(CPU)
class CPUTrainer(TRAINER_REGISTRY[MODE_PREFIX + "sync"]):  # type: ignore[misc]
    """verl's synchronous trainer with workers on CPUs."""

    role_worker_mapping: dict[Any, Any]

    def __init__(self, config: Any) -> None:
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        self.role_worker_mapping = {
            role: ray.remote(CPUTrainingWorker if role is Role.Critic else CPUActorRolloutRefWorker)
            for role in self.role_worker_mapping
        }
