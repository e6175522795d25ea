"""What TRL logs of an update, put together from passes: their number differs from process to process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

GAP = "logprob_gap"
"""The mean distance of the update's log-probabilities from those that the tokens were sampled with."""

_TOKEN_MEANS = (GAP, "kl", "entropy", "_mean", "cispo_clip_ratio")
"""How the names end of metrics that are means over a pass's policy tokens."""

PassMetrics = tuple[dict[str, float], int]
"""What one pass logged, by name, and over how many policy tokens."""


def metrics_of_pass(logged: Mapping[str, Sequence[float]], tokens: int) -> PassMetrics:
    """The last value of each metric that a pass logged."""
    return {name: values[-1] for name, values in logged.items()}, tokens


def metrics_of_step(passes: Iterable[PassMetrics]) -> dict[str, float]:
    """An optimizer step's metrics from all passes of all processes: means over tokens, extremes, plain means."""
    found: dict[str, list[tuple[float, int]]] = {}
    for values, tokens in passes:
        for name, value in values.items():
            found.setdefault(name, []).append((value, tokens))
    return {name: _together(name, values) for name, values in found.items()}


def _together(name: str, found: list[tuple[float, int]]) -> float:
    found = [(value, tokens) for value, tokens in found if not math.isnan(value)]  # rows without tokens have no mean
    if not found:
        return math.nan
    values = [value for value, _ in found]
    if name.endswith("_min"):
        return min(values)
    if name.endswith("_max"):
        return max(values)
    if name.endswith(_TOKEN_MEANS):
        return sum(value * tokens for value, tokens in found) / max(sum(tokens for _, tokens in found), 1)
    return sum(values) / len(values)


class AloneAccelerator:
    """An accelerator whose gathering and reducing leave other processes out.

    TRL's loss gathers what it logs; with passes whose number differs, processes would wait for ever.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        """All else is the accelerator's."""
        return getattr(self._accelerator, name)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """This process's own."""
        return tensor

    def reduce(self, tensor: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
        """This process's own."""
        return tensor
