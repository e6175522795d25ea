"""This project's settings as verl's: the same experiment on the other engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tspo.config import RunConfig, SamplingSection, TrainingSection, default_of
from tspo.errors import BadInput
from tspo.rollout.models import resolve_model
from tspo.training.verl.names import AGENT, CPU, MODE_PREFIX, REWARD_MANAGER, SETTINGS, estimator_name
from tspo.training.verl.versions import check_verl

_SCHEDULES = {"constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine"}
_SURROGATES = {"ppo": "vanilla", "gspo": "gspo", "cispo": "cispo", "reinforce": "gpg"}
"""verl's names of policy losses; its gpg is -A log pi."""
_AVERAGES = {"tokens": "token-mean", "trajectories": "seq-mean-token-mean", "constant": "seq-mean-token-sum-norm"}
_KL = {"k3": "low_var_kl", "k1": "k1"}
_TRACKERS = ("wandb", "tensorboard", "trackio", "swanlab", "mlflow", "clearml", "vemlp_wandb", "rl_insight")
_NO_DUAL_CLIP = 1e6
"""The objective has PPO's clip alone; verl's dual clip would bound the ratio of losing tokens at this."""


def translate(config: RunConfig, corpus: Path | None, *, resume: bool) -> DictConfig:
    """verl's configuration of the run; `corpus` is what BM25 searches where no retriever is named.

    Raises BadInput for settings that verl has not, and for keys under `verl.config` that it does not know.
    """
    check_verl()
    _check_settings(config)
    base = _defaults()
    with open_dict(base):
        for key, value in _translation(config, corpus, resume=resume).items():
            OmegaConf.update(base, key, value, merge=False, force_add=True)
    for key, value in config.verl.config.items():
        try:
            OmegaConf.update(base, key, value, merge=True)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            raise BadInput(f"verl.config: {key}: {str(error).splitlines()[0]}") from None
    return base


def row_files(config: RunConfig) -> tuple[Path, Path]:
    """Where verl's data sets of this run are: to train on, and to evaluate on."""
    return work_folder(config) / "train.parquet", work_folder(config) / "test.parquet"


def work_folder(config: RunConfig) -> Path:
    """Where data sets, metrics of sessions and errors of this run are."""
    return config.output_dir / "verl"


def checkpoint_folder(config: RunConfig) -> Path:
    """Where verl keeps its checkpoints of this run."""
    return config.output_dir / "checkpoints"


def has_test(config: RunConfig) -> bool:
    """Whether the run evaluates."""
    world = config.data.world
    return bool(config.data.test) if world is None else world.test_questions > 0


def _check_settings(config: RunConfig) -> None:
    _check_training(config.training)
    training = config.training
    credit = config.credit.to_config()
    if credit.rewards.needs == "model":
        raise BadInput(
            f"credit.reward: {credit.reward_name} needs the policy's log-probabilities of answers, which do not reach "
            "verl's workers; train with --engine tspo"
        )
    if credit.needs_critic and training.lora is not None:
        raise BadInput(f"training.lora: {credit.algorithm} trains all weights of policy and critic; leave it out")
    if config.warmup.epochs > 0:
        raise BadInput("warmup.epochs: verl has no warm-up here; run tspo warmup, then model=FOLDER warmup.epochs=0")
    if "${" in config.rollout.prompt:
        raise BadInput("rollout.prompt: ${ is read by verl's configuration language; write it otherwise")
    if config.rollout.sampler not in ("auto", "vllm"):
        raise BadInput(f"rollout.sampler: verl samples with vllm, not {config.rollout.sampler}; leave it out")
    if config.rollout.sampling.min_p > 0:
        raise BadInput("rollout.sampling.min_p: verl has top_k and top_p; leave it out")
    if training.lora is not None and training.lora.base_dtype != "float32":
        raise BadInput("training.lora.base_dtype: verl keeps frozen weights in float32; leave it out")
    if config.device == "cpu" and training.lora is not None:
        raise BadInput("training.lora: without a GPU verl trains all weights; leave it out")


def _check_training(training: TrainingSection) -> None:
    if training.lr_scheduler not in _SCHEDULES:
        raise BadInput(f"training.lr_scheduler: verl has {', '.join(_SCHEDULES)}, not {training.lr_scheduler}")
    if training.lr_warmup_steps % (updates := training.epochs * training.minibatches):
        raise BadInput(
            f"training.lr_warmup_steps: verl changes the learning rate once per step, of {updates} updates here; "
            f"take a multiple of {updates}"
        )
    if training.optimizer != "adamw":
        raise BadInput(f"training.optimizer: verl has adamw here, not {training.optimizer}")
    if training.pass_tokens is not None:
        raise BadInput("training.pass_tokens: verl has verl.tokens_per_gpu in its place; leave it out")
    if training.compile:
        raise BadInput("training.compile: verl has use_torch_compile in its place, under verl.config; leave it out")
    if training.max_skipped != default_of("training.max_skipped"):
        raise BadInput("training.max_skipped: verl skips such updates without counting them; leave it out")
    if unknown := [name for name in training.report_to if name not in _TRACKERS]:
        raise BadInput(f"training.report_to: verl has {', '.join(_TRACKERS)}, not {unknown[0]}")
    if training.hub is not None:
        raise BadInput("training.hub: verl pushes nothing; leave it out, and upload the model when the run has ended")


def _defaults() -> DictConfig:
    """verl's own defaults, composed as its main_ppo composes them; verl itself is not imported."""
    spec = importlib.util.find_spec("verl")
    assert spec is not None  # its version was read
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "trainer" / "config"
    with initialize_config_dir(str(folder), version_base=None):
        return compose("ppo_trainer")


def _translation(config: RunConfig, corpus: Path | None, *, resume: bool) -> dict[str, Any]:
    """verl's keys, dotted, and what this run says to them."""
    return (
        _data(config)
        | _model(config)
        | _actor(config)
        | _critic(config)
        | _rollout(config, corpus)
        | _trainer(config, resume=resume)
    )


def _data(config: RunConfig) -> dict[str, Any]:
    train, test = row_files(config)
    return {
        "data.train_files": [str(train)],
        "data.val_files": [str(test if has_test(config) else train)],
        "data.train_batch_size": config.training.groups_per_step,
        # an episode is bounded as a whole: rollout.max_total_tokens
        "data.max_prompt_length": config.rollout.max_total_tokens,
        "data.max_response_length": config.rollout.max_total_tokens,
        "data.seed": config.seed,
        "data.dataloader_num_workers": 0,
    }


def _model(config: RunConfig) -> dict[str, Any]:
    lora, checkpointing = config.training.lora, config.training.gradient_checkpointing
    keys: dict[str, Any] = {
        "actor_rollout_ref.model.path": resolve_model(config.model),
        "actor_rollout_ref.model.enable_gradient_checkpointing": (
            config.device != "cpu" if checkpointing is None else checkpointing
        ),
        "actor_rollout_ref.model.use_remove_padding": config.device != "cpu",
    }
    if config.device == "cpu":
        keys["actor_rollout_ref.model.override_config"] = {"attn_implementation": "sdpa"}
    if lora is not None:
        keys |= {
            "actor_rollout_ref.model.lora_rank": lora.r,
            "actor_rollout_ref.model.lora_alpha": lora.alpha,
            "actor_rollout_ref.model.target_modules": lora.target_modules,
            "actor_rollout_ref.rollout.load_format": "safetensors",
        }
    return keys


def _actor(config: RunConfig) -> dict[str, Any]:
    training, verl = config.training, config.verl
    actor = "actor_rollout_ref.actor"
    keys: dict[str, Any] = {
        f"{actor}.optim.lr": training.learning_rate,
        f"{actor}.optim.lr_scheduler_type": _SCHEDULES[training.lr_scheduler],
        # verl's scheduler goes on once per step, not with each update
        f"{actor}.optim.lr_warmup_steps": training.lr_warmup_steps // (training.epochs * training.minibatches),
        f"{actor}.ppo_epochs": training.epochs,
        f"{actor}.ppo_mini_batch_size": training.groups_per_step // training.minibatches,  # prompts; verl multiplies
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": verl.tokens_per_gpu,
        f"{actor}.policy_loss.loss_mode": _SURROGATES[training.objective],
        f"{actor}.clip_ratio": training.epsilon,
        # verl's CISPO bounds the weight below too; a ratio is never below 0
        f"{actor}.clip_ratio_low": 1.0 if training.objective == "cispo" else training.epsilon,
        f"{actor}.clip_ratio_high": training.epsilon if training.epsilon_high is None else training.epsilon_high,
        f"{actor}.clip_ratio_c": _NO_DUAL_CLIP,
        f"{actor}.loss_agg_mode": _AVERAGES[training.average],
        f"{actor}.use_kl_loss": training.beta > 0,
        f"{actor}.kl_loss_coef": training.beta,
        f"{actor}.kl_loss_type": _KL[training.kl],
        f"{actor}.fsdp_config.param_offload": verl.offload,
        f"{actor}.fsdp_config.optimizer_offload": verl.offload,
        f"{actor}.data_loader_seed": config.seed,
    }
    if training.average == "constant":
        keys[f"{actor}.loss_scale_factor"] = training.average_length or config.rollout.max_total_tokens
    if config.device == "cpu":
        keys |= {f"{actor}.strategy": "fsdp2", f"{actor}.use_torch_compile": False}
    keys |= _optimizer(training, f"{actor}.optim") | {f"{actor}.grad_clip": training.max_grad_norm}
    return keys | _engine(config, f"{actor}.fsdp_config") | _engine(config, "actor_rollout_ref.ref.fsdp_config")


def _critic(config: RunConfig) -> dict[str, Any]:
    """The critic of algorithms that need one: of the policy's shape, begun from its weights, on the same GPUs."""
    if not config.credit.to_config().needs_critic:
        return {"critic.enable": False}
    training, verl, model = config.training, config.verl, _model(config)
    keys: dict[str, Any] = {
        "critic.enable": True,
        "critic.optim.lr": verl.critic_learning_rate,
        "critic.grad_clip": training.max_grad_norm,
        "critic.ppo_max_token_len_per_gpu": verl.tokens_per_gpu,
        "critic.fsdp.param_offload": verl.offload,
        "critic.fsdp.optimizer_offload": verl.offload,
        "critic.data_loader_seed": config.seed,
        "trainer.critic_warmup": verl.critic_warmup,
        "trainer.max_critic_ckpt_to_keep": training.keep_checkpoints,
    }
    keys |= {key.replace("actor_rollout_ref", "critic"): value for key, value in model.items()}
    keys |= _optimizer(training, "critic.optim")
    if config.device == "cpu":
        keys["critic.strategy"] = "fsdp2"
    return keys | _engine(config, "critic.fsdp")


def _optimizer(training: TrainingSection, optimizer: str) -> dict[str, Any]:
    """AdamW as policy and critic have it; verl decays biases and norms too."""
    return {
        f"{optimizer}.weight_decay": training.weight_decay,
        f"{optimizer}.betas": [training.adam_beta1, training.adam_beta2],
        f"{optimizer}.clip_grad": training.max_grad_norm,
    }


def _engine(config: RunConfig, engine: str) -> dict[str, Any]:
    """The precision of an FSDP engine, and which one it is where there is no GPU."""
    short = {"float32": "fp32", "bfloat16": "bf16"}[config.training.dtype]
    precision = {"param_dtype": short, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    keys: dict[str, Any] = {f"{engine}.mixed_precision": precision, f"{engine}.dtype": config.training.dtype}
    if config.device == "cpu":
        keys |= {f"{engine}.strategy": "fsdp2", f"{engine}.use_torch_compile": False}
    return keys


def _rollout(config: RunConfig, corpus: Path | None) -> dict[str, Any]:
    section, verl = config.rollout, config.verl
    rollout = "actor_rollout_ref.rollout"
    settings = section.model_dump(mode="json", exclude={"sampler", "server", "vllm"})
    custom = {
        "rollout": settings,
        "corpus": None if corpus is None else str(corpus),
        "trajectories": str(config.output_dir / "trajectories"),
    }
    keys: dict[str, Any] = {
        f"{rollout}.name": CPU if config.device == "cpu" else "vllm",
        f"{rollout}.n": config.training.group_size,
        f"{rollout}.temperature": section.temperature,
        **_sampling(section.sampling, rollout),
        **_sampling(section.sampling, f"{rollout}.val_kwargs"),
        f"{rollout}.seed": config.seed,
        f"{rollout}.dtype": section.dtype or config.training.dtype,
        f"{rollout}.max_model_len": section.max_total_tokens,
        f"{rollout}.tensor_model_parallel_size": verl.tensor_parallel,
        f"{rollout}.gpu_memory_utilization": verl.gpu_memory_utilization,
        f"{rollout}.agent.default_agent_loop": AGENT,
        f"{rollout}.agent.num_workers": verl.agent_workers,
        f"{rollout}.val_kwargs.temperature": config.evaluation.temperature,
        f"{rollout}.val_kwargs.do_sample": config.evaluation.temperature > 0,
        f"{rollout}.val_kwargs.n": config.evaluation.samples,
        f"{rollout}.custom": {SETTINGS: custom},
    }
    if config.device == "cpu":
        keys |= {f"{rollout}.max_num_seqs": section.concurrency, f"{rollout}.free_cache_engine": False}
    if section.vllm:
        keys[f"{rollout}.engine_kwargs.vllm"] = section.vllm
    return keys


def _sampling(sampling: SamplingSection, place: str) -> dict[str, Any]:
    return {f"{place}.top_k": sampling.top_k or -1, f"{place}.top_p": sampling.top_p}


def _trainer(config: RunConfig, *, resume: bool) -> dict[str, Any]:
    training, verl, credit = config.training, config.verl, config.credit
    mode = CPU if config.device == "cpu" else MODE_PREFIX + verl.mode
    keys: dict[str, Any] = {
        "algorithm.adv_estimator": estimator_name(credit.algorithm),
        f"algorithm.{SETTINGS}": credit.model_dump(mode="json", exclude={"preset"}),
        "algorithm.use_kl_in_reward": False,
        "reward.reward_manager.name": REWARD_MANAGER,
        "reward.num_workers": verl.agent_workers,
        "trainer.nnodes": verl.nodes,
        "trainer.n_gpus_per_node": verl.gpus_per_node,
        "trainer.device": "cpu" if config.device == "cpu" else "cuda",
        "trainer.v1.trainer_mode": mode,
        "trainer.total_training_steps": training.steps,
        "trainer.total_epochs": training.steps,  # an epoch has at least one step; the steps decide
        "trainer.save_freq": training.save_every,
        "trainer.max_actor_ckpt_to_keep": training.keep_checkpoints,
        "trainer.test_freq": (verl.test_every or training.steps) if has_test(config) else -1,
        "trainer.val_before_train": config.evaluation.before and has_test(config) and not resume,
        "trainer.default_local_dir": str(checkpoint_folder(config)),
        "trainer.resume_mode": "auto" if resume else "disable",
        "trainer.logger": ["console", "file", *training.report_to],
        "trainer.project_name": training.project,
        "trainer.experiment_name": training.run_name or config.output_dir.name,
    }
    if config.device == "cpu":
        keys["transfer_queue.backend.SimpleStorage.num_data_storage_units"] = 1
    return keys
