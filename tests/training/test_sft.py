from typing import Any

import pytest

pytest.importorskip("peft")

import torch
from torch.nn.functional import cross_entropy

from tspo.training.sft import fine_tune, sft_settings, sft_steps


def cross_entropies(model: Any, trajectories: list[Any]) -> torch.Tensor:
    """torch's, over the tokens that the policy wrote: labels of -100 stand on all others."""
    summed, tokens = 0, 0
    for trajectory in trajectories:
        ids, labels = list(trajectory.prompt_token_ids), [-100] * len(trajectory.prompt_token_ids)
        for turn in trajectory.turns:
            feedback = turn.feedback_token_ids or []
            ids += [*turn.token_ids, *feedback]
            labels += [*turn.token_ids, *([-100] * len(feedback))]
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        summed = summed + cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum")
        tokens += sum(label != -100 for label in labels)
    return summed / tokens


def note(*_: Any) -> None: ...


@pytest.mark.parametrize("max_rows", [8, 3, 1])
def test_loss_and_gradient_are_those_of_cross_entropy(new_learner, trajectories, gradient_of, max_rows: int) -> None:
    learner = new_learner(temperature=1.0, max_rows=max_rows)
    loss = fine_tune(learner, trajectories, steps=1, batch_size=8, seed=0, on_step=note)
    gradient = gradient_of(learner.model)
    plain = cross_entropies(learner.model, trajectories)
    learner.optimizer.zero_grad()
    plain.backward()
    expected = gradient_of(learner.model)
    assert loss == pytest.approx(plain.item(), rel=1e-5)
    assert (gradient - expected).norm() / expected.norm() < 1e-5


def test_each_epoch_goes_through_all_in_an_order_of_its_own(new_learner, trajectories) -> None:
    """With a learning rate of 0 a step's loss says which demonstrations were in it."""
    learner, losses = new_learner(temperature=1.0), []
    fine_tune(
        learner, trajectories, steps=6, batch_size=3, seed=7, on_step=lambda step, steps, loss: losses.append(loss)
    )
    # torch.randperm(8) with the seeds 7 and 8
    orders = [[7, 0, 3, 4, 1, 5, 2, 6], [3, 6, 5, 7, 2, 1, 4, 0]]
    steps = [order[place : place + 3] for order in orders for place in (0, 3, 6)]
    with torch.no_grad():
        expected = [cross_entropies(learner.model, [trajectories[i] for i in rows]).item() for rows in steps]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert len({round(loss, 4) for loss in losses}) == 6


def test_it_says_what_was_done_and_learns_the_demonstrations(new_learner, trajectories) -> None:
    steps = []
    learner = new_learner(optimizer="adamw", learning_rate=1e-2, temperature=1.0)
    loss = fine_tune(
        learner, trajectories[:2], steps=20, batch_size=2, seed=0, on_step=lambda *step: steps.append(step)
    )
    assert [(step, of) for step, of, _ in steps] == [(step, 20) for step in range(1, 21)]
    losses = [loss for _, _, loss in steps]
    assert losses[-1] < losses[0] / 3
    assert loss == pytest.approx(sum(losses) / 20)


@pytest.mark.parametrize(
    ("demonstrations", "epochs", "batch_size", "steps"),
    [(10, 1.0, 5, 2), (11, 1.0, 5, 3), (11, 2.0, 5, 6), (10, 0.5, 5, 1), (10, 0.3, 5, 1), (3, 2.5, 8, 3)],
)
def test_the_steps_of_so_many_epochs(demonstrations: int, epochs: float, batch_size: int, steps: int) -> None:
    assert sft_steps(demonstrations, epochs, batch_size) == steps


def test_the_learning_rate_rises_over_a_tenth_and_falls_to_0(new_learner) -> None:
    settings = sft_settings(steps=20, learning_rate=0.5, autocast=None, max_rows=4)
    learner = new_learner(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
    )
    rates = []
    for _ in range(20):
        rates.append(learner.schedule.get_last_lr()[0])
        learner.optimizer.step()
        learner.schedule.step()
    assert rates[:3] == pytest.approx([0.0, 0.25, 0.5])
    assert rates[11] == pytest.approx(0.25)
    assert learner.schedule.get_last_lr()[0] == pytest.approx(0.0)
    assert (settings.temperature, settings.max_rows, settings.weight_decay) == (1.0, 4, 0.0)
