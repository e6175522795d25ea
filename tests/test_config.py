import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest
import yaml

from tspo.config import (
    CreditSection,
    RolloutSection,
    RunConfig,
    TrainingSection,
    default_config_path,
    default_of,
    load_config,
)
from tspo.credit import CreditConfig, valid_choices
from tspo.credit_config import PRESETS
from tspo.errors import BadInput
from tspo.rollout.episode import Limits

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))

MINIMAL = """\
model: some/model
output_dir: out
data:
  train: [train.jsonl]
  corpus: ../corpus.jsonl
"""


@pytest.fixture
def config_file(tmp_path):
    return write(tmp_path, MINIMAL)


def write(folder, text):
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(path, *overrides):
    with pytest.raises(BadInput) as error:
        load_config(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=[path.name for path in CONFIGS])
def test_every_config_of_the_repository_loads(path):
    config = load_config(path)
    data = config.data
    assert data.world is not None or config.rollout.retriever is not None or data.corpus.is_absolute()
    assert config.rollout.prompt.count("{question}") == 1


def test_the_near_miss_setting_is_the_default_run_with_the_spec_s_credit():
    near_miss = load_config(next(path for path in CONFIGS if path.name == "embedded-near-miss.yaml"))
    default = load_config(default_config_path())
    assert near_miss.credit.to_config() == CreditSection(preset="abstract").to_config()
    for name in ("model", "rollout"):
        assert getattr(near_miss, name) == getattr(default, name)
    kept = near_miss.training.model_copy(update={"steps": default.training.steps})
    assert kept == default.training


def test_there_are_configs():
    assert CONFIGS


def test_a_minimal_file_takes_the_defaults(config_file, tmp_path):
    config = load_config(config_file)
    assert (config.model, config.seed, config.training.group_size) == ("some/model", 0, 5)
    assert config.rollout == RolloutSection()
    assert config.output_dir == tmp_path / "out"
    assert config.data.train == [tmp_path / "train.jsonl"]
    assert config.data.corpus.resolve() == tmp_path.parent / "corpus.jsonl"


def test_credit_section_is_the_credit_config():
    options = {field.name: field for field in fields(CreditConfig)}
    assert set(CreditSection.model_fields) == {*options, "preset"}
    for name, field in CreditSection.model_fields.items():
        if name == "preset":
            continue
        assert options[name].default is not MISSING
        assert field.default == options[name].default
    assert CreditSection().to_config() == CreditConfig()


@pytest.mark.parametrize(
    ("preset", "credit", "level"),
    [
        ("recommended", "through_first_turn", "turn"),
        ("abstract", "first_turn", "turn"),
        ("turn_if_all_wrong", "through_first_turn", "turn_if_all_wrong"),
    ],
)
def test_a_preset_is_a_reading_of_the_paper(config_file, preset, credit, level):
    config = load_config(config_file, [f"credit.preset={preset}"]).credit.to_config()
    assert (config.credit, config.level) == (credit, level)
    assert config == CreditConfig(credit=credit, level=level)
    assert set(PRESETS) == {"recommended", "abstract", "turn_if_all_wrong"}


def test_what_is_said_beside_a_preset_counts(config_file):
    config = load_config(config_file, ["credit.preset=abstract", "credit.credit=through_first_turn"])
    assert config.credit.credit == "through_first_turn"
    assert error_of(config_file, "credit.preset=paper").startswith("'credit.preset': input should be 'recommended'")


def test_descriptions_of_choices_name_every_choice():
    for name, choices in valid_choices().items():
        for choice in choices:
            assert choice in (CreditSection.model_fields[name].description or "")


def test_rollout_section_covers_the_limits(config_file):
    assert {field.name for field in fields(Limits)} <= set(RolloutSection.model_fields)
    assert RolloutSection().limits() == Limits()
    numbers = {field.name: 21 + i for i, field in enumerate(fields(Limits))}
    config = load_config(config_file, [f"rollout.{name}={number}" for name, number in numbers.items()])
    assert config.rollout.limits() == Limits(**numbers)


def test_overrides_go_over_the_file(config_file):
    config = load_config(
        config_file,
        [
            "seed=3",
            "training.steps=7",
            "training.lora.r=4",
            "training.report_to=wandb",
            "data.train=[/a.jsonl, /b.jsonl]",
            "credit.ignore=['yes', maybe]",
            "rollout.prompt='a = {question}'",
            "rollout.dtype=null",
            "evaluation.before=false",
            "training.learning_rate=1.0e-5",
            "seed=4",
        ],
    )
    assert config.seed == 4
    assert (config.training.steps, config.training.learning_rate) == (7, 1e-5)
    assert config.training.lora is not None
    assert config.training.lora.r == 4
    assert config.training.report_to == ["wandb"]
    assert config.data.train == [Path("/a.jsonl"), Path("/b.jsonl")]
    assert config.credit.to_config().ignore == ("yes", "maybe")
    assert config.rollout.prompt == "a = {question}"
    assert config.evaluation.before is False


def test_an_override_opens_an_empty_section(tmp_path):
    assert load_config(write(tmp_path, MINIMAL + "training:\n"), ["training.steps=3"]).training.steps == 3


def test_paths_in_overrides_are_relative_to_the_working_folder(config_file, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(config_file, ["data.corpus=c.jsonl", "data.test=[t.jsonl]", "output_dir=~/runs"])
    assert config.data.corpus == elsewhere / "c.jsonl"
    assert config.data.test == [elsewhere / "t.jsonl"]
    assert config.data.train == [tmp_path / "train.jsonl"]
    assert config.output_dir == Path("/home/somebody/runs")


def test_a_home_folder_in_the_file_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(write(tmp_path, MINIMAL.replace("../corpus", "~/corpus")))
    assert config.data.corpus == Path("/home/somebody/corpus.jsonl")


@pytest.mark.parametrize(
    ("override", "place", "near", "valid"),
    [
        ("sed=1", "sed", "seed", ["credit", "data", "model", "training"]),
        ("training.stepz=1", "training.stepz", "training.steps", ["beta", "epochs", "hub", "lora", "steps"]),
        ("training.lora.rank=1", "training.lora.rank", None, ["alpha", "dropout", "r", "target_modules"]),
        ("credit.algoritm=tspo", "credit.algoritm", "credit.algorithm", ["algorithm", "alpha"]),
        ("data.korpus=x", "data.korpus", "data.corpus", ["corpus", "test", "train"]),
        ("zzz.y=1", "zzz", None, ["credit", "seed"]),
        ("steps=20", "steps", "training.steps", ["credit", "training"]),
        ("training.lr=1e-5", "training.lr", "training.learning_rate", ["learning_rate"]),
        ("training.num_generations=4", "training.num_generations", "training.group_size", ["group_size"]),
        ("max_turns=2", "max_turns", "rollout.max_turns", ["rollout"]),
    ],
)
def test_an_unknown_key_names_the_valid_ones(config_file, override, place, near, valid):
    message = error_of(config_file, override)
    assert message.startswith(f"unknown key {place!r}")  # of the command line, not of the file
    assert (f"did you mean {near!r}?" in message) if near else (f"{place!r}. Valid" in message)
    listed = message.split("Valid keys there: ")[1].split(", ")
    assert set(valid) <= set(listed)
    assert listed == sorted(listed)


def test_a_key_of_the_file_is_blamed_on_the_file(config_file):
    config_file.write_text(config_file.read_text() + "\nsteps: 20\n")
    assert error_of(config_file, "seed=3").startswith(
        f"{config_file}: unknown key 'steps'; did you mean 'training.steps'?"
    )


@pytest.mark.parametrize("value", ["[yes, no]", "['yes', 'no']", "[Yes, No]", "[true, no]"])
def test_a_bare_yes_is_a_word_here(config_file, value):
    assert load_config(config_file, [f"credit.ignore={value}"]).credit.ignore == ("yes", "no")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seed=-1", ["'seed'", "-1"]),
        ("training.steps=0", ["'training.steps'", "greater than or equal to 1", "got 0"]),
        ("training.steps=many", ["'training.steps'", "'many'"]),
        ("training.steps=", ["'training.steps'", "None"]),
        ("training.learning_rate=0", ["'training.learning_rate'"]),
        ("rollout.dtype=int8", ["'rollout.dtype'", "'bfloat16'", "'int8'"]),
        ("rollout.temperature=0", ["'rollout.temperature'"]),
        ("data.train=5", ["'data.train'", "list"]),
        ("data=5", ["'data'", "got 5"]),
        ("device=tpu", ["'device'", "'auto'"]),
        ("training.minibatches=3", ["training.minibatches: 3 does not divide groups_per_step = 8"]),
        ("training.lr_scheduler=cosine_with_min_lr", ["'training.lr_scheduler'", "'inverse_sqrt'"]),
        ("training.hub={private: true}", ["'training.hub.repository' is missing"]),
        ("rollout.sampling={top_p: 0}", ["'rollout.sampling.top_p'"]),
        ("credit.algorithm=dpo", ["credit.algorithm: 'dpo' is not one of tspo, grpo, dr_grpo"]),
        ("credit.alpha=1.5", ["credit.alpha: 1.5"]),
        ("credit.alpha=nan", ["'credit.alpha'"]),
        ("credit.scale=var", ["credit.scale: 'var' is not one of std, none"]),
        ("training.learning_rate=.inf", ["'training.learning_rate'", "finite"]),
        ("training.lora=yes", ["'training.lora'"]),
        ("rollout.retriever=5", ["'rollout.retriever'", "string", "got 5"]),
        ("rollout.retriever_deadline=0", ["'rollout.retriever_deadline'"]),
        ("rollout.query_cache={entries: 0}", ["'rollout.query_cache.entries'"]),
    ],
)
def test_a_bad_value_is_named(config_file, override, parts):
    message = error_of(config_file, override)
    assert str(config_file) not in message  # it is the command line's
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["objective=reinforce", "epsilon=0.3"],
            "epsilon: objective=reinforce has none; it is for objective=ppo or gspo",
        ),
        (["objective=cispo", "epsilon=0.3"], "epsilon: objective=cispo has none"),
        (["objective=reinforce", "epsilon_high=0.3"], "epsilon_high: objective=reinforce has none"),
        (["average_length=100"], "average_length: average=tokens has none; it is for average=constant"),
        (["optimizer=sgd", "adam_beta1=0.8"], "adam_beta1: optimizer=sgd has none"),
        (["optimizer=adafactor", "adam_beta2=0.8"], "adam_beta2: optimizer=adafactor has none"),
        (["lr_warmup_steps=3"], "lr_warmup_steps: lr_scheduler=constant has none; it is for .*constant_with_warmup"),
        (["beta=0", "kl=k1"], "kl: there is no KL where beta is 0"),
    ],
)
def test_an_option_of_a_choice_that_was_not_made_is_refused(config_file, overrides, said):
    message = error_of(config_file, *(f"training.{override}" for override in overrides))
    assert re.search(f"training.{said}", message)


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective=cispo", "epsilon_high=4"],
        ["objective=gspo", "epsilon=0.0003", "epsilon_high=0.0004"],
        ["average=constant", "average_length=100"],
        ["lr_scheduler=cosine", "lr_warmup_steps=3"],
        ["kl=k1"],
        ["objective=reinforce"],
        ["optimizer=sgd", "beta=0"],
    ],
)
def test_an_option_goes_with_its_choice(config_file, tmp_path, overrides):
    config = load_config(config_file, [f"training.{override}" for override in overrides])
    # in a saved run's settings all defaults are written out
    saved = write(tmp_path, yaml.safe_dump(yaml.safe_load(config.model_dump_json())))
    assert load_config(saved) == config


def test_schedules_are_transformers_and_need_no_arguments_of_their_own():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    names = get_args(TrainingSection.model_fields["lr_scheduler"].annotation)
    assert len(names) == 5
    for name in names:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = transformers.get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=8)
        assert schedule.get_last_lr() == [1.0 if name == "constant" else 0.0]


@pytest.mark.parametrize(("trackers", "names"), [("wandb", ["wandb"]), ("[wandb, trackio]", ["wandb", "trackio"])])
def test_one_tracker_needs_no_list(config_file, trackers, names):
    assert load_config(config_file, [f"training.report_to={trackers}"]).training.report_to == names


def test_without_an_output_dir_it_is_named_after_the_file(tmp_path, monkeypatch):
    values = yaml.safe_load(MINIMAL)
    del values["output_dir"]
    monkeypatch.chdir(tmp_path)
    assert load_config(write(tmp_path, yaml.safe_dump(values))).output_dir == tmp_path / "runs" / "run"


def test_the_default_configuration_writes_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(default_config_path())
    assert config.output_dir == tmp_path / "runs" / "default"
    assert config.data.world is not None


@pytest.mark.parametrize("name", ["train", "corpus"])
def test_neither_files_nor_a_world_is_one_clear_line(tmp_path, name):
    values = yaml.safe_load(MINIMAL)
    del values["data"][name]
    message = error_of(write(tmp_path, yaml.safe_dump(values)))
    assert f"{name!r} is missing" in message
    assert "data.world={}" in message


def test_files_and_a_world_together_are_refused(config_file):
    assert "not both" in error_of(config_file, "data.world={}")


@pytest.mark.parametrize("place", ["http://127.0.0.1:8000", "searxng+https://search.example", "serper://"])
def test_with_a_retriever_no_corpus_is_needed(tmp_path, place):
    values = yaml.safe_load(MINIMAL)
    del values["data"]["corpus"]
    config = load_config(write(tmp_path, yaml.safe_dump(values)), [f"rollout.retriever={place}"])
    assert (config.rollout.retriever, config.data.corpus) == (place, None)


def test_an_index_folder_and_a_cache_are_paths_like_others(tmp_path, monkeypatch):
    text = MINIMAL + "rollout: {retriever: ../indexes/wiki, query_cache: {path: cache.db}}\n"
    config = load_config(write(tmp_path, text))
    assert config.rollout.retriever == str(tmp_path.parent / "indexes" / "wiki")
    assert config.rollout.query_cache is not None
    assert config.rollout.query_cache.path == tmp_path / "cache.db"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    overrides = ["rollout.retriever=wiki", "rollout.query_cache={entries: 5}", "rollout.query_cache.path=c.db"]
    rollout = load_config(tmp_path / "run.yaml", overrides).rollout
    assert rollout.retriever == str(elsewhere / "wiki")
    assert rollout.query_cache is not None
    assert (rollout.query_cache.entries, rollout.query_cache.path) == (5, elsewhere / "c.db")


def test_a_cache_is_for_a_retriever(config_file):
    assert "it is for rollout.retriever" in error_of(config_file, "rollout.query_cache={}")


@pytest.mark.parametrize("hops", ["[]", "[4]", "[1, 1]"])
def test_hops_that_there_are_not_are_refused(tmp_path, hops):
    message = error_of(default_config_path(), f"data.world.hops={hops}")
    assert message.startswith("'data': world.hops: expected some of 1 to 3")


@pytest.mark.parametrize("name", ["model", "data"])
def test_a_missing_key_is_named(tmp_path, name):
    values = yaml.safe_load(MINIMAL)
    section = values
    *outer, last = name.split(".")
    for part in outer:
        section = section[part]
    del section[last]
    assert error_of(write(tmp_path, yaml.safe_dump(values))).endswith(f": {name!r} is missing")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed", "expected key=value"),
        ("=3", "expected key=value"),
        ("seed=[1", "not YAML"),
        ("seed=a: b: c", "not YAML"),
        ("seed=2026-99-99", "not YAML"),
        ("seed.x=3", "'seed' is not a section"),
        ("data.train.x=3", "'train' is not a section"),
    ],
)
def test_an_override_that_cannot_be_read(tmp_path, override, reason):
    message = error_of(write(tmp_path, MINIMAL + "seed: 1\n"), override)
    assert reason in message
    assert override.partition("=")[0] in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1,\n", "not YAML"),
        (b"a: b: c\n", "not YAML"),
        (b"a: \x00\n", "not YAML"),
        (b"seed: 2026-99-99\n", "not YAML"),
        (b"model: !!python/object:os.system x\n", "not YAML"),
        (b"model: \xff\xfe\n", "not UTF-8"),
        (b"", "expected a mapping"),
        (b"# nothing\n", "expected a mapping"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"just text\n", "expected a mapping"),
        (MINIMAL.encode() + b"1: x\n", "1"),
        (MINIMAL.encode() + b"training: {1: x}\n", "1"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, content, reason):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    message = error_of(path)
    assert message.startswith(f"{path}: ")
    assert reason in message


def test_a_file_that_is_not_there(tmp_path):
    assert "No such file" in error_of(tmp_path / "none.yaml")
    assert "directory" in error_of(tmp_path)


def test_a_config_cannot_be_changed(config_file):
    config = load_config(config_file)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def test_a_config_survives_being_written_and_read(config_file, tmp_path):
    config = load_config(config_file, ["training.lora={r: 4}", "credit.ignore=[a]", "evaluation.batch=3"])
    path = write(tmp_path, yaml.safe_dump(yaml.safe_load(config.model_dump_json())))
    assert load_config(path) == config
    assert isinstance(load_config(path), RunConfig)


def test_defaults_by_name_are_those_of_a_minimal_file(config_file):
    settings = json.loads(load_config(config_file).model_dump_json())
    for section in ("rollout", "credit", "training", "warmup", "evaluation", "verl"):
        assert default_of(section) == settings[section]
        for name, value in settings[section].items():
            assert default_of(f"{section}.{name}") == value
    assert default_of("training.lora.r") == 16
    for unknown in ("model", "nonsense", "model.nonsense", "credit.nonsense", "credit.alpha.nonsense"):
        assert default_of(unknown) is None
