import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.rewards.answer_span import _normalized, answer_span
from tspo.rewards.folr import first_occurrence
from tspo.rewards.matching import normalize_answer

WORDS = ["a", "an", "The", "the", "art", "party", "Ann", "U.S.", "us", "--", "'", "1,410", "Σίσυφος", "é", "İ", "\n"]
PHRASES = st.lists(st.sampled_from(WORDS), max_size=12)
TEXTS = st.one_of(st.text(max_size=40), PHRASES.map(" ".join), PHRASES.map("".join))


@pytest.mark.parametrize(
    ("text", "answers", "marked"),
    [
        ("They live in Ann Arbor, Michigan.", ["ann arbor"], "Ann Arbor"),
        ("He is from the U.S. of A.", ["US"], "U.S"),
        ("in The  Art of\nthe War.", ["the art of war"], "Art of\nthe War"),
        ("a party, then art", ["art"], "art"),
        ("second, then first", ["first", "second"], "second"),
        ("It was 1,410 years", ["1410"], "1,410"),
    ],
)
def test_the_answer_is_marked_in_the_text_as_it_stands(text, answers, marked):
    start, end = answer_span(text, answers)
    assert text[start:end] == marked


def test_the_place_is_that_of_a_whole_token():
    text = "a party, then art"
    assert answer_span(text, ["art"]) == (14, 17)
    assert answer_span(text, ["art"], match="substring") == (3, 6)


@pytest.mark.parametrize("answers", [["yes"], ["the"], ["..."], [], ["missing"]])
def test_what_is_no_evidence_is_not_marked(answers):
    assert answer_span("Yes, the ... one", answers) is None


def test_a_text_that_changes_length_in_lower_case_is_marked_in_place():
    text = "İİ in İstanbul, Ann"
    start, end = answer_span(text, ["ann"])
    assert text[start:end] == "Ann"
    start, end = answer_span(text, ["İstanbul"])
    assert text[start:end] == "İstanbul"


@given(TEXTS)
def test_the_text_is_normalised_as_rewards_do(text):
    normalized, places = _normalized(text)
    assert normalized == normalize_answer(text)
    assert len(normalized) <= len(places)
    assert places == sorted(places)


@given(TEXTS, TEXTS, st.sampled_from(["token", "substring"]))
def test_there_is_a_mark_where_folr_finds_the_answer(text, answer, match):
    found = first_occurrence([text], [answer], match) is not None
    assert (answer_span(text, [answer], match) is not None) == found
