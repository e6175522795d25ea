import pytest

pytest.importorskip("torch")

import torch

from tspo.training.starter.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (40, 16), (16, 40)])
def test_the_singular_values_come_to_about_one_and_the_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonal(matrix) @ right.T
    assert values.max() / values.min() > 3
    assert torch.all((turned.diagonal() > 0.3) & (turned.diagonal() < 1.3))
    torch.testing.assert_close(turned, torch.diag(turned.diagonal()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(40, 16), (16, 40)])
def test_steps_as_torch_s_own_does_to_bfloat16(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(3)]
    ends = []
    for kind in (Muon, torch.optim.Muon):
        matrix = torch.nn.Parameter(start.clone())
        optimizer = kind([matrix], lr=0.1, weight_decay=0.2, momentum=0.95)
        for gradient in gradients:
            matrix.grad = gradient.clone()
            optimizer.step()
        ends.append(matrix.detach())
    moved = (ends[1] - start).norm()
    assert (ends[0] - ends[1]).norm() < 0.02 * moved


def test_a_gradient_of_zero_moves_nothing_and_none_is_passed_over() -> None:
    still, unused = (torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    still.grad = torch.zeros(3, 2)
    Muon([still, unused], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(still, torch.ones(3, 2))
    assert torch.equal(unused, torch.ones(3, 2))
