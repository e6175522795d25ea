import pytest

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


@pytest.mark.parametrize("tag", [{}, {"is_padding": False}, {"is_padding": True}])
def test_a_row_is_its_trajectory_and_whether_verl_made_it(tag: dict[str, bool]) -> None:
    found = carried_row(carry(trajectory(), [0, 0, -1, 1]), tag)
    assert found == CarriedRow([0, 0, -1, 1], trajectory(), tag.get("is_padding", False))


def test_rows_are_handed_over_for_one_call() -> None:
    row = CarriedRow([0], trajectory())
    with handed_over([row]):
        assert rows_handed_over() == [row]
    with pytest.raises(RuntimeError, match="trainer_mode=tspo_sync"):
        rows_handed_over()
