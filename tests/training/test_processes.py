"""A run on several processes: it is the run on one, it stops and goes on, and it fails with one message."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tspo.training.checkpoints import is_whole
from tspo.training.metrics_log import TIMINGS

pytestmark = pytest.mark.slow

STEPS = 4
ACCELERATE = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH = [sys.executable, *ACCELERATE, "--main_process_port", "0"]

# Groups of six on two processes of nine trajectories each: the second group lies on both.
WORLD = ["device=cpu", "data.world.passages=300", "data.world.train_questions=40", "data.world.test_questions=5"]
SIZES = ["training.groups_per_step=3", "training.group_size=6", "training.micro_batch=3", f"training.steps={STEPS}"]
SETTINGS = ["train", *WORLD, *SIZES, "training.save_every=2", "evaluation.samples=1"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def environment(cache: Path) -> dict[str, str]:
    # on a busy machine a step takes longer than the launcher waits by default
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "300"}
    return os.environ | {"TSPO_CACHE": str(cache), "OMP_NUM_THREADS": "1"} | patience


def run(cache: Path, *arguments: object, launch: Iterable[str] = LAUNCH) -> subprocess.CompletedProcess[str]:
    command = [*launch, "-m", "tspo", *map(str, arguments)]
    return subprocess.run(command, env=environment(cache), capture_output=True, text=True)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def trajectories(folder: Path) -> list[list[dict[str, Any]]]:
    """Of each step, without log-probabilities: those are floats of other passes."""
    steps = []
    for path in sorted((folder / "trajectories").glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            for turn in line["turns"]:
                turn.pop("logprobs")
        steps.append(lines)
    return steps


def our_lines(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("tspo: error:")]


@pytest.fixture(scope="module")
def one(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    result = run(cache, *SETTINGS, f"output_dir={folder}", launch=[sys.executable])
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def two(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "two"
    result = run(cache, *SETTINGS, f"output_dir={folder}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("step 1/") == 1, "more than one process prints"
    return folder


def test_two_processes_do_what_one_does(one: Path, two: Path) -> None:
    """Episodes, rewards and advantages are the same; so are the metrics, within what order does to floats."""
    alone, together = metrics(one), metrics(two)
    assert len(alone) == len(together) == STEPS
    assert max(line["grad_norm_all_wrong"] for line in alone) > 0
    for expected, found in zip(alone, together, strict=True):
        assert expected.pop("logprob_gap", 0.0) < 1e-5
        assert found.pop("logprob_gap", 0.0) < 1e-5
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    of_one = trajectories(one)
    assert of_one == trajectories(two)
    assert {len(step) for step in of_one} == {18}
    split = [step[6:12] for step in of_one]
    assert any(value for group in split for line in group for value in line["turn_advantages"]), "nothing was at stake"
    for path in sorted((one / "trajectories").glob("*.npy")):  # rows of both processes, in their order
        ratios = [np.load(folder / "trajectories" / path.name).astype(float) for folder in (one, two)]
        np.testing.assert_allclose(ratios[0], ratios[1], rtol=0, atol=1e-4)
    for stage in ("before", "after-training"):
        files = [folder / "evaluation" / stage / "trajectories.jsonl" for folder in (one, two)]
        texts = [[turn["text"] for line in file.open() for turn in json.loads(line)["turns"]] for file in files]
        assert texts[0] == texts[1]


def test_the_two_end_with_the_same_policy(one: Path, two: Path) -> None:
    assert_same_policy(one / "model", two / "model")


def assert_same_policy(one: Path, other: Path) -> None:
    """Far closer to each other than to the starter that they began from."""
    from safetensors.torch import load_file

    start = load_file(Path(__file__).parents[2] / "src/tspo/embedded/starter/model.safetensors")
    alone, together = (load_file(folder / "model.safetensors") for folder in (one, other))
    moved = sum(float((alone[name] - start[name]).norm() ** 2) for name in alone) ** 0.5
    apart = sum(float((alone[name] - together[name]).norm() ** 2) for name in alone) ** 0.5
    assert moved > 0
    assert apart < 0.01 * moved


def test_groups_that_do_not_fill_the_processes(cache: Path, tmp_path: Path) -> None:
    """Seven and eight trajectories, and updates on one group each, of which a process may have nothing."""
    settings = ["train", *WORLD, "training.groups_per_step=5", "training.group_size=3", "training.steps=2"]
    settings += ["training.epochs=2", "training.minibatches=5", "training.micro_batch=2", "training.beta=0.01"]
    settings += ["training.average=trajectories", "training.optimizer=sgd", "training.learning_rate=0.1"]
    settings += ["evaluation.before=false", "evaluation.samples=1"]
    for name, launch in (("one", [sys.executable]), ("two", LAUNCH)):
        result = run(cache, *settings, f"output_dir={tmp_path / name}", launch=launch)
        assert result.returncode == 0, result.stderr
    assert trajectories(tmp_path / "one") == trajectories(tmp_path / "two")
    for expected, found in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert expected["kl"] > 0
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert_same_policy(tmp_path / "one" / "model", tmp_path / "two" / "model")


def test_supervised_fine_tuning_on_two_processes_is_that_on_one(cache: Path, tmp_path: Path) -> None:
    settings = ["warmup", *WORLD, "warmup.epochs=1", "warmup.batch_size=3", "warmup.learning_rate=0.001"]
    losses = []
    for name, launch in (("one", [sys.executable]), ("two", LAUNCH)):
        result = run(cache, *settings, f"output_dir={tmp_path / name}", launch=launch)
        assert result.returncode == 0, result.stderr
        losses.append([line for line in result.stdout.splitlines() if line.startswith("SFT")])
    assert len(losses[0]) > 3
    assert losses[0] == losses[1]
    assert_same_policy(tmp_path / "one" / "warmup", tmp_path / "two" / "warmup")


def test_stopped_it_goes_on_and_ends_as_if_it_had_not_been(cache: Path, two: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    command = [*LAUNCH, "-m", "tspo", *SETTINGS, f"output_dir={folder}"]
    with subprocess.Popen(
        command, env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as p:
        wait_for_step(folder, 1, p)
        p.send_signal(signal.SIGTERM)
        output, _ = p.communicate()
    assert p.returncode != 0
    assert output.count("Stopped; --resume goes on from here.") == 1
    assert 0 < len(metrics(folder)) < STEPS
    resumed = run(cache, *SETTINGS, f"output_dir={folder}", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert metrics(folder) == metrics(two)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    path = folder / "metrics.jsonl"
    while not (path.exists() and len(path.read_text().splitlines()) >= step):
        assert process.poll() is None, "the run ended before it was stopped"
        time.sleep(0.02)


def test_a_process_that_is_killed_ends_the_run_which_then_goes_on(cache: Path, two: Path, tmp_path: Path) -> None:
    import psutil

    folder = tmp_path / "killed"
    command = [*LAUNCH, "-m", "tspo", *SETTINGS, f"output_dir={folder}"]
    with subprocess.Popen(
        command, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as p:
        wait_for_step(folder, 3, p)
        workers = [child for child in psutil.Process(p.pid).children() if child.environ().get("LOCAL_RANK") == "1"]
        workers[0].kill()
        _, errors = p.communicate()
    assert p.returncode != 0
    (line,) = our_lines(errors)
    assert "another process of this run is gone" in line
    assert is_whole(folder / "checkpoint-2")
    resumed = run(cache, *SETTINGS, f"output_dir={folder}", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert metrics(folder) == metrics(two)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("training.groups_per_step=41", "41 questions per step, but there are only 40 to train on"),
        ("rollout.vllm={tensor_parallel_size: 2}", "each of the 2 processes has an engine on its own GPU"),
    ],
)
def test_what_cannot_be_split_is_said_once(cache: Path, tmp_path: Path, setting: str, told: str) -> None:
    folder = tmp_path / "odd"
    result = run(cache, *SETTINGS, setting, f"output_dir={folder}")
    assert result.returncode != 0
    (line,) = our_lines(result.stderr)
    assert told in line
    assert not folder.exists()


def test_a_run_that_is_there_already_is_said_once(cache: Path, two: Path) -> None:
    result = run(cache, *SETTINGS, f"output_dir={two}")
    assert result.returncode != 0
    (line,) = our_lines(result.stderr)
    assert "holds a run already" in line


def test_a_launcher_that_starts_one_process_only_is_noticed(cache: Path, tmp_path: Path) -> None:
    launch = [sys.executable, *ACCELERATE[:3], "--cpu", "--num_processes", "2"]
    result = run(cache, *SETTINGS, f"output_dir={tmp_path}", launch=launch)
    assert result.returncode != 0
    (line,) = our_lines(result.stderr)
    assert "--multi_gpu" in line


FAILS = """
import sys, time, torch
from accelerate import PartialState
from tspo.errors import BadInput
from tspo.training.processes import failing_together
state = PartialState(cpu=True)
with failing_together(state):
    torch.distributed.barrier()
    if state.process_index == int(sys.argv[1]):
        raise {error}
    torch.distributed.barrier()
    time.sleep(600)
"""


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    ("error", "told"), [("BadInput('no passages')", "tspo: error: no passages"), ("KeyError('x')", "KeyError: 'x'")]
)
def test_one_that_fails_ends_the_others_and_alone_says_why(
    tmp_path: Path, cache: Path, rank: str, error: str, told: str
) -> None:
    script = tmp_path / "fails.py"
    script.write_text(FAILS.format(error=error))
    result = subprocess.run([*LAUNCH, script, rank], env=environment(cache), capture_output=True, text=True)
    assert result.returncode != 0
    assert result.stderr.splitlines().count(told) == 1
    assert "gone without a word" not in result.stderr
