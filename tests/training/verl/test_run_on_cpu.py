"""Whole steps of verl's main_ppo on the CPU: a run, a worker that is killed in mid-step, and the run gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tspo.credit import CreditConfig, assign_credit
from tspo.training.diagnostics import rollout_metrics
from tspo.trajectory import read_records

psutil = pytest.importorskip("psutil")
pytest.importorskip("verl")
pytest.importorskip("transfer_queue")

pytestmark = [pytest.mark.verl, pytest.mark.slow]

STEPS = 3
GROUPS = 2
PATIENCE = 3600.0
"""Seconds that say that nothing comes any more; nothing is measured by them."""


def command(folder: Path, *more: str) -> list[str]:
    settings = [
        f"output_dir={folder / 'run'}",
        "device=cpu",
        "data.world={passages: 200, train_questions: 20, test_questions: 2, hops: [1, 2], seed: 3}",
        f"training.steps={STEPS}",
        f"training.groups_per_step={GROUPS}",
        "training.group_size=3",
        "training.micro_batch=3",
        "training.save_every=1",
        "training.beta=0.001",
        "evaluation.samples=1",
        "evaluation.before=false",
        "verl.gpus_per_node=1",
        "verl.agent_workers=1",
        f"verl.config={{trainer.rollout_data_dir: {folder / 'rollouts'}}}",
    ]
    return [sys.executable, "-m", "tspo", "train", "--engine", "verl", *settings, *more]


def start(folder: Path, name: str, *more: str) -> subprocess.Popen[bytes]:
    with (folder / name).open("wb") as log:
        return subprocess.Popen(command(folder, *more), stdout=log, stderr=subprocess.STDOUT)


def training_worker(launcher: int) -> int:
    """The process that trains, among those that the launcher started."""
    for process in psutil.Process(launcher).children(recursive=True):
        if any("WorkerDict" in part for part in process.cmdline()):
            return int(process.pid)
    raise AssertionError("no training worker is alive")


def test_a_killed_worker_is_reported_and_no_step_is_counted_twice(tmp_path: Path) -> None:
    run = start(tmp_path, "first.log")
    mark = tmp_path / "run" / "checkpoints" / "latest_checkpointed_iteration.txt"
    metrics = tmp_path / "run" / "verl" / "metrics-000000.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (metrics.exists() and metrics.read_text()):  # the first step is over, the second under way
        assert run.poll() is None, (tmp_path / "first.log").read_text(errors="replace")[-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(training_worker(run.pid), signal.SIGKILL)
    assert run.wait(PATIENCE) == 1
    said = (tmp_path / "first.log").read_text(errors="replace")
    screen = said[said.index("verl stopped:") :].splitlines()
    assert "ActorDiedError" in screen[0]
    assert len(screen) < 20
    done = int(mark.read_text())
    assert any(line == f"--resume goes on after step {done}" for line in screen)
    assert 1 <= done < STEPS
    assert "ActorDiedError" in (tmp_path / "run" / "verl" / "error.log").read_text()

    again = start(tmp_path, "second.log", "--resume")
    assert again.wait(PATIENCE) == 0, (tmp_path / "second.log").read_text(errors="replace")[-4000:]
    assert int(mark.read_text()) == STEPS
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    # verl logs a step after its checkpoint: killed in between, that step's metrics are lost
    assert set(range(1, STEPS + 1)) - set(steps) <= {done}
    assert [line["training/global_step"] for line in lines] == steps
    # the data set's place was kept: no question of the first epoch is trained on twice
    asked = [
        {json.loads(line)["input"] for line in (tmp_path / "rollouts" / f"{step}.jsonl").read_text().splitlines()}
        for step in range(1, STEPS + 1)
    ]
    assert all(len(questions) == GROUPS for questions in asked)
    assert len(set.union(*asked)) == GROUPS * STEPS
    for line in lines:
        check_step(line, tmp_path / "run" / "trajectories" / f"{line['step']:06d}.jsonl")


def test_ppo_trains_a_critic_on_the_rewards_of_turns(tmp_path: Path) -> None:
    """With gamma and lambda 1 the critic learns what a trajectory still earns, whatever it expected before."""
    settings = ("credit.algorithm=ppo", "credit.reward=stepsearch", "credit.process_scale=0.6", "training.beta=0")
    run = start(tmp_path, "log", *settings, "training.steps=2")
    assert run.wait(PATIENCE) == 0, (tmp_path / "log").read_text(errors="replace")[-4000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for metrics in lines:
        learnt, advantages = [], []
        for line in (tmp_path / "run" / "trajectories" / f"{metrics['step']:06d}.jsonl").read_text().splitlines():
            trajectory = json.loads(line)
            assert trajectory["supporting_passages"]
            for k, turn in enumerate(trajectory["turns"]):
                learnt += [sum(trajectory["turn_rewards"][k:])] * len(turn["token_ids"])
                advantages += [trajectory["turn_advantages"][k]] * len(turn["token_ids"])
        assert metrics["critic/returns/mean"] == pytest.approx(sum(learnt) / len(learnt), abs=1e-5)
        assert metrics["critic/returns/max"] == pytest.approx(max(learnt), abs=1e-5)
        assert metrics["critic/returns/min"] == pytest.approx(min(learnt), abs=1e-5)
        assert metrics["critic/advantages/mean"] == pytest.approx(sum(advantages) / len(advantages), abs=1e-5)
        assert metrics["critic/vf_loss"] > 0
        assert metrics["critic/grad_norm"] > 0
    assert (tmp_path / "run" / "checkpoints" / "global_step_2" / "critic").is_dir()
    assert f"report: {tmp_path / 'run' / 'report.html'}" in (tmp_path / "log").read_text(errors="replace")
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f">{title}<" in page for title in ("What the rollouts reach", "How long episodes are", "Speed"))


def check_step(metrics: dict[str, Any], trajectories: Path) -> None:
    """What verl trained on is what this project's own credit says of the step's trajectories."""
    with trajectories.open("rb") as stream:
        read = [trajectory for _, trajectory in read_records(stream, str(trajectories))]
    credits = assign_credit(read, CreditConfig(credit="through_first_turn"))
    advantages = [
        advantage
        for trajectory, credit in zip(read, credits, strict=True)
        for turn, advantage in zip(trajectory.turns, credit.turn_advantages, strict=True)
        for _ in turn.token_ids or ()
    ]
    exact_match = sum(credit.outcome for credit in credits) / len(credits)
    assert metrics["critic/score/mean"] == metrics["exact_match"] == pytest.approx(exact_match)
    own = rollout_metrics(read, credits, CreditConfig(credit="through_first_turn"), metrics["rollout_seconds"])
    del own["trained_tokens"]  # what update_tokens_per_second is of
    assert {name: metrics[name] for name in own} == pytest.approx(own, abs=1e-6)
    assert metrics["step_seconds"] > metrics["update_seconds"] > 0
    assert metrics["critic/advantages/max"] == pytest.approx(max(advantages), abs=1e-5)
    assert metrics["critic/advantages/min"] == pytest.approx(min(advantages), abs=1e-5)
    assert metrics["critic/advantages/mean"] == pytest.approx(sum(advantages) / len(advantages), abs=1e-5)
    # the sampler and the trainer see the same tokens with the same weights
    assert metrics["training/rollout_probs_diff_max"] < 1e-4
