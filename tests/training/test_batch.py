from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

from tspo.credit import Credit
from tspo.training.batch import Batch, make_batch, no_trajectory, rows_by_group
from tspo.trajectory import StopReason, Trajectory, Turn


def trajectory(prompt: list[int], *turns: tuple[list[int], list[int]]) -> Trajectory:
    """Turns of (sampled tokens, observed tokens); a token's log-probability is minus the token."""
    made = [
        Turn("t", token_ids=said, logprobs=[-float(token) for token in said], feedback_token_ids=read)
        for said, read in turns
    ]
    return Trajectory("g", "g-0", "q", ["a"], made, None, StopReason.ANSWER, prompt)


def credit(*advantages: float) -> Credit:
    return Credit(0.0, None, [0.0] * len(advantages), list(advantages))


ROWS = [
    trajectory([1, 2], ([3, 4], [5]), ([6], [])),
    trajectory([1], ([7], [])),
    trajectory([1, 2, 3], ([8], [9, 9]), ([4, 2], [])),
]
CREDITS = [credit(0.5, -1.0), credit(2.0), credit(0.0, 3.0)]


@pytest.fixture
def batch() -> Batch:
    return make_batch(ROWS, CREDITS, [0, 0, 1], [False, False, True])


def test_a_batch_is_its_trajectories_one_after_another(batch: Batch) -> None:
    assert batch.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 1, 7, 1, 2, 3, 8, 9, 9, 4, 2]
    assert batch.lengths.tolist() == [6, 2, 8]
    assert batch.in_loss.int().tolist() == [0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 1, 1]
    assert batch.advantages.tolist() == [0.5, 0.5, -1.0, 2.0, 0.0, 3.0, 3.0]
    assert batch.sampled_logprobs.tolist() == [-3, -4, -6, -7, -8, -4, -2]
    assert (batch.group.tolist(), batch.all_wrong.tolist()) == ([0, 0, 1], [False, False, True])
    assert batch.loss_tokens.tolist() == [3, 1, 3]
    assert len(batch) == 3
    assert {batch.advantages.dtype, batch.sampled_logprobs.dtype} == {torch.float32}
    assert {batch.token_ids.dtype, batch.lengths.dtype, batch.group.dtype} == {torch.int64}


def test_a_trajectory_whose_tool_failed_is_outside_the_loss() -> None:
    failed = trajectory([1, 2], ([3], []))
    failed.stop_reason = StopReason.RETRIEVER_ERROR
    batch = make_batch([ROWS[1], failed], [credit(1.0), credit(0.0)], [0, 0], [True, True])
    assert batch.in_loss.int().tolist() == [0, 1, 0, 0, 0]
    assert batch.loss_tokens.tolist() == [1, 0]
    assert batch.advantages.tolist() == [1.0]


def test_a_trajectory_without_tokens_is_refused() -> None:
    written = Trajectory("g", "g-0", "q", ["a"], [Turn("t")], None, StopReason.ANSWER, [1])
    with pytest.raises(ValueError, match="g-0: turn 0 has no tokens"):
        make_batch([written], [credit(1.0)], [0], [False])


def test_the_loss_tokens_of_trajectories_have_their_places(batch: Batch) -> None:
    assert batch.places([2, 0]).tolist() == [4, 5, 6, 0, 1, 2]
    assert batch.places([]).tolist() == []


SOME = st.lists(st.integers(0, 2), unique=True)


@given(SOME)
def test_what_is_taken_is_the_batch_of_those_alone(rows: list[int]) -> None:
    whole = make_batch(ROWS, CREDITS, [0, 0, 1], [False, False, True])
    taken = replace(whole, old_logprobs=-whole.advantages).take(rows)
    alone = make_batch(*([part[row] for row in rows] for part in (ROWS, CREDITS, [0, 0, 1], [False, False, True])))
    for name in ("token_ids", "lengths", "in_loss", "advantages", "sampled_logprobs", "group", "all_wrong"):
        assert torch.equal(getattr(taken, name), getattr(alone, name)), name
    assert torch.equal(taken.old_logprobs, -taken.advantages)
    assert taken.reference_logprobs is None


def test_all_of_it_goes_to_a_device(batch: Batch) -> None:
    moved = batch.to(torch.device("meta"))
    tensors = [value for name in batch.__slots__ if (value := getattr(moved, name)) is not None]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == 7


def test_whole_groups_go_to_each_part() -> None:
    batch = make_batch([ROWS[1]] * 6, [credit(1.0)] * 6, [3, 4, 4, 5, 5, 6], [False] * 6)
    assert rows_by_group(batch, 1) == [[0, 1, 2, 3, 4, 5]]
    assert rows_by_group(batch, 2) == [[1, 2, 5], [0, 3, 4]]
    assert rows_by_group(batch, 6) == [[5], [], [], [0], [1, 2], [3, 4]]


def test_no_trajectory_has_no_token_of_the_loss() -> None:
    nothing = no_trajectory()
    assert (len(nothing), nothing.loss_tokens.tolist(), len(nothing.advantages)) == (1, [0], 0)


@given(st.lists(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=4), max_size=5))
def test_advantages_stand_on_the_tokens_of_their_turn(shape: list[list[tuple[int, int]]]) -> None:
    """As a loop over tokens would put them."""
    rows = [trajectory([1, 2], *(([5] * said, [6] * read) for said, read in turns)) for turns in shape]
    credits = [credit(*np.random.default_rng(0).normal(size=len(turns))) for turns in shape]
    expected = []
    for turns, earned in zip(shape, credits, strict=True):
        for (said, _), advantage in zip(turns, earned.turn_advantages, strict=True):
            expected += [advantage] * said
    batch = make_batch(rows, credits, [0] * len(rows), [False] * len(rows))
    assert batch.advantages.tolist() == pytest.approx(expected)
    assert int(batch.loss_tokens.sum()) == int(batch.in_loss.sum()) == len(expected)
