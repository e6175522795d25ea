"""The recipes for GPUs: what they ask for, what they would take, and the scripts that start them."""

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tspo.config import load_config
from tspo.credit import CreditConfig

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
RECIPES = sorted(CONFIGS.glob("qwen2.5-*.yaml"))
WHOLE = [path for path in RECIPES if "lora" not in path.stem]


@pytest.fixture(scope="module")
def sizing() -> ModuleType:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("sizing", ROOT / "benchmarks" / "sizing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sizing"] = module
    spec.loader.exec_module(module)
    return module


def test_there_is_one_of_each() -> None:
    kinds = {"3b", "3b-instruct", "7b", "7b-instruct", "3b-instruct-lora-24gb", "7b-instruct-lora-80gb"}
    assert {path.stem for path in RECIPES} == {f"qwen2.5-{kind}" for kind in kinds}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_they_have_the_fields_settings(path: Path) -> None:
    config = load_config(path)
    rollout, training = config.rollout, config.training
    assert config.model.lower() == f"qwen/{path.stem.partition('-lora')[0]}"
    assert config.credit.to_config() == CreditConfig()
    assert (rollout.top_k, rollout.max_turns, rollout.max_turn_tokens, rollout.max_feedback_tokens) == (3, 4, 500, 500)
    assert (training.group_size, training.beta, training.epsilon, rollout.temperature) == (5, 0.001, 0.2, 1.0)
    assert [place.name for place in (*config.data.train, *config.data.test)] == ["train.parquet", "test.parquet"]
    assert (training.learning_rate == 1e-6) == (path in WHOLE)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_they_can_be_split_over_the_gpus_they_name(path: Path) -> None:
    pytest.importorskip("peft")
    from tspo.training.run import check_split

    for gpus in (8, 16, 32, 64) if path in WHOLE else (1,):
        check_split(load_config(path), gpus)


@pytest.mark.parametrize(("model", "billions"), [("Qwen/Qwen2.5-3B", 3.09), ("Qwen/Qwen2.5-7B-Instruct", 7.61)])
def test_the_shapes_have_as_many_parameters_as_the_model_cards_say(
    sizing: ModuleType, model: str, billions: float
) -> None:
    assert sizing.num_parameters(sizing.shape_of(model)) / 1e9 == pytest.approx(billions, abs=0.011)


def test_tokens_and_bytes_by_hand(sizing: ModuleType) -> None:
    config = load_config(CONFIGS / "qwen2.5-7b.yaml")
    usual = sizing.usual_load(config, turns=2, turn_tokens=100)
    assert (usual.trajectories, usual.sampled, usual.feedback) == (2560, 200, 500)
    assert usual.step == 2560 * (sizing.PROMPT_TOKENS + 700)
    assert sizing.limit_load(config).episode == sizing.PROMPT_TOKENS + 4 * 500 + 3 * 500
    shape = sizing.shape_of(config.model)
    assert sizing.cache_bytes(shape) == 28 * 2 * 4 * 128 * 2
    parameters = sizing.num_parameters(shape)
    one, eight = (sizing.memory_of(config, usual, gpus) for gpus in (1, 8))
    gathered = 8 * eight.states - one.states
    assert gathered / 7 == pytest.approx(2 * 2 * (parameters - 152064 * 3584) / 28)
    assert one.states - gathered / 7 == pytest.approx(20 * parameters)
    assert eight.sampler_weights == 2 * parameters


def test_adapters_count_as_peft_makes_them(sizing: ModuleType) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    peft = pytest.importorskip("peft")
    shape = sizing.shape_of("Qwen/Qwen2.5-3B")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    learnt = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert sizing.adapter_parameters(shape, 32) == learnt


def test_time_and_memory_go_the_way_they_must(sizing: ModuleType) -> None:
    config = load_config(CONFIGS / "qwen2.5-7b.yaml")
    gpu = sizing.GPUS["h100"]

    def seconds(turns: int, gpus: int) -> float:
        return float(sum(sizing.step_seconds(config, sizing.usual_load(config, turns, 120), gpus, gpu)))

    assert seconds(2, 8) < seconds(3, 8) < seconds(4, 8)
    assert seconds(3, 8) / 2 <= seconds(3, 16) < seconds(3, 8)
    for path in RECIPES:
        recipe = load_config(path)
        gpus, memory = (8, 80e9) if path in WHOLE else (1, 24e9 if "24gb" in path.stem else 80e9)
        assert sizing.memory_of(recipe, sizing.usual_load(recipe, 3, 120), gpus).total < memory


def test_the_documents_table_is_what_the_script_prints(sizing: ModuleType, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sizing.py"])
    sizing.main()
    page = (ROOT / "docs" / "cluster.md").read_text()
    for line in capsys.readouterr().out.splitlines():
        assert line.rstrip() in page


SCRIPTS = sorted((CONFIGS / "slurm").glob("*.sbatch"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)


def test_kubernetes_resources_name_what_there_is() -> None:
    documents = [
        document
        for path in sorted((CONFIGS / "kuberay").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    kinds = {document["kind"]: document for document in documents}
    assert set(kinds) == {"RayJob", "Deployment", "Service"}
    job = kinds["RayJob"]["spec"]
    assert f"http://{kinds['Service']['metadata']['name']}:8000" in job["entrypoint"]
    assert kinds["Service"]["spec"]["selector"] == kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    (named,) = {word for word in job["entrypoint"].split() if word.startswith("configs/")}
    assert (ROOT / named) in WHOLE
    nodes = 1 + sum(group["replicas"] for group in job["rayClusterSpec"]["workerGroupSpecs"])
    assert f"verl.nodes={nodes}" in job["entrypoint"]


SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""


@pytest.mark.slow
def test_the_slurm_script_runs_and_goes_on(tmp_path: Path) -> None:
    """The script as it is, on one node of two processes; only SLURM's own commands are stood in for."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\necho localhost\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    (tmp_path / "run.yaml").write_text(
        "model: tspo:starter\ndevice: cpu\noutput_dir: run\ndata:\n  world: {passages: 300, train_questions: 20,"
        " test_questions: 2}\nrollout: {max_turn_tokens: 64, max_feedback_tokens: 96, max_total_tokens: 512, top_k: 1,"
        ' prompt: "Question: {question}\\n"}\ntraining: {steps: 2, groups_per_step: 2, micro_batch: 5, beta: 0.0,'
        " dtype: float32, save_every: 1}\nevaluation: {before: false}\n"
    )
    environment = os.environ | {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TSPO_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_GPUS_ON_NODE": "2",
        "ACCELERATE": str(CONFIGS / "accelerate" / "multi-gpu.yaml"),
    }
    bash = shutil.which("bash")
    assert bash is not None
    for steps in (1, 2):
        command = [bash, str(SCRIPTS[0]), str(tmp_path / "run.yaml"), f"training.steps={steps}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == steps
        state = torch.load(tmp_path / "run" / "checkpoint-1" / "training_state.pt", weights_only=True)
        assert len(state["random"]) == 2, "there was one process"
        shutil.rmtree(tmp_path / "run" / "model")
