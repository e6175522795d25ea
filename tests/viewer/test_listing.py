import random

import pytest

from tspo.evaluation.report.choose import State
from tspo.viewer.listing import PAGE, Wanted, history, page_of_groups, spread_questions, when
from tspo.viewer.source import AFTER_TRAINING

ENDINGS = ("right", "near miss", "wrong")


@pytest.fixture
def many(tmp_path, write, make_group, make_index):
    """An index of 200 groups of 40 questions over 20 steps, and the groups as (step, question, endings)."""
    generator = random.Random(0)
    lines, groups = [], []
    for number in range(200):
        endings = generator.choices(ENDINGS, k=generator.randint(1, 4))
        step, question = number // 10, f"Question {number % 40:02d}?"
        made = make_group(f"g{number}", *endings, question=question)
        lines += [line | {"step": step} for line in made]
        groups.append((step, question, endings))
    path = tmp_path / "many.jsonl"
    write(path, lines)
    return make_index(path), groups


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (Wanted(), lambda step, question, endings: True),
        (Wanted(states=frozenset({State.NEAR_MISS})), lambda step, question, endings: "near miss" in endings),
        (
            Wanted(states=frozenset({State.RIGHT, State.WRONG})),
            lambda step, question, endings: {"right", "wrong"} <= set(endings),
        ),
        (Wanted(all_wrong=True), lambda step, question, endings: "right" not in endings),
        (Wanted(text="  QUESTION 07"), lambda step, question, endings: "07" in question),
        (Wanted(first=3, last=5), lambda step, question, endings: 3 <= step <= 5),
        (Wanted(text="%"), lambda step, question, endings: False),
    ],
)
def test_filters_keep_what_they_say(many, wanted, holds):
    index, groups = many
    expected = [(step, question) for step, question, endings in groups if holds(step, question, endings)]
    found = []
    while True:
        page = page_of_groups(index, wanted, len(found))
        assert page["total"] == len(expected)
        if not page["groups"]:
            break
        assert len(page["groups"]) <= PAGE
        found += [(row["at"], row["question"]) for row in page["groups"]]
    assert found == expected


def test_answers_and_queries_are_searched_too(make_run, make_index):
    index = make_index(make_run())
    assert page_of_groups(index, Wanted(text="bob"), 0)["total"] == 6
    assert page_of_groups(index, Wanted(text="ann arbor"), 0)["total"] == 8
    assert page_of_groups(index, Wanted(text="it\n"), 0)["total"] == 8


def test_a_question_has_a_history(many):
    index, groups = many
    (row, *_) = page_of_groups(index, Wanted(text="question 13"), 0)["groups"]
    times = history(index, row["id"])
    assert [(time["at"], time["members"]) for time in times] == [
        (step, len(endings)) for step, question, endings in groups if question == "Question 13?"
    ]


@pytest.mark.parametrize("most", [1, 30, 100, 10_000])
def test_a_choice_is_of_whole_questions_and_about_as_many_as_are_wanted(many, most):
    index, groups = many
    chosen = spread_questions(index, most)
    questions = {row["question"] for row in chosen}
    of_them = [endings for _, question, endings in groups if question in questions]
    assert len(chosen) == len(of_them)
    total = sum(len(endings) for _, _, endings in groups)
    held = sum(row["members"] for row in chosen)
    largest = max(sum(len(e) for _, q, e in groups if q == question) for question in questions)
    assert held <= min(most, total) * 1.5 + largest
    assert held >= min(most, total) * 0.5


def test_places_on_the_axis_have_names():
    assert [when(at) for at in (-2, -1, 0, 1200, AFTER_TRAINING)] == [
        "before",
        "after warm-up",
        "no step",
        "step 1,200",
        "after training",
    ]
