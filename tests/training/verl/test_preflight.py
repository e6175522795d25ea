"""What is missing is said in one screen, with exit code 2, and before anything is started."""

from pathlib import Path

import pytest

pytest.importorskip("verl")
pytest.importorskip("transfer_queue")

from tspo.cli import main

pytestmark = pytest.mark.verl


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets them for its process, which here is that of the tests."""
    for name in ("VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES"):
        monkeypatch.setenv(name, "")


def test_what_is_missing_is_all_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [
        f"output_dir={tmp_path / 'run'}",
        "model=nobody/nothing",
        "data.world=null",
        f"data.train=[{tmp_path / 'no-questions.jsonl'}]",
        "rollout.retriever=http://127.0.0.1:9",
        "rollout.retriever_deadline=1",
        "verl.gpus_per_node=64",
    ]
    assert main(["train", "--engine", "verl", *arguments]) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) < 12
    missing = {line.split(":")[0].removeprefix("MISSING").strip() for line in lines if line.startswith("MISSING")}
    assert {"questions", "model", "retriever", "GPUs"} <= missing
    assert "nothing was started" in err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_too_few_questions_for_a_step_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        f"output_dir={tmp_path / 'run'}",
        "device=cpu",
        "verl.gpus_per_node=1",
        "data.world={passages: 200, train_questions: 6, test_questions: 0, hops: [1]}",
    ]
    assert main(["train", "--engine", "verl", *arguments]) == 2
    out = capsys.readouterr().out
    assert "MISSING  questions: 6 to train on, but a step takes training.groups_per_step=8" in out
