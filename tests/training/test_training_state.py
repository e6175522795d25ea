from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

import torch

from tspo.training.learner import load_weights, save_weights
from tspo.training.objective import Objective
from tspo.training.training_state import Progress, load_state, save_state
from tspo.training.update import Learner, update_policy, with_other_policies


def parameters(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in learner.model.named_parameters()}


@pytest.mark.parametrize(
    ("lora", "settings"),
    [
        (False, {"optimizer": "adamw", "learning_rate": 1e-2}),
        (False, {"optimizer": "adamw", "learning_rate": 1e-2, "schedule": "cosine", "warmup_steps": 1}),
        (False, {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1, "autocast": torch.bfloat16}),
        (False, {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "linear"}),
        (False, {"optimizer": "adafactor", "learning_rate": 1e-2}),
        (True, {"optimizer": "adamw", "learning_rate": 1e-2, "with_reference": True}),
        (True, {"optimizer": "sgd", "learning_rate": 0.1, "with_reference": True}),
    ],
    ids=lambda value: "lora" if value is True else "whole" if value is False else "-".join(map(str, value.values())),
)
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    new_learner, with_lora, trajectories, batch_of, tiny_tokenizer, tmp_path: Path, lora: bool, settings: dict[str, Any]
) -> None:
    """Bit for bit, dropout of the adapters among it."""
    objective = Objective(beta=0.05 if lora else 0.0)

    def policy() -> Any:
        return with_lora(dropout=0.1) if lora else None

    def train(learner: Learner, steps: int) -> list[dict[str, float]]:
        batch = with_other_policies(learner, batch_of(trajectories), updates=1, beta=0.05)
        return [update_policy(learner, batch, objective).metrics for _ in range(steps)]

    whole = new_learner(policy(), max_grad_norm=1.0, **settings)
    torch.manual_seed(3)
    metrics = train(whole, 4)

    first = new_learner(policy(), max_grad_norm=1.0, **settings)
    torch.manual_seed(3)
    before = train(first, 2)
    save_weights(first.model, tmp_path, tiny_tokenizer, first.accelerator)
    save_state(tmp_path, first, Progress(2, 700))
    torch.manual_seed(99)
    resumed_policy = policy() if lora else new_learner().model
    load_weights(resumed_policy, tmp_path)
    resumed = new_learner(resumed_policy, max_grad_norm=1.0, **settings)
    assert load_state(tmp_path, resumed) == Progress(2, 700)
    after = train(resumed, 2)

    assert before + after == metrics
    expected = parameters(whole)
    assert parameters(resumed).keys() == expected.keys()
    assert all(torch.equal(parameter, expected[name]) for name, parameter in parameters(resumed).items())
    assert resumed.schedule.get_last_lr() == whole.schedule.get_last_lr()


def test_saving_changes_nothing(new_learner, trajectories, batch_of, tmp_path: Path) -> None:
    found = []
    for saves in (False, True):
        learner = new_learner(optimizer="adamw", learning_rate=1e-2)
        for _ in range(3):
            update_policy(learner, batch_of(trajectories), Objective())
            if saves:
                save_state(tmp_path, learner, Progress(1, 1))
        found.append(parameters(learner))
    assert all(torch.equal(parameter, found[1][name]) for name, parameter in found[0].items())
