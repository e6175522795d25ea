"""What trackers are told: by name and by hand everywhere, and by their own readers where they are installed."""

import importlib.metadata
import json
import os
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing, nullcontext

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from markdown_it import MarkdownIt

from tspo.cli import main
from tspo.config import default_config_path, load_config
from tspo.errors import BadInput
from tspo.evaluation.metrics import summarize
from tspo.training import tracking
from tspo.training.sample_display import sample_lines
from tspo.training.signals import Stopped
from tspo.training.tracking import Trackers, check_trackers, flat_settings, open_trackers
from tspo.trajectory import StopReason, Trajectory, Turn

HOSTILE = "x</pre><script>alert(1)</script>\n\n# big\n![i](http://evil/i)\x1b[2J\r{{ 7 * 7 }}`\n```\n"


class Tracker:
    """A tracker that keeps what it is told."""

    def __init__(self, name, table=False):
        self.name = name
        self.lines, self.tables, self.texts, self.ends = [], [], [], []
        if table:
            self.log_table = lambda name, **told: self.tables.append((name, told))

    @property
    def tracker(self):
        return self

    def log(self, values, step):
        self.lines.append((step, values))

    def add_text(self, name, text, global_step):
        self.texts.append((name, text, global_step))

    def finish(self, exit_code=0):
        self.ends.append(exit_code)


class Accelerator:
    """Of accelerate's what trackers need; it opens the trackers that it was made with."""

    is_main_process = True

    def __init__(self, *wanted, error=None):
        self.wanted, self.error, self.trackers, self.opened = wanted, error, [], []

    def init_trackers(self, project, settings, own):
        if self.error is not None:
            raise self.error
        self.opened.append((project, settings, own))
        self.trackers = list(self.wanted)


@pytest.fixture
def config(tmp_path):
    return lambda *overrides: load_config(default_config_path(), [f"output_dir={tmp_path / 'run'}", *overrides])


def test_every_setting_is_told_under_its_dotted_name_and_no_secret(config):
    settings = ("rollout.vllm={hf_token: hf_1, seed: 3}", "training.lora={r: 4}", "training.report_to=wandb")
    told = flat_settings(config(*settings))
    assert told["credit.algorithm"] == "tspo"
    assert told["training.lora.r"] == 4
    assert told["training.report_to"] == '["wandb"]'
    assert told["rollout.retriever"] == "null"
    assert (told["rollout.vllm.seed"], told["rollout.vllm.hf_token"]) == (3, "(not shown)")
    assert all(isinstance(value, str | int | float | bool) for value in told.values())


def test_an_unknown_tracker_lists_those_there_are():
    with pytest.raises(BadInput, match=r"training\.report_to: 'wandbb' is not a tracker; there are wandb, tensorboard"):
        check_trackers(["wandbb"])


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio"])
def test_a_tracker_that_is_not_installed_is_said_before_anything_is_read(monkeypatch, tmp_path, capsys, name):
    """A folder of its name in the working folder, as wandb leaves it, does not count as installed."""

    def version(package):
        raise importlib.metadata.PackageNotFoundError(package)

    def read(*_):
        raise AssertionError("it went on")

    monkeypatch.setattr(tracking, "version", version)
    monkeypatch.setattr("tspo.training.run.read_materials", read)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert main(["train", f"training.report_to={name}"]) == 2
    said = capsys.readouterr().err
    assert said == f"tspo: error: training.report_to: {name} is not installed; pip install {name}, or leave it out\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_step_is_told_under_the_names_of_its_line():
    tracker = Tracker("any")
    Trackers(Accelerator()).log({"step": 3, "loss": 0.5}, 3)
    told = Accelerator()
    told.trackers = [tracker]
    Trackers(told).log({"step": 3, "loss": 0.5, "stop/answer": 1.0}, 3)
    assert tracker.lines == [(3, {"loss": 0.5, "stop/answer": 1.0})]


def test_an_evaluation_is_told_by_stage_and_by_source():
    def answered(source, answer):
        turns, extra = [Turn("x")], {"data_source": source}
        return Trajectory(source, source, "Who?", ["Ann"], turns, answer, StopReason.ANSWER, extra=extra)

    accelerator = Accelerator()
    accelerator.trackers = [tracker] = [Tracker("any")]
    Trackers(accelerator).log_evaluation(
        "after warm-up", summarize([answered("nq", "Ann"), answered("wiki", "Bob")]), step=0
    )
    ((step, told),) = tracker.lines
    assert step == 0
    assert told["evaluation/after-warm-up/exact_match"] == 0.5
    assert told["evaluation/after-warm-up/nq/exact_match"] == 1.0
    assert told["evaluation/after-warm-up/wiki/exact_match"] == 0.0
    Trackers(accelerator).log_evaluation("before", summarize([answered("nq", "Ann")]), step=0)
    assert not any("nq" in name for name in tracker.lines[1][1]), "the only source is all of it"


def sample(tmp_path):
    """Lines of a sample trajectory in which everything that others wrote is hostile."""
    line = {
        "group_id": "g",
        "question": HOSTILE,
        "golden_answers": [HOSTILE],
        "turns": [{"text": HOSTILE, "feedback": f'Doc 1(Title: "{HOSTILE}") text'}, {"text": HOSTILE}],
        "turn_rewards": [0.0, 0.0],
        "turn_advantages": [0.0, 0.0],
        "first_occurrence": None,
        "outcome": 0,
        "stop_reason": "answer",
    }
    path = tmp_path / "000001.jsonl"
    path.write_text(json.dumps(line) + "\n")
    return sample_lines(path)


def test_a_sample_is_a_row_or_a_block_of_code_without_effect(tmp_path):
    accelerator = Accelerator()
    wandb, tensorboard, other = Tracker("wandb", table=True), Tracker("tensorboard"), Tracker("other")
    accelerator.trackers = [wandb, tensorboard, other]
    lines = sample(tmp_path)
    Trackers(accelerator).log_sample(lines, step=4)
    ((name, told),) = wandb.tables
    assert (name, told["columns"], told["step"]) == ("trajectory", ["step", "text"], 4)
    assert told["data"] == [[4, "\n".join(lines)]]
    ((name, text, step),) = tensorboard.texts
    assert (name, step) == ("trajectory", 4)
    assert [token.type for token in MarkdownIt("commonmark").parse(text)] == ["code_block"]
    assert "<script>alert(1)</script>" in text
    assert all(c.isprintable() or c == "\n" for c in text)
    assert other.lines == other.texts == other.tables == []


def test_a_resumed_run_is_the_same_one_to_its_trackers(config):
    settings = config("training.report_to=[wandb,trackio]", "training.project=mine", "training.run_name=first")
    opened = []
    for _ in range(2):
        accelerator = Accelerator()
        with open_trackers(settings, accelerator):
            ((project, told, own),) = accelerator.opened
        assert (project, told) == ("mine", flat_settings(settings))
        opened.append(own)
    assert opened[0]["wandb"] == opened[1]["wandb"]
    assert opened[0]["wandb"]["name"] == opened[0]["trackio"]["name"] == "first"
    assert opened[0]["wandb"]["dir"] == str(settings.output_dir / "tracking")
    assert [own["trackio"]["resume"] for own in opened] == ["never", "allow"]


def test_a_run_is_named_after_its_folder_where_nothing_is_said(config):
    accelerator = Accelerator()
    with open_trackers(config("training.report_to=wandb"), accelerator):
        ((project, _, own),) = accelerator.opened
    assert (project, own["wandb"]["name"]) == ("tspo", "run")


def test_without_trackers_nothing_is_opened_or_written(config, tmp_path):
    accelerator = Accelerator()
    with open_trackers(config(), accelerator) as trackers:
        trackers.log({"loss": 1.0}, 1)
    assert accelerator.opened == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "code"), [(None, 0), (Stopped(15, "stopped"), 0), (KeyError("x"), 1)])
def test_a_run_that_failed_is_not_shown_as_one_that_ended(config, error, code):
    wandb, other = Tracker("wandb"), Tracker("other")
    accelerator = Accelerator(wandb, other)
    raised = nullcontext() if error is None else pytest.raises(type(error))
    with raised, open_trackers(config("training.report_to=wandb"), accelerator):
        if error is not None:
            raise error
    assert (wandb.ends, other.ends) == ([code], [0])


def test_a_tracker_that_cannot_be_opened_is_one_line(config):
    accelerator = Accelerator(error=RuntimeError("no API key.\nmore"))
    with (
        pytest.raises(BadInput, match=r"^training\.report_to: wandb cannot be opened \(no API key\)$"),
        open_trackers(config("training.report_to=wandb"), accelerator),
    ):
        pass


def is_there(name):
    try:
        check_trackers([name])
    except BadInput:
        return False
    return True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps with every tracker that is installed, then a third after --resume: the folder of the run."""
    names = [name for name in ("tensorboard", "wandb", "trackio") if is_there(name)]
    if not names:
        pytest.skip("no tracker is installed")
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "here").mkdir()
    offline = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio"), "TSPO_CACHE": str(folder / "cache")}
    world = "data.world={passages: 200, train_questions: 8, test_questions: 2, hops: [1, 2]}"
    arguments = ["train", world, "device=cpu", "evaluation.samples=1", f"output_dir={folder / 'run'}"]
    arguments += ["training.groups_per_step=2", "training.epochs=2", "training.beta=0.01", "training.optimizer=sgd"]
    arguments += [f"training.report_to={json.dumps(names)}", "training.project=mine", "training.run_name=first"]
    arguments += ["training.steps=3", "training.lora={r: 4}"]

    def start(code, *more):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments, *more],
            cwd=folder / "here",
            env=os.environ | offline,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return result

    stop_in_second = (
        "import os, signal\nfrom tspo.training import loop\nstep = loop.training_step\n"
        "def stopped(number, *rest):\n    if number == 2: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(number, *rest)\n"
        "loop.training_step = stopped\nfrom tspo.cli import main\nraise SystemExit(main())"
    )
    first = start(stop_in_second)
    assert first.returncode == 128 + 15, first.stderr
    second = start("from tspo.cli import main; raise SystemExit(main())", "--resume")
    assert second.returncode == 0, second.stderr
    return folder / "run"


def settings_of(run):
    import yaml

    from tspo.config import RunConfig

    return flat_settings(RunConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text())))


def metrics_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line.pop("step"): line for line in lines}


STAGES = ("before", "after-training")


@pytest.mark.slow
def test_nothing_is_written_to_the_working_folder(run):
    assert list((run.parent / "here").iterdir()) == []


@pytest.mark.slow
def test_what_tensorboard_reads(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    scalars, texts, settings = {}, {}, []
    for path in sorted((run / "tracking" / "mine").rglob("events*")):
        events = EventAccumulator(str(path)).Reload()
        for name in events.Tags()["scalars"]:
            scalars.setdefault(name, {}).update({event.step: event.value for event in events.Scalars(name)})
        for name in events.Tags()["tensors"]:
            texts |= {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(name)}
        if "_hparams_/session_start_info" in events.summary_metadata:
            content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
            settings.append(HParamsPluginData.FromString(content).session_start_info.hparams)
    expected = metrics_of(run)
    for step, line in expected.items():
        for name, value in line.items():
            assert scalars[name][step] == pytest.approx(value, rel=1e-6)
    evaluations = {name for name in scalars if name.startswith("evaluation/")}
    assert set(scalars) - evaluations == set().union(*expected.values())
    for stage in STAGES:
        assert f"evaluation/{stage}/exact_match" in evaluations
        assert f"evaluation/{stage}/world, 2 hops/searches" in evaluations
    assert texts[1].startswith("      question: ")
    told = settings_of(run)
    assert len(settings) == 2, "once for each start"
    for hparams in settings:
        assert set(hparams) == set(told)
        assert hparams["credit.algorithm"].string_value == "tspo"
        assert hparams["training.lora.r"].number_value == 4


def wandb_records(path):
    """The records of a .wandb file: protocol buffers in LevelDB's log format, after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, part = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


@pytest.mark.slow
def test_what_wandb_keeps(run):
    pytest.importorskip("wandb.proto.wandb_internal_pb2")
    files = sorted((run / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    identities, history = set(), {}
    for path in files:
        settings = {}
        for record in wandb_records(path):
            if record.HasField("run"):
                identities.add((record.run.run_id, record.run.display_name, record.run.project))
            for item in record.config.update:
                settings[item.key] = json.loads(item.value_json)
            told = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            if told:
                history.setdefault(told["_step"], {}).update(told)
        assert settings == settings_of(run)
    ((identity, name, project),) = identities
    assert identity == (run / "tracking" / "run_id").read_text()
    assert (name, project) == ("first", "mine")
    for step, line in metrics_of(run).items():
        assert {metric: history[step][metric] for metric in line} == pytest.approx(line)
    assert history[0]["evaluation/before/exact_match"] is not None
    assert history[3]["evaluation/after-training/exact_match"] is not None
    assert "trajectory" in history[1]
    table = json.loads(next((run / "tracking" / "wandb").rglob("trajectory_1_*.table.json")).read_text())
    assert table["columns"] == ["step", "text"]
    assert "question: " in table["data"][0][1]


@pytest.mark.slow
def test_what_trackio_keeps(run):
    pytest.importorskip("trackio")
    with closing(sqlite3.connect(run.parent / "trackio" / "mine.db")) as stored:
        names = {name for (name,) in stored.execute("SELECT run_name FROM metrics")}
        ((settings,),) = stored.execute("SELECT config FROM configs")
        history = [(step, json.loads(row)) for step, row in stored.execute("SELECT step, metrics FROM metrics")]
    assert names == {"first"}
    told = settings_of(run)
    assert {key: json.loads(settings)[key] for key in told} == told
    for number, line in metrics_of(run).items():
        (row,) = [row for step, row in history if step == number and "loss" in row]
        assert row == pytest.approx(line)
    samples = [row["trajectory"] for _, row in history if "trajectory" in row]
    assert samples[0]["_value"].startswith("      question: ")
