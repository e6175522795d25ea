"""RMS norms in one call instead of seven operations: in a small model they are a tenth of a decoding step."""

from __future__ import annotations

import torch
from torch import nn

from tspo.rollout.row_kernels import RowKernels, row_kernels


class FusedRMSNorm(nn.Module):
    """What an RMS norm over the last dimension computes, without gradient."""

    def __init__(self, weight: nn.Parameter, eps: float, kernels: RowKernels) -> None:
        super().__init__()
        self.weight = weight
        self._eps = eps
        self._kernels = kernels

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(.., size) to the same shape."""
        return self._kernels.rms_norm(states.contiguous(), self.weight, self._eps)


@torch.no_grad()
def fuse_norms(model: nn.Module) -> None:
    """Put a FusedRMSNorm in the place of each module of `model` that computes the same, where there are kernels."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if (fused := _fused(child)) is not None:
                setattr(module, name, fused)


def _fused(norm: nn.Module) -> FusedRMSNorm | None:
    """The fused module, if `norm` is named and built like an RMS norm, and computes what one computes on a trial."""
    weight, eps = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    named_so = type(norm).__name__.endswith("RMSNorm")
    if not named_so or not isinstance(weight, nn.Parameter) or not isinstance(eps, float):
        return None
    kernels = row_kernels(weight.dtype) if weight.device.type == "cpu" else None
    if kernels is None:
        return None
    fused = FusedRMSNorm(weight, eps, kernels)
    states = torch.linspace(-2, 3, 4 * weight.numel(), dtype=weight.dtype).view(4, -1)
    accuracy = 4 * torch.finfo(weight.dtype).eps
    return fused if torch.allclose(fused(states), norm(states), rtol=accuracy, atol=accuracy) else None
