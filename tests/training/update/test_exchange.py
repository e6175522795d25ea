"""Means and norms of gradients over processes: real processes, joined by gloo."""

from pathlib import Path

import pytest

pytest.importorskip("accelerate")

import torch
from torch import distributed, multiprocessing, nn

from tspo.training.update import exchange
from tspo.training.update.exchange import average_gradients, gradient_norm


def test_the_norm_is_over_what_has_a_gradient() -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    assert gradient_norm(parameters, processes=1) == 0.0
    parameters[0].grad, parameters[2].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert gradient_norm(parameters, processes=1) == 5.0


def test_alone_what_learns_and_has_no_gradient_has_0() -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)] + [nn.Parameter(torch.zeros(2), requires_grad=False)]
    parameters[0].grad = torch.tensor([3.0, 0.0])
    average_gradients(parameters, processes=1)
    assert parameters[0].grad.tolist() == [3.0, 0.0]
    assert parameters[1].grad.tolist() == [0.0, 0.0]
    assert parameters[2].grad is None


def made(rank: int) -> list[nn.Parameter]:
    """Parameters of two kinds: both processes have a gradient, one has, none has, and one that does not learn."""
    generator = torch.Generator().manual_seed(rank)
    parameters = [nn.Parameter(torch.zeros(3, 5)) for _ in range(4)]
    parameters[0].grad = torch.randn(3, 5, generator=generator)
    if rank == 1:
        parameters[2].grad = torch.randn(3, 5, generator=generator)
    parameters[1].requires_grad_(False)
    return [*parameters, nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))]


def work(rank: int, folder: str, bucket_bytes: int) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    exchange._BUCKET_BYTES = bucket_bytes
    parameters = made(rank)
    norm = gradient_norm(parameters, processes=2)
    untouched = [p.grad is None or torch.equal(p.grad, q.grad) for p, q in zip(parameters, made(rank), strict=True)]
    average_gradients(parameters, processes=2)
    torch.save((norm, untouched, [p.grad for p in parameters]), f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.mark.parametrize("bucket_bytes", [1, 130, 2**20])
def test_each_process_gets_the_mean_and_reads_its_norm(tmp_path: Path, bucket_bytes: int) -> None:
    multiprocessing.start_processes(work, (str(tmp_path), bucket_bytes), nprocs=2, start_method="fork")
    (norm, untouched, gradients), other = (torch.load(tmp_path / name) for name in "01")
    first, second = made(0), made(1)
    both = (first[0].grad + second[0].grad) / 2
    one = second[2].grad / 2
    assert all(untouched)
    assert norm == other[0] == pytest.approx(torch.cat([both, one]).norm().item(), rel=1e-6)
    torch.testing.assert_close(gradients[0], both)
    torch.testing.assert_close(gradients[2], one)
    assert gradients[1] is None
    assert (gradients[3] == 0).all()
    assert gradients[4].dtype == torch.bfloat16
    for mine, theirs in zip(gradients, other[2], strict=True):
        assert mine is theirs is None or torch.equal(mine, theirs)
