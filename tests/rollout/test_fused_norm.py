import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tspo.rollout.fused_norm import FusedRMSNorm, fuse_norms  # noqa: E402
from tspo.rollout.row_kernels import row_kernels  # noqa: E402


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def dtype(request):
    if row_kernels(request.param) is None:
        pytest.skip("no C++ compiler with OpenMP")
    return request.param


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 300)])
@pytest.mark.parametrize("size", [64, 161])
@torch.no_grad()
def test_the_same_norm(dtype, shape, size):
    torch.manual_seed(0)
    norm = transformers.models.llama.modeling_llama.LlamaRMSNorm(size, eps=1e-5).to(dtype)
    norm.weight.copy_(torch.randn(size))
    holder = torch.nn.ModuleList([norm])
    fuse_norms(holder)
    (fused,) = holder
    assert isinstance(fused, FusedRMSNorm)
    states = (torch.randn(*shape, size) * 30).to(dtype)
    for one in (states, states.transpose(0, 1), states[..., :1].expand(states.shape)):
        torch.testing.assert_close(fused(one), norm(one), rtol=4 * torch.finfo(dtype).eps, atol=0)


@torch.no_grad()
def test_a_fused_norm_has_the_weight_of_the_norm(tiny_model, dtype):
    model = copy.deepcopy(tiny_model).to(dtype)
    ids = torch.arange(20)[None]
    fused = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    fuse_norms(fused)
    assert sum(isinstance(module, FusedRMSNorm) for module in fused.modules()) == 2 * 2 + 1
    for parameter in model.parameters():
        parameter.mul_(1.1)
    accuracy = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(fused(ids).logits, model(ids).logits, rtol=accuracy, atol=accuracy)


class OffByOneRMSNorm(torch.nn.Module):
    """Like Gemma's: it weighs with one more than its weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(8))
        self.eps = 1e-6

    def forward(self, states):
        return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


def test_a_norm_that_computes_something_else_is_left_alone(dtype):
    holder = torch.nn.ModuleList([OffByOneRMSNorm().to(dtype), torch.nn.LayerNorm(8).to(dtype)])
    fuse_norms(holder)
    assert [type(module).__name__ for module in holder] == ["OffByOneRMSNorm", "LayerNorm"]
