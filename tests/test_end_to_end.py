"""The `tspo` command from question files to a trained model, as a user runs it; stopped, killed, and gone on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tspo.training.checkpoints import begin, is_whole, last_whole_checkpoint
from tspo.training.metrics_log import TIMINGS

pytestmark = pytest.mark.slow

PEOPLE = ["Ann Lee", "Bob Ray", "Cy Fox", "Di Kay", "Ed Poe", "Flo Ives"]
TOWNS = ["Oslo", "Rome", "Lima", "Cairo", "Quito", "Perth"]
STEPS = 6


@pytest.fixture
def config(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A run small enough for a test: people, the towns they were born in, and a tiny model."""
    questions = [
        {
            "id": f"q{i}",
            "question": f"Where was {person} born?",
            "golden_answers": [town],
            "supporting_titles": [person],
        }
        for i, (person, town) in enumerate(zip(PEOPLE, TOWNS, strict=True))
    ]
    passages = [
        {"id": str(i), "contents": f'"{person}"\n{person} was born in {town}.'}
        for i, (person, town) in enumerate(zip(PEOPLE, TOWNS, strict=True))
    ]
    for name, lines in (("train", questions), ("test", questions[:3]), ("corpus", passages)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings: dict[str, Any] = {
        "model": str(tiny_model_folder),
        "output_dir": "run",
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"], "corpus": "corpus.jsonl"},
        "rollout": {
            "max_turns": 3,
            "max_turn_tokens": 40,
            "max_feedback_tokens": 60,
            "max_total_tokens": 400,
            "top_k": 1,
            "prompt": "Answer.\nQuestion: {question}",
        },
        "warmup": {"epochs": 40, "batch_size": 3, "learning_rate": 0.003},
        "training": {
            "steps": STEPS,
            "groups_per_step": 2,
            "group_size": 3,
            "micro_batch": 3,
            "learning_rate": 0.0005,
            "dtype": "float32",
            "save_every": 2,
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from tspo.cli import main; raise SystemExit(main())", *map(str, arguments)]


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"TSPO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def run(tmp_path: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(tmp_path), capture_output=True, text=True, timeout=300, **options
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_timings(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def stop_after_step(tmp_path: Path, folder: Path, step: int, number: signal.Signals, *arguments: object) -> int:
    """Start a run, send it a signal once `step` is in its metrics, and return its exit code."""
    process = subprocess.Popen(command(*arguments), env=environment(tmp_path), stdout=subprocess.DEVNULL)
    path = folder / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (path.exists() and len(path.read_text().splitlines()) >= step):
        assert process.poll() is None, "the run ended before it was stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=120)


STOP_IN_STEP = """
import os, signal, sys
from tspo.training import step
rollout_metrics, steps = step.rollout_metrics, []
def stopped_in(*arguments):
    steps.append(1)
    if len(steps) == int(sys.argv[1]):
        os.kill(os.getpid(), int(sys.argv[2]))
    return rollout_metrics(*arguments)
step.rollout_metrics = stopped_in
from tspo.cli import main
raise SystemExit(main(sys.argv[3:]))
"""


def stop_in_step(tmp_path: Path, step: int, number: signal.Signals, *arguments: object) -> int:
    """Start a run that gets a signal in the middle of `step`, and return its exit code."""
    command = [sys.executable, "-c", STOP_IN_STEP, str(step), str(int(number)), *map(str, arguments)]
    return subprocess.run(command, env=environment(tmp_path), capture_output=True, timeout=240).returncode


def same_weights(one: Path, other: Path) -> bool:
    from safetensors.torch import load_file

    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return mine.keys() == theirs.keys() and all(bool((mine[name] == theirs[name]).all()) for name in mine)


def test_a_whole_run_then_stopped_and_killed_runs_that_go_on(config: Path, tmp_path: Path) -> None:
    whole = run(tmp_path, "train", config)
    assert whole.returncode == 0, whole.stderr
    folder = tmp_path / "run"
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert max(line["searches"] for line in lines) > 0, "the warm-up did not teach it to search"
    assert any(line["grad_norm"] > 0 for line in lines)
    for stage in ("before", "after-warm-up", "after-training"):
        assert (folder / "evaluation" / stage / "summary.json").exists()
    assert is_whole(folder / "model")
    assert "exact match" in whole.stdout
    assert "\x1b[" not in whole.stdout, "no colours or bars where there is no terminal"
    for step in range(1, STEPS + 1):
        trajectories = (folder / "trajectories" / f"{step:06d}.jsonl").read_text().splitlines()
        assert len(trajectories) == 6

    # The same warm-up, so that only training is done again.
    def again(name: str) -> tuple[Path, list[object]]:
        arguments = ["train", config, f"output_dir={tmp_path / name}", f"model={folder / 'warmup'}"]
        return tmp_path / name, [*arguments, "warmup.epochs=0", "evaluation.before=false"]

    reference, arguments = again("reference")
    assert run(tmp_path, *arguments).returncode == 0
    expected = without_timings(metrics(reference))

    stopped, arguments = again("stopped")
    assert stop_after_step(tmp_path, stopped, 3, signal.SIGTERM, *arguments) == 128 + signal.SIGTERM
    assert len(metrics(stopped)) < STEPS
    assert run(tmp_path, *arguments, "--resume").returncode == 0
    assert without_timings(metrics(stopped)) == expected

    killed, arguments = again("killed")
    assert stop_after_step(tmp_path, killed, 3, signal.SIGKILL, *arguments) == -signal.SIGKILL
    # What a kill in the middle of a save leaves: a folder with the weights and no mark.
    half = killed / "checkpoint-5"
    begin(half)
    (half / "model.safetensors").write_bytes(b"half")
    checkpoint = last_whole_checkpoint(killed)
    assert checkpoint is not None
    assert checkpoint.name in ("checkpoint-2", "checkpoint-4")
    assert run(tmp_path, *arguments, "--resume").returncode == 0
    assert without_timings(metrics(killed)) == expected


@contextmanager
def service(tmp_path: Path, port: str = "0") -> Iterator[str]:
    """`tspo serve` over the configuration's corpus: its address. Killed in the end, as by a crash."""
    index = tmp_path / "index"
    if not index.exists():
        assert run(tmp_path, "index", tmp_path / "corpus.jsonl", "--out", index).returncode == 0
    arguments = command("serve", index, "--port", port)
    with subprocess.Popen(arguments, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.kill()


def test_a_service_instead_of_a_corpus(config: Path, tmp_path: Path) -> None:
    """Searched with a cache; then without one, when it goes away in the middle of a run and comes back."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("httpx")
    arguments = ["train", config, "data.corpus=null"]
    patience = ["rollout.retriever_deadline=0.4", "rollout.retriever_give_up_after=0.5"]
    with service(tmp_path) as address:
        whole = run(tmp_path, *arguments, f"rollout.retriever={address}", "rollout.query_cache={}")
        assert whole.returncode == 0, whole.stderr
        lines = metrics(tmp_path / "run")
        assert len(lines) == STEPS
        assert all(line["stop/retriever_error"] == line["search_error_share"] == 0 for line in lines)
        assert all(line["search_seconds"] > 0 for line in lines)
        assert max(line["cache_hit_share"] for line in lines) > 0.5

        arguments += [f"rollout.retriever={address}", f"model={tmp_path / 'run' / 'warmup'}", "warmup.epochs=0"]
        arguments += ["evaluation.before=false", f"output_dir={tmp_path / 'stopped'}", *patience]
        process = subprocess.Popen(
            command(*arguments), env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        path = tmp_path / "stopped" / "metrics.jsonl"
        while not (path.exists() and len(path.read_text().splitlines()) >= 3):
            assert process.poll() is None, "the run ended before the service"
            time.sleep(0.02)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    last = errors.splitlines()[-1]
    assert last.startswith(f"tspo: error: {address}: has answered nothing for ")
    assert last.endswith("start the service, then go on")
    assert run(tmp_path, *arguments, "--resume").returncode == 2, "the service is still away"
    with service(tmp_path, address.rpartition(":")[2]):
        resumed = run(tmp_path, *arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert [line["step"] for line in metrics(tmp_path / "stopped")] == list(range(1, STEPS + 1))


def test_adapters_and_several_updates_a_step(config: Path, tmp_path: Path) -> None:
    """LoRA with dropout, a reference, four updates a rollout: stopped and gone on with, it is the run never stopped."""
    arguments = ["train", config, "training.lora={r: 4, dropout: 0.1}", "training.epochs=2", "training.minibatches=2"]
    arguments += ["evaluation.before=false", "training.beta=0.01", "training.lr_scheduler=linear"]
    assert stop_after_step(tmp_path, tmp_path / "run", 2, signal.SIGINT, *arguments) == 128 + signal.SIGINT
    checkpoint = last_whole_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert (checkpoint / "adapter_model.safetensors").exists()
    result = run(tmp_path, *arguments, "--resume")
    assert result.returncode == 0, result.stderr
    whole = run(tmp_path, *arguments, f"output_dir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    lines = metrics(tmp_path / "run")
    assert without_timings(lines) == without_timings(metrics(tmp_path / "whole"))
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for name in ("exact_match", "clip_share", "kl", "loss"):
        assert all(name in line for line in lines)
    assert lines[-1]["kl"] > 0, "the adapters learned nothing"
    assert same_weights(tmp_path / "run" / "model", tmp_path / "whole" / "model"), "the adapters are not merged"


def test_a_stop_in_the_last_step_leaves_only_the_model_to_save(config: Path, tmp_path: Path) -> None:
    arguments = ["train", config, "warmup.epochs=0", "evaluation.before=false", "training.steps=3"]
    assert stop_in_step(tmp_path, 3, signal.SIGTERM, *arguments) == 128 + signal.SIGTERM
    folder = tmp_path / "run"
    assert len(metrics(folder)) == 3
    checkpoint = last_whole_checkpoint(folder)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"
    assert not is_whole(folder / "model")
    before = metrics(folder)
    result = run(tmp_path, *arguments, "--resume")
    assert result.returncode == 0, result.stderr
    assert metrics(folder) == before, "it trained on"
    assert is_whole(folder / "model")
    assert same_weights(folder / "model", checkpoint)


def test_evaluate_prints_a_table_and_writes_files(config: Path, tmp_path: Path) -> None:
    result = run(tmp_path, "evaluate", config, "--out", tmp_path / "out", "evaluation.samples=2")
    assert result.returncode == 0, result.stderr
    assert "exact match" in result.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["all"]["questions"] == 3
    assert summary["all"]["trajectories"] == 6
    assert len((tmp_path / "out" / "trajectories.jsonl").read_text().splitlines()) == 6


def edit(name: str, text: str | None) -> Callable[[Path], list[str]]:
    def change(folder: Path) -> list[str]:
        (folder / name).unlink()
        if text is not None:
            (folder / name).write_text(text)
        return []

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edit("train.jsonl", None), "train.jsonl"),
        (edit("train.jsonl", ""), "train.jsonl"),
        (edit("train.jsonl", "{not json"), "line 1"),
        (edit("train.jsonl", '{"question": "who?"}\n'), "golden_answers"),
        (edit("corpus.jsonl", ""), "corpus.jsonl"),
        (lambda folder: ["model=./nowhere"], "nowhere"),
        (lambda folder: ["training.stepz=3"], "did you mean 'training.steps'"),
        (lambda folder: ["credit.alpha=2"], "alpha"),
        (lambda folder: ["training.trl={num_iterations: 2}"], "training.epochs"),
        (lambda folder: ["training.groups_per_step=7"], "only 6 to train on"),
        (lambda folder: ["training.report_to=nowhere"], "nowhere"),
        (lambda folder: ["rollout.max_total_tokens=20"], "max_total_tokens"),
        (lambda folder: ["output_dir=/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    config: Path, tmp_path: Path, change: Callable[[Path], list[str]], told: str
) -> None:
    overrides = change(tmp_path)
    result = run(tmp_path, "train", config, *overrides)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert told in result.stderr
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_second_run_and_a_used_folder_are_refused(config: Path, tmp_path: Path) -> None:
    import fcntl

    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run(tmp_path, "train", config)
    assert result.returncode == 2
    assert "another run" in result.stderr

    (folder / "config.yaml").write_text("{}")
    result = run(tmp_path, "train", config)
    assert result.returncode == 2
    assert "--resume" in result.stderr

    result = run(tmp_path, "train", config, "output_dir=" + str(tmp_path / "fresh"), "--resume")
    assert result.returncode == 2
    assert "no run to resume" in result.stderr


def test_a_full_disk_is_one_line(config: Path, tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    arguments = ["train", config, "warmup.epochs=0", "evaluation.before=false", "training.steps=2"]
    result = run(tmp_path, *arguments, preexec_fn=limit)
    assert result.returncode == 2, result.stderr
    assert "disk is full" in result.stderr.strip().splitlines()[-1]
    assert last_whole_checkpoint(tmp_path / "run") is None


def test_a_model_that_no_hub_has_is_one_clear_line(config: Path, tmp_path: Path) -> None:
    # The hub's own client tells of its retries on stderr where there is no network; offline it has none.
    result = subprocess.run(
        command("train", config, "model=nobody/nothing"),
        env=environment(tmp_path) | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "nobody/nothing" in result.stderr
    assert "name a local folder" in result.stderr


def test_a_benchmark_prints_rates_and_leaves_nothing(config: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = run(tmp_path, "benchmark", str(config), "--steps", "1")
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    rates = {line[0]: line[1:] for line in lines if line and line[0] in ("sampled", "trained")}
    assert set(rates) == {"sampled", "trained"}
    for median, least, greatest, floor, share in rates.values():
        assert float(least.replace(",", "")) == float(median.replace(",", "")) == float(greatest.replace(",", "")) > 0
        assert float(share.rstrip("%")) / 100 == pytest.approx(
            float(median.replace(",", "")) / float(floor.replace(",", "")), abs=1e-3
        )
    assert sorted(set(tmp_path.iterdir()) - {tmp_path / "cache"}) == before
