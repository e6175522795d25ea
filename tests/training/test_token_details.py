from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tspo.training.token_details import LogRatios, log_ratio_file, token_ends  # noqa: E402


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


def test_ratios_are_kept_in_the_order_of_the_rows_and_unseen_ones_are_nan(tmp_path: Path) -> None:
    file = tmp_path / "000003.jsonl"
    ratios = LogRatios([np.array([1, 0, 1]), np.array([1, 1]), np.array([1])], file)
    logprobs = torch.tensor([[-1.0, -2.0, 9.0], [-3.0, 9.0, -4.0]], requires_grad=True)
    sampled_with = torch.tensor([[-1.5, -1.5, 0.0], [-3.0, 0.0, -5.0]])
    scored = torch.tensor([[1, 1, 0], [1, 0, 1]])
    ratios.note(torch.tensor([1, 0]), logprobs, sampled_with, scored)
    ratios.write(ratios.rows)
    found = np.load(log_ratio_file(file))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, [0.0, 1.0, 0.5, -0.5, np.nan])
