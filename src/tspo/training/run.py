"""`tspo train` from end to end: evaluate, warm up, evaluate, train, evaluate; stop and go on anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from transformers import PreTrainedModel, PrinterCallback, set_seed
from trl import GRPOConfig

from tspo.config import RunConfig
from tspo.errors import BadInput
from tspo.evaluation.card import write_card
from tspo.evaluation.metrics import Summary
from tspo.evaluation.report import write_report
from tspo.evaluation.runner import read_evaluation
from tspo.evaluation.table import format_comparison
from tspo.files import atomic_write, explain_full_disk
from tspo.progress import bars
from tspo.rollout.models import load_model
from tspo.rollout.sampler import Sampler
from tspo.training.agent import (
    check_trainable,
    device_of,
    make_sampler,
    quiet_libraries,
    sampling_dtype,
)
from tspo.training.checkpoints import checkpoints_in, is_whole, last_whole_checkpoint, mark_whole, step_of
from tspo.training.evaluate import evaluate_model
from tspo.training.hub import AT_THE_END, hub_repository, push_model
from tspo.training.materials import Materials, read_materials
from tspo.training.metrics_log import MetricsLog, truncate_metrics
from tspo.training.processes import any_signal, failing_together, join_processes, of_main
from tspo.training.run_folder import MAY_CHANGE, changed_settings, check_disk, only_run_in, prepare_output
from tspo.training.signals import StopRequest, stop_on_signals
from tspo.training.step_display import StepDisplay
from tspo.training.trainer import TSPOTrainer
from tspo.training.warmup import demonstrations, warm_up
from tspo.training.whole_policy import is_spread

_WARMUP_SETTINGS = "warmup.json"


def run_training(config: RunConfig, *, resume: bool, console: Console) -> dict[str, Summary]:
    """Run or resume a whole training run; returns the evaluation summaries by stage.

    Raises BadInput for unusable input and Stopped when a signal ended the run early.
    """
    with _opened(config, console) as run:
        args = grpo_config(config, run.state.num_processes)
        repository = hub_repository(args) if run.state.is_main_process else None
        run.prepare(resume)
        summaries, model = run.run()
        if repository is not None:
            console.print(f"pushed: {push_model(config.output_dir, model, repository, args)}", markup=False)
        return summaries


def run_warmup(config: RunConfig, *, console: Console) -> Path:
    """Only the warm-up of a run: the folder of the warmed-up model."""
    if config.warmup.epochs == 0:
        raise BadInput("warmup.epochs: 0 means no warm-up; say for example warmup.epochs=2")
    with _opened(config, console) as run:
        return run.warmed_up()


def run_steps(config: RunConfig, *, console: Console) -> Path:
    """Only the training of a run, from the model as it is: the folder of the trained model."""
    with _opened(config, console) as run:
        run.prepare(resume=False)
        return run.trained(config.model)


def run_evaluation(config: RunConfig, folder: Path, *, again: bool, console: Console) -> Summary:
    """Evaluate `config.model` on the test questions and write the result to `folder`; see `evaluate_model`."""
    state = join_processes(config)
    with failing_together(state), explain_full_disk(folder), quiet_libraries():
        with state.local_main_process_first():
            materials = read_materials(config, training=False)
        if not materials.test:
            raise BadInput("data.test: no questions to evaluate on; name a file of them")
        screen = console if state.is_main_process else Console(quiet=True)
        with only_run_in(folder) if state.is_main_process else nullcontext():
            return evaluate_model(config.model, config, materials, folder, screen, "evaluate", state, again=again)


@contextmanager
def _opened(config: RunConfig, console: Console) -> Iterator[_Run]:
    """A run with its input read and checked, and its folder locked by the main process."""
    check_trainable(config)
    state = join_processes(config)
    with failing_together(state), explain_full_disk(config.output_dir), quiet_libraries():
        check_split(config, state.num_processes)
        screen = console if state.is_main_process else Console(quiet=True)
        # What is made once, a world or an index, is then there for the others.
        with state.local_main_process_first():
            materials = read_materials(config)
        with (
            only_run_in(config.output_dir) if state.is_main_process else nullcontext(),
            stop_on_signals(
                lambda: screen.print("Stopping after this step; once more to stop at once."),
                any_signal if state.num_processes > 1 else None,
            ) as stop,
        ):
            yield _Run(config, materials, screen, stop, state)


class _Run:
    """The stages of one run; each leaves a result in the output folder and is not done twice."""

    def __init__(
        self, config: RunConfig, materials: Materials, console: Console, stop: StopRequest, state: PartialState
    ) -> None:
        self.config = config
        self.materials = materials
        self.console = console
        self.stop = stop
        self.state = state
        self.output = config.output_dir
        self.summaries: dict[str, Summary] = {}

    def prepare(self, resume: bool) -> None:
        """Check what can be checked before anything is written, and write the run's settings."""
        grpo_config(self.config, self.state.num_processes)  # TRL checks the settings that are its own
        if self.state.is_main_process:
            prepare_output(self.config, resume)
        self.state.wait_for_everyone()

    def run(self) -> tuple[dict[str, Summary], Path]:
        config = self.config
        if config.evaluation.before:
            self._evaluate("before", config.model)
        start = config.model
        if config.warmup.epochs > 0:
            start = str(self.warmed_up())
            self._evaluate("after warm-up", start)
        final = self.trained(start)
        self._evaluate("after training", str(final))
        for folder in (final, self.output):
            self._write_card(folder)
        if self.summaries:
            self.console.print(format_comparison(self.summaries), markup=False, highlight=False, soft_wrap=True)
        self._say("model", final)
        self._say("metrics", self.output / "metrics.jsonl")
        self._say("trajectories", self.output / "trajectories")
        if self.state.is_main_process:
            self._say("report", write_report(self.output))
        return self.summaries, final

    def warmed_up(self) -> Path:
        config, materials = self.config, self.materials
        folder = self.output / "warmup"
        settings = _warmup_settings(config)
        if of_main(is_whole(folder)):
            made_with = json.loads((folder / _WARMUP_SETTINGS).read_text(encoding="utf-8"))
            if changed := changed_settings(made_with, settings, MAY_CHANGE):
                raise BadInput(
                    f"{folder}: was warmed up with other settings for {', '.join(changed)}; choose another output_dir"
                )
            return folder
        shown = demonstrations(materials.train, materials.retriever, materials.codec, config)
        self.console.print(
            f"Warm-up: {len(shown)} demonstrations from {len(materials.train)} questions", highlight=False
        )
        set_seed(config.seed)
        model = load_model(config.model)
        with bars(self.console) as progress:
            task = progress.add_task("warm-up", total=None)

            def on_step(step: int, steps: int, loss: float | None) -> None:
                self.stop.check()
                progress.update(task, completed=step, total=steps, description=f"warm-up, loss {loss:.3f}")
                if step % max(steps // 10, 1) == 0:
                    self.console.print(f"warm-up {step}/{steps}  loss {loss:.3f}", highlight=False)

            loss = warm_up(model, materials.codec, shown, config, folder, on_step, self.state.num_processes)
        self.console.print(f"Warm-up: mean loss {loss:.4f}", highlight=False)
        if self.state.is_main_process:
            folder.mkdir(exist_ok=True)
            with atomic_write(folder / _WARMUP_SETTINGS) as stream:
                json.dump(settings, stream, indent=1)
            self._save_model(model, folder)
        self.state.wait_for_everyone()
        return folder

    def trained(self, start: str) -> Path:
        folder = self.output / "model"
        if of_main(is_whole(folder)):
            return folder
        config, materials = self.config, self.materials
        checkpoint = of_main(self._last_checkpoint() if self.state.is_main_process else None)
        set_seed(config.seed)
        model = load_model(start)
        check_disk(model, config)
        if config.training.lora is not None:
            model = model.to(getattr(torch, config.training.lora.base_dtype))
        log = MetricsLog(self.output / "metrics.jsonl")
        with bars(self.console) as progress, ExitStack() as samplers:

            def sampler(policy: PreTrainedModel, rows: int, temperature: float) -> Sampler:
                made = make_sampler(policy, materials.codec, config, rows=rows, temperature=temperature)
                samplers.callback(made.close)
                return made

            episodes = progress.add_task("episodes", total=None)
            steps = progress.add_task(config.credit.algorithm, total=config.training.steps)
            shown = StepDisplay(progress, steps, log, self.output / "trajectories", self.stop, self.console)
            trainer = TSPOTrainer(
                model,
                questions=materials.train,
                retriever=materials.retriever,
                codec=materials.codec,
                limits=config.rollout.limits(),
                credit=config.credit.to_config(),
                concurrency=config.rollout.concurrency,
                make_sampler=sampler,
                sampling_dtype=sampling_dtype(config),
                trajectory_dir=self.output / "trajectories",
                token_details=config.training.token_details,
                answer_cue=config.training.answer_cue,
                write_card=lambda folder: self._write_card(folder, trainer.hub_model_id),
                on_episode=lambda done, total: progress.update(episodes, completed=done, total=total),
                args=grpo_config(config, self.state.num_processes),
                train_dataset=Dataset.from_dict(
                    {"prompt": [q.question for q in materials.train], "index": range(len(materials.train))}
                ),
                processing_class=materials.codec.tokenizer,
                peft_config=_lora(config),
                callbacks=[log, shown],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self.stop.check()
        accelerator = trainer.accelerator
        # Parameters that are spread over processes are gathered by all of them.
        weights = accelerator.get_state_dict(trainer.model_wrapped) if is_spread(accelerator) else None
        if self.state.is_main_process:
            trained = accelerator.unwrap_model(trainer.model)
            merged = trained.merge_and_unload() if config.training.lora else trained
            self._save_model(merged, folder, weights)
        self.state.wait_for_everyone()
        return folder

    def _last_checkpoint(self) -> Path | None:
        """Where to go on from; what a stop left behind after it is removed."""
        checkpoint = last_whole_checkpoint(self.output)
        for path in checkpoints_in(self.output):
            if not is_whole(path):
                shutil.rmtree(path)
        truncate_metrics(self.output / "metrics.jsonl", (step_of(checkpoint) or 0) if checkpoint else 0)
        return checkpoint

    def _evaluate(self, stage: str, model: str) -> None:
        self.stop.check()
        if not self.materials.test:
            return
        folder = self.output / "evaluation" / stage.replace(" ", "-")
        done = of_main(read_evaluation(folder) if self.state.is_main_process else None)
        self.summaries[stage] = done or evaluate_model(
            model, self.config, self.materials, folder, self.console, f"evaluate {stage}", self.state, again=True
        )

    def _save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        model.save_pretrained(folder, state_dict=weights)
        self.materials.codec.tokenizer.save_pretrained(folder)
        self._write_card(folder)
        mark_whole(folder)

    def _write_card(self, folder: Path, hub_id: str | None = None) -> None:
        write_card(self.output, folder, json.loads(self.config.model_dump_json()), hub_id)

    def _say(self, what: str, where: Path) -> None:
        self.console.print(f"{what}: {where}", markup=False, highlight=False, soft_wrap=True)


def check_split(config: RunConfig, processes: int) -> None:
    """Raise BadInput where a step, or a step of the warm-up, cannot be split evenly over the processes."""
    training, warmup = config.training, config.warmup
    trajectories = training.groups_per_step * training.group_size
    if trajectories % (training.micro_batch * processes):
        raise BadInput(
            f"training.micro_batch: {training.micro_batch} x {processes} processes does not divide groups_per_step x "
            f"group_size = {trajectories}"
        )
    if processes > 1 and config.rollout.vllm.get("tensor_parallel_size", 1) > 1:
        raise BadInput(
            f"rollout.vllm.tensor_parallel_size: each of the {processes} processes has an engine on its own GPU; "
            "leave it out"
        )
    if warmup.epochs and warmup.batch_size % processes:
        raise BadInput(f"warmup.batch_size: {warmup.batch_size} cannot be split over {processes} processes")


def grpo_config(config: RunConfig, processes: int = 1) -> GRPOConfig:
    """TRL's settings for this run on each of `processes`; `training.trl` goes over them."""
    training = config.training
    trajectories = training.groups_per_step * training.group_size
    settings: dict[str, Any] = {
        "output_dir": str(config.output_dir),
        "max_steps": training.steps,
        "per_device_train_batch_size": training.micro_batch,
        "gradient_accumulation_steps": trajectories // (training.micro_batch * processes),
        "num_generations": training.group_size,
        "temperature": config.rollout.temperature,
        "max_completion_length": config.rollout.max_total_tokens,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler,
        "beta": training.beta,
        "epsilon": training.epsilon,
        # The spec's KL is the plain k3 estimator; TRL's default weighs it by the ratio.
        "use_bias_correction_kl": False,
        "max_grad_norm": training.max_grad_norm,
        "bf16": training.dtype == "bfloat16",
        "use_cpu": device_of(config).type == "cpu",
        # A GPU's memory is short, a CPU's time is.
        "activation_checkpointing": device_of(config).type != "cpu",
        "seed": config.seed,
        "data_seed": config.seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": training.save_every,
        "save_total_limit": training.keep_checkpoints,
        "report_to": training.report_to,
        "hub_strategy": AT_THE_END,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    try:
        return GRPOConfig(**settings | training.trl)
    except (TypeError, ValueError) as error:
        raise BadInput(f"training.trl: {' '.join(str(error).split())}") from None


def _lora(config: RunConfig) -> LoraConfig | None:
    lora = config.training.lora
    if lora is None:
        return None
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _warmup_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what the warm-up makes."""
    settings: dict[str, Any] = json.loads(config.model_dump_json())
    data = settings["data"]
    kept = {name: settings[name] for name in ("model", "seed", "rollout", "warmup")}
    return kept | {"data": {name: data[name] for name in ("train", "corpus", "world")}}
