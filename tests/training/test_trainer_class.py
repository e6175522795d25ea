"""Trainer: the run of `tspo train`, on what a Python program has."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

import tspo
from tspo.config import load_config
from tspo.credit import assign_credit
from tspo.datasets.corpus import Document
from tspo.datasets.questions import read_questions
from tspo.errors import BadInput
from tspo.evaluation.report import write_report
from tspo.retrieval.bm25 import BM25Retriever
from tspo.rewards import Reward, in_python
from tspo.training.metrics_log import TIMINGS
from tspo.training.run import run_training
from tspo.training.signals import Stopped
from tspo.trajectory import read_json_lines, read_trajectories
from tspo.viewer.group_view import group_view
from tspo.viewer.index import Index
from tspo.viewer.source import open_source

TOWNS = {"Ann Lee": "Oslo", "Bob Ray": "Rome", "Cy Fox": "Lima", "Di Kay": "Cairo"}
QUESTIONS = [
    tspo.Question(f"q{i}", f"Where was {person} born?", (town,), "towns", (person,))
    for i, (person, town) in enumerate(TOWNS.items())
]
ROLLOUT = {
    "max_turns": 3,
    "max_turn_tokens": 40,
    "max_feedback_tokens": 60,
    "max_total_tokens": 400,
    "top_k": 1,
    "prompt": "Answer.\nQuestion: {question}",
}
TRAINING = {
    "steps": 2,
    "groups_per_step": 2,
    "group_size": 3,
    "learning_rate": 0.01,
    "dtype": "float32",
    "save_every": 1,
}
# what a random model says is neither a search nor an answer: it is shown how to, which makes runs that search
WARMUP = {"epochs": 80, "batch_size": 4, "learning_rate": 0.003}


class Towns:
    """A retriever of one's own, which finds what the written run's does."""

    def __init__(self):
        passages = [f'"{person}"\n{person} was born in {town}.' for person, town in TOWNS.items()]
        named = zip(TOWNS, passages, strict=True)
        self.inner = BM25Retriever.build(Document(person, passage) for person, passage in named)

    def search(self, queries, top_k):
        return self.inner.search(queries, top_k)


def worth(trajectory):
    """Half a point for a search that was run, and more the later a turn is."""
    return [0.5 * (turn.feedback is not None) + 0.25 * k for k, turn in enumerate(trajectory.turns)]


@pytest.fixture
def trainer(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a small Trainer, in which anything may be given in another way."""
    monkeypatch.setenv("TSPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(in_python, "_HERE", {})

    def make(**given: Any) -> tspo.Trainer:
        usual = {
            "questions": QUESTIONS,
            "retriever": Towns(),
            "output_dir": tmp_path / "run",
            "rollout": ROLLOUT,
            "training": TRAINING,
            "device": "cpu",
            "console": Console(quiet=True),
        }
        return tspo.Trainer(**{"model": str(tiny_model_folder), **usual, **given})

    return make


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no cards and no report, which takes longer than all else they do here."""
    monkeypatch.setattr("tspo.training.run.write_card", lambda *_: None)
    monkeypatch.setattr("tspo.training.run.write_report", lambda folder: folder)


def steps(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run that are not times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The lines of all of a run's trajectories."""
    lines = []
    for path in sorted((folder / "trajectories").glob("*.jsonl")):
        with path.open("rb") as stream:
            lines += [line for _, line in read_json_lines(stream, path.name)]
    return lines


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def written(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """The configuration file of the same run, with BM25 over the same passages."""
    questions = [
        {"id": q.id, "question": q.question, "golden_answers": q.golden_answers, "data_source": "towns"}
        | {"supporting_titles": q.supporting_titles}
        for q in QUESTIONS
    ]
    passages = [{"id": p, "contents": f'"{p}"\n{p} was born in {town}.'} for p, town in TOWNS.items()]
    for name, lines in (("train", questions), ("test", questions[:2]), ("corpus", passages)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "model": str(tiny_model_folder),
        "output_dir": "written",
        "device": "cpu",
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"], "corpus": "corpus.jsonl"},
        "rollout": ROLLOUT,
        "training": TRAINING,
        "warmup": WARMUP,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run.yaml"


@pytest.mark.slow
def test_it_is_the_run_of_a_configuration_file(trainer: Any, written: Path, tmp_path: Path) -> None:
    given = trainer(test_questions=QUESTIONS[:2], warmup=WARMUP)
    model = given.train()
    run_training(load_config(written), resume=False, console=Console(quiet=True))
    here, there = tmp_path / "run", tmp_path / "written"
    assert model == here / "model"
    assert steps(here) == steps(there)
    assert len(steps(here)) == 2
    assert max(line["searches"] for line in steps(here)) > 0
    assert files(here) - files(there) == {"questions.jsonl", "test_questions.jsonl"}
    assert files(there) <= files(here)
    assert recorded(here) == recorded(there)

    # its settings are those of a run as any other
    assert load_config(here / "config.yaml") == given.config
    assert read_questions([here / "questions.jsonl"]) == QUESTIONS
    assert read_questions([here / "test_questions.jsonl"]) == QUESTIONS[:2]
    card = (here / "README.md").read_text()
    assert "Searched: python:Towns" in card
    assert "| train | questions.jsonl |" in card
    assert 'tspo ask --run . rollout.retriever=http://127.0.0.1:8000 "..."' in card
    assert "trainer.evaluate(questions)" in (here / "report.html").read_text()

    # and its model is evaluated as `tspo evaluate` does
    summary = given.evaluate(QUESTIONS[:2])
    after = json.loads((here / "evaluation" / "after-training" / "summary.json").read_text())["all"]
    assert summary.overall.metrics["searches"].mean == after["metrics"]["searches"]["mean"]
    assert (here / "evaluation" / "model" / "trajectories.jsonl").is_file()
    lines = str(summary).splitlines()
    assert lines[0] == "2 questions, 2 trajectories"
    assert lines[1].split()[0] == "exact_match"


@pytest.mark.usefixtures("without_pages")
def test_a_reward_of_ones_own(trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(reward=worth, warmup=WARMUP).train()
    folder = tmp_path / "run"
    lines = recorded(folder)
    assert len(lines) == 12
    trajectories = [
        one for path in sorted((folder / "trajectories").glob("*.jsonl")) for one in read_trajectories(path)
    ]
    assert [line["turn_rewards"] for line in lines] == [worth(one) for one in trajectories]
    assert len({tuple(line["turn_rewards"]) for line in lines}) > 1
    settings = load_config(folder / "config.yaml").credit
    assert settings.reward == "python:worth"

    # another process knows it by what was recorded
    monkeypatch.setattr(in_python, "_HERE", {})
    credits = [
        credit for start in (0, 6) for credit in assign_credit(trajectories[start : start + 6], settings.to_config())
    ]
    assert [credit.turn_advantages for credit in credits] == [line["turn_advantages"] for line in lines]
    assert "python:worth" in write_report(folder).read_text()
    index = Index(open_source(folder))
    index.refresh()
    shown = group_view(index, 1)
    assert shown["as_recorded"]
    assert [member["rewards"] for member in shown["credit"]["tspo"]] == [line["turn_rewards"] for line in lines[:3]]
    with pytest.raises(BadInput, match=r"^credit\.reward: python:worth is a function of the Python program that began"):
        run_training(load_config(folder / "config.yaml"), resume=True, console=Console(quiet=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda trajectory: [1.0], "has no name to be told by"),
        (Reward(worth, "trajectory", "trajectory"), "worth is placed on the trajectory; place it on steps"),
    ],
)
def test_rewards_that_are_refused(trainer: Any, given: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        trainer(reward=given)


@pytest.mark.parametrize("gives", [1.0, [], [1.0] * 9, [float("nan")] * 3, None, ["much"]])
@pytest.mark.usefixtures("without_pages")
def test_a_reward_that_is_not_one_number_a_turn(trainer: Any, gives: Any) -> None:
    def odd(trajectory):
        return gives

    with pytest.raises(
        BadInput, match=r"^trajectory .*: reward python:odd gave .*, not a number for each of its \d turn"
    ):
        trainer(reward=odd).train()


def test_what_a_reward_means_is_said_by_the_algorithm(trainer: Any) -> None:
    def credit(**settings):
        return trainer(reward=worth, credit=settings).config.credit.to_config().rewards

    assert credit().placed == "standing"
    assert credit(algorithm="grpo").placed == "steps"
    assert credit(algorithm="gigpo").placed == "steps"
    in_python.know_reward(Reward(worth, "trajectory", "steps", needs="model"))
    assert credit(algorithm="grpo").needs == "model"
    with pytest.raises(BadInput, match=r"credit\.reward: there is reward= already"):
        trainer(reward=worth, credit={"reward": "folr"})


@pytest.mark.usefixtures("without_pages")
def test_two_rewards_of_one_name_are_each_its_trainers(trainer: Any, tmp_path: Path) -> None:
    def times(number):
        def reward(trajectory):
            return [number] * len(trajectory.turns)

        return reward

    runs = [trainer(reward=times(number), output_dir=tmp_path / str(number)) for number in (1.0, 2.0)]
    for run in runs:
        run.train()
    for number in (1.0, 2.0):
        assert {reward for line in recorded(tmp_path / str(number)) for reward in line["turn_rewards"]} == {number}


@pytest.mark.usefixtures("without_pages")
def test_it_goes_on_with_the_same_questions_only(trainer: Any, tmp_path: Path) -> None:
    whole = trainer(output_dir=tmp_path / "whole", reward=worth)
    whole.train()
    trainer(training=TRAINING | {"steps": 1}, reward=worth).train()
    (tmp_path / "run" / "model" / "whole.json").unlink()
    with pytest.raises(BadInput, match="holds a run already"):
        trainer(reward=worth).train()
    with pytest.raises(BadInput, match=r"questions\.jsonl: the run to resume had these questions"):
        trainer(questions=QUESTIONS[:3], reward=worth).train(resume=True)
    assert read_questions([tmp_path / "run" / "questions.jsonl"]) == QUESTIONS
    trainer(reward=worth).train(resume=True)
    assert steps(tmp_path / "run") == steps(tmp_path / "whole")


@pytest.mark.usefixtures("without_pages")
def test_the_command_line_cannot_go_on_with_an_object(trainer: Any, tmp_path: Path) -> None:
    trainer().train()
    config = load_config(tmp_path / "run" / "config.yaml")
    with pytest.raises(BadInput, match=r"^rollout\.retriever: python:Towns is an object of the Python program that"):
        run_training(config, resume=True, console=Console(quiet=True))


def test_an_evaluation_is_done_anew(tiny_model_folder: Path, tmp_path: Path) -> None:
    class Nothing:
        def search(self, queries, top_k):
            return [[] for _ in queries]

    class Towns(Nothing):
        pass

    def evaluate(retriever):
        return tspo.evaluate(
            str(tiny_model_folder), QUESTIONS, retriever=retriever, folder=tmp_path / "evaluation", rollout=ROLLOUT,
            device="cpu", console=Console(quiet=True),
        )  # fmt: skip

    written = tmp_path / "evaluation" / "trajectories.jsonl"
    assert evaluate(Nothing()).overall.questions == 4
    assert len(list(read_trajectories(written))) == 4
    first = written.stat().st_mtime_ns
    assert evaluate(Towns()).overall.questions == 4
    assert written.stat().st_mtime_ns > first
    assert not (tmp_path / "evaluation" / "questions.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"training": {"stepss": 3}}, r"^Trainer: unknown key 'training\.stepss'; did you mean 'training.steps'\?"),
        ({"training": {"steps": 0}}, r"^Trainer: 'training\.steps': "),
        ({"training": {"trl": {"epsilon": 0.3}}}, r"^Trainer: training\.trl\.epsilon: "),
        ({"credit": {"algorithm": "grop"}}, r"^Trainer: credit\.algorithm: 'grop' is not one of tspo, grpo"),
        ({"rollout": {"retriever": "here"}}, r"^Trainer: rollout\.retriever: there is retriever= already"),
        ({"rollout": {"query_cache": {}}}, r"^Trainer: rollout\.query_cache: is for a retriever that is named"),
        ({"retriever": object()}, r"^Trainer: retriever: object has no search"),
        ({"model": object()}, r"^Trainer: model: expected a name or a folder, got object; save it to a folder"),
        ({"questions": []}, "^questions: there are none"),
        ({"questions": ["Who?"]}, "^questions: expected Questions, got str"),
        ({"questions": [*QUESTIONS, QUESTIONS[0]]}, "^questions: two have the id 'q0'"),
        ({"questions": [tspo.Question("q", "Who?", "Ann", "s")]}, "^questions, 'q': field 'golden_answers': expected"),
        ({"questions": [tspo.Question("q", "Who?", (), "s")]}, "^questions, 'q': field 'golden_answers': expected"),
        ({"test_questions": [QUESTIONS[0]] * 2}, "^test_questions: two have the id 'q0'"),
        ({"credit": {"algorithm": "grpo", "reward": "stepsearch"}}, "^questions: 'q0' has no supporting_passages"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(trainer: Any, tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        trainer(**given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_is_given_is_left_as_it_was(trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rollout, credit = {"top_k": 2}, {"algorithm": "grpo"}
    made = trainer(output_dir="runs/mine", rollout=rollout, credit=credit, reward=worth)
    assert (rollout, credit) == ({"top_k": 2}, {"algorithm": "grpo"})
    assert made.config.output_dir == tmp_path / "runs" / "mine"
    assert made.config.data.train == [tmp_path / "runs" / "mine" / "questions.jsonl"]
    assert trainer(retriever="http://127.0.0.1:1").config.rollout.retriever == "http://127.0.0.1:1"
    assert trainer(retriever="indexes/wiki").config.rollout.retriever == str(tmp_path / "indexes" / "wiki")


def test_a_signal_ends_the_program_as_it_ends_the_command(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Stopped(signal.SIGTERM, "stopped")

    monkeypatch.setattr("tspo.training.trainer.run_training", stopped)
    with pytest.raises(SystemExit) as caught:
        trainer().train()
    assert caught.value.code == 128 + signal.SIGTERM


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_trainer_class import QUESTIONS, ROLLOUT, TRAINING, Towns, worth
import tspo
trainer = tspo.Trainer({model!r}, QUESTIONS, retriever=Towns(), reward=worth, output_dir={output!r}, device="cpu",
                       rollout=ROLLOUT, training=TRAINING | {{"steps": {steps}, "token_details": False}})
trainer.train(resume="resume" in sys.argv)
print(trainer.evaluate(QUESTIONS).overall.questions)
"""


@pytest.mark.slow
def test_a_script_is_stopped_and_goes_on_and_runs_in_two_processes(tiny_model_folder: Path, tmp_path: Path) -> None:
    def script(output: str, steps: int) -> Path:
        path = tmp_path / f"{output}.py"
        names = {"model": str(tiny_model_folder), "output": str(tmp_path / output), "tests": str(Path(__file__).parent)}
        path.write_text(SCRIPT.format(steps=steps, **names))
        return path

    environment = os.environ | {"TSPO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def run(*arguments: Any) -> str:
        command = [sys.executable, *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return result.stdout

    alone = script("alone", 6)
    process = subprocess.Popen([sys.executable, alone], env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    metrics = tmp_path / "alone" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 1):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert said.endswith("Stopped; train(resume=True) goes on from here.\n")
    assert run(alone, "resume").endswith("\n4\n")
    assert len(steps(tmp_path / "alone")) == 6

    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
    assert run(*launch, script("both", 6)).splitlines().count("4") == 2
    first, second = steps(tmp_path / "alone")[0], steps(tmp_path / "both")[0]
    assert first["turn_reward"] == second["turn_reward"]
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-4)
