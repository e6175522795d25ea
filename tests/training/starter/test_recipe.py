from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from tspo.rollout.codec import Codec
from tspo.training.starter.demonstrator import SKILLED
from tspo.training.starter.recipe import PROMPT, Recipe, Stage, demonstrations, make_starter, save_starter, train_stage

TINY = Recipe(
    vocabulary=1024,
    hidden=32,
    layers=2,
    heads=2,
    intermediate=64,
    stages=(Stage("copy", SKILLED, (1,), 60, 8, 500, 1, 100, 0.02, 3e-3, 0.5),),
)


def test_labels_are_on_what_the_policy_writes_alone(tokenizer: Any) -> None:
    rows = demonstrations(TINY.stages[0], Codec(tokenizer, PROMPT))
    assert 90 <= len(rows) <= 100  # what a namesake's page hid is not shown
    for ids, labels in rows:
        assert len(ids) == len(labels)
        said = tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label != -100])
        assert said.count("<think>") == 2
        assert "Doc 1" not in said


def test_training_lowers_the_loss_and_can_be_done_again() -> None:
    losses: list[list[float]] = [[], []]
    models = [make_starter(TINY, lambda _, __, loss, to=to: to.append(loss))[0] for to in losses]  # type: ignore[misc]
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.8 * losses[0][0]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_stage_reaches_every_parameter(tokenizer: Any) -> None:
    model, tokenizer = make_starter(replace(TINY, stages=()), lambda *_: None)
    before = [parameter.clone() for parameter in model.parameters()]
    stage = replace(TINY.stages[0], steps=2)
    train_stage(model, stage, demonstrations(stage, Codec(tokenizer, PROMPT)), 0, lambda *_: None)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_is_saved_loads_as_any_model(tmp_path: Any) -> None:
    from tspo.rollout.models import load_model, load_tokenizer

    model, tokenizer = make_starter(replace(TINY, stages=()), lambda *_: None)
    save_starter(model, tokenizer, TINY, [{"stage": "copy", "step": 1, "loss": 7.0}], tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.num_parameters() == model.num_parameters()
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()
    assert "7.0" in (tmp_path / "recipe.json").read_text()
