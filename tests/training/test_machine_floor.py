import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tspo.training.machine_floor import num_parameters, product_rate  # noqa: E402


def test_parameters_are_those_of_the_loaded_model(tiny_model, tiny_model_folder):
    assert num_parameters(str(tiny_model_folder)) == sum(parameter.numel() for parameter in tiny_model.parameters())


def test_a_rate_is_that_of_products():
    assert 1e8 < product_rate(torch.float32, torch.device("cpu")) < 1e16
