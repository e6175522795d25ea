"""What became of each field of trl.GRPOConfig (TRL 1.16, transformers 5.9 to 5.23) that `training.trl` took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Line = str | Callable[[Any], str]
"""What a user is told, or what makes that of the field's value."""


def _objective(value: Any) -> str:
    lines = {
        "dapo": "is training.average=tokens now",
        "bnpo": "is training.average=tokens now, over the whole update",
        "grpo": "is training.average=trajectories now",
        "dr_grpo": "is training.average=constant now; without training.average_length it is rollout.max_total_tokens",
        "cispo": "is training.objective=cispo now",
    }
    missing = f"is not here with {value}; training.objective has ppo, gspo, cispo and reinforce"
    return lines.get(str(value), missing)


def _ratio(value: Any) -> str:
    return f"is training.objective={'gspo' if value == 'sequence' else 'ppo'} now"


def _scale(value: Any) -> str:
    scale = {"group": "std", "True": "std", "none": "none", "False": "none"}.get(str(value))
    return f"is credit.scale={scale} now" if scale else f"is not here with {value}; credit.scale has std and none"


def _optimizer(value: Any) -> str:
    names = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "sgd": "sgd", "adafactor": "adafactor"}
    name = names.get(str(value))
    missing = f"is not here with {value}; training.optimizer has adamw, sgd and adafactor"
    return f"is training.optimizer={name} now" if name else missing


def _warmup_steps(value: Any) -> str:
    share = isinstance(value, float) and 0 < value < 1
    return "is training.lr_warmup_steps now, in optimizer steps" + (", not a share of them" if share else "")


def _bfloat16(value: Any) -> str:
    return f"is training.dtype={'float32' if value is False else 'bfloat16'} now"


def _vllm(value: Any) -> str:
    return f"is rollout.sampler={'vllm' if value else 'transformers'} now"


_LAUNCHER = "is for accelerate now: accelerate launch --config_file FILE -m tspo train (docs/cluster.md)"
_EXCHANGE = "has no meaning here: processes exchange gradients once per update, without DDP's hooks"
_LOADER = "has no meaning here: questions are in memory, and no data loader collates them"
_LOGGED = "has no meaning here: the main process logs every step, as it is"
_EVALUATION = (
    "has no meaning here: evaluation comes before and after training (evaluation.*), and by tspo evaluate CONFIG"
)
_WHOLE_CHECKPOINT = "has no meaning here: each checkpoint has all that --resume needs"
_TRAJECTORIES = "has no meaning here: all trajectories are in output_dir/trajectories, for tspo view"
_PUSHED_ONCE = "has no meaning here: the model is pushed once, when the run has ended"
_NO_SUCH_OBJECTIVE = "is not here; training.objective has ppo, gspo, cispo and reinforce"
_REFERENCE = "is not here yet: the reference is the model that training began with"
_ENTROPY = "is not here yet: the loss has no entropy term, and is over all sampled tokens"
_ONE_REWARD = "has no meaning here: there is one reward, credit.reward"
_MISMATCH = "is not here yet; logprob_gap in metrics.jsonl is the distance between sampler and update"
_SERVER = "is not here yet: rollout.server is for evaluation"
_SAMPLERS_OWN = "has no meaning here: the sampler batches and caches by itself (rollout.sampler, rollout.concurrency)"
_PRECISION = "has no meaning here: evaluation samples in rollout.dtype"
_FULL_STEP = "has no meaning here: an update is over whole groups, in passes of training.micro_batch and pass_tokens"
_COMMAND_LINE = "has no meaning here: the command says what is done"

_GROUPS: tuple[tuple[str, Line], ...] = (
    # How much is sampled, and how often it is learnt from
    ("max_steps", "is training.steps now; a step is one rollout with all its updates"),
    ("num_train_epochs", "has no meaning here: training.steps is the length of a run"),
    (
        "num_iterations",
        "is training.epochs now; a step is one rollout with all its updates, and training.steps counts those",
    ),
    ("num_generations", "is training.group_size now"),
    (
        "steps_per_generation generation_batch_size",
        "is training.minibatches now, updates per epoch of a rollout of training.groups_per_step x group_size",
    ),
    ("per_device_train_batch_size", "is training.micro_batch now, trajectories per pass and process, at most"),
    ("gradient_accumulation_steps auto_find_batch_size", _FULL_STEP),
    ("average_tokens_across_devices", "has no meaning here: averages are over all processes"),
    ("shuffle_dataset train_sampling_strategy", "has no meaning here: questions come in an order drawn from seed"),
    # The objective
    ("loss_type", _objective),
    ("importance_sampling_level", _ratio),
    ("epsilon", "is training.epsilon now"),
    ("epsilon_high", "is training.epsilon_high now, its distance from 1 under every objective, cispo too"),
    ("delta", "is not here yet: the ratio of tokens with a negative advantage has no upper bound"),
    ("beta", "is training.beta now"),
    ("use_bias_correction_kl", "has no meaning here: KL has no ratio before it; training.kl names its estimator"),
    ("scale_rewards", _scale),
    ("reward_weights multi_objective_aggregation", _ONE_REWARD),
    (
        "mask_truncated_completions",
        "has no meaning here: an episode ends at </answer>, never at an end-of-text token, so that it would mask every "
        "token",
    ),
    ("sapo_temperature_neg sapo_temperature_pos", _NO_SUCH_OBJECTIVE),
    ("vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg", _NO_SUCH_OBJECTIVE),
    ("sync_ref_model ref_model_mixup_alpha ref_model_sync_steps", _REFERENCE),
    ("entropy_coef use_adaptive_entropy top_entropy_quantile", _ENTROPY),
    ("entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target", _ENTROPY),
    ("off_policy_mask_threshold", "is not here yet: no trajectory is left out for being off policy"),
    (
        "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_cap "
        "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min",
        _MISMATCH,
    ),
    ("label_smoothing_factor", "has no meaning here: the policy learns from what it sampled, not from labels"),
    ("neftune_noise_alpha", "is not here: the ratio is of the policy without noise"),
    ("router_aux_loss_coef", "is not here yet: the loss has no term for a mixture's router"),
    # Optimizer and schedule
    ("optim", _optimizer),
    ("optim_args optim_target_modules", "is not here: training.optimizer has no arguments but those named in training"),
    ("learning_rate", "is training.learning_rate now"),
    ("lr_scheduler_type", "is training.lr_scheduler now"),
    ("lr_scheduler_kwargs", "is not here yet: training.lr_scheduler has the schedules that need no arguments"),
    ("warmup_steps", _warmup_steps),
    ("warmup_ratio", "is training.lr_warmup_steps now, in optimizer steps, not a share of them"),
    ("weight_decay", "is training.weight_decay now"),
    ("adam_beta1", "is training.adam_beta1 now"),
    ("adam_beta2", "is training.adam_beta2 now"),
    ("adam_epsilon", "is not a setting: 1e-8, as torch has it"),
    ("max_grad_norm", "is training.max_grad_norm now"),
    # Precision, memory and speed
    ("bf16", _bfloat16),
    ("fp16", "is not here; training.dtype has float32 and bfloat16"),
    ("bf16_full_eval fp16_full_eval", _PRECISION),
    ("tf32", "is not here yet"),
    ("gradient_checkpointing activation_checkpointing", "is training.gradient_checkpointing now"),
    (
        "gradient_checkpointing_kwargs activation_checkpointing_kwargs",
        "has no meaning here: training.gradient_checkpointing has no arguments",
    ),
    ("cast_lm_head_to_fp32", "is not here yet; training.dtype=float32 computes everything in float32"),
    ("torch_compile", "is training.compile now"),
    ("torch_compile_backend torch_compile_mode", "has no meaning here: training.compile has no arguments"),
    ("use_liger_kernel liger_kernel_config", "is not here: logits are computed at the policy's tokens only"),
    ("torch_empty_cache_steps", "is not here yet"),
    ("use_cache", "has no meaning here: an update computes all tokens of a trajectory at once"),
    ("pad_to_multiple_of", "has no meaning here: an update's trajectories are packed, without padding"),
    ("disable_dropout", "is not here; set the dropouts in the model's config.json to 0"),
    # Model and device
    ("model_init_kwargs", "has no meaning here: weights are loaded in float32, and training.dtype is the update's"),
    ("trust_remote_code", "is not here: code that comes with a model is not run"),
    ("use_cpu", "is device=cpu now"),
    ("seed", "is seed now"),
    ("data_seed", "is seed now, which decides the order of questions too"),
    ("full_determinism", "is not here yet; on a CPU a run is repeated by its seed"),
    # Sampling
    ("temperature", "is rollout.temperature now"),
    ("top_k", "is rollout.sampling.top_k now"),
    ("top_p", "is rollout.sampling.top_p now"),
    ("min_p", "is rollout.sampling.min_p now"),
    ("repetition_penalty", "is not here: what a token's probability is would depend on what was written before it"),
    ("generation_kwargs", "is not here; rollout.sampling has top_k, top_p and min_p"),
    ("chat_template_kwargs", "is not here yet: rollout.prompt goes into the model's chat template as that is"),
    ("max_completion_length", "is rollout.max_total_tokens now, of prompt, policy and feedback together"),
    ("max_tool_calling_iterations", "is rollout.max_turns now, which counts the turn that answers too"),
    ("cache_implementation use_transformers_paged", _SAMPLERS_OWN),
    ("use_transformers_continuous_batching transformers_continuous_batching_config", _SAMPLERS_OWN),
    ("ds3_gather_for_generation", "has no meaning here: each process samples from a whole copy of the policy"),
    ("use_vllm", _vllm),
    ("vllm_mode", "has no meaning here: each process has vLLM beside it, on its own GPU"),
    ("vllm_model_impl", "is rollout.vllm.model_impl now"),
    ("vllm_gpu_memory_utilization", "is rollout.vllm.gpu_memory_utilization now"),
    ("vllm_tensor_parallel_size", "is rollout.vllm.tensor_parallel_size now"),
    ("vllm_max_model_length", "is rollout.max_total_tokens now"),
    ("vllm_enable_sleep_mode", "is not here yet: vLLM keeps its memory while the policy is trained"),
    ("vllm_structured_outputs_regex", "is not here: the protocol's tags are the policy's to learn"),
    ("vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port", _SERVER),
    # Several processes
    ("deepspeed fsdp fsdp_config accelerator_config parallelism_config", _LAUNCHER),
    ("local_rank", "has no meaning here: accelerate launch gives each process its rank"),
    ("ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph", _EXCHANGE),
    ("ddp_backend", "has no meaning here: it is nccl on GPUs and gloo on CPUs"),
    ("ddp_timeout", "is not here yet"),
    # Data
    (
        "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order",
        _LOADER,
    ),
    ("remove_unused_columns label_names length_column_name", _LOADER),
    # Checkpoints
    ("output_dir", "is output_dir now"),
    ("save_steps", "is training.save_every now"),
    ("save_strategy", "has no meaning here: there is a checkpoint every training.save_every steps"),
    ("save_total_limit", "is training.keep_checkpoints now"),
    ("save_only_model ignore_data_skip restore_callback_states_from_checkpoint", _WHOLE_CHECKPOINT),
    ("save_on_each_node", "has no meaning here: all nodes see one output_dir"),
    ("enable_jit_checkpoint", "has no meaning here: SIGTERM stops after the step under way, and saves, always"),
    ("resume_from_checkpoint", "is tspo train --resume now"),
    # Logging and trackers
    ("report_to", "is training.report_to now"),
    ("run_name", "is training.run_name now"),
    ("project", "is training.project now"),
    ("trackio_space_id", "is not a setting: the environment variable TRACKIO_SPACE_ID has it"),
    ("trackio_bucket_id", "is not a setting: the environment variable TRACKIO_BUCKET_ID has it"),
    ("trackio_static_space_id", "is not here yet"),
    ("logging_dir", "has no meaning here: trackers write to output_dir"),
    ("logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_on_each_node", _LOGGED),
    ("log_level log_level_replica", "has no meaning here: libraries are kept quiet"),
    ("disable_tqdm", "has no meaning here: progress bars are drawn on a terminal only"),
    ("include_num_input_tokens_seen", "is not here; metrics.jsonl has sampled_tokens"),
    ("log_completions log_multimodal num_completions_to_print log_unique_prompts", _TRAJECTORIES),
    ("log_completions_hub_repo", "is not here: trajectories stay on this machine"),
    ("debug skip_memory_metrics", "is not here"),
    # The hub
    ("push_to_hub", "is training.hub now, whose training.hub.repository names the repository"),
    ("hub_model_id", "is training.hub.repository now"),
    ("hub_private_repo", "is training.hub.private now"),
    ("hub_revision", "is training.hub.revision now"),
    ("hub_token", "is not a setting: the environment variable HF_TOKEN has it, or hf auth login"),
    ("hub_strategy hub_always_push", _PUSHED_ONCE),
    # Evaluation
    ("eval_on_start", "is evaluation.before now"),
    ("per_device_eval_batch_size", "is evaluation.batch now, episodes side by side"),
    ("num_generations_eval", "is evaluation.samples now"),
    ("eval_strategy eval_steps eval_delay eval_accumulation_steps", _EVALUATION),
    ("eval_do_concat_batches eval_use_gather_object prediction_loss_only", _EVALUATION),
    ("include_for_metrics batch_eval_metrics", _EVALUATION),
    ("load_best_model_at_end metric_for_best_model greater_is_better", "is not here yet: the last model is kept"),
    ("do_train do_eval do_predict", _COMMAND_LINE),
)

TRL: Mapping[str, Line] = {name: line for names, line in _GROUPS for name in names.split()}
"""Of each field, where it is now, or why it is not."""
