import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.credit import CreditConfig, assign_credit, score, turn_advantages, turn_rewards, valid_choices
from tspo.errors import BadInput
from tspo.rewards.folr import NO_OCCURRENCE
from tspo.trajectory import StopReason, Trajectory, Turn


def trajectory(group_id, answer, *feedbacks, golden_answers=("Jane Doe",), stop_reason=StopReason.ANSWER):
    return Trajectory(
        group_id=group_id,
        trajectory_id="",
        question="who?",
        golden_answers=list(golden_answers),
        turns=[Turn("Jane Doe yes art", feedback=feedback) for feedback in feedbacks],
        answer=answer,
        stop_reason=stop_reason,
    )


def test_a_group_worked_by_hand():
    # turn rewards: 1 1 | 0 1/2 0 | 0; S_0 = {1, 0, 0}, S_1 = {1, 1/2, 0}, S_2 = {1, 0, 0}
    credits_ = assign_credit(
        [
            trajectory("q", "the Jane Doe.", "by Jane Doe", None),
            trajectory("q", "Bob", "nothing", "by Jane Doe", None),
            trajectory("q", None, "nothing"),
        ],
        CreditConfig(scale="none", credit="first_turn"),
    )
    assert [credit.outcome for credit in credits_] == [1.0, 0.0, 0.0]
    assert [credit.first_occurrence for credit in credits_] == [0, 1, None]
    assert [credit.turn_rewards for credit in credits_] == [[1, 1], [0, 0.5, 0], [0]]
    third = pytest.approx(-1 / 3, abs=1e-15)
    assert credits_[0].turn_advantages == [pytest.approx(2 / 3, abs=1e-15), 0.5]
    assert credits_[1].turn_advantages == [third, 0.0, third]
    assert credits_[2].turn_advantages == [third]


def test_the_policys_own_text_earns_nothing():
    (credit,) = assign_credit([trajectory("q", "Bob", "nothing", None)], CreditConfig())
    assert credit.first_occurrence is None
    assert credit.turn_rewards == [0.0, 0.0]


def test_grpo_rewards_every_turn_with_the_outcome():
    group = [trajectory("q", "Jane Doe", "x", None), trajectory("q", "Bob", "Jane Doe", None, None)]
    right, wrong = assign_credit(group, CreditConfig(algorithm="grpo", scale="none"))
    assert (right.turn_rewards, wrong.turn_rewards) == ([1, 1], [0, 0, 0])
    assert (right.turn_advantages, wrong.turn_advantages) == ([0.5, 0.5], [-0.5, -0.5, -0.5])
    assert wrong.first_occurrence == 0


def test_no_trajectories():
    assert assign_credit([], CreditConfig()) == []


# The method's definition, one trajectory at a time.


def reference_occurrence(item, config):
    for k, turn in enumerate(item.turns):
        for answer in item.golden_answers:
            if answer in config.ignore or turn.feedback is None:
                continue
            words = turn.feedback.split()
            if answer in (words if config.match == "token" else turn.feedback):
                return k
    return None


def reference_reward(item, k, config):
    if item.answer in item.golden_answers:
        return 1.0
    first = reference_occurrence(item, config)
    if config.algorithm == "grpo" or first is None:
        return 0.0
    credited = k == first if config.credit == "first_turn" else k <= first
    return config.alpha if credited else 0.0


def reference_advantage(item, k, group, config):
    outcomes = [float(member.answer in member.golden_answers) for member in group]
    by_trajectory = config.algorithm == "grpo" or (config.level == "turn_if_all_wrong" and any(outcomes))
    if by_trajectory:
        own, compared = float(item.answer in item.golden_answers), outcomes
    else:
        own, compared = reference_reward(item, k, config), []
        for member in group:
            if config.baseline == "absorbing":
                compared.append(reference_reward(member, min(k, len(member.turns) - 1), config))
            elif k < len(member.turns):
                compared.append(reference_reward(member, k, config))
    if len(compared) == 1 or min(compared) == max(compared):
        return 0.0
    spread = statistics.stdev(compared) + 1e-6 if config.scale == "std" else 1.0
    return (own - statistics.fmean(compared)) / spread


feedbacks = st.sampled_from([None, "nothing", "the party", "some art", "yes", "art yes"])
trajectories = st.builds(
    lambda group_id, answer, found, golden: trajectory(group_id, answer, *found, golden_answers=golden),
    st.sampled_from(["q1", "q2", "q3"]),
    st.sampled_from([None, "art", "bob", "yes", "bob"]),
    st.lists(feedbacks, min_size=1, max_size=4),
    st.sampled_from([["art"], ["yes"], ["art", "yes"]]),
)
configs = st.builds(
    CreditConfig,
    algorithm=st.sampled_from(["tspo", "grpo"]),
    **{name: st.sampled_from(valid_choices()[name]) for name in ("credit", "match", "baseline", "level", "scale")},
    alpha=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    ignore=st.sampled_from([("yes", "no"), ()]),
)


@given(st.lists(trajectories, max_size=12), configs)
def test_equals_the_definition(items, config):
    credits_ = assign_credit(items, config)
    assert len(credits_) == len(items)
    for item, credit in zip(items, credits_, strict=True):
        group = [other for other in items if other.group_id == item.group_id]
        turns = range(len(item.turns))
        assert credit.outcome == float(item.answer in item.golden_answers)
        assert credit.first_occurrence == reference_occurrence(item, config)
        assert credit.turn_rewards == [reference_reward(item, k, config) for k in turns]
        expected = [reference_advantage(item, k, group, config) for k in turns]
        assert credit.turn_advantages == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert all(a == 0.0 for a, e in zip(credit.turn_advantages, expected, strict=True) if e == 0.0)


@given(st.lists(trajectories, min_size=1, max_size=12), configs, st.integers(0, 2))
def test_gathered_arrays_give_what_whole_trajectories_give(items, config, padding):
    scores = [score(item, config) for item in items]
    outcome = [outcome for outcome, _ in scores]
    first = [NO_OCCURRENCE if turn is None else turn for _, turn in scores]
    num_turns = [len(item.turns) for item in items]
    rewards = turn_rewards(outcome, num_turns, first, config)
    rewards = np.pad(rewards, ((0, 0), (0, padding)))  # another process may have longer trajectories
    advantages = turn_advantages(rewards, num_turns, [item.group_id for item in items], outcome, config)
    for row, k, credit in zip(advantages, num_turns, assign_credit(items, config), strict=True):
        assert row[:k].tolist() == credit.turn_advantages
        assert not row[k:].any()


def cut_off(item):
    """The trajectory, as if the retriever had failed in its last turn."""
    return replace(item, answer=None, stop_reason=StopReason.RETRIEVER_ERROR)


def test_a_trajectory_that_the_retriever_cut_off_is_in_nobodys_baseline():
    near_miss = trajectory("q", None, "by Jane Doe", None, stop_reason=StopReason.RETRIEVER_ERROR)
    group = [trajectory("q", "Jane Doe", "x"), near_miss, trajectory("q", "Bob", "x")]
    right, failed, wrong = assign_credit(group, CreditConfig(scale="none"))
    assert (right.turn_advantages, wrong.turn_advantages) == ([0.5], [-0.5])
    assert (failed.turn_advantages, failed.teaches) == ([0.0, 0.0], False)
    assert (failed.first_occurrence, failed.turn_rewards) == (0, [0.5, 0.0])  # what it found is still told


@given(st.lists(st.tuples(trajectories, st.booleans()), max_size=12), configs)
def test_trajectories_that_the_retriever_cut_off_are_as_if_they_had_not_been(items, config):
    credits_ = assign_credit([cut_off(item) if failed else item for item, failed in items], config)
    others = iter(assign_credit([item for item, failed in items if not failed], config))
    for (item, failed), credit in zip(items, credits_, strict=True):
        if failed:
            assert credit.turn_advantages == [0.0] * len(item.turns)
            assert credit.outcome == 0.0
        else:
            assert credit == next(others)


@given(st.lists(trajectories, min_size=1, max_size=12), configs, st.data())
def test_gathered_arrays_say_who_is_compared(items, config, data):
    compared = data.draw(st.lists(st.booleans(), min_size=len(items), max_size=len(items)))
    scores = [score(item, config) for item in items]
    outcome = [outcome for outcome, _ in scores]
    num_turns = [len(item.turns) for item in items]
    first = [NO_OCCURRENCE if turn is None else turn for _, turn in scores]
    rewards = turn_rewards(outcome, num_turns, first, config)
    before = rewards.copy()
    groups = [item.group_id for item in items]
    advantages = turn_advantages(rewards, num_turns, groups, outcome, config, compared=compared)
    assert advantages.shape == rewards.shape
    assert not advantages[~np.array(compared)].any()
    assert (rewards == before).all()


@pytest.mark.parametrize(
    ("shape", "num_turns", "message"),
    [
        ((2, 2), [1, 3], "num_turns"),
        ((2, 2), [0, 1], "num_turns"),
        ((3, 2), [1, 1], "do not fit"),
        ((2,), [1, 1], "do not fit"),
    ],
)
def test_turn_advantages_refuses_arrays_that_do_not_fit(shape, num_turns, message):
    with pytest.raises(ValueError, match=message):
        turn_advantages(np.zeros(shape), num_turns, [0, 0], [0, 0], CreditConfig())


def test_turn_advantages_refuses_a_compared_that_does_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        turn_advantages(np.zeros((2, 1)), [1, 1], [0, 0], [0, 0], CreditConfig(), compared=[True])


def test_defaults():
    assert CreditConfig() == CreditConfig(
        algorithm="tspo",
        alpha=0.5,
        credit="through_first_turn",
        match="token",
        baseline="absorbing",
        level="turn",
        scale="std",
        ignore=("yes", "no"),
    )


@pytest.mark.parametrize("name", valid_choices())
def test_a_wrong_choice_is_told_the_valid_ones(name):
    with pytest.raises(BadInput) as error:
        CreditConfig(**{name: "nonsense"})
    for part in (name, "nonsense", *valid_choices()[name]):
        assert part in str(error.value)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, math.inf, "0.5", None, True])
def test_alpha_is_a_number_from_0_to_1(alpha):
    with pytest.raises(BadInput, match="alpha"):
        CreditConfig(alpha=alpha)


@pytest.mark.parametrize("ignore", ["yes", None, [1]])
def test_ignore_is_a_list_of_strings(ignore):
    with pytest.raises(BadInput, match="ignore"):
        CreditConfig(ignore=ignore)


def test_a_list_from_yaml_becomes_a_tuple():
    assert CreditConfig(ignore=["maybe"]).ignore == ("maybe",)
