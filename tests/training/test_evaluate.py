import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from accelerate import PartialState

from tspo.cli import main
from tspo.config import default_config_path, load_config
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.evaluation import places
from tspo.training import evaluate as module
from tspo.training.evaluate import evaluate_model, evaluation_settings
from tspo.training.materials import Materials

QUESTIONS = [Question("q0", "Who?", ("Ann",), "nq")]
SUITE = ["data.world={passages: 200, train_questions: 1, test_questions: 12, hops: [1, 2]}", "device=cpu"]


@pytest.fixture
def materials(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "contents": "\\"A\\"\\ntext"}\n')
    return Materials([], QUESTIONS, None, None, corpus)


def config(*overrides):
    return load_config(default_config_path(), overrides)


def settings(materials, *overrides):
    return evaluation_settings("tspo:starter", config(*overrides), materials)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "evaluation.temperature=0.5",
        "evaluation.samples=3",
        "rollout.top_k=2",
        "rollout.max_turns=2",
        "credit.match=substring",
        "credit.ignore=[]",
    ],
)
def test_what_decides_an_episode_is_told(materials, override):
    assert settings(materials, override) != settings(materials)


@pytest.mark.parametrize(
    "override",
    [
        "credit.alpha=0.1",
        "rollout.concurrency=3",
        "evaluation.batch=7",
        "rollout.retriever_deadline=9",
        "output_dir=elsewhere",
    ],
)
def test_what_does_not_is_not(materials, override):
    assert settings(materials, override) == settings(materials)


def test_other_questions_and_passages_are_told(materials):
    asked = replace(materials, test=[Question("q0", "Where?", ("Ann",), "nq")])
    assert settings(asked) != settings(materials)
    before = settings(materials)
    materials.corpus.write_text("longer" * 100)
    assert settings(materials) != before


def test_a_model_that_was_saved_again_is_told(materials, tiny_model_folder, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    before = evaluation_settings(str(folder), config(), materials)
    os.utime(folder / "config.json", (1, 1))
    assert evaluation_settings(str(folder), config(), materials) != before


@pytest.fixture
def evaluated(materials, monkeypatch, tmp_path):
    """A function that evaluates into a folder without a model: it counts the calls that would run one."""
    calls = []

    class Loop:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    def run(loop, questions, folder, **rest):
        calls.append(folder)
        for name in (places.TRAJECTORIES, places.SUMMARY):
            (folder / name).write_text(
                '{"group_id": "q0", "question": "Who?", "golden_answers": ["Ann"], "turns": [{"text": "x"}]}\n'
            )
        return "summary"

    monkeypatch.setattr(module, "agent_loop", lambda *args, **rest: Loop())
    monkeypatch.setattr(module, "evaluate_questions", run)

    def evaluate(*overrides, again=False):
        folder = tmp_path / "evaluation"
        state = PartialState(cpu=True)
        return evaluate_model(
            "tspo:starter", config(*overrides), materials, folder, None, "evaluate", state, again=again
        )

    evaluate.calls = calls
    evaluate.folder = tmp_path / "evaluation"
    return evaluate


def test_an_evaluation_that_is_whole_is_not_run_again(evaluated):
    evaluated()
    assert evaluated().overall.questions == 1
    assert len(evaluated.calls) == 1


def test_other_settings_are_refused_in_one_line(evaluated):
    evaluated()
    with pytest.raises(BadInput) as error:
        evaluated("rollout.top_k=2", "seed=3")
    assert str(error.value).endswith(
        "holds an evaluation with other settings for rollout.top_k, seed; "
        "choose another --out, or replace it with --again"
    )
    evaluated("seed=3", "rollout.top_k=2", again=True)
    assert len(evaluated.calls) == 2


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_damaged_settings_are_refused(evaluated, text):
    evaluated()
    (evaluated.folder / "settings.json").write_text(text)
    with pytest.raises(BadInput, match="its settings are damaged"):
        evaluated()
    evaluated(again=True)


def test_an_evaluation_that_does_not_say_its_settings_is_refused(evaluated):
    evaluated()
    (evaluated.folder / "settings.json").unlink()
    with pytest.raises(BadInput, match="it does not say with which"):
        evaluated()


def test_a_folder_that_cannot_be_written(evaluated):
    evaluated.folder.write_text("a file")
    with pytest.raises(BadInput, match="cannot write here"):
        evaluated()


def test_a_checkpoint_without_a_tokenizer_is_one_line(tiny_model, tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    tiny_model.save_pretrained(folder)
    capsys.readouterr()
    assert main(["evaluate", *SUITE, f"model={folder}", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "this folder has a model and no tokenizer; save one beside the model" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_is_not_prepared_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TSPO_DATA", str(tmp_path / "data"))
    overrides = ["data.world=null", "data.train=nq", "data.test=nq", "data.corpus=corpus.jsonl"]
    assert main(["evaluate", *overrides, "--out", str(tmp_path / "out")]) == 2
    assert "nq:test; run: tspo data prepare nq:test" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_result(tmp_path):
    arguments = ["evaluate", *SUITE, "evaluation.samples=8", "evaluation.batch=2", "evaluation.temperature=1.0"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TSPO_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "tspo", *arguments, "--out"]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
    part = tmp_path / "killed" / ".episodes.part"
    while not (part.exists() and part.read_bytes().count(b"\n") >= 10):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.read_bytes().count(b"\n")
    assert not (tmp_path / "killed" / "summary.json").exists()
    refused = subprocess.run(
        [*command, str(tmp_path / "killed"), "seed=5"], env=environment, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "other settings for seed" in refused.stderr
    gone_on = subprocess.run([*command, str(tmp_path / "killed")], env=environment, capture_output=True, text=True)
    assert f"{kept} of 96 episodes are there" in gone_on.stdout
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    killed, whole = (
        [json.loads(line) for line in Path(tmp_path, name, "trajectories.jsonl").read_text().splitlines()]
        for name in ("killed", "whole")
    )
    assert [line["trajectory_id"] for line in killed] == [line["trajectory_id"] for line in whole]
    assert [line["answer"] for line in killed] == [line["answer"] for line in whole]
    assert (tmp_path / "killed" / "summary.json").read_text() == (tmp_path / "whole" / "summary.json").read_text()
