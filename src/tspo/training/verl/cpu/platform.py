"""The CPU as a platform of verl: VERL_PLATFORM=cpu."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class _CPUModule(ModuleType):
    """torch.cpu, and what verl asks of a device beyond it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def empty_cache() -> None: ...

    ipc_collect = empty_cache

    @staticmethod
    def get_device_name(*_: Any) -> str:
        return "cpu"

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    @staticmethod
    def get_rng_state() -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def max_memory_allocated(*_: Any) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @staticmethod
    def mem_get_info(*_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    max_memory_reserved = memory_allocated = memory_reserved = max_memory_allocated


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    """Workers take Ray's GPU resource, of which a local Ray is told that it has some: verl counts no other."""

    _module = _CPUModule("tspo_cpu_device")

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _module

    def is_available(self) -> bool:
        """See `PlatformBase`."""
        return True

    def current_device(self) -> Any:
        """The device that tensors go to: on a CPU it has no number."""
        return torch.device("cpu")

    def device_count(self) -> int:
        """See `PlatformBase`."""
        return 1

    def set_device(self, device_index: int) -> None:
        """See `PlatformBase`."""

    def synchronize(self, device_index: int | None = None) -> None:
        """See `PlatformBase`."""

    def manual_seed(self, seed: int) -> None:
        """See `PlatformBase`."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """See `PlatformBase`."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """See `PlatformBase`."""

    def empty_cache(self) -> None:
        """See `PlatformBase`."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """See `PlatformBase`."""
        return None, None

    def communication_backend_name(self) -> str:
        """See `PlatformBase`."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """See `PlatformBase`."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """See `PlatformBase`."""
        yield

    def profiler_start(self) -> None:
        """See `PlatformBase`."""

    def profiler_stop(self) -> None:
        """See `PlatformBase`."""

    def ray_resource_name(self) -> str:
        """See `PlatformBase`."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """See `PlatformBase`."""
        return []

    def is_ipc_supported(self) -> bool:
        """See `PlatformBase`."""
        return False

    def cudart(self) -> None:
        """See `PlatformBase`."""
