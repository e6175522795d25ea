"""TRL's GRPOTrainer with this project's rollouts and turn-level advantages; everything else is TRL's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel
from trl.trainer.utils import RepeatSampler, pad

from tspo.credit import Credit, CreditConfig, assign_credit
from tspo.datasets.questions import Question
from tspo.protocol import ANSWER_CUE
from tspo.retrieval.base import Retriever
from tspo.rewards.stepsearch import FIELD as SUPPORTING_PASSAGES
from tspo.rollout.batched_search import SearchLog
from tspo.rollout.codec import Codec
from tspo.rollout.completion import Completion, completion_of
from tspo.rollout.episode import AgentLoop, Limits, Request
from tspo.rollout.sampler import Sampler
from tspo.rollout.transformers_sampler import TransformersSampler
from tspo.training.answer_scores import check_can_score, mean_log_probabilities, score_answers
from tspo.training.checkpoints import mark_whole
from tspo.training.diagnostics import PREFIX, all_wrong, rollout_metrics, search_metrics
from tspo.training.step_files import save_step, step_file
from tspo.training.token_advantages import spread_over_tokens
from tspo.training.token_details import LogRatios, add_token_ends
from tspo.training.update_by_passes import UpdateByPasses
from tspo.training.whole_policy import WholePolicy, is_spread
from tspo.trajectory import Trajectory

Progress = Callable[[int, int], None]
"""Called with (episodes that ended, episodes in all)."""

MakeSampler = Callable[[PreTrainedModel, int, float], Sampler]
"""Called with the policy, the sessions side by side, and the temperature."""


class EpochSampler(RepeatSampler):
    """TRL's order of questions, drawn anew from seed and epoch.

    TRL's own draws each epoch from what the last one left, which a resumed run does not have.
    """

    def set_epoch(self, epoch: int) -> None:
        """Called before an epoch's first question is drawn."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class TSPOTrainer(UpdateByPasses):
    """GRPO over multi-turn search episodes, with one advantage a turn.

    The rollout is this project's agent loop; the advantages are those of `tspo.credit`, spread over the
    tokens that the policy sampled in each turn. Feedback tokens are outside loss, KL and ratios (TRL's
    `env_mask`). `train_dataset` rows hold `prompt` (the question) and `index` (its place in `questions`).
    Loss, clipping and KL are TRL's (`loss_type="dapo"`: the mean over all sampled tokens of the step).
    """

    # TRL's own card, where there is no run's to write instead
    _tag_names: ClassVar = ["trl", "tspo"]
    _name = "TSPO"
    _paper: ClassVar = {
        "title": "TSPO: Breaking the Double Homogenization Dilemma in Multi-turn Search Policy Optimization",
        "id": "2601.22776",
    }

    def __init__(
        self,
        model: Any,
        *,
        questions: Sequence[Question],
        retriever: Retriever,
        codec: Codec,
        limits: Limits,
        credit: CreditConfig,
        concurrency: int = 32,
        make_sampler: MakeSampler | None = None,
        sampling_dtype: torch.dtype | None = None,
        trajectory_dir: Path | None = None,
        token_details: bool = True,
        write_card: Callable[[Path], None] | None = None,
        on_episode: Progress | None = None,
        answer_cue: str = ANSWER_CUE,
        **kwargs: Any,
    ) -> None:
        credit.check_no_critic()
        super().__init__(
            model=model,
            reward_funcs=[outcome_reward],
            rollout_func=lambda _, trainer: trainer.rollout(),
            **kwargs,
        )
        if credit.rewards.needs == "model":
            check_can_score(self.model)
        self.questions = questions
        self.retriever = retriever
        self.codec = codec
        self.limits = limits
        self.credit = credit
        self.concurrency = concurrency
        self._make_sampler = make_sampler or self._transformers_sampler
        self.trajectory_dir = trajectory_dir
        self.token_details = token_details and trajectory_dir is not None
        self.write_card = write_card
        self.on_episode = on_episode
        self.answer_cue = answer_cue
        self._sampler: Sampler | None = None
        self._whole = WholePolicy(self.model, sampling_dtype) if is_spread(self.accelerator) else None
        self._indices: list[int] = []
        self._searches = SearchLog()
        self._completions: list[Completion] = []
        self._credits: list[Credit] = []
        self._all_wrong: list[bool] = []

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        """TRL's sampler, but one that a resumed run can go on with in the middle of any epoch."""
        return EpochSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch with `advantages` of shape (trajectories, completion tokens)."""
        self._indices = [row["index"] for row in inputs]
        output = super()._generate_and_score_completions(inputs)
        device = output["completion_ids"].device
        turn_number = self._padded([torch.tensor(completion.turn_index + 1) for completion in self._completions])
        turn_advantages = pad([torch.tensor(credit.turn_advantages) for credit in self._credits])
        output["advantages"] = spread_over_tokens(turn_advantages, turn_number).to(device)
        sampled_with = [torch.tensor(completion.logprobs, dtype=torch.float32) for completion in self._completions]
        output["sampled_with"] = self._padded(sampled_with).to(device)
        output["all_wrong"] = torch.tensor(self._all_wrong, device=device)
        output["row"] = torch.arange(len(self._completions), device=device)
        return output

    def _padded(self, rows: list[torch.Tensor]) -> torch.Tensor:
        return pad(rows, padding_value=0, pad_to_multiple_of=self.pad_to_multiple_of)

    def rollout(self) -> dict[str, list[Any]]:
        """Run the episodes of this step's questions and credit them, over all processes together."""
        started = time.perf_counter()
        first = self.accelerator.process_index * len(self._indices)
        step = self.state.global_step
        requests = []
        for i, index in enumerate(self._indices):
            group, member = divmod(first + i, self.num_generations)
            group_id = f"{step + 1:06d}-{group:04d}"
            requests.append(
                Request(
                    question=self.questions[index],
                    group_id=group_id,
                    trajectory_id=f"{group_id}-{member}",
                    seed=f"{self.args.seed}/{step}/{first + i}",
                )
            )
        trajectories = self._run_episodes(requests)
        if self.token_details:
            for trajectory in trajectories:
                add_token_ends(trajectory, self.codec.tokenizer)
        self._add_what_the_reward_needs(trajectories)

        # A group may lie on several processes: credit is given where all of it is known.
        everyone: list[Trajectory] = gather_object(trajectories)
        seconds = time.perf_counter() - started  # the slowest process decides
        credits = assign_credit(everyone, self.credit)
        if self.accelerator.is_main_process and self.trajectory_dir is not None:
            save_step(everyone, credits, step + 1, self.trajectory_dir)
        metrics = rollout_metrics(everyone, credits, self.credit, seconds)
        metrics |= search_metrics(gather_object([self._searches]))
        for name, value in metrics.items():
            self._note(PREFIX + name, value)

        self._credits = credits[first : first + len(requests)]
        self._all_wrong = all_wrong(everyone, credits)[first : first + len(requests)]
        self._completions = [completion_of(trajectory) for trajectory in trajectories]
        if self.token_details and self.trajectory_dir is not None:
            sampled = [completion.sampled for completion in self._completions]
            self._log_ratios = LogRatios(sampled, step_file(self.trajectory_dir, step + 1))
        masks = [
            _loss_mask(trajectory, completion)
            for trajectory, completion in zip(trajectories, self._completions, strict=True)
        ]
        self._scored = self._padded([torch.tensor(mask) for mask in masks])
        return {
            "prompt_ids": [trajectory.prompt_token_ids for trajectory in trajectories],
            "completion_ids": [completion.token_ids.tolist() for completion in self._completions],
            "logprobs": [completion.logprobs.tolist() for completion in self._completions],
            "env_mask": masks,
            "outcome": [credit.outcome for credit in self._credits],
        }

    def _transformers_sampler(self, model: PreTrainedModel, rows: int, temperature: float) -> Sampler:
        capacity = self.limits.max_total_tokens
        return TransformersSampler(model, self.codec, rows=rows, capacity=capacity, temperature=temperature)

    def _run_episodes(self, requests: list[Request]) -> list[Trajectory]:
        model = self.accelerator.unwrap_model(self.model)
        if self._whole is not None:
            self._whole.take_over(self.model_wrapped)
            model = self._whole.model
        if self._sampler is None:
            self._sampler = self._make_sampler(model, min(self.concurrency, len(requests)), self.temperature)
        self._sampler.refresh()
        ended = 0

        def on_done(_: Trajectory) -> None:
            nonlocal ended
            ended += 1
            if self.on_episode is not None:
                self.on_episode(ended, len(requests))

        with _evaluating(model):
            loop = AgentLoop(self._sampler, self.codec, self.retriever, self.limits)
            self._searches = loop.searches
            return loop.rollout(requests, on_done)

    def _add_what_the_reward_needs(self, trajectories: list[Trajectory]) -> None:
        needs = self.credit.rewards.needs
        if needs == "model":
            score_answers(trajectories, self.codec, self, self.answer_cue)
        elif needs == "passages":
            for index, trajectory in zip(self._indices, trajectories, strict=True):
                trajectory.extra[SUPPORTING_PASSAGES] = list(self.questions[index].supporting_passages)

    def answer_log_probabilities(
        self, prefixes: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[float]:
        """For each prefix, the mean log-probability of its answer's tokens, at the sampling temperature."""
        model = self.accelerator.unwrap_model(self.model) if self._whole is None else self._whole.model
        with _evaluating(model), self.accelerator.autocast():
            return mean_log_probabilities(model, prefixes, answers, self.temperature)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's README.md, written with each checkpoint and push; the run's own card where there is one."""
        if self.write_card is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            self.write_card(Path(self.args.output_dir))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.write_card is not None:
                self.write_card(checkpoint)
            mark_whole(checkpoint)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def outcome_reward(outcome: list[float], **_: Any) -> list[float]:
    """The exact match that the rollout found; TRL logs it, the advantages do not come from it."""
    return outcome


def _loss_mask(trajectory: Trajectory, completion: Completion) -> list[int]:
    """1 on the tokens that the loss is over: the sampled ones, none where the retriever failed."""
    if trajectory.retriever_failed:
        return [0] * len(completion.token_ids)
    return list(completion.sampled.tolist())
