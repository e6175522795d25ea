"""Rewards that are functions: what they are called, what they give, and what another process makes of them."""

import pytest

from tspo.credit import CreditConfig, assign_credit
from tspo.errors import BadInput
from tspo.rewards import Reward, in_python
from tspo.rewards.in_python import check_known, is_in_python, know_reward, reward_name
from tspo.trajectory import StopReason, Trajectory, Turn


@pytest.fixture(autouse=True)
def knows_none(monkeypatch):
    monkeypatch.setattr(in_python, "_HERE", {})


def trajectory(member, turns, **extra):
    made = [Turn("", "q", "f") for _ in range(turns - 1)] + [Turn("")]
    return Trajectory("g", f"g-{member}", "Where?", ["Oslo"], made, "Rome", StopReason.ANSWER, extra=extra)


def count(trajectory):
    return [float(k) for k in range(len(trajectory.turns))]


def test_names():
    assert reward_name(count) == "python:count"
    assert reward_name(Reward(count, "trajectory", "steps")) == "python:count"
    assert is_in_python("python:count")
    for name in ("count", "python:", "python:two words", "python", None, 3):
        assert not is_in_python(name)
    with pytest.raises(BadInput, match=r"^reward: 'python:' is not one of own, outcome"):
        CreditConfig(reward="python:")


def test_under_grpo_its_numbers_add_up():
    know_reward(count)
    credits = assign_credit(
        [trajectory(0, 1), trajectory(1, 3)], CreditConfig("grpo", reward="python:count", scale="none")
    )
    assert [credit.turn_rewards for credit in credits] == [[0.0], [0.0, 1.0, 2.0]]
    # sums 0 and 3, whose mean is 1.5
    assert [credit.turn_advantages for credit in credits] == [[-1.5], [1.5, 1.5, 1.5]]


def test_under_tspo_turns_are_compared():
    know_reward(count)
    credits = assign_credit(
        [trajectory(0, 1), trajectory(1, 3)], CreditConfig("tspo", reward="python:count", scale="none")
    )
    # turn by turn, the first by its last turn: 0 and 0, 0 and 1, 0 and 2
    assert [credit.turn_advantages for credit in credits] == [[0.0], [0.0, 0.5, 1.0]]


def test_what_was_recorded_stays():
    members = [trajectory(0, 1, turn_rewards=[1.0]), trajectory(1, 2, turn_rewards=[0.0, 5.0])]
    config = CreditConfig("grpo", reward="python:count", scale="none")
    for _ in range(2):
        credits = assign_credit(members, config)
        assert [credit.turn_rewards for credit in credits] == [[1.0], [0.0, 5.0]]
        assert [credit.turn_advantages for credit in credits] == [[-2.0], [2.0, 2.0]]
        know_reward(count)


def test_one_that_is_not_known_and_not_recorded():
    with pytest.raises(BadInput, match=r"^trajectory g-0: reward python:count gave None, not a number for each of"):
        assign_credit([trajectory(0, 2)], CreditConfig("grpo", reward="python:count"))
    with pytest.raises(BadInput, match=r"^credit\.reward: python:count is a function of the Python program"):
        check_known("python:count")
    check_known("outcome")
    know_reward(count)
    check_known("python:count")


def test_another_algorithm_has_its_own_reward():
    config = CreditConfig("grpo", reward="python:count")
    assert config.with_algorithm("tspo").reward_name == "folr"
    assert config.with_algorithm("grpo") is config
