from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

import torch

from tspo.credit import Credit
from tspo.training.batch import make_batch
from tspo.training.token_details import add_token_ends, log_ratio_file, log_ratios, token_ends
from tspo.trajectory import StopReason, Trajectory, Turn


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_the_pieces_are_those_of_the_text(tiny_tokenizer: Any, text: str) -> None:
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    ends = token_ends(ids, tiny_tokenizer.decode(ids), tiny_tokenizer)
    assert ends is not None
    assert len(ends) == len(ids)
    assert ends == sorted(ends)
    assert not ids or ends[-1] == len(text)


def test_each_piece_is_what_its_token_says(tiny_tokenizer: Any) -> None:
    text = "<think>I should look up Paris.</think>"
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    ends = token_ends(ids, text, tiny_tokenizer)
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert pieces == [tiny_tokenizer.decode([token]) for token in ids]


def test_a_character_ends_with_its_last_token_and_one_cut_off_with_the_text(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer.encode("a\U0001f600", add_special_tokens=False)
    assert len(ids) == 5
    assert token_ends(ids, "a\U0001f600", tiny_tokenizer) == [1, 1, 1, 1, 2]
    assert token_ends(ids[:3], tiny_tokenizer.decode(ids[:3]), tiny_tokenizer) == [1, 1, 2]


def test_tokens_that_say_something_else_have_no_places(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer.encode("one", add_special_tokens=False)
    assert token_ends(ids, "two", tiny_tokenizer) is None


def trajectory(*turns: Turn, stop: StopReason = StopReason.ANSWER) -> Trajectory:
    return Trajectory("g", "g-0", "q", ["a"], list(turns), None, stop, [1, 2])


def test_turns_that_were_sampled_get_their_places(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer.encode("one", add_special_tokens=False)
    made = trajectory(Turn("one", token_ids=ids), Turn("two", token_ids=ids), Turn("one"))
    add_token_ends(made, tiny_tokenizer)
    ends = token_ends(ids, "one", tiny_tokenizer)
    assert [turn.extra for turn in made.turns] == [{"token_ends": ends}, {}, {}]


def test_a_token_has_the_ratio_of_update_to_sampler_and_one_outside_the_loss_has_none() -> None:
    first = trajectory(Turn("a", None, "b", [3, 4], [-1.5, -1.5], [9]), Turn("c", token_ids=[5], logprobs=[-3.0]))
    failed = trajectory(Turn("a", token_ids=[3, 4], logprobs=[-1.0, -1.0]), stop=StopReason.RETRIEVER_ERROR)
    last = trajectory(Turn("a", token_ids=[7], logprobs=[-5.0]))
    credits = [Credit(0.0, None, [0.0] * 2, [1.0] * 2)] * 3
    batch = make_batch([first, failed, last], credits, [0, 0, 0], [False] * 3)
    rows = log_ratios([first, failed, last], batch, torch.tensor([-1.0, -2.0, -3.0, -4.0]))
    assert [row.dtype for row in rows] == [np.float16] * 3
    assert rows[0].tolist() == [0.5, -0.5, 0.0]
    assert np.isnan(rows[1]).tolist() == [True, True]
    assert rows[2].tolist() == [1.0]


def test_ratios_lie_beside_their_trajectories() -> None:
    assert log_ratio_file(Path("run/trajectories/000003.jsonl")) == Path("run/trajectories/000003.log_ratios.npy")
