import os
from pathlib import Path

import pytest

from tspo.ask.choice import choose
from tspo.errors import BadInput
from tspo.training.checkpoints import mark_whole

SETTINGS = "model: some/model\nseed: {seed}\ndata: {{world: {{}}}}\n"


def write_policy(folder: Path, at: int, files=("config.json",)):
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("{}")
    mark_whole(folder)
    os.utime(folder / "whole.json", (at, at))


@pytest.fixture
def runs(tmp_path):
    """Three runs: a has ended, b wrote a checkpoint later, c has written nothing yet."""
    for number, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(SETTINGS.format(seed=number))
    write_policy(tmp_path / "a" / "checkpoint-5", 100)
    write_policy(tmp_path / "a" / "model", 200)
    write_policy(tmp_path / "b" / "warmup", 10)
    write_policy(tmp_path / "b" / "checkpoint-9", 300)
    write_policy(tmp_path / "b" / "checkpoint-10", 400)
    (tmp_path / "b" / "checkpoint-11").mkdir()
    return tmp_path


def chosen(runs, named=None, *overrides):
    choice = choose(named, overrides, runs)
    return choice.config.model.removeprefix(f"{runs}/"), choice.config.seed


def test_the_last_run_that_has_a_policy(runs):
    assert chosen(runs) == ("b/checkpoint-10", 1)
    os.utime(runs / "a" / "model" / "whole.json", (500, 500))
    assert chosen(runs) == ("a/model", 0)


def test_no_run_the_starter(tmp_path):
    assert chosen(tmp_path / "runs") == ("tspo:starter", 0)
    assert chosen(tmp_path / "runs", None, "seed=4") == ("tspo:starter", 4)


def test_a_run_by_name_gives_the_furthest_it_has_come(runs):
    assert chosen(runs, runs / "a") == ("a/model", 0)
    assert chosen(runs, runs / "b", "seed=7") == ("b/checkpoint-10", 7)
    assert chosen(runs, runs / "a" / "checkpoint-5") == ("a/checkpoint-5", 0)


def test_the_folder_that_one_is_in(runs, monkeypatch):
    monkeypatch.chdir(runs / "a" / "model")
    for choice in (choose(Path("."), []), choose(None, ["model=."])):
        assert (choice.config.model, choice.config.seed) == (".", 0)


def test_a_configuration_file(runs):
    assert chosen(runs, runs / "a" / "config.yaml") == ("some/model", 0)


def test_a_model_goes_with_the_settings_of_its_run(runs):
    assert chosen(runs, None, f"model={runs}/b/warmup") == ("b/warmup", 1)
    choice = choose(None, ["model=other/model"], runs)
    assert (choice.config.model, choice.config.rollout.max_turn_tokens) == ("other/model", 500)
    assert choice.config.evaluation.temperature == 0


def test_a_folder_whose_name_yaml_would_read_otherwise(tmp_path):
    run = tmp_path / "a: {b"
    run.mkdir()
    (run / "config.yaml").write_text(SETTINGS.format(seed=0))
    write_policy(run / "model", 1)
    assert choose(run, []).config.model == str(run / "model")


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("c", "holds no whole checkpoint yet"),
        ("b/checkpoint-11", "not a whole checkpoint"),
        (".", "holds no config.yaml"),
        ("nowhere", "cannot read the configuration"),
    ],
)
def test_what_cannot_be_asked(runs, named, why):
    with pytest.raises(BadInput, match=why):
        choose(runs / named, [])


def test_adapters_alone_are_no_policy(runs):
    write_policy(runs / "c" / "checkpoint-1", 900, files=("adapter_config.json",))
    with pytest.raises(BadInput, match="adapters without their model"):
        choose(runs / "c", [])
    assert chosen(runs) == ("b/checkpoint-10", 1)
