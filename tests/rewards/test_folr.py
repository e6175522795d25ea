import numpy as np
import pytest

from tspo.rewards.folr import NO_OCCURRENCE, first_occurrence, turn_rewards


def test_first_occurrence_is_the_first_turn_that_has_any_answer():
    feedbacks = ["Doc 1 nothing", None, "by J. Doe", "by Jane Doe"]
    assert first_occurrence(feedbacks, ["Jane Doe"]) == 3
    assert first_occurrence(feedbacks, ["Jane Doe", "J Doe"]) == 2
    assert first_occurrence(feedbacks, ["Mary"]) is None
    assert first_occurrence([None, None], ["Mary"]) is None
    assert first_occurrence([], ["Mary"]) is None


def test_first_occurrence_in_the_first_turn_is_zero_and_not_none():
    assert first_occurrence(["Mary."], ["mary"]) == 0


def test_match_rules_differ_within_words():
    assert first_occurrence(["a party", "an art"], ["art"]) == 1
    assert first_occurrence(["a party", "an art"], ["art"], match="substring") == 0


def test_ignored_and_empty_answers_never_occur():
    assert first_occurrence(["Yes, no, the"], ["yes"]) is None
    assert first_occurrence(["Yes, no, the"], ["No!"]) is None
    assert first_occurrence(["Yes, no, the"], ["the", ""]) is None
    assert first_occurrence(["Yes, no, the"], ["yes"], ignore=()) == 0
    assert first_occurrence(["it is Maybe"], ["maybe"], ignore=["MAYBE."]) is None
    assert first_occurrence(["no Jane"], ["no", "Jane"]) == 0


# A right in 2 turns; B wrong in 3, found in its 2nd; C wrong in 1; D wrong in 2, found in its 1st
OUTCOME, NUM_TURNS, FIRST = [1, 0, 0, 0], [2, 3, 1, 2], [0, 1, NO_OCCURRENCE, 0]


def test_first_turn_credits_one_turn():
    rewards = turn_rewards(OUTCOME, NUM_TURNS, FIRST)
    assert rewards.dtype == np.float64
    assert rewards.tolist() == [[1, 1, 0], [0, 0.5, 0], [0, 0, 0], [0.5, 0, 0]]


def test_through_first_turn_credits_the_earlier_ones_too():
    rewards = turn_rewards(OUTCOME, NUM_TURNS, FIRST, alpha=0.25, credit="through_first_turn")
    assert rewards.tolist() == [[1, 1, 0], [0.25, 0.25, 0], [0, 0, 0], [0.25, 0, 0]]


def test_alpha_zero_leaves_the_outcome():
    assert turn_rewards(OUTCOME, NUM_TURNS, FIRST, alpha=0.0).tolist() == [
        [1, 1, 0],
        [0] * 3,
        [0] * 3,
        [0] * 3,
    ]


def test_no_trajectories():
    assert turn_rewards([], [], []).shape == (0, 0)


@pytest.mark.parametrize("outcome", [0.5, -1.0, float("nan")])
def test_refuses_an_outcome_between(outcome):
    with pytest.raises(ValueError, match="0 or 1"):
        turn_rewards([outcome], [1], [NO_OCCURRENCE])
