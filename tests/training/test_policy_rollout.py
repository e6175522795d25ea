from collections.abc import Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import pytest

pytest.importorskip("peft")

import torch

from tspo.rollout.episode import Limits, Request
from tspo.rollout.sampler import Sampled
from tspo.training.policy_rollout import PolicyRollout, evaluating
from tspo.training.update.layout import pack_if_possible
from tspo.training.whole_policy import WholePolicy


class Sampler:
    """Answers at once, and notes what is done with it; `model` is what it was made from."""

    def __init__(self, codec: Any) -> None:
        self.codec = codec
        self.model: Any = None
        self.events: list[str] = []
        self.was_training: set[bool] = set()

    def of(self, model: Any) -> "Sampler":
        self.model = model
        self.events.append("made")
        return self

    def refresh(self) -> None:
        self.events.append("refreshed")

    def close(self) -> None:
        self.events.append("closed")

    @asynccontextmanager
    async def session(self, seed: str) -> Any:
        self.events.append(seed)
        yield self

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        self.was_training.add(self.model.training)
        ids = self.codec.policy("<answer>Bob</answer>")
        return Sampled(ids, [-1.0] * len(ids), "<answer>Bob</answer>", "stop")


@pytest.fixture
def sampler(codec: Any) -> Sampler:
    return Sampler(codec)


@pytest.fixture
def requests(questions: Any) -> list[Request]:
    return [Request(question, question.id, f"{question.id}-0", question.id) for question in questions]


@pytest.fixture
def policy(tiny_model: Any) -> Any:
    return deepcopy(tiny_model).train()


def test_episodes_of_the_policy_as_it_is(policy, sampler, codec, requests) -> None:
    done = []
    rollout = PolicyRollout(
        policy, sampler.of, codec, None, Limits(), on_episode=lambda ended, total: done.append((ended, total))
    )
    trajectories, searches = rollout(requests)
    assert [(trajectory.trajectory_id, trajectory.answer) for trajectory in trajectories] == [
        ("q0-0", "Bob"),
        ("q1-0", "Bob"),
    ]
    assert searches.seconds == []
    assert done == [(1, 2), (2, 2)]
    assert sampler.model is policy
    assert sampler.was_training == {False}
    assert policy.training

    rollout(requests)
    rollout.close()
    rollout.close()
    assert sampler.events == ["made", "refreshed", "q0", "q1", "refreshed", "q0", "q1", "closed"]


def test_nothing_is_made_that_is_not_sampled_from(policy, sampler, codec) -> None:
    PolicyRollout(policy, sampler.of, codec, None, Limits()).close()
    assert sampler.events == []


def test_of_a_policy_that_is_spread_its_whole_copy_is_sampled(
    policy, sampler, codec, requests, another, monkeypatch
) -> None:
    whole = WholePolicy(policy, dtype=None)
    rollout = PolicyRollout(policy, sampler.of, codec, None, Limits(), whole=whole, temperature=0.5)
    with torch.no_grad():
        policy.lm_head.weight += 1.0
    rollout(requests)
    assert sampler.model is whole.model
    assert torch.equal(whole.model.lm_head.weight, policy.lm_head.weight)
    ids = torch.tensor([[5, 9, 20, 21]])
    with torch.no_grad():
        logprobs = (policy.eval()(input_ids=ids).logits[0] / 0.5).log_softmax(-1)
    expected = (logprobs[1, 20] + logprobs[2, 21]).item() / 2
    assert rollout.answer_log_probabilities([[5, 9]], [[20, 21]]) == pytest.approx([expected], abs=1e-5)


def alone(model: Any, prefix: list[int], answer: list[int], temperature: float) -> float:
    """The mean by one pass over the whole row."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prefix, *answer]])).logits[0, :-1] / temperature
    logprobs = logits.log_softmax(-1)[torch.arange(len(prefix) - 1, len(prefix) + len(answer) - 1), answer]
    return logprobs.mean().item()


def test_answers_are_scored_at_the_sampling_temperature_and_it_goes_on_training(policy, sampler, codec) -> None:
    rollout = PolicyRollout(policy, sampler.of, codec, None, Limits(), temperature=0.7)
    prefixes, answers = [[5, 9, 30, 7], [11], [8] * 40], [[20, 21, 22], [3], [50, 60]]
    means = rollout.answer_log_probabilities(prefixes, answers)
    assert policy.training
    rows = zip(prefixes, answers, strict=True)
    assert means == pytest.approx([alone(policy.eval(), *row, 0.7) for row in rows], abs=1e-5)
    assert sampler.events == []


def test_the_answers_of_a_policy_that_learns_packed_are_scored_all_the_same(policy, tiny_model, sampler, codec) -> None:
    assert pack_if_possible(policy, None)
    rollout = PolicyRollout(policy, sampler.of, codec, None, Limits())
    prefixes, answers = [[5, 9, 30, 7], [5, 9, 8, 8]], [[20, 21, 22], [50, 60]]
    rows = zip(prefixes, answers, strict=True)
    means = rollout.answer_log_probabilities(prefixes, answers)
    assert means == pytest.approx([alone(tiny_model, *row, 1.0) for row in rows], abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_as_it_was_after_an_error(policy, training: bool) -> None:
    policy.train(training)

    def fail() -> Iterator[None]:
        with evaluating(policy):
            assert not policy.training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert policy.training == training
