"""The default run: the policy that is shipped, what it can do, and what it is made of."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tspo.config import RunConfig, default_config_path, load_config
from tspo.credit import assign_credit
from tspo.evaluation.runner import episode_requests
from tspo.rollout.models import load_model, load_tokenizer, resolve_model
from tspo.training.agent import agent_loop
from tspo.training.materials import read_materials
from tspo.training.starter.recipe import LIMITS, PROMPT, Recipe, demonstrations, train_stage
from tspo.training.starter.tokenizer import make_tokenizer
from tspo.trajectory import Trajectory

STARTER = Path(resolve_model("tspo:starter"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield load_config(default_config_path(), ["data.world.test_questions=30", "output_dir=unused"])


@pytest.fixture(scope="module")
def groups(config: RunConfig) -> list[Trajectory]:
    """Five trajectories for each of thirty questions, as the default run would sample them."""
    materials = read_materials(config)
    temperature = config.rollout.temperature
    with agent_loop(config.model, materials.codec, materials.retriever, config, temperature=temperature) as loop:
        return loop.rollout(episode_requests(materials.test, samples=5, seed=0))


def test_the_default_is_the_recipes_setting(config: RunConfig) -> None:
    assert config.rollout.limits() == LIMITS
    assert config.rollout.prompt == PROMPT


def test_it_is_small_and_says_how_it_was_made() -> None:
    assert (STARTER / "model.safetensors").stat().st_size <= 16_000_000
    assert 1_000_000 < load_model("tspo:starter").num_parameters() < 5_000_000
    made = json.loads((STARTER / "recipe.json").read_text())
    assert made["recipe"] == json.loads(json.dumps(asdict(Recipe())))


def test_its_tokenizer_is_the_recipes() -> None:
    again = make_tokenizer(Recipe().vocabulary, worlds=8)
    kept = load_tokenizer("tspo:starter")
    assert again.get_vocab() == kept.get_vocab()
    assert again.backend_tokenizer.to_str() == kept.backend_tokenizer.to_str()


def test_it_speaks_the_protocol_and_searches(groups: list[Trajectory]) -> None:
    assert sum(t.answer is not None for t in groups) / len(groups) > 0.8
    assert sum(t.turns[0].query is not None for t in groups) / len(groups) > 0.9


def test_it_fails_often_in_the_way_the_method_is_for(groups: list[Trajectory], config: RunConfig) -> None:
    credits = assign_credit(groups, config.credit.to_config())
    right = sum(credit.outcome for credit in credits) / len(credits)
    near = sum(c.outcome == 0 and c.first_occurrence is not None for c in credits) / len(credits)
    all_wrong = sum(not any(c.outcome for c in credits[i : i + 5]) for i in range(0, len(credits), 5)) / 30
    assert 0.02 < right < 0.4
    assert near > 0.15
    assert all_wrong > 0.3


@pytest.mark.slow
def test_the_recipe_begins_as_the_shipped_one_began() -> None:
    """The first steps of the first stage give the losses that were recorded when the starter was made."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tspo.rollout.codec import Codec

    recorded = [loss for loss in json.loads((STARTER / "recipe.json").read_text())["losses"] if loss["stage"] == "copy"]
    tokenizer = load_tokenizer("tspo:starter")
    torch.manual_seed(Recipe().seed)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(STARTER))
    losses: dict[int, float] = {}

    class Enough(Exception):
        pass

    def on_step(_: str, step: int, loss: float) -> None:
        losses[step] = loss
        if step == recorded[1]["step"]:
            raise Enough

    stage = Recipe().stages[0]
    with pytest.raises(Enough):
        train_stage(model, stage, demonstrations(stage, Codec(tokenizer, PROMPT)), Recipe().seed, on_step)
    for entry in recorded[:2]:
        assert losses[entry["step"]] == pytest.approx(entry["loss"], rel=0.15)


@pytest.mark.slow
def test_train_without_arguments_is_a_whole_run(tmp_path: Path) -> None:
    settings = ["training.steps=3", "data.world.test_questions=6", "evaluation.samples=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tspo", "train", *settings], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "default"
    for path in ("model/model.safetensors", "metrics.jsonl", "trajectories/000003.jsonl", "report.html"):
        assert (run / path).is_file()
        assert str(run / path.split("/")[0]) in done.stdout
    assert "step 3/3" in done.stdout
    assert "question:" in done.stdout  # a sample trajectory
    summary: dict[str, Any] = json.loads((run / "evaluation" / "after-training" / "summary.json").read_text())
    assert set(summary["by_source"]) == {"world, 1 hop", "world, 2 hops", "world, 3 hops"}
    page = (run / "report.html").read_text()
    assert "held-out" in page
    assert 'src="' not in page
    assert 'href="http' not in page.replace('href="http://www.w3.org', "")
    again = subprocess.run(
        [sys.executable, "-m", "tspo", "train"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 2
    assert "add --resume" in again.stderr
