"""The policy as it is now, as a folder that an engine in another process can load."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

_SHARED_MEMORY = Path("/dev/shm")


def save_policy(model: PreTrainedModel, folder: Path) -> None:
    """Save weights and configuration of `model` to `folder`, adapters of PEFT merged into the weights they adapt.

    The model itself is not touched: merging in place and back would not give the same weights.
    """
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    if not adapted:
        _save_here(model, folder)
        return
    base = model.get_base_model()
    weights = {}
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            module, _, rest = name.partition(".base_layer.")
            if rest == "weight" and module in adapted:
                layer = adapted[module]
                weight = weight + sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
            if ".lora_" not in name:
                weights[name.removeprefix("base_model.model.").replace(".base_layer.", ".")] = weight
    _save_here(base, folder, state_dict=weights)


def _save_here(model: PreTrainedModel, folder: Path, **options: Any) -> None:
    """Save from any process: transformers writes from a run's first one only, but each has an engine of its own."""
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        model.save_pretrained(folder, **options)
    finally:
        del model.should_save_on_this_rank


def temporary_folder(model: PreTrainedModel) -> Path:
    """A new folder for `model`: in memory, where there is room for the weights of two steps, else on disk."""
    needed = 2 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    in_memory = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > needed
    return Path(tempfile.mkdtemp(prefix="tspo-policy-", dir=_SHARED_MEMORY if in_memory else None))
