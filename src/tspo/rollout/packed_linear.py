"""Linear layers whose weights lie as a CPU's matrix product reads them, instead of being laid out anew at each call."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

_ROWS = 64
"""Rows of the products that the layout is chosen for: one decoding step."""


class PackedLinear(nn.Module):
    """What `linear` computes, without gradient, from weights as they were at the last `pack`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self._packed = torch.zeros(0)
        self.pack()

    def pack(self) -> None:
        """Take over the layer's present weights."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.linear.weight.detach(), _ROWS)

    @property
    def weight(self) -> torch.Tensor:
        """The layer's weights as they are."""
        return self.linear.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(.., in features) to (.., out features)."""
        return torch.ops.mkldnn._linear_pointwise(states, self._packed, self.linear.bias, "none", [], "")


def packing_pays(model: PreTrainedModel) -> bool:
    """Whether `model` is in bfloat16 on a CPU for which oneDNN has layouts of its own."""
    return (
        model.dtype == torch.bfloat16
        and model.device.type == "cpu"
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    )


def pack_linears(model: nn.Module) -> list[PackedLinear]:
    """Put a PackedLinear in the place of each plain linear layer of `model`."""
    packed = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and not isinstance(module, PackedLinear):
                packed.append(PackedLinear(child))
                setattr(module, name, packed[-1])
    return packed
