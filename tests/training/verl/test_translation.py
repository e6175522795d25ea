"""Settings of this project as verl's, without verl's own code but for its configuration."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf

from tspo.advantages import ADVANTAGES
from tspo.cli import main
from tspo.config import RolloutSection, RunConfig
from tspo.credit import CreditConfig
from tspo.errors import BadInput
from tspo.training.verl.names import estimator_name
from tspo.training.verl.translation import translate

pytestmark = pytest.mark.verl


def run_config(**settings: Any) -> RunConfig:
    base = {"model": "tspo:starter", "output_dir": "/runs/r", "data": {"world": {}}}
    return RunConfig.model_validate(base | settings)


def translated(**settings: Any) -> Any:
    return translate(run_config(**settings), Path("/c.jsonl"), resume=False)


def test_the_step_is_the_same_step() -> None:
    verl = translated(training={"groups_per_step": 16, "group_size": 4, "epsilon": 0.3, "beta": 0.01, "steps": 7})
    actor = verl.actor_rollout_ref.actor
    assert verl.data.train_batch_size == actor.ppo_mini_batch_size == 16
    assert actor.ppo_epochs == 1
    assert verl.actor_rollout_ref.rollout.n == 4
    assert actor.clip_ratio_low == actor.clip_ratio_high == 0.3
    assert (actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (True, 0.01, "low_var_kl")
    assert actor.loss_agg_mode == "token-mean"
    assert actor.optim.weight_decay == 0.0
    assert verl.trainer.total_training_steps == 7
    assert translated(training={"beta": 0.0}).actor_rollout_ref.actor.use_kl_loss is False


@pytest.mark.parametrize("algorithm", [name for name in ADVANTAGES if not CreditConfig(name).rewards.needs])
def test_credit_comes_back_as_it_was(algorithm: str) -> None:
    from tspo.training.verl.advantage import credit_of

    credit = CreditConfig(algorithm=algorithm, alpha=0.25, credit="through_first_turn", ignore=("yes",))
    verl = translated(credit=dataclasses.asdict(credit))
    assert verl.algorithm.adv_estimator == estimator_name(algorithm)
    assert credit_of(verl.algorithm) == credit


def test_rollout_settings_come_back_as_they_were() -> None:
    config = run_config(rollout={"max_turns": 3, "top_k": 2, "prompt": "Ask: {question}"})
    custom = translate(config, Path("/c.jsonl"), resume=False).actor_rollout_ref.rollout.custom.tspo
    assert RolloutSection.model_validate(OmegaConf.to_container(custom.rollout)) == config.rollout
    assert custom.corpus == "/c.jsonl"


def test_a_critic_is_there_for_ppo_alone_and_like_the_policy() -> None:
    assert translated().critic.enable is False
    settings = {"credit": {"algorithm": "ppo"}, "verl": {"critic_learning_rate": 2e-5, "critic_warmup": 3}}
    verl = translated(model="some/model", training={"dtype": "bfloat16", "groups_per_step": 4}, **settings)
    actor, critic = verl.actor_rollout_ref, verl.critic
    assert critic.enable is True
    assert critic.optim.lr == 2e-5
    assert verl.trainer.critic_warmup == 3
    assert critic.model.path == actor.model.path
    assert critic.ppo_mini_batch_size == 4
    assert critic.fsdp.mixed_precision == actor.actor.fsdp_config.mixed_precision
    assert translated(device="cpu", **settings).critic.fsdp.strategy == "fsdp2"


def test_every_value_can_be_decided() -> None:
    for settings in ({}, {"device": "cpu"}, {"training": {"lora": {"r": 8}}}, {"credit": {"algorithm": "ppo"}}):
        assert OmegaConf.to_container(translated(**settings), resolve=True, throw_on_missing=False)


def test_keys_of_verl_go_over_the_translation() -> None:
    verl = translated(
        verl={"config": {"trainer.project_name": "mine", "actor_rollout_ref": {"rollout": {"enforce_eager": True}}}}
    )
    assert verl.trainer.project_name == "mine"
    assert verl.actor_rollout_ref.rollout.enforce_eager is True
    assert verl.actor_rollout_ref.rollout.n == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"verl": {"config": {"trainer.no_such_key": 1}}}, "no_such_key"),
        ({"verl": {"config": {"trainer": {"no_such_key": 1}}}}, "no_such_key"),
        ({"training": {"trl": {"num_iterations": 2}}}, "training.trl"),
        ({"training": {"lr_scheduler": "linear"}}, "training.lr_scheduler"),
        ({"warmup": {"epochs": 1}}, "tspo warmup"),
        ({"rollout": {"sampler": "transformers"}}, "rollout.sampler"),
        ({"rollout": {"prompt": "${oc.env:HOME} {question}"}}, "rollout.prompt"),
        ({"device": "cpu", "training": {"lora": {}}}, "training.lora"),
        ({"training": {"lora": {"base_dtype": "bfloat16"}}}, "training.lora.base_dtype"),
        ({"credit": {"algorithm": "igpo"}}, "information_gain needs the policy's log-probabilities"),
        ({"credit": {"algorithm": "ppo"}, "training": {"lora": {}}}, "training.lora: ppo trains all weights"),
    ],
    ids=str,
)
def test_what_verl_has_not_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        translated(**settings)
    assert "\n" not in str(error.value)


def test_print_config_prints_yaml_that_verl_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--engine", "verl", "--print-config", "verl.gpus_per_node=2", "output_dir=/runs/r"]
    assert main(arguments) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert printed.trainer.n_gpus_per_node == 2
    assert printed.algorithm.tspo.credit == "through_first_turn"
    assert not Path("/runs/r").exists()
