"""`tspo compare` as a user runs it: two methods over two seeds, stopped in the middle, gone on with, reported."""

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

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")

from tspo.training.checkpoints import checkpoints_in, last_whole_checkpoint
from tspo.training.side_by_side import is_done

pytestmark = pytest.mark.slow

STEPS = 6
FOLDERS = [f"algorithm={method}/seed-{seed}" for method in ("tspo", "grpo") for seed in (0, 1)]


@pytest.fixture
def config(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A run without a warm-up: what the model says makes no sense, and takes no time."""
    questions = [
        {"id": f"q{i}", "question": f"Where was {name} born?", "golden_answers": ["Oslo"]}
        for i, name in enumerate(["Ann", "Bob", "Cy"])
    ]
    for name, lines in (
        ("train", questions),
        ("test", questions),
        ("corpus", [{"id": "0", "contents": '"Oslo"\nTown.'}]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings: dict[str, Any] = {
        "model": str(tiny_model_folder),
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"], "corpus": "corpus.jsonl"},
        "rollout": {"max_turns": 2, "max_turn_tokens": 20, "max_total_tokens": 200, "prompt": "Q: {question}"},
        "training": {
            "steps": STEPS,
            "groups_per_step": 1,
            "group_size": 2,
            "micro_batch": 2,
            "dtype": "float32",
            "save_every": 2,
        },
        "evaluation": {"before": False},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def compare(tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tspo", "compare", *map(str, arguments), "--out", str(tmp_path / "out")],
        env=os.environ | {"TSPO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_comparison_stopped_and_gone_on_with(config: Path, tmp_path: Path) -> None:
    arguments = [config, "--seeds", "0-1", "--jobs", "2"]
    runs = [tmp_path / "out" / "runs" / folder for folder in FOLDERS]

    first = compare(tmp_path, *arguments)
    deadline = time.monotonic() + 240
    while not any(map(steps, runs)):
        assert first.poll() is None, first.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM
    assert "the same command goes on from here" in said
    begun = [run for run in runs if (run / "config.yaml").exists()]
    assert begun
    assert not all(map(is_done, runs)), "it was not stopped in the middle"
    assert any(last_whole_checkpoint(run) for run in begun if not is_done(run)), (
        "a run was stopped without a checkpoint"
    )

    second = compare(tmp_path, *arguments)
    said, errors = second.communicate(timeout=400)
    assert second.returncode == 0, said + errors
    assert all(map(is_done, runs))
    for run in runs:
        assert steps(run) == list(range(1, STEPS + 1))
        assert checkpoints_in(run) == []
    assert "Differences from algorithm=grpo" in said
    assert "Not finished" not in said
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert {"compare.md", "compare.json", "arms.svg", "curves.svg", "curves.png", "grid.json"} <= set(written)
    assert json.loads(written["compare.json"])["differences"]["algorithm=tspo"]["seeds"] == [0, 1]

    # All is done: nothing runs again, and the report is the same to the last byte.
    ends = [(run / "metrics.jsonl").stat().st_mtime_ns for run in runs]
    third = compare(tmp_path, *arguments)
    said, _ = third.communicate(timeout=120)
    assert third.returncode == 0
    assert "4 of 4 runs are done already" in said
    assert ends == [(run / "metrics.jsonl").stat().st_mtime_ns for run in runs]
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}

    changed = compare(tmp_path, *arguments, "rollout.top_k=1")
    _, errors = changed.communicate(timeout=120)
    assert changed.returncode == 2
    assert "has runs with other settings for rollout.top_k" in errors
    assert len(errors.strip().splitlines()) == 1
