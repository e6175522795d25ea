import logging

import pytest

from tspo.datasets import golden_answers as module
from tspo.datasets.golden_answers import golden_answers
from tspo.errors import BadInput


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["Oslo"], ("Oslo",)),
        (['["Oslo", "Kristiania"]'], ("Oslo", "Kristiania")),
        (["['Oslo', \"St. John's\"]"], ("Oslo", "St. John's")),
        (["Oslo<|answer_split|>Kristiania"], ("Oslo", "Kristiania")),
        (["a", '["b"]'], ("a", "b")),
        # no list of texts, whatever it looks like
        (["[1, 2]"], ("[1, 2]",)),
        (["[]"], ("[]",)),
        (["[REC]"], ("[REC]",)),
        (['["Oslo"'], ('["Oslo"',)),
        (['["a", 1]'], ('["a", 1]',)),
        (["['a' + 'b']"], ("['a' + 'b']",)),
        (["(['a'], )"], ("(['a'], )",)),
    ],
)
def test_what_is_a_list_is_read_as_one(value: list[str], expected: tuple[str, ...]) -> None:
    assert golden_answers(value, "q.jsonl:1") == expected


@pytest.mark.parametrize("value", [[""], [" "], ["a", "\n"], ['["a", ""]'], ["a<|answer_split|>"]])
def test_a_blank_answer_is_refused_by_its_line(value: list[str]) -> None:
    with pytest.raises(BadInput, match=r"^q\.jsonl:7: field 'golden_answers': a blank answer can never be right"):
        golden_answers(value, "q.jsonl:7")


@pytest.mark.parametrize("value", [None, "a", [], [1], {"a": 1}])
def test_what_is_no_list_of_texts_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match="expected a list of at least one string"):
        golden_answers(value, "q.jsonl:7")


def test_lists_in_text_are_told_once_a_file(caplog: pytest.LogCaptureFixture) -> None:
    module._say.cache_clear()
    with caplog.at_level(logging.WARNING):
        for line in range(3):
            golden_answers(['["a", "b"]'], f"one.jsonl, line {line}")
        golden_answers(['["a", "b"]'], "two.jsonl, line 1")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["one.jsonl", "two.jsonl"]
