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
    assert (actor.ppo_epochs, actor.policy_loss.loss_mode) == (1, "vanilla")
    assert verl.actor_rollout_ref.rollout.n == 4
    assert actor.clip_ratio_low == actor.clip_ratio_high == 0.3
    assert (actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (True, 0.01, "low_var_kl")
    assert actor.loss_agg_mode == "token-mean"
    assert (actor.optim.weight_decay, actor.optim.betas) == (0.0, [0.9, 0.999])
    assert actor.optim.lr_warmup_steps == 0
    assert verl.trainer.total_training_steps == 7
    assert translated(training={"beta": 0.0}).actor_rollout_ref.actor.use_kl_loss is False


def test_several_updates_of_a_rollout() -> None:
    training = {"groups_per_step": 16, "epochs": 2, "minibatches": 4, "lr_scheduler": "constant_with_warmup"}
    actor = translated(training=training | {"lr_warmup_steps": 24}).actor_rollout_ref.actor
    assert (actor.ppo_epochs, actor.ppo_mini_batch_size) == (2, 4)
    assert (actor.optim.lr_scheduler_type, actor.optim.lr_warmup_steps) == ("constant", 3)
    critic = translated(training=training, credit={"algorithm": "ppo"}).critic
    assert (critic.ppo_epochs, critic.ppo_mini_batch_size) == (2, 4)


@pytest.mark.parametrize(
    ("training", "mode", "low", "high"),
    [
        ({"epsilon_high": 0.28}, "vanilla", 0.2, 0.28),
        ({"objective": "gspo", "epsilon": 0.1}, "gspo", 0.1, 0.1),
        ({"objective": "cispo", "epsilon_high": 4.0}, "cispo", 1.0, 4.0),
        ({"objective": "reinforce"}, "gpg", 0.2, 0.2),
    ],
)
def test_objectives_are_losses_of_verl(training: dict[str, Any], mode: str, low: float, high: float) -> None:
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    actor = translated(training=training).actor_rollout_ref.actor
    assert (actor.policy_loss.loss_mode, actor.clip_ratio_low, actor.clip_ratio_high) == (mode, low, high)
    assert get_policy_loss_fn(mode)


@pytest.mark.parametrize(
    ("training", "mode", "factor"),
    [
        ({"average": "tokens"}, "token-mean", None),
        ({"average": "trajectories"}, "seq-mean-token-mean", None),
        ({"average": "constant"}, "seq-mean-token-sum-norm", 700),
        ({"average": "constant", "average_length": 50}, "seq-mean-token-sum-norm", 50),
    ],
)
def test_averages_are_aggregations_of_verl(training: dict[str, Any], mode: str, factor: int | None) -> None:
    actor = translated(training=training, rollout={"max_total_tokens": 700}).actor_rollout_ref.actor
    assert (actor.loss_agg_mode, actor.loss_scale_factor) == (mode, factor)


def test_optimizer_and_kl_are_the_same() -> None:
    training = {"weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.95, "max_grad_norm": 0.5, "kl": "k1"}
    verl = translated(training=training, credit={"algorithm": "ppo"})
    actor = verl.actor_rollout_ref.actor
    assert actor.kl_loss_type == "k1"
    for part in (actor, verl.critic):
        assert (part.optim.weight_decay, part.optim.betas) == (0.1, [0.8, 0.95])
        assert part.optim.clip_grad == part.grad_clip == 0.5


@pytest.mark.parametrize(
    ("device", "asked", "done"),
    [("auto", None, True), ("auto", False, False), ("cpu", None, False), ("cpu", True, True)],
)
def test_checkpointing_is_for_gpus_unless_it_is_said(device: str, asked: bool | None, done: bool) -> None:
    settings = {"training": {"gradient_checkpointing": asked}, "credit": {"algorithm": "ppo"}}
    verl = translated(device=device, **settings)
    assert verl.actor_rollout_ref.model.enable_gradient_checkpointing is done
    assert verl.critic.model.enable_gradient_checkpointing is done


def test_tokens_that_are_left_out_are_left_out_in_evaluation_too() -> None:
    rollout = translated(rollout={"sampling": {"top_k": 20, "top_p": 0.9}}).actor_rollout_ref.rollout
    assert (rollout.top_k, rollout.top_p) == (rollout.val_kwargs.top_k, rollout.val_kwargs.top_p) == (20, 0.9)
    assert translated().actor_rollout_ref.rollout.top_k == -1


def test_trackers_know_the_run() -> None:
    trainer = translated(training={"report_to": "wandb", "project": "mine"}).trainer
    assert list(trainer.logger) == ["console", "file", "wandb"]
    assert (trainer.project_name, trainer.experiment_name) == ("mine", "r")
    assert translated(training={"run_name": "first"}).trainer.experiment_name == "first"


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
        ({"training": {"lr_scheduler": "linear"}}, "training.lr_scheduler"),
        (
            {"training": {"epochs": 2, "lr_scheduler": "cosine", "lr_warmup_steps": 3}},
            "training.lr_warmup_steps: .* take a multiple of 2",
        ),
        ({"training": {"optimizer": "sgd"}}, "training.optimizer"),
        ({"training": {"pass_tokens": 100}}, r"training.pass_tokens: verl has verl\.tokens_per_gpu"),
        ({"training": {"report_to": ["aim"]}}, "training.report_to: verl has wandb, .*, not aim"),
        ({"training": {"hub": {"repository": "me/model"}}}, "training.hub"),
        ({"rollout": {"sampling": {"min_p": 0.1}}}, "rollout.sampling.min_p"),
        ({"training": {"compile": True}}, "training.compile"),
        ({"warmup": {"epochs": 1}}, "tspo warmup"),
        ({"rollout": {"sampler": "transformers"}}, "rollout.sampler"),
        ({"rollout": {"prompt": "${oc.env:HOME} {question}"}}, "rollout.prompt"),
        ({"device": "cpu", "training": {"lora": {}}}, "training.lora"),
        ({"training": {"lora": {"base_dtype": "bfloat16"}}}, "training.lora.base_dtype"),
        ({"credit": {"algorithm": "igpo"}}, "information_gain needs the policy's log-probabilities.* --engine tspo"),
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


@pytest.mark.parametrize(
    ("objective", "average", "kl"),
    [
        ("ppo", "tokens", "k3"),
        ("ppo", "trajectories", "k1"),
        ("ppo", "constant", "k3"),
        ("gspo", "trajectories", "k3"),
        ("cispo", "tokens", "k1"),
        ("reinforce", "constant", "k3"),
    ],
)
def test_loss_and_gradient_are_those_of_the_objective(objective: Any, average: Any, kl: Any) -> None:
    """verl's own functions under the translation, beside `objective.py`, off policy and with advantages per turn."""
    import torch
    from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn, kl_penalty
    from verl.utils.config import omega_conf_to_dataclass

    from tspo.training.objective import Objective, token_losses, token_weights

    high = {} if objective == "reinforce" else {"epsilon_high": 0.3}
    training = {"objective": objective, "average": average, "kl": kl, "beta": 0.05, **high}
    actor = omega_conf_to_dataclass(translated(training=training).actor_rollout_ref.actor)

    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor([12, 5, 9, 1])
    mask = torch.arange(12) < lengths[:, None]
    old = -3 * torch.rand(4, 12, generator=random)
    reference, start = (old + 0.4 * torch.randn(4, 12, generator=random) for _ in range(2))
    advantages = torch.randn(4, 3, generator=random).repeat_interleave(4, dim=1)  # turns of four tokens

    theirs = start.clone().requires_grad_()
    batch = {"dp_size": 1, "batch_num_tokens": int(mask.sum()), "global_batch_size": 4}
    actor.global_batch_info.update(batch, loss_scale_factor=actor.loss_scale_factor)
    policy_loss = get_policy_loss_fn(actor.policy_loss.loss_mode)
    verl_loss, _ = policy_loss(old, theirs, advantages, mask, loss_agg_mode=actor.loss_agg_mode, config=actor)
    penalty = kl_penalty(theirs, reference, actor.kl_loss_type)
    verl_loss += actor.kl_loss_coef * agg_loss(penalty, mask, actor.loss_agg_mode, **actor.global_batch_info)
    (their_gradient,) = torch.autograd.grad(verl_loss, theirs)

    ours = start.clone().requires_grad_()
    same = Objective(objective, average, average_length=4096, epsilon=0.2, epsilon_high=0.3, beta=0.05, kl=kl)
    rows = torch.arange(4)[:, None].expand(4, 12)[mask]
    losses = token_losses(same, ours[mask], old[mask], advantages[mask], rows, reference[mask])
    loss = (losses * token_weights(same, lengths, int(mask.sum()) if average == "tokens" else 4)[rows]).sum()
    (gradient,) = torch.autograd.grad(loss, ours)

    assert loss.item() == pytest.approx(verl_loss.item(), rel=1e-6, abs=1e-7)
    assert (gradient - their_gradient).norm() < 1e-6 * their_gradient.norm()
