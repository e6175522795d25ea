from tspo.anchors import anchor_states
from tspo.trajectory import StopReason, Trajectory, Turn


def trajectory(group_id, *feedbacks):
    turns = [Turn("", feedback=feedback) for feedback in (*feedbacks, None)]
    return Trajectory(group_id, "", "Who?", ["Ann"], turns, None, StopReason.ANSWER)


def test_a_turns_state_is_what_was_shown_before_it():
    labels = anchor_states(
        [trajectory("p", "a", "b"), trajectory("p", "b", "a"), trajectory("q", "a"), trajectory("p")]
    )
    (start, a, b), (start_2, b_2, a_2), (other_start, other_a), (start_3,) = labels
    assert (start, a, b) == (start_2, a_2, b_2)
    assert start == start_3
    assert len({start, a, b, other_start, other_a}) == 5


def test_states_that_are_alike_enough_are_one():
    long = "The quick brown fox jumps over the lazy dog"
    items = [
        trajectory("p", long),
        trajectory("p", long + "s"),
        trajectory("p", "something else"),
        trajectory("q", long),
    ]
    exact = [row[1] for row in anchor_states(items)]
    alike = [row[1] for row in anchor_states(items, 0.9)]
    assert len(set(exact)) == 4
    assert alike[0] == alike[1]
    assert len(set(alike)) == 3
