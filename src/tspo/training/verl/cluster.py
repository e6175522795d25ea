"""Ray: started on this machine or joined, and the GPUs that it has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tspo.config import RunConfig
from tspo.errors import BadInput
from tspo.training.verl.metrics import last_checkpoint, session_file
from tspo.training.verl.names import PLUGIN
from tspo.training.verl.translation import checkpoint_folder, work_folder

_CPU_SLOTS = 64
"""CPUs that a Ray without GPUs is told it has: verl's processes ask for more of them than they use."""


def environment(config: RunConfig) -> dict[str, str]:
    """Environment variables that every process of the run needs."""
    return {"VERL_USE_EXTERNAL_MODULES": PLUGIN} | ({"VERL_PLATFORM": "cpu"} if config.device == "cpu" else {})


def join(config: RunConfig, runtime_env: dict[str, Any] | None = None) -> None:
    """Start Ray here, or join the one that `verl.ray` names; raises BadInput where there is none."""
    import ray

    arguments: dict[str, Any] = {} if runtime_env is None else {"runtime_env": runtime_env}
    if config.verl.ray != "local":
        arguments["address"] = config.verl.ray
    elif config.device == "cpu":
        arguments |= {"num_gpus": config.verl.nodes * config.verl.gpus_per_node, "num_cpus": _CPU_SLOTS}
    try:
        ray.init(**arguments)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"verl.ray: {config.verl.ray}: Ray cannot be reached ({first})") from None


@contextmanager
def cluster(config: RunConfig, translated: Any) -> Iterator[None]:
    """Ray with what the run's processes need, left again in the end."""
    import ray
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    runtime: dict[str, Any] = get_ppo_ray_runtime_env(translated)
    runtime["env_vars"] |= environment(config) | {
        "TRANSFER_QUEUE_ENABLE": "1",
        "VERL_FILE_LOGGER_PATH": os.fspath(session_file(work_folder(config), _start(config, translated))),
    }
    join(config, runtime)
    try:
        yield
    finally:
        ray.shutdown()


def _start(config: RunConfig, translated: Any) -> int:
    """The step after which this session starts."""
    return 0 if translated.trainer.resume_mode == "disable" else last_checkpoint(checkpoint_folder(config))


def nodes_with_gpus(config: RunConfig) -> list[int]:
    """The number of GPUs of each node that has any: of this machine, or of the Ray that is to be joined."""
    if config.verl.ray == "local":
        import torch

        return [count] if (count := torch.cuda.device_count()) else []
    import ray

    join(config)
    try:
        return [int(gpus) for node in ray.nodes() if node["Alive"] and (gpus := node["Resources"].get("GPU", 0))]
    finally:
        ray.shutdown()


def gpu_memories() -> list[float]:
    """Gigabytes (1e9 bytes) of each GPU of this machine."""
    import torch

    return [torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(torch.cuda.device_count())]
