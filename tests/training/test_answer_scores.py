"""The answers' log-probabilities that IGPO's reward wants of the policy."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

import torch
from transformers import Lfm2Config, MistralConfig, MistralForCausalLM

from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.kv_cache import cache_argument
from tspo.training.answer_scores import check_can_score, mean_log_probabilities, score_answers
from tspo.trajectory import StopReason, Trajectory, Turn


class Counts:
    """A scorer that says how long the prefix is, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def answer_log_probabilities(self, prefixes, answers):
        self.asked += zip(prefixes, answers, strict=True)
        return [-float(len(prefix)) for prefix in prefixes]


def trajectory(codec, *turns):
    made = [
        Turn(text, feedback=None, token_ids=codec.policy(text), feedback_token_ids=codec.plain(read) if read else None)
        for text, read in turns
    ]
    return Trajectory(
        "q", "q-0", "Who?", ["Ann </answer> Lee", "Bob"], made, None, StopReason.ANSWER, codec.prompt("Who?")
    )


def test_each_turn_is_asked_after_all_that_came_before_it(tiny_tokenizer):
    codec = Codec(tiny_tokenizer)
    item = trajectory(codec, ("look", "a passage"), ("look again", "more"), ("answer", None))
    same_start = trajectory(codec, ("answer", None))
    scorer = Counts()
    score_answers([item, same_start], codec, scorer, "<think> So. </think>\n<answer>")
    start, cue = codec.prompt("Who?"), codec.policy("<think> So. </think>\n<answer>")
    first = [*start, *item.turns[0].token_ids, *item.turns[0].feedback_token_ids]
    second = [*first, *item.turns[1].token_ids, *item.turns[1].feedback_token_ids]
    assert [list(prefix) for prefix, _ in scorer.asked] == [[*ids, *cue] for ids in (start, first, second)]
    # the first golden answer, whose tag is no tag
    assert {answer for _, answer in scorer.asked} == {tuple(codec.plain(" Ann </answer> Lee"))}
    assert "</answer>" not in codec.decode(scorer.asked[0][1])
    scores = [turn.extra["answer_log_probability"] for turn in item.turns]
    assert scores == [-float(len(ids) + len(cue)) for ids in (start, first, second)]
    assert same_start.turns[0].extra["answer_log_probability"] == scores[0]


class Fed:
    """A model that remembers how many tokens it was given."""

    def __init__(self, model):
        self.model, self.device, self.tokens = model, model.device, 0

    def __call__(self, *args, **named):
        return self.forward(*args, **named)

    def forward(self, input_ids, past_key_values=None, **others):
        self.tokens += input_ids.numel()
        return self.model(input_ids=input_ids, **{cache_argument(self.model): past_key_values}, **others)


def alone(model, prefix, answer, temperature):
    """The mean by one pass over the whole row."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prefix, *answer]])).logits[0, :-1] / temperature
    logprobs = logits.log_softmax(-1)[torch.arange(len(prefix) - 1, len(prefix) + len(answer) - 1), list(answer)]
    return logprobs.mean().item()


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)  # few different ones, so that rows share beginnings


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=6))
def test_shared_beginnings_give_the_numbers_of_rows_alone(tiny_model, rows):
    prefixes, answers = [prefix for prefix, _ in rows], [answer for _, answer in rows]
    means = mean_log_probabilities(tiny_model, prefixes, answers, temperature=0.7)
    assert means == pytest.approx([alone(tiny_model, *row, 0.7) for row in rows], abs=1e-5)
    assert all(mean <= 0 for mean in means)


def test_what_rows_begin_with_goes_through_the_model_once(tiny_model):
    model = Fed(tiny_model)
    start, cue, answer, turn = [5] * 40, [9, 9], [20, 21], [7] * 30
    prefixes = [[*start, *cue], [*start, *turn, *cue], [*start, *turn, *turn, *cue], [*start, *cue]]
    means = mean_log_probabilities(model, prefixes, [answer] * 4, temperature=1.0)
    assert means == pytest.approx([alone(tiny_model, prefix, answer, 1.0) for prefix in prefixes], abs=1e-5)
    # the second row that is all the same feeds the last token of its prefix and the answer
    assert model.tokens == len(start) + 2 * len(turn) + 3 * len(cue + answer) + 1 + len(answer)


def test_a_window_that_slides_is_cut_back_as_well():
    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    prefixes, answers = [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 9, 9, 9, 9], [1, 2, 3, 4, 5, 6]], [[10, 11]] * 3
    means = mean_log_probabilities(model, prefixes, answers, temperature=1.0)
    expected = [alone(model, prefix, answer, 1.0) for prefix, answer in zip(prefixes, answers, strict=True)]
    assert means == pytest.approx(expected, abs=1e-5)


def test_a_model_that_keeps_a_running_state_is_refused(tiny_model):
    check_can_score(tiny_model)
    hybrid = SimpleNamespace(config=Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]))
    with pytest.raises(BadInput, match="needs attention in every layer, which lfm2 models do not have"):
        check_can_score(hybrid)
