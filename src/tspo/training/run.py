"""`tspo train` from end to end: evaluate, SFT, evaluate, train, evaluate; stop and resume anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import LoraConfig
from rich.console import Console
from transformers import PreTrainedModel

from tspo.config import RunConfig
from tspo.errors import BadInput
from tspo.evaluation.card import write_card
from tspo.evaluation.metrics import Summary
from tspo.evaluation.report import write_report
from tspo.evaluation.runner import forget_evaluation, read_evaluation
from tspo.evaluation.table import format_comparison
from tspo.files import atomic_write, explain_full_disk, sync
from tspo.progress import bars
from tspo.rollout.models import load_model
from tspo.rollout.sampler import Sampler
from tspo.training.agent import check_trainable, device_of, make_sampler, quiet_libraries, sampling_dtype
from tspo.training.answer_scores import check_can_score
from tspo.training.checkpoints import (
    MARK,
    begin,
    checkpoint_to_resume,
    is_whole,
    mark_whole,
    remove_old_checkpoints,
    step_of,
    step_of_mark,
)
from tspo.training.demonstrations import demonstrations
from tspo.training.evaluate import evaluate_model
from tspo.training.hub import make_repository, push_model
from tspo.training.learner import LearnerSettings, load_weights, make_learner, save_model, save_weights, with_adapters
from tspo.training.loop import train
from tspo.training.materials import Given, Materials, keep_questions, read_materials
from tspo.training.metrics_log import append_metrics, truncate_metrics
from tspo.training.objective import Objective
from tspo.training.policy_rollout import PolicyRollout
from tspo.training.processes import any_signal, failing_together, join_processes, of_main
from tspo.training.run_folder import MAY_CHANGE, changed_settings, check_disk, only_run_in, prepare_output
from tspo.training.sample_display import sample_lines
from tspo.training.sft import fine_tune, sft_settings, sft_steps
from tspo.training.signals import StopRequest, stop_on_signals
from tspo.training.step import StepInputs, StepSettings, questions_of_step
from tspo.training.step_display import print_lines, shows_sample, step_text
from tspo.training.step_files import step_file
from tspo.training.tracking import FOLDER, Trackers, check_trackers, open_trackers
from tspo.training.training_state import Progress, load_state, save_state
from tspo.training.whole_policy import WholePolicy, is_sharded

_WARMUP_SETTINGS = "warmup.json"


def run_training(
    config: RunConfig, *, resume: bool, console: Console, given: Given | None = None
) -> dict[str, Summary]:
    """Run or resume a whole training run, on what is `given` or else read; returns the evaluation summaries by stage.

    Raises BadInput for unusable input and Stopped when a signal ended the run early.
    """
    with _opened(config, console, given) as run:
        hub = config.training.hub
        if hub is not None and run.accelerator.is_main_process:
            make_repository(hub)
        run.prepare(resume, given)
        summaries, model = run.run()
        if hub is not None and run.accelerator.is_main_process:
            console.print(f"pushed: {push_model(config.output_dir, model, hub)}", markup=False)
        return summaries


def run_warmup(config: RunConfig, *, console: Console) -> Path:
    """Only the warm-up of a run: the folder of the warmed-up model."""
    if config.warmup.epochs == 0:
        raise BadInput("warmup.epochs: 0 means no warm-up; say for example warmup.epochs=2")
    with _opened(config, console, only_sft=True) as run:
        return run.warmed_up()


def run_steps(config: RunConfig, *, console: Console) -> Path:
    """Only the training of a run, from the model as it is: the folder of the trained model."""
    with _opened(config, console) as run:
        run.prepare(resume=False)
        with open_trackers(config, run.accelerator) as trackers:
            return run.trained(config.model, trackers)


def run_evaluation(
    config: RunConfig, folder: Path, *, again: bool, console: Console, given: Given | None = None
) -> Summary:
    """Evaluate `config.model` on the test questions and write the result to `folder`; see `evaluate_model`.

    On what is `given` it is done anew, whatever is there: nothing tells whether its retriever is the same.
    """
    state = join_processes(config)
    with failing_together(state), explain_full_disk(folder), quiet_libraries():
        with state.local_main_process_first():
            materials = read_materials(config, given, training=False)
        if not materials.test:
            raise BadInput("data.test: no questions to evaluate on; name a file of them")
        screen = console if state.is_main_process else Console(quiet=True)
        with only_run_in(folder) if state.is_main_process else nullcontext():
            if given is not None and state.is_main_process:
                forget_evaluation(folder)
            return evaluate_model(config.model, config, materials, folder, screen, "evaluate", state, again=again)


@contextmanager
def _opened(
    config: RunConfig, console: Console, given: Given | None = None, *, only_sft: bool = False
) -> Iterator[_Run]:
    """A run with its input read and checked, and its folder locked by the main process."""
    check_trainable(config)
    check_trackers(config.training.report_to)
    state = join_processes(config)
    with failing_together(state), explain_full_disk(config.output_dir), quiet_libraries():
        check_split(config, state.num_processes)
        screen = console if state.is_main_process else Console(quiet=True)
        # What is made once, a world or an index, is then there for the others.
        with state.local_main_process_first():
            materials = read_materials(config, given)
        if not only_sft:
            questions_of_step(1, len(materials.train), config.training.groups_per_step, config.seed)
        accelerator = Accelerator(
            cpu=device_of(config).type == "cpu",
            mixed_precision="no",  # the update has an autocast of its own; sampling has none
            log_with=list(config.training.report_to) or None,
            project_dir=str(config.output_dir / FOLDER),
        )
        with (
            only_run_in(config.output_dir) if state.is_main_process else nullcontext(),
            stop_on_signals(
                lambda: screen.print("Stopping after this step; once more to stop at once.", markup=False, emoji=False),
                any_signal if state.num_processes > 1 else None,
            ) as stop,
        ):
            yield _Run(config, materials, screen, stop, accelerator)


class _Run:
    """The stages of one run; each leaves a result in the output folder and is not done twice."""

    def __init__(
        self, config: RunConfig, materials: Materials, console: Console, stop: StopRequest, accelerator: Accelerator
    ) -> None:
        self.config = config
        self.materials = materials
        self.console = console
        self.stop = stop
        self.accelerator = accelerator
        self.output = config.output_dir
        self.summaries: dict[str, Summary] = {}

    def prepare(self, resume: bool, given: Given | None = None) -> None:
        """Check what can be checked before anything is written, and write the run's settings, and what is `given`."""
        if self.accelerator.is_main_process:
            prepare_output(self.config, resume)
            if given is not None:
                keep_questions(given, self.config.data, resume=resume)
        self.accelerator.wait_for_everyone()

    def run(self) -> tuple[dict[str, Summary], Path]:
        """All stages; the evaluations by stage, and the folder of the trained model."""
        config = self.config
        with open_trackers(config, self.accelerator) as trackers:
            if config.evaluation.before:
                self._evaluate("before", config.model, trackers, step=0)
            start = config.model
            if config.warmup.epochs > 0:
                start = str(self.warmed_up())
                self._evaluate("after warm-up", start, trackers, step=0)
            final = self.trained(start, trackers)
            self._evaluate("after training", str(final), trackers, config.training.steps)
        for folder in (final, self.output):
            self._write_card(folder)
        if self.summaries:
            self.console.print(format_comparison(self.summaries), markup=False, highlight=False, soft_wrap=True)
        self._say("model", final)
        self._say("metrics", self.output / "metrics.jsonl")
        self._say("trajectories", self.output / "trajectories")
        if self.accelerator.is_main_process:
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
        self.console.print(f"SFT: {len(shown)} demonstrations from {len(materials.train)} questions", highlight=False)
        warmup, training = config.warmup, config.training
        steps = sft_steps(len(shown), warmup.epochs, warmup.batch_size)
        set_seed(config.seed)
        settings_of_sft = sft_settings(steps, warmup.learning_rate, autocast_of(config), training.micro_batch)
        learner = make_learner(load_model(config.model), settings_of_sft, self.accelerator)
        with bars(self.console) as progress:
            task = progress.add_task("SFT", total=steps)

            def on_step(step: int, steps: int, loss: float) -> None:
                self.stop.check()
                progress.update(task, completed=step, description=f"SFT, loss {loss:.3f}")
                if step % max(steps // 10, 1) == 0:
                    self.console.print(f"SFT {step}/{steps}  loss {loss:.3f}", highlight=False)

            loss = fine_tune(
                learner, shown, steps=steps, batch_size=warmup.batch_size, seed=config.seed, on_step=on_step
            )
        self.console.print(f"SFT: mean loss {loss:.4f}", highlight=False)
        if self.accelerator.is_main_process:
            folder.mkdir(exist_ok=True)
            with atomic_write(folder / _WARMUP_SETTINGS) as stream:
                json.dump(settings, stream, indent=1)
        self._save_model(learner.model, folder)
        self.accelerator.free_memory()  # it keeps what it prepared, and would clip two models at once
        return folder

    def trained(self, start: str, trackers: Trackers) -> Path:
        """The folder of the trained model: trained from `start`, or from the last checkpoint on."""
        folder = self.output / "model"
        config, materials, training = self.config, self.materials, self.config.training
        if of_main(self._is_trained(folder) if self.accelerator.is_main_process else None):
            return folder
        checkpoint = of_main(self._last_checkpoint(folder) if self.accelerator.is_main_process else None)
        set_seed(config.seed)
        policy: Any = load_model(start)
        check_disk(policy, config)
        credit = config.credit.to_config()
        if credit.rewards.needs == "model":
            check_can_score(policy)
        sharded = is_sharded(self.accelerator)
        if training.lora is not None:
            policy = with_adapters(policy, _lora(config), getattr(torch, training.lora.base_dtype))
        whole = WholePolicy(policy, sampling_dtype(config)) if sharded else None
        reference = None
        if training.beta > 0 and training.lora is None:
            reference = load_model(start)
        if checkpoint is not None:
            load_weights(policy, checkpoint)
        learner = make_learner(policy, learner_settings(config), self.accelerator, reference)
        done = Progress() if checkpoint is None else load_state(checkpoint, learner)

        def sampler(policy: PreTrainedModel) -> Sampler:
            episodes = training.groups_per_step * training.group_size
            rows = min(config.rollout.concurrency, -(-episodes // self.accelerator.num_processes))
            return make_sampler(policy, materials.codec, config, rows=rows, temperature=config.rollout.temperature)

        def save(progress_so_far: Progress) -> None:
            checkpoint = self.output / f"checkpoint-{progress_so_far.step}"
            if self.accelerator.is_main_process:
                begin(checkpoint)
            save_weights(learner.model, checkpoint, materials.codec.tokenizer, self.accelerator)
            save_state(checkpoint, learner, progress_so_far)
            if self.accelerator.is_main_process:
                self._write_card(checkpoint)
                sync(self.output / "metrics.jsonl")
                mark_whole(checkpoint, progress_so_far.step)
                remove_old_checkpoints(self.output, training.keep_checkpoints)
            self.accelerator.wait_for_everyone()

        with bars(self.console) as progress:
            episode_bar = progress.add_task("episodes", total=None)
            bar = progress.add_task(config.credit.algorithm, total=training.steps, completed=done.step)

            def on_step(line: dict[str, Any]) -> None:
                trackers.log(line, line["step"])
                if not self.accelerator.is_main_process:
                    return
                append_metrics(line, self.output / "metrics.jsonl")
                progress.update(bar, completed=line["step"])
                print_lines([step_text(line, training.steps)], self.console)
                if shows_sample(line["step"], training.steps):
                    sample = sample_lines(step_file(self.output / "trajectories", line["step"]))
                    print_lines(sample, self.console, style="dim")
                    trackers.log_sample(sample, line["step"])

            rollout = PolicyRollout(
                policy if whole is None else learner.model,
                sampler,
                materials.codec,
                materials.retriever,
                config.rollout.limits(),
                temperature=config.rollout.temperature,
                whole=whole,
                on_episode=lambda ended, total: progress.update(episode_bar, completed=ended, total=total),
            )
            with closing(rollout):
                done = train(
                    StepInputs(materials.train, rollout, rollout, materials.codec, learner),
                    step_settings(config),
                    steps=training.steps,
                    done=done,
                    save_every=training.save_every,
                    save=save,
                    on_step=on_step,
                    stop=self.stop,
                    max_skipped=training.max_skipped,
                )
        self.stop.check()
        self._save_model(learner.model, folder, done.step)
        return folder

    def _is_trained(self, folder: Path) -> bool:
        """Whether the model is there, trained for as many steps as are wanted; older ones do not say for how many."""
        if not is_whole(folder):
            return False
        steps = step_of_mark(folder)
        return steps is None or steps >= self.config.training.steps

    def _last_checkpoint(self, folder: Path) -> Path | None:
        """Where to go on from; what a stop left behind after it is removed, and a model of fewer steps gives way."""
        checkpoint, goes_on = checkpoint_to_resume(self.output), is_whole(folder)
        if goes_on and checkpoint is None:
            raise BadInput(
                f"{folder}: is trained for {step_of_mark(folder)} steps of {self.config.training.steps}, and no "
                f"checkpoint is left to go on from; train from its weights with model={folder} and another output_dir"
            )
        truncate_metrics(self.output / "metrics.jsonl", (step_of(checkpoint) or 0) if checkpoint else 0)
        if goes_on:
            forget_evaluation(self.output / "evaluation" / "after-training")
            (folder / MARK).unlink()
        return checkpoint

    def _evaluate(self, stage: str, model: str, trackers: Trackers, step: int) -> None:
        self.stop.check()
        if not self.materials.test:
            return
        folder = self.output / "evaluation" / stage.replace(" ", "-")
        done = of_main(read_evaluation(folder) if self.accelerator.is_main_process else None)
        if done is None:
            state = self.accelerator.state
            label = f"evaluate {stage}"
            done = evaluate_model(model, self.config, self.materials, folder, self.console, label, state, again=True)
            trackers.log_evaluation(stage, done, step)
        self.summaries[stage] = done

    def _save_model(self, model: torch.nn.Module, folder: Path, step: int | None = None) -> None:
        """Save a policy with its adapters merged; all processes must call it."""
        save_model(model, folder, self.materials.codec.tokenizer, self.accelerator)
        if self.accelerator.is_main_process:
            self._write_card(folder)
            mark_whole(folder, step)
        self.accelerator.wait_for_everyone()

    def _write_card(self, folder: Path, hub_id: str | None = None) -> None:
        write_card(self.output, folder, json.loads(self.config.model_dump_json()), hub_id)

    def _say(self, what: str, where: Path) -> None:
        self.console.print(f"{what}: {where}", markup=False, highlight=False, soft_wrap=True)


def check_split(config: RunConfig, processes: int) -> None:
    """Raise BadInput where the run cannot be split over the processes."""
    if processes > 1 and config.rollout.vllm.get("tensor_parallel_size", 1) > 1:
        raise BadInput(
            f"rollout.vllm.tensor_parallel_size: each of the {processes} processes has an engine on its own GPU; "
            "leave it out"
        )


def learner_settings(config: RunConfig) -> LearnerSettings:
    """How the policy learns in a run."""
    training = config.training
    checkpointing = training.gradient_checkpointing
    return LearnerSettings(
        steps=training.steps * training.epochs * training.minibatches,
        learning_rate=training.learning_rate,
        schedule=training.lr_scheduler,
        warmup_steps=training.lr_warmup_steps,
        optimizer=training.optimizer,
        weight_decay=training.weight_decay,
        betas=(training.adam_beta1, training.adam_beta2),
        max_grad_norm=training.max_grad_norm,
        temperature=config.rollout.temperature,
        autocast=autocast_of(config),
        max_rows=training.micro_batch,
        max_tokens=training.pass_tokens,
        # A GPU's memory is short, a CPU's time is.
        checkpointing=device_of(config).type != "cpu" if checkpointing is None else checkpointing,
        compile=training.compile,
        with_reference=training.beta > 0,
    )


def step_settings(config: RunConfig) -> StepSettings:
    """What decides a step of a run."""
    training = config.training
    return StepSettings(
        groups_per_step=training.groups_per_step,
        group_size=training.group_size,
        credit=config.credit.to_config(),
        objective=Objective(
            surrogate=training.objective,
            average=training.average,
            average_length=training.average_length or config.rollout.max_total_tokens,
            epsilon=training.epsilon,
            epsilon_high=training.epsilon_high or training.epsilon,
            beta=training.beta,
            kl=training.kl,
        ),
        epochs=training.epochs,
        minibatches=training.minibatches,
        seed=config.seed,
        trajectory_dir=config.output_dir / "trajectories",
        token_details=training.token_details,
        answer_cue=training.answer_cue,
    )


def autocast_of(config: RunConfig) -> torch.dtype | None:
    """The precision of the update's forward passes; None is that of the weights."""
    return None if config.training.dtype == "float32" else getattr(torch, config.training.dtype)


def _lora(config: RunConfig) -> LoraConfig:
    lora = config.training.lora
    assert lora is not None
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
