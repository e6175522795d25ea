"""How the starter policy is made: `python -m tspo.training.starter FOLDER`.

Each stage is supervised learning on demonstrations: read one fact, follow whole chains as a skilled
demonstrator does, and then the habits that reinforcement learning is to mend.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tspo.datasets.world import make_questions, make_world, passages
from tspo.files import atomic_write
from tspo.retrieval.bm25 import BM25Retriever
from tspo.rewards.matching import exact_match
from tspo.rollout.codec import Codec
from tspo.rollout.completion import completion_of
from tspo.rollout.episode import Limits
from tspo.training.starter.demonstrator import SKILLED, WITH_HABITS, Demonstrator, Habits
from tspo.training.starter.muon import Muon
from tspo.training.starter.tokenizer import make_tokenizer
from tspo.trajectory import Trajectory

PROMPT = "Question: {question}\n"
LIMITS = Limits(max_turns=4, max_turn_tokens=64, max_feedback_tokens=96, max_total_tokens=512, top_k=1)
_LABEL_IGNORED = -100
_MATRIX_DECAY = 0.05
_SORTED_TOGETHER = 20
"""Batches whose rows are sorted by length together, so that little is padded."""


@dataclass(frozen=True, slots=True)
class Stage:
    """`steps` of `batch` demonstrations, of `questions` in each of `worlds` worlds from `first_world` on.

    The learning rates (of the layers' matrices, and of the rest) fall to nothing over the last share `fall`.
    """

    name: str
    habits: Habits
    hops: tuple[int, ...]
    steps: int
    batch: int
    first_world: int
    worlds: int
    questions: int
    matrix_rate: float
    rate: float
    fall: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what the starter is."""

    vocabulary: int = 4352
    hidden: int = 160
    layers: int = 4
    heads: int = 5
    intermediate: int = 416
    seed: int = 0
    stages: tuple[Stage, ...] = (
        Stage("copy", SKILLED, (1,), 400, 32, 1000, 12, 1000, 0.02, 3e-3, 0.3),
        Stage("follow", SKILLED, (1, 2, 3), 1300, 32, 2000, 36, 1200, 0.02, 3e-3, 0.9),
        Stage("habits", WITH_HABITS, (1, 2, 3), 200, 32, 3000, 6, 1200, 0.005, 5e-4, 0.2),
    )


OnStep = Callable[[str, int, float], None]
"""Called with (stage, steps done in it, running mean of the loss)."""


def make_starter(recipe: Recipe, on_step: OnStep) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train the starter from nothing; the worlds it learns in have seeds of their own."""
    tokenizer = make_tokenizer(recipe.vocabulary, worlds=8)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    codec = Codec(tokenizer, PROMPT)
    for stage in recipe.stages:
        train_stage(model, stage, demonstrations(stage, codec), recipe.seed, on_step)
    return model, tokenizer


def demonstrations(stage: Stage, codec: Codec) -> list[tuple[list[int], list[int]]]:
    """`(input_ids, labels)` of every demonstration of a stage, labels only where the policy writes."""
    shown = []
    for seed in range(stage.first_world, stage.first_world + stage.worlds):
        world = make_world(1500, seed)
        retriever = BM25Retriever.build(passages(world))
        demonstrator = Demonstrator(world, retriever, codec, LIMITS, stage.habits, seed)
        questions = make_questions(world, stage.questions, 0, stage.hops, seed).train
        # A skilled demonstrator is never wrong; where a namesake's page hid the right one, it shows nothing.
        shown += [
            trajectory
            for trajectory in map(demonstrator.demonstrate, questions)
            if stage.habits != SKILLED or exact_match(trajectory.answer, trajectory.golden_answers) == 1
        ]
    return [_row(trajectory) for trajectory in shown]


def _row(trajectory: Trajectory) -> tuple[list[int], list[int]]:
    prompt, completion = trajectory.prompt_token_ids or [], completion_of(trajectory)
    ids = completion.token_ids.tolist()
    labels = [token if turn >= 0 else _LABEL_IGNORED for token, turn in zip(ids, completion.turn_index, strict=True)]
    return prompt + ids, [_LABEL_IGNORED] * len(prompt) + labels


def train_stage(
    model: LlamaForCausalLM, stage: Stage, rows: list[tuple[list[int], list[int]]], seed: int, on_step: OnStep
) -> None:
    """Train `model` in place: Muon on the matrices of its layers, AdamW on the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = (
        Muon(matrices, lr=stage.matrix_rate, weight_decay=_MATRIX_DECAY),
        torch.optim.AdamW(others, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.0),
    )
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step, stage)) for o in optimizers]
    batches = _batches(rows, stage.batch, random.Random(f"{stage.name}/{seed}"))
    mean = 0.0
    model.train()
    for step in range(1, stage.steps + 1):
        loss = _loss(model, next(batches))
        model.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        mean += (loss.item() - mean) * max(0.05, 1 / step)
        on_step(stage.name, step, mean)
    model.eval()


def _rate(step: int, stage: Stage) -> float:
    """Up over 20 steps, level, and down to a fiftieth at the end."""
    return min(1.0, (step + 1) / 20) * min(1.0, (1 - step / stage.steps) / stage.fall + 0.02)


def _batches(
    rows: list[tuple[list[int], list[int]]], size: int, generator: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless shuffled batches of ids and labels (rows, tokens), rows of like length together."""
    rows = list(rows)
    chunk = min(size * _SORTED_TOGETHER, len(rows))
    while True:
        generator.shuffle(rows)
        for start in range(0, len(rows) - chunk + 1, chunk):
            alike = sorted(rows[start : start + chunk], key=lambda row: len(row[0]))
            batches = [alike[i : i + size] for i in range(0, chunk, size)]
            generator.shuffle(batches)
            yield from map(_padded, batches)


def _padded(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), _LABEL_IGNORED)
    for i, (row_ids, row_labels) in enumerate(rows):
        ids[i, : len(row_ids)] = torch.tensor(row_ids)
        labels[i, : len(row_labels)] = torch.tensor(row_labels)
    return ids, labels


def _loss(model: LlamaForCausalLM, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy at the policy's tokens; logits are computed only there."""
    ids, labels = batch
    wanted = labels[:, 1:] != _LABEL_IGNORED
    # Padding is on the right, so that causal attention needs no mask.
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][wanted]
    return nn.functional.cross_entropy(model.lm_head(states), labels[:, 1:][wanted])


def save_starter(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    log: list[dict[str, object]],
    folder: Path,
) -> None:
    """Write the model in bfloat16, its tokenizer, and how it was made."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with atomic_write(folder / "recipe.json") as stream:
        json.dump({"recipe": asdict(recipe), "losses": log}, stream, indent=1)
