"""What rates are held against: the machine's matrix products, and the parameters that take part in them."""

from __future__ import annotations

import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tspo.rollout.models import resolve_model

_SIZE = 2048


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of square matrix products: the best of several."""
    left, right = (torch.randn(_SIZE, _SIZE, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * _SIZE**3 / min(seconds)


def num_parameters(model: str) -> int:
    """How many parameters a model has, without loading them; tied ones count once."""
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=False)
        return int(AutoModelForCausalLM.from_config(config).num_parameters())
