"""Warm start: demonstrations made from supporting titles, learnt with TRL's SFTTrainer.

A small model does not know the protocol. A demonstration searches each supporting title, reads what the
real retriever returns for it, and gives the answer; the loss is on the policy's own tokens only.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tspo.config import RunConfig
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.retrieval.base import Retriever
from tspo.rewards.matching import normalize_answer
from tspo.rollout.codec import Codec
from tspo.rollout.completion import completion_of
from tspo.training.agent import device_of
from tspo.trajectory import StopReason, Trajectory, Turn

_FIRST = "<think>I should look up {title}.</think>\n<search>{title}</search>"
_NEXT = "<think>That leads to {title}. I should look it up.</think>\n<search>{title}</search>"
_LAST = "<think>Now I know enough to answer.</think>\n<answer>{answer}</answer>"
LABEL_IGNORED = -100


def demonstrations(
    questions: Sequence[Question], retriever: Retriever, codec: Codec, config: RunConfig
) -> list[Trajectory]:
    """One demonstration for each question whose hops fit in the limits; raises BadInput if there is none."""
    limits = config.rollout.limits()
    hops = [[codec.neutral(title) for title in hop_order(question)] for question in questions]
    wanted = [title for titles in hops for title in titles]
    results = dict(zip(wanted, retriever.search(wanted, limits.top_k), strict=True)) if wanted else {}
    made = []
    for question, titles in zip(questions, hops, strict=True):
        if not titles or len(titles) + 1 > limits.max_turns:
            continue
        turns = []
        for hop, title in enumerate(titles):
            text = (_NEXT if hop else _FIRST).format(title=title)
            contents = [passage.contents for passage in results[title]]
            feedback, feedback_ids = codec.feedback(contents, limits.max_feedback_tokens)
            turns.append(demonstrated_turn(text, codec, query=title, feedback=feedback, feedback_ids=feedback_ids))
        answer = codec.neutral(question.golden_answers[0]).strip()
        turns.append(demonstrated_turn(_LAST.format(answer=answer), codec))
        trajectory = Trajectory(
            group_id=question.id,
            trajectory_id=f"{question.id}-demonstration",
            question=question.question,
            golden_answers=list(question.golden_answers),
            turns=turns,
            answer=answer,
            stop_reason=StopReason.ANSWER,
            prompt_token_ids=codec.prompt(question.question),
            extra={"data_source": question.data_source},
        )
        longest = max(len(turn.token_ids or []) for turn in turns)
        if longest <= limits.max_turn_tokens and _length(trajectory) <= limits.max_total_tokens:
            made.append(trajectory)
    if not made:
        raise BadInput(
            "warmup: no demonstration could be made; the training questions need 'supporting_titles' whose "
            "number is below rollout.max_turns, and room in rollout.max_turn_tokens and rollout.max_total_tokens"
        )
    return made[: config.warmup.max_demonstrations]


def hop_order(question: Question) -> list[str]:
    """Supporting titles in the order they can be found in: those that the question names come first."""
    asked = set(normalize_answer(question.question).split())

    def named(title: str) -> float:
        words = normalize_answer(title).split()
        return sum(word in asked for word in words) / max(len(words), 1)

    titles = [_searchable(title) for title in question.supporting_titles]
    return sorted((title for title in titles if title), key=named, reverse=True)


def sft_rows(trajectories: Sequence[Trajectory]) -> dict[str, list[list[int]]]:
    """`input_ids` and `labels` of each trajectory; labels only on the tokens that the policy writes."""
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for trajectory in trajectories:
        prompt = trajectory.prompt_token_ids or []
        completion = completion_of(trajectory)
        labels = torch.where(
            torch.tensor(completion.sampled, dtype=torch.bool),
            torch.tensor(completion.token_ids),
            LABEL_IGNORED,
        )
        rows["input_ids"].append(prompt + completion.token_ids.tolist())
        rows["labels"].append([LABEL_IGNORED] * len(prompt) + labels.tolist())
    return rows


def warm_up(
    model: PreTrainedModel,
    codec: Codec,
    trajectories: Sequence[Trajectory],
    config: RunConfig,
    folder: Path,
    on_step: Callable[[int, int, float | None], None],
    processes: int = 1,
) -> float:
    """Fine-tune `model` in place on demonstrations; returns the mean loss of training.

    `on_step` sees (steps done, steps in all, last loss). Each of `processes` takes its part of every step; nothing is
    written but by the caller.
    """
    warmup = config.warmup
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            num_train_epochs=warmup.epochs,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=warmup.batch_size // processes,
            learning_rate=warmup.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            max_length=None,
            bf16=config.training.dtype == "bfloat16",
            use_cpu=device_of(config).type == "cpu",
            activation_checkpointing=False,
            seed=config.seed,
            data_seed=config.seed,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_dict(sft_rows(trajectories)),
        processing_class=codec.tokenizer,
        callbacks=[_OnStep(on_step)],
    )
    trainer.remove_callback(PrinterCallback)
    return float(trainer.train().training_loss)


class _OnStep(TrainerCallback):
    def __init__(self, on_step: Callable[[int, int, float | None], None]) -> None:
        self.on_step = on_step

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        if logs and "loss" in logs:
            self.on_step(state.global_step, state.max_steps, logs["loss"])


def demonstrated_turn(
    text: str,
    codec: Codec,
    query: str | None = None,
    feedback: str | None = None,
    feedback_ids: list[int] | None = None,
) -> Turn:
    """A turn that somebody wrote, as if the policy had."""
    token_ids = codec.policy(text)
    # A demonstration was not sampled: its tokens have no log-probability of their own.
    return Turn(text, query, feedback, token_ids, [0.0] * len(token_ids), feedback_ids)


def _searchable(title: str) -> str:
    """A title as a person would type it: entities decoded, no brackets, nothing that could be a tag."""
    return re.sub(r"[<>]|\s*\([^)]*\)", "", html.unescape(title)).strip()


def _length(trajectory: Trajectory) -> int:
    return len(trajectory.prompt_token_ids or []) + len(completion_of(trajectory).token_ids)
