from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

from tspo.training.batch import Batch
from tspo.training.update.passes import Pass, learning_rows, pass_tokens, plan_passes

# One row: name, of an all-wrong group, advantage, tokens. The first token of each is its prompt.
ROWS = [
    ("right", False, 1.0, 5),
    ("silent wrong", True, 0.0, 4),
    ("long near miss", True, 0.5, 7),
    ("silent", False, 0.0, 3),
    ("near miss", True, 0.5, 4),
    ("wrong", False, -1.0, 3),
]


def batch_of(rows: list[tuple[str, bool, float, int]]) -> Batch:
    lengths = torch.tensor([row[3] for row in rows], dtype=torch.int64)
    in_loss = torch.cat([torch.arange(row[3]) > 0 for row in rows])
    advantages = torch.cat([torch.full((row[3] - 1,), row[2]) for row in rows])
    all_wrong = torch.tensor([row[1] for row in rows])
    ids = torch.zeros(len(in_loss), dtype=torch.int64)
    return Batch(ids, lengths, in_loss, advantages, advantages, torch.arange(len(rows)), all_wrong)


def plan(batch: Batch, *, beta: float = 0.0, max_rows: int = 8, max_tokens: int = 100) -> list[Pass]:
    return plan_passes(batch, learning_rows(batch, beta), max_rows=max_rows, max_tokens=max_tokens)


def named(passes: list[Pass]) -> list[tuple[list[str], bool]]:
    return [([ROWS[row][0] for row in one.rows], one.all_wrong) for one in passes]


def test_all_wrong_first_silent_never_shorter_before_longer() -> None:
    assert named(plan(batch_of(ROWS))) == [(["near miss", "long near miss"], True), (["wrong", "right"], False)]


def test_with_kl_no_row_is_silent() -> None:
    assert named(plan(batch_of(ROWS), beta=0.01, max_rows=2)) == [
        (["silent wrong", "near miss"], True),
        (["long near miss"], True),
        (["silent", "wrong"], False),
        (["right"], False),
    ]


def test_rows_of_about_the_same_length_go_together() -> None:
    rows = [("", False, 1.0, length) for length in (500, 90, 2000, 480, 100, 520, 100)]
    passes = plan(batch_of(rows), max_tokens=1024)
    assert [one.rows for one in passes] == [[1, 4, 6], [3, 0], [5], [2]]


def test_a_trajectory_outside_the_loss_has_no_gradient_even_with_a_turn_that_would_teach() -> None:
    batch = batch_of([("failed", True, 0.0, 5), ("near miss", True, 0.5, 5)])
    assert [one.rows for one in plan(batch)] == [[1]]


KINDS = st.tuples(st.just(""), st.booleans(), st.sampled_from([0.0, 1.0]), st.integers(2, 40))


@given(st.lists(KINDS, max_size=12), st.sampled_from([0.0, 0.1]), st.integers(1, 4), st.integers(1, 100))
def test_every_row_that_learns_is_in_one_pass_and_no_pass_is_too_large(rows, beta, max_rows, max_tokens) -> None:
    batch = batch_of(rows) if rows else batch_of(ROWS).take([])
    passes = plan(batch, beta=beta, max_rows=max_rows, max_tokens=max_tokens)
    learning = [row for row, (_, _, advantage, _) in enumerate(rows) if beta > 0 or advantage != 0]
    assert Counter(row for one in passes for row in one.rows) == Counter(learning)
    for one in passes:
        padded = len(one.rows) * max(rows[row][3] for row in one.rows)
        assert len(one.rows) == 1 or (len(one.rows) <= max_rows and padded <= max_tokens)
        assert {one.all_wrong} == {rows[row][1] for row in one.rows}
    assert [one.all_wrong for one in passes] == sorted((one.all_wrong for one in passes), reverse=True)


def test_a_cpu_is_given_short_passes() -> None:
    assert pass_tokens(torch.device("cpu")) < pass_tokens(torch.device("cuda")) == pass_tokens(torch.device("mps"))
