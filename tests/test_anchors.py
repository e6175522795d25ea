from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


ALIKE = [0.3, 0.5, 0.8, 0.9]
texts = st.text("ab c", max_size=12) | st.text("abcdefgh ", min_size=150, max_size=250)


@pytest.mark.parametrize("similarity", ALIKE)
@given(states=st.lists(texts, min_size=1, max_size=5), random=st.randoms())
def test_alike_is_what_difflib_says(similarity, states, random):
    """The first state that is alike enough, by the authors' measure and nothing else; "Who?" is there before."""
    states += ["".join(random.sample(state[:-3], len(state[:-3]))) + state[-3:] for state in states]
    states += [state[:10] + "x" + state[11:] for state in states]
    labels = [row[1] for row in anchor_states([trajectory("p", state) for state in states], similarity)]
    known = {"Who?": anchor_states([trajectory("p", "")], similarity)[0][0]}
    seen = {"Who?"}
    for state, label in zip(states, labels, strict=True):
        if state not in seen:
            seen.add(state)
            close = (kept for kept in known if SequenceMatcher(None, state, kept).ratio() >= similarity)
            first = next(close, None)
            if first is None:
                assert label not in known.values()
                known[state] = label
            else:
                assert label == known[first]
