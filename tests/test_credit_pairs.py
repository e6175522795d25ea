"""Every reward with every estimator: those that make sense work, the others say why they do not."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.advantages import ADVANTAGES
from tspo.credit import CreditConfig, assign_credit, reward_trajectory, turn_advantages, turn_rewards
from tspo.errors import BadInput
from tspo.protocol import render_passages
from tspo.rewards import REWARDS
from tspo.trajectory import StopReason, Trajectory, Turn

REFUSED = {
    **{("folr", name): "its sum over turns would reward long trajectories" for name in ADVANTAGES if name != "tspo"},
    ("outcome", "mt_grpo"): "gives the turns nothing of their own",
    ("outcome", "igpo"): "gives the turns nothing of their own",
    ("search_r1", "mt_grpo"): "gives the turns nothing of their own",
    ("search_r1", "igpo"): "gives the turns nothing of their own",
    ("evidence", "tspo"): "use baseline=reached",
    ("stepsearch", "tspo"): "use baseline=reached",
    ("information_gain", "tspo"): "use baseline=reached",
}
PAIRS = [(reward, algorithm) for algorithm in ADVANTAGES for reward in REWARDS]
MODEL = "answer_log_probability"


def config_of(reward, algorithm, **options):
    return CreditConfig(algorithm=algorithm, reward=reward, **options)


@pytest.mark.parametrize(("reward", "algorithm"), PAIRS)
def test_pairs_that_make_no_sense_are_refused_with_a_reason(reward, algorithm):
    if (reward, algorithm) in REFUSED:
        with pytest.raises(BadInput) as caught:
            config_of(reward, algorithm)
        assert str(caught.value).startswith(f"reward: {reward} does not go with algorithm {algorithm}: ")
        assert REFUSED[reward, algorithm] in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        assert config_of(reward, algorithm).reward_name == reward


def test_steps_go_with_tspo_where_turns_are_compared_with_those_that_were_reached():
    assert config_of("stepsearch", "tspo", baseline="reached").reward_name == "stepsearch"


@pytest.mark.parametrize("algorithm", ADVANTAGES)
def test_an_algorithms_own_reward_goes_with_it(algorithm):
    own = CreditConfig(algorithm=algorithm)
    assert own.reward_name == ADVANTAGES[algorithm].reward
    with_others = config_of("stepsearch", "gigpo").with_algorithm(algorithm)
    assert with_others.reward_name == ("stepsearch" if algorithm == "gigpo" else ADVANTAGES[algorithm].reward)


@pytest.mark.parametrize(
    "bad",
    [
        {"gamma": 1.5},
        {"gae_lambda": -0.1},
        {"gamma": math.nan},
        {"turn_weight": -1},
        {"turn_weight": math.inf},
        {"anchor_similarity": 0},
        {"process_scale": "1"},
        {"retrieval_score": True},
        {"order": "first"},
    ],
)
def test_bad_options_are_named(bad):
    (name,) = bad
    with pytest.raises(BadInput, match=f"^{name}: "):
        CreditConfig(**bad)


VALID = [pair for pair in PAIRS if pair not in REFUSED and pair[1] != "ppo"]
PASSAGES = ["the art of rivers", "a town by the sea", "some art", "nothing"]


@st.composite
def trajectories(draw):
    found = draw(st.lists(st.lists(st.sampled_from(PASSAGES), max_size=3), max_size=3))
    turns = [
        Turn(
            "<think>a</think><search>q</search>",
            feedback=render_passages([f'"t"\n{text}' for text in passages]),
            token_ids=[1] * draw(st.integers(1, 5)),
        )
        for passages in found
    ]
    answer = draw(st.sampled_from([None, "art", "bob", "the art"]))
    turns.append(Turn(f"<think>b</think><answer>{answer}</answer>", token_ids=[1, 2]))
    for turn in turns:
        turn.extra[MODEL] = draw(st.floats(-8, 0))
    group_id = draw(st.sampled_from(["q1", "q2"]))
    extra = {"supporting_passages": PASSAGES[:2]}
    return Trajectory(group_id, "t", "who?", ["art"], turns, answer, StopReason.ANSWER, extra=extra)


@pytest.mark.parametrize(("reward", "algorithm"), VALID)
@given(items=st.lists(trajectories(), min_size=1, max_size=7), padding=st.integers(0, 2))
def test_pairs_that_make_sense_give_every_turn_an_advantage(reward, algorithm, items, padding):
    config = config_of(reward, algorithm)
    credits_ = assign_credit(items, config)
    for item, credit in zip(items, credits_, strict=True):
        assert len(credit.turn_rewards) == len(credit.turn_advantages) == len(item.turns)
        assert np.isfinite(credit.turn_advantages).all()
        assert credit.turn_rewards == pytest.approx(reward_trajectory(item, config), abs=1e-12)
    cut = replace(items[0], stop_reason=StopReason.RETRIEVER_ERROR)
    without = assign_credit(items[1:], config)
    with_cut = assign_credit([cut, *items[1:]], config)
    assert not any(with_cut[0].turn_advantages)
    for one, other in zip(with_cut[1:], without, strict=True):
        assert one.turn_advantages == pytest.approx(other.turn_advantages, rel=1e-9, abs=1e-9)


def test_the_trajectorys_reward_is_the_sum_of_what_its_turns_add():
    searched = Turn("", feedback="about art")
    right = Trajectory("q", "a", "?", ["art"], [searched, Turn("")], "art", StopReason.ANSWER)  # 0.7 + 1.5
    wrong = Trajectory("q", "b", "?", ["art"], [Turn("")], "bob", StopReason.ANSWER)  # 0
    credits_ = assign_credit([right, wrong], config_of("evidence", "dr_grpo"))
    assert [credit.turn_rewards for credit in credits_] == [[0.7, 1.5], [0.0]]
    assert credits_[0].turn_advantages == pytest.approx([1.1, 1.1])
    assert credits_[1].turn_advantages == pytest.approx([-1.1])


def test_tokens_weigh_turns_where_all_turns_have_them():
    long = Trajectory("p", "a", "?", ["art"], [Turn("", token_ids=[1, 2, 3])], "art", StopReason.ANSWER)
    short = Trajectory("q", "b", "?", ["art"], [Turn("", token_ids=[1])], "bob", StopReason.ANSWER)
    credits_ = assign_credit([long, short], CreditConfig(algorithm="reinforce_plus_plus"))
    # mean of 1, 1, 1, 0 is 3/4 and their sample variance 1/4
    assert [credit.turn_advantages for credit in credits_] == [pytest.approx([0.5]), pytest.approx([-1.5])]
    short.turns[0].token_ids = None
    credits_ = assign_credit([long, short], CreditConfig(algorithm="reinforce_plus_plus"))
    assert credits_[0].turn_advantages == pytest.approx([math.sqrt(0.5)])


def test_gigpo_wants_anchors_and_text_rewards_want_the_trajectory():
    with pytest.raises(ValueError, match="gigpo needs anchors of shape"):
        turn_advantages([[1.0]], [1], ["q"], [1], CreditConfig(algorithm="gigpo"))
    with pytest.raises(ValueError, match="evidence is read from the trajectory"):
        turn_rewards([1], [1], [-1], CreditConfig(algorithm="mt_grpo"))


def test_ppo_says_where_its_critic_is():
    item = Trajectory("q", "a", "?", ["art"], [Turn("")], "art", StopReason.ANSWER)
    with pytest.raises(BadInput, match=r"^algorithm: ppo needs a critic's value .* --engine verl"):
        assign_credit([item], CreditConfig(algorithm="ppo"))
    with pytest.raises(BadInput, match=r"^algorithm: ppo"):
        turn_advantages([[1.0]], [1], ["q"], [1], CreditConfig(algorithm="ppo"))
