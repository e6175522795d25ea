import importlib.machinery
import importlib.util

import pytest
from rich.console import Console

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch

from tspo.config import default_config_path, load_config
from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.transformers_sampler import TransformersSampler
from tspo.training.agent import make_sampler, sampler_kind
from tspo.training.run import run_training

SERVER = ["rollout.sampler=openai", "rollout.server={url: 'http://127.0.0.1:1/v1', model: m}"]


def config(*overrides):
    return load_config(default_config_path(), [*overrides])


@pytest.fixture
def machine(monkeypatch):
    """A function that says whether vLLM is installed and whether there is a GPU."""

    def be(vllm, gpu):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        spec = importlib.machinery.ModuleSpec("vllm", None) if vllm else None
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "vllm" else find(name))

    return be


@pytest.mark.parametrize(
    ("vllm", "gpu", "settings", "kind"),
    [
        (True, True, [], "vllm"),
        (True, True, ["device=cpu"], "transformers"),
        (True, False, [], "transformers"),
        (False, True, [], "transformers"),
        (True, True, ["rollout.sampler=transformers"], "transformers"),
        (True, False, ["rollout.sampler=vllm"], "vllm"),
        (False, False, SERVER, "openai"),
    ],
)
def test_which_sampler_samples(machine, vllm, gpu, settings, kind):
    machine(vllm, gpu)
    assert sampler_kind(config(*settings)) == kind


def test_without_vllm_it_says_how_to_have_it(machine):
    machine(vllm=False, gpu=True)
    with pytest.raises(BadInput, match=r"vllm is not installed; pip install 'tspo\[vllm\]'"):
        sampler_kind(config("rollout.sampler=vllm"))


def test_training_with_a_server_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(BadInput, match="openai is for tspo evaluate"):
        run_training(config(*SERVER, f"output_dir={tmp_path / 'run'}"), resume=False, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_training_that_wants_a_critic_is_refused_before_anything_is_done(tmp_path):
    settings = ("credit.algorithm=ppo", f"output_dir={tmp_path / 'run'}")
    with pytest.raises(BadInput, match=r"^credit\.algorithm: ppo needs a critic, .* --engine verl"):
        run_training(config(*settings), resume=False, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [["rollout.sampler=openai"], SERVER[1:]])
def test_a_server_goes_with_its_sampler(settings):
    with pytest.raises(BadInput, match=r"rollout\.server: goes with rollout\.sampler=openai"):
        config(*settings)


def test_a_model_and_a_name_make_the_same_sampler(tiny_model, tiny_tokenizer, tiny_model_folder):
    made = [
        make_sampler(policy, Codec(tiny_tokenizer), config("rollout.sampler=transformers"), rows=2, temperature=0)
        for policy in (tiny_model, str(tiny_model_folder))
    ]
    assert all(isinstance(sampler, TransformersSampler) for sampler in made)
    with pytest.raises(BadInput, match="openai is for tspo evaluate"):
        make_sampler(tiny_model, Codec(tiny_tokenizer), config(*SERVER), rows=2, temperature=0)
