import pytest

from tspo.rewards.folr import NO_OCCURRENCE
from tspo.training.verl.carried import (
    CarriedRow,
    carried_row,
    carried_trajectory,
    carry,
    handed_over,
    rows_handed_over,
)
from tspo.trajectory import StopReason, Trajectory, Turn


def trajectory(stop_reason: StopReason = StopReason.ANSWER) -> Trajectory:
    turns = [Turn("<search>a</search>", "a", "it is b", [1, 2], [-0.5, -0.25], [3]), Turn("<answer>b</answer>")]
    return Trajectory("g", "g-0", "q", ["b"], turns, "b", stop_reason, [7], {"data_source": "made"})


def test_a_trajectory_arrives_as_it_left() -> None:
    assert carried_trajectory(carry(trajectory(), [0, 0, -1, 1])) == trajectory()


@pytest.mark.parametrize(("first", "index"), [(None, NO_OCCURRENCE), (0, 0), (2, 2)])
def test_a_row_is_what_the_reward_manager_found(first: int | None, index: int) -> None:
    fields = carry(trajectory(), [0, 0, -1, 1]) | {"reward_extra_info": {"acc": 1.0, "first_occurrence": first}}
    assert carried_row(fields) == CarriedRow([0, 0, -1, 1], 2, 1.0, index, retriever_failed=False)


def test_a_row_whose_retriever_failed_says_so() -> None:
    fields = carry(trajectory(StopReason.RETRIEVER_ERROR), [])
    fields["reward_extra_info"] = {"acc": 0.0, "first_occurrence": None}
    assert carried_row(fields).retriever_failed


def test_rows_are_handed_over_for_one_call() -> None:
    row = CarriedRow([0], 1, 0.0, NO_OCCURRENCE, retriever_failed=False)
    with handed_over([row]):
        assert rows_handed_over() == [row]
    with pytest.raises(RuntimeError, match="trainer_mode=tspo_sync"):
        rows_handed_over()
