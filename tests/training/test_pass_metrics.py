import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from accelerate import Accelerator  # noqa: E402

from tspo.training.pass_metrics import AloneAccelerator, metrics_of_pass, metrics_of_step  # noqa: E402

PASSES = [
    ({"kl": 1.0, "clip_ratio/low_mean": 0.5, "clip_ratio/low_min": 0.1, "clip_ratio/high_max": 0.3, "other": 1.0}, 30),
    ({"kl": 4.0, "clip_ratio/low_mean": 0.0, "clip_ratio/low_min": 0.2, "clip_ratio/high_max": 0.4, "other": 2.0}, 10),
]


def test_a_steps_metrics_weigh_passes_by_their_tokens() -> None:
    assert metrics_of_step(PASSES) == {
        "kl": (30 * 1.0 + 10 * 4.0) / 40,
        "clip_ratio/low_mean": 30 * 0.5 / 40,
        "clip_ratio/low_min": 0.1,
        "clip_ratio/high_max": 0.4,
        "other": 1.5,
    }


def test_a_pass_without_tokens_says_nothing_about_means() -> None:
    nothing = ({"kl": 0.0, "clip_ratio/low_min": math.nan}, 0)
    whole, with_nothing = metrics_of_step(PASSES), metrics_of_step([*PASSES, nothing])
    assert with_nothing == whole
    assert math.isnan(metrics_of_step([nothing])["clip_ratio/low_min"])


def test_of_a_pass_the_last_value_counts() -> None:
    assert metrics_of_pass({"kl": [1.0, 2.0]}, 7) == ({"kl": 2.0}, 7)


def test_alone_nothing_is_gathered_and_all_else_is_the_accelerators() -> None:
    accelerator = Accelerator(cpu=True)
    accelerator.gather = accelerator.reduce = None
    alone = AloneAccelerator(accelerator)
    tensor = torch.arange(3)
    assert alone.gather(tensor) is alone.reduce(tensor, "sum") is tensor
    assert alone.device == accelerator.device
