"""Gradients that are spread over processes: their mean, and the norm of it, a bucket at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import distributed, nn

_BUCKET_BYTES = 64 * 2**20
"""What is sent at once; it is also the memory that sending takes."""


def gradient_norm(parameters: Iterable[nn.Parameter], processes: int) -> float:
    """The L2 norm of what has been accumulated in `.grad`, over all parameters as one vector.

    With several processes it is the norm of their mean, and each of them must call this.
    """
    if processes == 1:
        vectors: Iterable[torch.Tensor] = (p.grad for p in parameters if p.grad is not None)
    else:
        vectors = (mean for _, mean in _means(parameters))
    norms = [torch.linalg.vector_norm(vector, dtype=torch.float64) for vector in vectors]
    return torch.stack(norms).norm().item() if norms else 0.0


def average_gradients(parameters: Sequence[nn.Parameter], processes: int) -> None:
    """Give every process the mean of their `.grad`; a parameter that learns and has none has 0.

    An optimizer leaves parameters without a gradient out of its step.
    """
    for parameter in parameters if processes == 1 else ():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket, mean in _means(parameters) if processes > 1 else ():
        parts = torch.split(mean, [parameter.numel() for parameter in bucket])
        for parameter, part in zip(bucket, parts, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(part.view_as(parameter))


def _means(parameters: Iterable[nn.Parameter]) -> Iterator[tuple[list[nn.Parameter], torch.Tensor]]:
    """Parameters that learn, in buckets, each with the mean of its gradients over the processes as one vector."""
    for bucket in _buckets(parameters):
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket],
        )
        distributed.all_reduce(flat)
        yield bucket, flat / distributed.get_world_size()


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if bucket and (size + parameter.nbytes > _BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket
