import numpy as np
import pytest

from tspo.rollout.completion import completion_of
from tspo.trajectory import StopReason, Trajectory, Turn


def trajectory(*turns):
    return Trajectory("q", "q-0", "who?", ["x"], list(turns), None, StopReason.NO_ACTION, prompt_token_ids=[9, 9])


SEARCHED = Turn("a", "x", "f", token_ids=[1, 2], logprobs=[-0.5, -1.5], feedback_token_ids=[3, 4, 5])
ENDED = Turn("b", token_ids=[6], logprobs=[-2.5])


def test_the_flat_sequence_of_two_turns():
    completion = completion_of(trajectory(SEARCHED, ENDED))
    assert completion.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert completion.turn_index.tolist() == [0, 0, -1, -1, -1, 1]
    assert completion.logprobs.tolist() == [-0.5, -1.5, 0, 0, 0, -2.5]
    assert completion.sampled.tolist() == [1, 1, 0, 0, 0, 1]
    assert (completion.token_ids.dtype, completion.logprobs.dtype) == (np.int64, np.float64)


@pytest.mark.parametrize("missing", ["token_ids", "logprobs"])
def test_a_trajectory_from_a_file_has_no_tokens(missing):
    turn = Turn("a", token_ids=[1], logprobs=[0.0])
    setattr(turn, missing, None)
    with pytest.raises(ValueError, match="turn 1 has no tokens"):
        completion_of(trajectory(ENDED, turn))
