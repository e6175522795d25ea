"""verl's FSDP engine and actor worker on gloo, and the trainer mode that uses them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import ray
import torch
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, register_trainer
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine_workers import ActorRolloutRefWorker

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


class CPUActorRolloutRefWorker(ActorRolloutRefWorker):
    """verl's worker; the process group is there before verl would name the CPU's backend twice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "gloo", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
            )
        super().__init__(*args, **kwargs)


@register_trainer(CPU)
class CPUTrainer(TRAINER_REGISTRY[MODE_PREFIX + "sync"]):  # type: ignore[misc]
    """verl's synchronous trainer with workers on CPUs."""

    role_worker_mapping: dict[Any, Any]

    def __init__(self, config: Any) -> None:
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        self.role_worker_mapping = dict.fromkeys(self.role_worker_mapping, ray.remote(CPUActorRolloutRefWorker))
