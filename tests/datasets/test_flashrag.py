import pytest

from tspo.datasets.flashrag import convert_row, supporting_titles
from tspo.datasets.hops import known_hops

STEPS = [
    {"id": 1, "question": "Green >> performer", "support_paragraph": {"title": "Green", "paragraph_text": ".."}},
    {"id": 2, "question": "#1 >> spouse", "support_paragraph": "{'idx': 5, 'title': 'Miquette Giraudy'}"},
]


def test_a_row_of_hotpotqa():
    row = {
        "id": "dev_3",
        "question": " Which came first ",
        "golden_answers": ["A"],
        "metadata": {"type": "comparison", "supporting_facts": {"title": ["A", "B", "A"], "sent_id": [0, 0, 1]}},
    }
    assert convert_row(row, "hotpotqa", "dev", 3) == {
        "id": "hotpotqa_dev_3",
        "question": "Which came first?",
        "golden_answers": ["A"],
        "data_source": "hotpotqa",
        "supporting_titles": ["A", "B"],
        "hops": 2,
    }


def test_a_row_of_musique_in_both_forms_of_its_steps():
    row = {"id": "dev_0", "question": "Who?", "golden_answers": ["x"], "metadata": {"question_decomposition": STEPS}}
    line = convert_row(row, "musique", "dev", 0)
    assert line["supporting_titles"] == ["Green", "Miquette Giraudy"]
    assert line["hops"] == 2


@pytest.mark.parametrize(
    "paragraph", [None, "{", "__import__('os').getcwd()", "[" * 10_000, 7, {"title": 3}, "'a'"], ids=range(7)
)
def test_strange_steps_are_no_titles(paragraph):
    assert supporting_titles({"question_decomposition": [{"support_paragraph": paragraph}, "x"]}) == []


@pytest.mark.parametrize(
    "row",
    [
        [],
        {"question": "", "golden_answers": ["x"]},
        {"question": "Who?"},
        {"question": "Who?", "golden_answers": [" ", 3]},
        {"question": 3, "golden_answers": ["x"]},
    ],
)
def test_rows_without_a_question_or_an_answer_are_none(row):
    assert convert_row(row, "nq", "test", 0) is None


def test_an_id_that_is_missing_is_the_number():
    assert convert_row({"question": "Who?", "golden_answers": "x"}, "popqa", "test", 9)["id"] == "popqa_test_9"


@pytest.mark.parametrize(
    ("source", "identifier", "metadata", "hops"),
    [
        ("nq", "test_0", None, 1),
        ("bamboogle", "test_0", {}, 2),
        ("musique", "musique_3hop1__1_2_3", None, 3),
        ("musique", "4hop2__1_2", None, 4),
        ("musique", "dev_0", {"question_decomposition": [{}, {}, {}]}, 3),
        ("musique", "dev_0", None, None),
        ("2wikimultihopqa", "dev_0", {"type": "bridge_comparison"}, 4),
        ("2wikimultihopqa", "dev_0", {"type": "inference"}, 2),
        ("2wikimultihopqa", "dev_0", {"type": ["inference"]}, None),
        ("mine", "mine_1", {"type": "inference"}, None),
        ("mine", "shop__1", None, None),
    ],
)
def test_hops(source, identifier, metadata, hops):
    assert known_hops(source, identifier, metadata) == hops
