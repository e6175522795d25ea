import pytest

from tspo.credit import Credit, CreditConfig
from tspo.training.verl.carried import (
    CarriedRow,
    Handover,
    carried_row,
    carried_trajectory,
    carry,
    credit_that_was,
    handed_over,
    what_was_handed_over,
)
from tspo.trajectory import StopReason, Trajectory, Turn


def trajectory(stop_reason: StopReason = StopReason.ANSWER) -> Trajectory:
    turns = [Turn("<search>a</search>", "a", "it is b", [1, 2], [-0.5, -0.25], [3]), Turn("<answer>b</answer>")]
    return Trajectory("g", "g-0", "q", ["b"], turns, "b", stop_reason, [7], {"data_source": "made"})


def test_a_trajectory_arrives_as_it_left() -> None:
    assert carried_trajectory(carry(trajectory(), [0, 0, -1, 1])) == trajectory()


@pytest.mark.parametrize("tag", [{}, {"is_padding": False}, {"is_padding": True}])
def test_a_row_is_its_trajectory_and_whether_verl_made_it(tag: dict[str, bool]) -> None:
    found = carried_row(carry(trajectory(), [0, 0, -1, 1]), tag)
    assert found == CarriedRow([0, 0, -1, 1], trajectory(), tag.get("is_padding", False))


def test_rows_are_handed_over_for_one_call() -> None:
    handover = Handover([CarriedRow([0], trajectory())])
    with handed_over(handover):
        assert what_was_handed_over() is handover
    with pytest.raises(RuntimeError, match="trainer_mode=tspo_sync"):
        what_was_handed_over()


def test_credit_that_was_is_the_mean_over_a_turns_tokens() -> None:
    row = CarriedRow([0, 0, -1, 1], trajectory())
    earned = credit_that_was(row, [0.5, 1.0, 9.0, -2.0], CreditConfig())
    assert earned == Credit(1.0, 0, [1.0, 1.0], [0.75, -2.0])
    # a response that verl cut, and turns without a token of their own
    assert credit_that_was(row, [0.5], CreditConfig()).turn_advantages == [0.5, 0.0]
    assert credit_that_was(row, [], CreditConfig()).turn_advantages == [0.0, 0.0]
