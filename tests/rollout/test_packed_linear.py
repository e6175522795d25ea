import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tspo.rollout.packed_linear import PackedLinear, pack_linears, packing_pays  # noqa: E402


@pytest.fixture
def model(tiny_model):
    model = copy.deepcopy(tiny_model).to(torch.bfloat16).requires_grad_(False)
    if not packing_pays(model):
        pytest.skip("this CPU does not multiply bfloat16")
    return model


@pytest.mark.parametrize("rows", [1, 3, 64, 200])
@pytest.mark.parametrize("bias", [False, True])
def test_the_same_products(model, rows, bias):
    linear = torch.nn.Linear(64, 48, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    states = torch.randn(2, rows, 64, dtype=torch.bfloat16)
    torch.testing.assert_close(PackedLinear(linear)(states), linear(states), rtol=2e-2, atol=2e-2)


def test_every_linear_layer_is_packed_once_and_takes_over_new_weights(model):
    ids = torch.arange(20)[None]
    plain = copy.deepcopy(model)
    packed = pack_linears(model)
    assert len(packed) == 2 * 7 + 1
    assert pack_linears(model) == []
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=5e-2, atol=5e-2)
    for parameter, other in zip(model.parameters(), plain.parameters(), strict=True):
        parameter.mul_(0.5)
        other.mul_(0.5)
    for layer in packed:
        layer.pack()
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=5e-2, atol=5e-2)


def test_float32_is_left_alone(tiny_model):
    assert not packing_pays(tiny_model)
