"""configs/accelerate/ as accelerate's own loader and launcher read them, and FSDP2 run for real where it can be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
accelerate_config = pytest.importorskip("accelerate.commands.config.config_args")

from accelerate.commands.launch import _validate_launch_command, launch_command_parser  # noqa: E402
from accelerate.utils.launch import prepare_multi_gpu_env  # noqa: E402

from tspo.training.metrics_log import TIMINGS  # noqa: E402

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_some() -> None:
    assert {file.stem for file in FILES} == {"multi-gpu", "fsdp2", "deepspeed-zero2", "deepspeed-zero3"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_it_and_says_the_same_to_processes(file: Path) -> None:
    loaded = accelerate_config.load_config_from_file(str(file))
    assert loaded.num_processes == 8
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(file), "-m", "tspo", "train", "run.yaml"])
    args, _, _ = _validate_launch_command(args)
    stage = file.stem.removeprefix("deepspeed-zero")
    assert (args.use_fsdp, args.use_deepspeed) == (file.stem == "fsdp2", stage.isdecimal())
    assert args.mixed_precision == "no"
    if stage.isdecimal():
        assert args.zero_stage == int(stage)
        assert args.zero3_init_flag is False
    else:
        environment = prepare_multi_gpu_env(args)
        assert environment.get("ACCELERATE_USE_FSDP") == ("true" if file.stem == "fsdp2" else None)
        if file.stem == "fsdp2":
            assert environment["FSDP_VERSION"] == "2"
            assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"


# accelerate chooses FSDP for GPUs only; torch's FSDP2 runs on a CPU as well. Only what it chooses by is changed.
FSDP_ON_CPU = """
from accelerate import PartialState
from accelerate.utils import DistributedType
start = PartialState.__init__
def started(self, cpu=False, **others):
    start(self, cpu, **others)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU
PartialState.__init__ = started
from tspo.cli import main
raise SystemExit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(["training.beta=0", "training.optimizer=sgd", "training.learning_rate=0.1"], id="plain"),
        pytest.param(
            ["training.beta=0.01", "training.epochs=2", "training.minibatches=3", "training.average=trajectories"],
            id="with-a-reference",
        ),
        pytest.param(["training.beta=0", "warmup.epochs=0.2", "training.gradient_checkpointing=true"], id="after-sft"),
    ],
)
def test_fsdp2_on_two_processes_trains_as_one_process_does(tmp_path: Path, changed: list[str]) -> None:
    script = tmp_path / "fsdp.py"
    script.write_text(FSDP_ON_CPU)
    settings = ["train", "device=cpu", "data.world.passages=300", "data.world.train_questions=40"]
    settings += ["data.world.test_questions=2", "training.groups_per_step=3", "training.group_size=6"]
    settings += ["training.micro_batch=4", "training.save_every=1", "evaluation.before=false", *changed]
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port", "0"]
    launch += ["--num_processes", "2"]
    fsdp = [*launch, "--config_file", str(FOLDER / "fsdp2.yaml"), str(script)]
    environment = os.environ | {"TSPO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def run(name: str, start: list[str], *more: str) -> list[dict[str, float]]:
        command = [sys.executable, *start, *settings, f"output_dir={tmp_path / name}", *more]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    expected = run("one", ["-m", "tspo"], "training.steps=3")
    run("fsdp", fsdp, "training.steps=2")
    (tmp_path / "fsdp" / "model" / "whole.json").unlink()
    found = run("fsdp", fsdp, "training.steps=3", "--resume")
    assert len(found) == len(expected) == 3
    for here, there in zip(found, expected, strict=True):
        assert there.pop("grad_norm_all_wrong") >= 0
        assert "grad_norm_all_wrong" not in here, "no process has all gradients"
        for line in (here, there):
            assert line.pop("logprob_gap", 0.0) < 1e-5  # not there in a step without a gradient
        same = [{name: value for name, value in line.items() if name not in TIMINGS} for line in (here, there)]
        assert same[0] == pytest.approx(same[1], rel=1e-4, abs=1e-6)
        assert ("kl" in here) == ("training.beta=0.01" in changed)
