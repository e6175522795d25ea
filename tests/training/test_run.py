"""`tspo train` within this process: what is refused before anything is written, resuming, precisions, metrics."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import transformers

from tspo.config import default_config_path, load_config
from tspo.errors import BadInput
from tspo.training import run as module
from tspo.training.agent import check_positions
from tspo.training.checkpoints import is_whole, mark_whole, step_of_mark
from tspo.training.metrics_log import TIMINGS
from tspo.training.run import run_training, run_warmup
from tspo.training.run_folder import prepare_output

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
PEOPLE = {"Ann Lee": "Oslo", "Bob Ray": "Rome", "Cy Fox": "Lima"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cache that keeps the starter's world between tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def starter(tmp_path, monkeypatch, world):
    """A function that gives the settings of one step of the starter policy in a small world, on a CPU."""
    monkeypatch.setenv("TSPO_CACHE", str(world))
    monkeypatch.setattr(module, "write_card", lambda *_: None)
    monkeypatch.setattr(module, "write_report", lambda folder: folder)
    small = ["data.world={passages: 200, train_questions: 12, test_questions: 0, hops: [1]}", "device=cpu"]
    small += ["training.steps=1", "training.groups_per_step=2", "output_dir=" + str(tmp_path / "run")]
    return lambda *overrides: load_config(default_config_path(), [*small, *overrides])


@pytest.fixture
def config(tmp_path, monkeypatch, tiny_model_folder):
    """A function that gives the settings of a run of a tiny model over three questions, on a CPU, without its pages."""
    monkeypatch.setenv("TSPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "write_card", lambda *_: None)
    monkeypatch.setattr(module, "write_report", lambda folder: folder)
    questions = [
        {
            "id": person,
            "question": f"Where was {person} born?",
            "golden_answers": [town],
            "supporting_titles": [person],
        }
        for person, town in PEOPLE.items()
    ]
    passages = [{"id": p, "contents": f'"{p}"\n{p} was born in {town}.'} for p, town in PEOPLE.items()]
    for name, lines in (("train", questions), ("corpus", passages)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "model": str(tiny_model_folder),
        "device": "cpu",
        "output_dir": "run",
        "data": {"train": ["train.jsonl"], "corpus": "corpus.jsonl"},
        "rollout": {"max_turns": 2, "max_turn_tokens": 40, "max_total_tokens": 300, "prompt": "Q: {question}"},
        "training": {"steps": 1, "groups_per_step": 2, "group_size": 3, "micro_batch": 2, "learning_rate": 0.01},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return lambda *overrides: load_config(path, overrides)


def train(config, *, resume=False):
    """Run it; the lines of its metrics."""
    run_training(config, resume=resume, console=Console(quiet=True))
    return [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]


def documented():
    """Of docs/training.md's table of metrics, the names; a word in capitals stands for any."""
    table = PAGE.read_text(encoding="utf-8").split("## `metrics.jsonl`")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    return [re.sub("[A-Z]+", ".+", name) for cell in cells for name in re.findall("`([^`]+)`", cell)]


VARIED = ("training.epochs=2", "training.minibatches=2", "training.beta=0.1", "training.optimizer=sgd")
LORA = {
    "none": (),
    "base float32": ("training.lora={r: 4}",),
    "base bfloat16": ("training.lora={r: 4, base_dtype: bfloat16}",),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), VARIED, ("credit.algorithm=grpo", "training.objective=reinforce")])
def test_every_metric_is_documented(starter, settings):
    (line,) = train(starter(*settings))
    assert ("clip_share" in line) == (settings == VARIED), "it can only be 0"
    assert ("kl" in line) == (settings == VARIED)
    names = documented()
    assert [name for name in line if not any(re.fullmatch(pattern, name) for pattern in names)] == []


@pytest.mark.slow
def test_no_metric_is_constant_by_construction(starter, tmp_path):
    """Over runs that differ in what metrics depend on, each has more than one value."""
    short = ("rollout.max_turns=2", "rollout.max_turn_tokens=12", "training.learning_rate=0.05", "rollout.top_k=1")
    runs = [
        starter(*VARIED, "training.steps=4", "training.epsilon=0.001", f"output_dir={tmp_path / 'one'}"),
        starter(*VARIED, *short, "training.steps=4", f"output_dir={tmp_path / 'other'}"),
        starter("rollout.dtype=bfloat16", "training.learning_rate=0.01", f"output_dir={tmp_path / 'third'}"),
    ]
    values = {}
    for line in (line for run in runs for line in train(run)):
        for name, value in line.items():
            values.setdefault(name, set()).add(value)
    same = {name for name, seen in values.items() if len(seen) == 1}
    # GRPO's entropy is what TSPO's is read beside; neither searches over BM25 in this process nor gradients fail.
    assert same <= {"credit_entropy_grpo", "search_error_share", "stop/retriever_error", "skipped"}


@pytest.mark.slow
@pytest.mark.parametrize("lora", LORA)
@pytest.mark.parametrize("sampling", ["null", "float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_combination_of_precisions_trains_on_a_cpu(starter, dtype, sampling, lora):
    settings = (f"training.dtype={dtype}", f"rollout.dtype={sampling}", *LORA[lora])
    (line,) = train(starter(*settings, "training.beta=0.1"))
    assert line["grad_norm"] > 0
    exact = dtype == "float32" and sampling != "bfloat16" and lora != "base bfloat16"
    assert (line["logprob_gap"] < 1e-5) == exact
    assert line["logprob_gap"] < 0.1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("training.groups_per_step=4",), "4 questions per step, but there are only 3 to train on"),
        (("training.report_to=nowhere",), "'nowhere' is not a tracker; there are wandb, tensorboard, trackio"),
        (("credit.algorithm=ppo",), "ppo needs a critic"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(config, tmp_path, settings, told):
    with pytest.raises(BadInput, match=told) as error:
        train(config(*settings))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_fine_tuning_alone_needs_no_groups(config):
    folder = run_warmup(config("training.groups_per_step=4", "warmup.epochs=1"), console=Console(quiet=True))
    assert is_whole(folder)


CHANGES = {
    "training.micro_batch=1": None,
    "training.pass_tokens=64": None,
    "training.gradient_checkpointing=true": None,
    "training.report_to=wandb": None,
    "training.project=mine": None,
    "training.run_name=mine": None,
    "training.hub={repository: me/mine}": None,
    "rollout.query_cache={entries: 3}": None,
    "training.steps=9": None,
    "training.group_size=4": "the run to resume had other settings for training.group_size",
    "rollout.sampling.top_k=5": "the run to resume had other settings for rollout.sampling.top_k",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_may_change_when_a_run_goes_on(config, change):
    config().output_dir.mkdir()
    corpus = ["data.corpus=null", "rollout.retriever=http://127.0.0.1:1"]
    prepare_output(config(*corpus), resume=False)
    told = CHANGES[change]
    if told is None:
        prepare_output(config(*corpus, change), resume=True)
    else:
        with pytest.raises(BadInput, match=told):
            prepare_output(config(*corpus, change), resume=True)


def test_the_hub_may_change_part_by_part(config):
    config().output_dir.mkdir()
    prepare_output(config("training.hub={repository: me/mine}"), resume=False)
    prepare_output(config("training.hub={repository: me/other, private: true}"), resume=True)


def write_older_run(config):
    """The folder of a run as the version before wrote it: config.yaml with `training.trl`, and HF Trainer's files."""
    folder = config().output_dir
    folder.mkdir()
    prepare_output(config(), resume=False)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    training = settings["training"]
    for name in set(training) - {"steps", "groups_per_step", "group_size", "micro_batch", "learning_rate", "beta"}:
        del training[name]
    settings["training"]["trl"] = {}
    del settings["rollout"]["sampling"]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    checkpoint = folder / "checkpoint-1"
    checkpoint.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"):
        (checkpoint / name).write_text("x")
    mark_whole(checkpoint)
    return folder


def test_a_run_of_an_older_version_that_is_half_done_is_refused_and_left_as_it_is(config):
    folder = write_older_run(config)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match=r"checkpoint-1: was written by an older version of tspo") as error:
        train(config(), resume=True)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_a_run_of_an_older_version_that_is_done_can_be_resumed(config):
    folder = write_older_run(config)
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("x")
    mark_whole(folder / "model")
    prepare_output(config(), resume=True)
    assert "trl" not in (folder / "config.yaml").read_text()


def test_more_tokens_than_a_model_has_positions_for_are_refused(config, tiny_tokenizer, tmp_path):
    folder = tmp_path / "gpt2"
    tiny_tokenizer.save_pretrained(folder)
    transformers.GPT2Config(vocab_size=400, n_positions=64, n_embd=8, n_layer=1, n_head=1).save_pretrained(folder)
    with pytest.raises(BadInput, match=r"^rollout\.max_total_tokens: 65 tokens are more than the 64 positions that"):
        train(config(f"model={folder}", "rollout.max_total_tokens=65"))
    check_positions(config(f"model={folder}", "rollout.max_total_tokens=64"))
    check_positions(config("rollout.max_total_tokens=4096"))  # rotary positions go on
    assert not (tmp_path / "run").exists()


def test_a_resume_that_is_refused_leaves_no_folder(config, tmp_path):
    wanted = config()
    with pytest.raises(BadInput, match="holds no run to resume"):
        run_training(wanted, resume=True, console=Console(quiet=True))
    assert not wanted.output_dir.exists()


def without_times(lines):
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


@pytest.mark.slow
def test_more_steps_go_on_and_fewer_end_at_once(starter, tmp_path):
    one, two = f"output_dir={tmp_path / 'one'}", f"output_dir={tmp_path / 'two'}"
    expected = train(starter("training.steps=4", one))
    assert len(train(starter("training.steps=2", two))) == 2
    assert step_of_mark(tmp_path / "two" / "model") == 2
    found = train(starter("training.steps=4", two), resume=True)
    assert without_times(found) == without_times(expected)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert step_of_mark(tmp_path / "two" / "model") == 4
    assert train(starter("training.steps=3", two), resume=True) == found
    assert step_of_mark(tmp_path / "two" / "model") == 4
    for checkpoint in (tmp_path / "two").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(BadInput, match="is trained for 4 steps of 6, and no checkpoint is left to go on from"):
        train(starter("training.steps=6", two), resume=True)


@pytest.mark.slow
def test_a_damaged_run_is_told_and_left_as_it_is(starter, tmp_path):
    folder = tmp_path / "run"
    train(starter("training.steps=3", "training.save_every=1"))
    (folder / "model" / "whole.json").unlink()
    weights, metrics = folder / "checkpoint-3" / "model.safetensors", folder / "metrics.jsonl"
    kept = {path: path.read_bytes() for path in (weights, metrics)}
    for path, damaged, said in (
        (weights, kept[weights][:-1] + bytes([kept[weights][-1] ^ 1]), r"checkpoint-3/model.safetensors: is damaged"),
        (metrics, b"".join(kept[metrics].splitlines(keepends=True)[1:]), "it holds 2 lines of the 3 steps"),
        (metrics, kept[metrics] * 2, "it holds 6 lines of the 3 steps"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match=said):
            train(starter("training.steps=3", "training.save_every=1"), resume=True)
        assert path.read_bytes() == damaged
        path.write_bytes(kept[path])
    assert len(train(starter("training.steps=3", "training.save_every=1"), resume=True)) == 3
