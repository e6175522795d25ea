"""Turn-level credit in TRL's own GRPOTrainer, for those who stay with it: on TRL's public names only."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from tspo.credit import Credit, CreditConfig, assign_credit
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.protocol import ANSWER_CUE, PROMPT
from tspo.retrieval.base import Retriever
from tspo.rewards.stepsearch import FIELD as SUPPORTING_PASSAGES
from tspo.rollout.codec import Codec
from tspo.rollout.completion import completion_of
from tspo.rollout.episode import Limits, Request
from tspo.rollout.models import end_token_ids
from tspo.rollout.sampler import Sampler, SamplingOptions
from tspo.rollout.transformers_sampler import TransformersSampler
from tspo.training.answer_scores import check_can_score, score_answers
from tspo.training.diagnostics import rollout_metrics, search_metrics
from tspo.training.policy_rollout import MakeSampler, PolicyRollout
from tspo.training.whole_policy import is_sharded
from tspo.trajectory import Trajectory

OnRollout = Callable[[int, list[Trajectory], list[Credit]], None]
"""Called by the main process with the step, counted from 1, and what all processes sampled for it."""

_ARGUMENTS = {
    "train_dataset": "give questions instead",
    "eval_dataset": "give eval_questions instead",
    "reward_funcs": "what turns earn is said by credit, CreditConfig(reward=..)",
    "reward_processing_classes": "it goes with reward_funcs, whose place credit has",
    "rollout_func": "the rollout is tspo's agent loop; make_sampler takes a sampler of your own",
    "tools": "the one tool is the search, which retriever answers",
    "environment_factory": "the environment is the search, which retriever answers",
}
"""GRPOTrainer's arguments that have no place here, and what has."""

_SETTINGS = {
    "mask_truncated_completions": "it would mask every trajectory: they end at </answer>, not at an end token",
    "max_completion_length": "it cuts nothing here, it is only dr_grpo's divisor; give limits=Limits(..)",
    "max_tool_calling_iterations": "give limits=Limits(max_turns=..)",
    "scale_rewards": "advantages are those of credit=CreditConfig(scale=..)",
    "reward_weights": "advantages are those of credit=CreditConfig(reward=..)",
    "multi_objective_aggregation": "advantages are those of credit=CreditConfig(algorithm=..)",
    "use_vllm": "tspo samples from the policy; make_sampler takes another sampler",
    "use_transformers_continuous_batching": "tspo's sampler batches continuously as it is",
    "cache_implementation": "tspo's sampler has a cache of its own",
    "repetition_penalty": "what is sampled does not depend on what was; there are temperature, top_k, top_p and min_p",
    "generation_kwargs": "tspo samples with temperature, top_k, top_p and min_p, fields of their own",
    "chat_template_kwargs": "the tokenizer's chat template is applied as it stands; change it there",
}
"""GRPOConfig's fields that would silently do nothing here, or harm, and why."""

_Row = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""A row of a rollout by its tokens: the prompt, the completion, and which of those the policy is trained on."""


class TSPOTrainer(GRPOTrainer):
    """GRPOTrainer whose trajectories search in several turns, with an advantage for each turn.

    `questions` takes the place of `train_dataset`, `eval_questions` of `eval_dataset`, `credit` of rewards and
    advantages, `retriever` and `limits` of tools; `on_rollout` sees each rollout of training. All else is as in
    GRPOTrainer, and so is the update. Raises BadInput for arguments and settings that would do nothing or harm here,
    for questions that share an id or a prompt, and where parameters are spread over processes (FSDP, ZeRO-3).
    """

    def __init__(
        self,
        model: Any,
        *,
        questions: Sequence[Question],
        retriever: Retriever,
        eval_questions: Sequence[Question] = (),
        credit: CreditConfig | None = None,
        limits: Limits | None = None,
        prompt: str = PROMPT,
        answer_cue: str = ANSWER_CUE,
        concurrency: int = 32,
        make_sampler: MakeSampler | None = None,
        on_rollout: OnRollout | None = None,
        args: GRPOConfig | None = None,
        **others: Any,
    ) -> None:
        self.credit = credit or CreditConfig()
        self.credit.check_no_critic()
        _check(args, others)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using 'rollout_func'")
            super().__init__(
                model=model,
                args=args,
                reward_funcs=[exact_match],
                rollout_func=lambda prompts, _: self.rollout(prompts),
                train_dataset=_asking(questions),
                eval_dataset=_asking(eval_questions) if eval_questions else None,
                **others,
            )
        if is_sharded(self.accelerator):
            raise BadInput("accelerate: FSDP and ZeRO-3 spread the policy over processes; tspo train samples from it")
        if self.credit.rewards.needs == "model":
            check_can_score(self.model)
        limits = limits or Limits()
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        self.codec = Codec(tokenizer, prompt, end_token_ids=end_token_ids(tokenizer.name_or_path, tokenizer))
        self.questions = _by_text([*questions, *eval_questions], self.codec, limits.max_total_tokens)
        self.answer_cue = answer_cue
        self.on_rollout = on_rollout
        self.rollouts = 0

        def sampler(model: PreTrainedModel) -> Sampler:
            rows = min(concurrency, self.args.per_device_train_batch_size * self.args.steps_per_generation)
            # in what the update computes in, whatever the weights have
            dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
            capacity, sampling = limits.max_total_tokens, _sampling(self.args)
            return TransformersSampler(model, self.codec, rows=rows, capacity=capacity, sampling=sampling, dtype=dtype)

        self.episodes = PolicyRollout(
            self.model, make_sampler or sampler, self.codec, retriever, limits, temperature=self.args.temperature
        )
        self._earned: dict[bool, dict[_Row, torch.Tensor]] = {}

    def rollout(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Run an episode for each prompt (a question's text) and credit them: what TRL wants of a `rollout_func`.

        What each token earned is kept for `compute_loss`, for training and for evaluation apart.
        """
        started = time.perf_counter()
        training = self.model.training
        self.rollouts += 1
        step, first = self.state.global_step + 1, self.accelerator.process_index * len(prompts)
        name = f"{step:06d}-{self.rollouts}"
        asked = [self.questions[text] for text in prompts]
        requests = [
            Request(question, f"{name}-{question.id}", f"{name}-{row}", f"{self.args.seed}/{name}/{row}")
            for row, question in enumerate(asked, first)
        ]
        trajectories, searches = self.episodes(requests)
        if self.credit.rewards.needs == "model":
            score_answers(trajectories, self.codec, self.episodes, self.answer_cue)
        if self.credit.rewards.needs == "passages":
            for trajectory, question in zip(trajectories, asked, strict=True):
                trajectory.extra[SUPPORTING_PASSAGES] = list(question.supporting_passages)

        # A group may lie on several processes: credit is given where all of it is known.
        everyone: list[Trajectory] = gather_object(trajectories)
        credits = assign_credit(everyone, self.credit)
        metrics = rollout_metrics(everyone, credits, self.credit, time.perf_counter() - started)
        metrics |= search_metrics(gather_object([searches]))
        if training and self.on_rollout is not None and self.accelerator.is_main_process:
            self.on_rollout(step, everyone, credits)

        mine = credits[first : first + len(prompts)]
        completions = [completion_of(trajectory) for trajectory in trajectories]
        trained = [not trajectory.retriever_failed for trajectory in trajectories]
        rows = {
            "prompt_ids": [trajectory.prompt_token_ids for trajectory in trajectories],
            "completion_ids": [completion.token_ids.tolist() for completion in completions],
            "env_mask": [(c.sampled * keep).tolist() for c, keep in zip(completions, trained, strict=True)],
        }
        keys = zip(*(map(tuple, column) for column in rows.values()), strict=True)
        # the last entry is feedback's, whose turn_index is -1
        turns = [torch.tensor([*credit.turn_advantages, 0.0]) for credit in mine]
        tokens = [turn[completion.turn_index] for turn, completion in zip(turns, completions, strict=True)]
        self._earned[training] = dict(zip(keys, tokens, strict=True))
        logprobs = [completion.logprobs.tolist() for completion in completions]
        return {**rows, "logprobs": logprobs, "outcome": [credit.outcome for credit in mine], "metrics": metrics}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss with `advantages` of shape (rows, completion tokens): each token has its turn's.

        TRL shuffles the rows of a rollout and cuts them up, so that only their tokens tell which they are. That is
        enough: rows that are alike took the same turns at the same question, whose rows are one group, and each of
        them earned the same.
        """
        earned = self._earned[self.model.training]
        completion = inputs["completion_mask"].bool()
        advantages = torch.zeros(completion.shape, device=completion.device)
        for row, key in enumerate(_rows(inputs)):
            advantages[row, completion[row]] = earned[key].to(completion.device)
        return super().compute_loss(model, {**inputs, "advantages": advantages}, return_outputs, num_items_in_batch)


def exact_match(
    outcome: list[float], metrics: list[dict[str, float]], log_metric: Callable[[str, float], None], **_: Any
) -> list[float]:
    """The outcome of each trajectory, which TRL logs beside the rollout's metrics; no advantage comes from it."""
    for name, value in metrics[0].items():
        log_metric(f"tspo/{name}", value)
    return outcome


def _check(args: GRPOConfig | None, others: dict[str, Any]) -> None:
    """Raise BadInput for what GRPOTrainer would take and what would do nothing here, or harm."""
    for name in others:
        if name in _ARGUMENTS:
            raise BadInput(f"TSPOTrainer: {name}: {_ARGUMENTS[name]}")
    if args is None:
        return
    for field in fields(args):
        if field.name == "max_completion_length" and args.loss_type == "dr_grpo":
            continue
        if field.name in _SETTINGS and (getattr(args, field.name) or None) != (field.default or None):
            raise BadInput(f"GRPOConfig: {field.name}: {_SETTINGS[field.name]}")


def _sampling(args: GRPOConfig) -> SamplingOptions:
    return SamplingOptions(args.temperature, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p or 0.0)


def _asking(questions: Sequence[Question]) -> Dataset:
    return Dataset.from_dict({"prompt": [question.question for question in questions]})


def _by_text(questions: Sequence[Question], codec: Codec, max_total_tokens: int) -> dict[str, Question]:
    """The questions by their text; raises BadInput where two have one id or prompt, and for a prompt too long."""
    seen: dict[Any, Question] = {}
    for question in questions:
        ids = codec.prompt(question.question)
        if len(ids) >= max_total_tokens:
            raise BadInput(f"questions: {question.id}: a prompt of {len(ids)} tokens; raise limits.max_total_tokens")
        if any(seen.setdefault(key, question) != question for key in (question.id, tuple(ids))):
            raise BadInput(f"questions: {question.id}: another question has its id or its prompt; leave one out")
    return {question.question: question for question in questions}


def _rows(inputs: dict[str, Any]) -> Iterator[_Row]:
    """The rows of a batch of TRL's without their padding, on whichever side it is."""
    of_prompt, of_completion = inputs["prompt_mask"].bool(), inputs["completion_mask"].bool()
    for row in range(len(of_prompt)):
        prompt = inputs["prompt_ids"][row, of_prompt[row]]
        completion, mask = (inputs[name][row, of_completion[row]] for name in ("completion_ids", "tool_mask"))
        yield tuple(prompt.tolist()), tuple(completion.tolist()), tuple(mask.tolist())
