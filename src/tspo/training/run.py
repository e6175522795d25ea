"""`tspo train` from end to end: evaluate, warm up, evaluate, train, evaluate; stop and go on anywhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from transformers import PreTrainedModel, PrinterCallback, set_seed
from trl import GRPOConfig

from tspo.config import DataSection, RunConfig
from tspo.datasets.questions import Question, read_questions
from tspo.datasets.supporting_passages import with_supporting_passages
from tspo.datasets.world.files import world_files
from tspo.errors import BadInput
from tspo.evaluation.metrics import Summary
from tspo.evaluation.report import write_report
from tspo.evaluation.runner import read_evaluation, run_questions, write_evaluation
from tspo.evaluation.table import format_comparison
from tspo.files import atomic_write, explain_full_disk
from tspo.progress import bars
from tspo.retrieval.base import Retriever
from tspo.rollout.codec import Codec
from tspo.rollout.models import cache_dir, load_model, load_tokenizer
from tspo.rollout.sampler import Sampler
from tspo.training.agent import (
    agent_loop,
    check_prompts_fit,
    check_trainable,
    device_of,
    make_sampler,
    quiet_libraries,
    sampler_kind,
)
from tspo.training.checkpoints import checkpoints_in, is_whole, last_whole_checkpoint, mark_whole, step_of
from tspo.training.metrics_log import MetricsLog, truncate_metrics
from tspo.training.retriever import retriever_of
from tspo.training.run_folder import MAY_CHANGE, changed_settings, check_disk, only_run_in, prepare_output
from tspo.training.signals import StopRequest, stop_on_signals
from tspo.training.step_display import StepDisplay
from tspo.training.trainer import TSPOTrainer
from tspo.training.warmup import demonstrations, warm_up

_WARMUP_SETTINGS = "warmup.json"


@dataclass(frozen=True, slots=True)
class Materials:
    """What a run reads: questions to train on and to test on, a retriever, and the tokenizer's codec."""

    train: list[Question]
    test: list[Question]
    retriever: Retriever
    codec: Codec


def read_materials(config: RunConfig) -> Materials:
    """Read and check all input of a run; raises BadInput before anything is written."""
    sampler_kind(config)
    files = data_files(config.data)
    train = read_questions(files.train)
    if config.credit.to_config().rewards.needs == "passages":
        train = with_supporting_passages(train, files.corpus)
    test = read_questions(files.test) if files.test else []
    retriever = retriever_of(config.rollout, files.corpus)
    codec = Codec(load_tokenizer(config.model), config.rollout.prompt)
    check_prompts_fit(codec, [q.question for q in (*train, *test)], config.rollout.max_total_tokens)
    return Materials(train, test, retriever, codec)


@dataclass(frozen=True, slots=True)
class DataFiles:
    """The files that a run reads."""

    train: Sequence[Path]
    test: Sequence[Path]
    corpus: Path | None


def data_files(data: DataSection) -> DataFiles:
    """The files that the settings name, or those of the embedded world, made now if they are not there yet."""
    if data.world is not None:
        world = world_files(data.world.to_settings(), cache_dir() / "worlds")
        return DataFiles([world.train], [world.test] if data.world.test_questions else [], world.corpus)
    return DataFiles(data.train, data.test, data.corpus)


def run_training(config: RunConfig, *, resume: bool, console: Console) -> dict[str, Summary]:
    """Run or resume a whole training run; returns the evaluation summaries by stage.

    Raises BadInput for unusable input and Stopped when a signal ended the run early.
    """
    with _opened(config, console) as run:
        grpo_config(config)  # TRL checks the settings that are its own
        prepare_output(config, resume)
        return run.run()


def run_warmup(config: RunConfig, *, console: Console) -> Path:
    """Only the warm-up of a run: the folder of the warmed-up model."""
    if config.warmup.epochs == 0:
        raise BadInput("warmup.epochs: 0 means no warm-up; say for example warmup.epochs=2")
    with _opened(config, console) as run:
        return run.warmed_up()


def run_steps(config: RunConfig, *, console: Console) -> Path:
    """Only the training of a run, from the model as it is: the folder of the trained model."""
    with _opened(config, console) as run:
        grpo_config(config)
        prepare_output(config, resume=False)
        return run.trained(config.model)


def run_evaluation(config: RunConfig, folder: Path, *, console: Console) -> Summary:
    """Evaluate `config.model` on the test questions and write the result to `folder`."""
    with explain_full_disk(folder), quiet_libraries():
        materials = read_materials(config)
        if not materials.test:
            raise BadInput("data.test: no questions to evaluate on; name a file of them")
        return _evaluate_model(config.model, config, materials, folder, console, "evaluate")


@contextmanager
def _opened(config: RunConfig, console: Console) -> Iterator[_Run]:
    """A run with its input read and checked, and its folder locked."""
    check_trainable(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput("tspo train is for one process; with accelerate launch, use tspo.training.trainer.TSPOTrainer")
    with explain_full_disk(config.output_dir), quiet_libraries():
        materials = read_materials(config)
        with (
            only_run_in(config.output_dir),
            stop_on_signals(lambda: console.print("Stopping after this step; once more to stop at once.")) as stop,
        ):
            yield _Run(config, materials, console, stop)


class _Run:
    """The stages of one run; each leaves a result in the output folder and is not done twice."""

    def __init__(self, config: RunConfig, materials: Materials, console: Console, stop: StopRequest) -> None:
        self.config = config
        self.materials = materials
        self.console = console
        self.stop = stop
        self.output = config.output_dir
        self.summaries: dict[str, Summary] = {}

    def run(self) -> dict[str, Summary]:
        config = self.config
        if config.evaluation.before:
            self._evaluate("before", config.model)
        start = config.model
        if config.warmup.epochs > 0:
            start = str(self.warmed_up())
            self._evaluate("after warm-up", start)
        final = self.trained(start)
        self._evaluate("after training", str(final))
        if self.summaries:
            self.console.print(format_comparison(self.summaries), markup=False, highlight=False, soft_wrap=True)
        self._say("model", final)
        self._say("metrics", self.output / "metrics.jsonl")
        self._say("trajectories", self.output / "trajectories")
        self._say("report", write_report(self.output))
        return self.summaries

    def warmed_up(self) -> Path:
        config, materials = self.config, self.materials
        folder = self.output / "warmup"
        settings = _warmup_settings(config)
        if is_whole(folder):
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

            loss = warm_up(model, materials.codec, shown, config, folder, on_step)
        self.console.print(f"Warm-up: mean loss {loss:.4f}", highlight=False)
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / _WARMUP_SETTINGS) as stream:
            json.dump(settings, stream, indent=1)
        _save_model(model, materials.codec, folder)
        return folder

    def trained(self, start: str) -> Path:
        folder = self.output / "model"
        if is_whole(folder):
            return folder
        config, materials = self.config, self.materials
        checkpoint = last_whole_checkpoint(self.output)
        for path in checkpoints_in(self.output):
            if not is_whole(path):
                shutil.rmtree(path)
        truncate_metrics(self.output / "metrics.jsonl", (step_of(checkpoint) or 0) if checkpoint else 0)
        set_seed(config.seed)
        model = load_model(start)
        check_disk(model, config)
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
                trajectory_dir=self.output / "trajectories",
                answer_cue=config.training.answer_cue,
                on_episode=lambda done, total: progress.update(episodes, completed=done, total=total),
                args=grpo_config(config),
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
        trained = trainer.accelerator.unwrap_model(trainer.model)
        _save_model(trained.merge_and_unload() if config.training.lora else trained, materials.codec, folder)
        return folder

    def _evaluate(self, stage: str, model: str) -> None:
        self.stop.check()
        if not self.materials.test:
            return
        folder = self.output / "evaluation" / stage.replace(" ", "-")
        done = read_evaluation(folder)
        self.summaries[stage] = done or _evaluate_model(
            model, self.config, self.materials, folder, self.console, f"evaluate {stage}"
        )

    def _say(self, what: str, where: Path) -> None:
        self.console.print(f"{what}: {where}", markup=False, highlight=False, soft_wrap=True)


def _evaluate_model(
    model: str, config: RunConfig, materials: Materials, folder: Path, console: Console, label: str
) -> Summary:
    temperature = config.evaluation.temperature
    with agent_loop(model, materials.codec, materials.retriever, config, temperature=temperature) as loop:
        trajectories = run_questions(
            loop,
            materials.test,
            samples=config.evaluation.samples,
            seed=config.seed,
            console=console,
            label=label,
        )
    return write_evaluation(trajectories, folder)


def grpo_config(config: RunConfig) -> GRPOConfig:
    """TRL's settings for this run; `training.trl` goes over them."""
    training = config.training
    trajectories = training.groups_per_step * training.group_size
    settings: dict[str, Any] = {
        "output_dir": str(config.output_dir),
        "max_steps": training.steps,
        "per_device_train_batch_size": training.micro_batch,
        "gradient_accumulation_steps": trajectories // training.micro_batch,
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
        "activation_checkpointing": False,
        "seed": config.seed,
        "data_seed": config.seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": training.save_every,
        "save_total_limit": training.keep_checkpoints,
        "report_to": training.report_to,
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


def _save_model(model: PreTrainedModel, codec: Codec, folder: Path) -> None:
    model.save_pretrained(folder)
    codec.tokenizer.save_pretrained(folder)
    mark_whole(folder)


def _warmup_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what the warm-up makes."""
    settings: dict[str, Any] = json.loads(config.model_dump_json())
    data = settings["data"]
    kept = {name: settings[name] for name in ("model", "seed", "rollout", "warmup")}
    return kept | {"data": {name: data[name] for name in ("train", "corpus", "world")}}
