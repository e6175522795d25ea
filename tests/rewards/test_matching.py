import re
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tspo.rewards.matching import (
    exact_match,
    f1,
    hotpot_f1,
    normalize_answer,
    occurs,
    occurs_in_raw,
    substring_match,
)
from tspo.scripts import apart

# articles, punctuation, their neighbours beyond ASCII, and what changes length when lowered
PIECES = ["the", "The", "a", "an", "An", "party", "art", "s", "é", "İ", "ß", "_", "0", "x\ud800", "漢字"]
PIECES += [
    " ",
    "  ",
    "\t",
    "\n",
    "\xa0",
    "\u3000",
    "\x00",
    "\x1c",
    "-",
    "—",
    "'",
    "’",
    ".",
    "(",
    "/",
    "\u0301",
]
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=14).map("".join))


def squad_normalize(text: str) -> str:
    """SQuAD's evaluation script, line for line."""
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(texts)
@example("the the—the a'n the’s")
@example("thea a\x00an the")
@example("\ud83d\ude00 the \udc00")
def test_normalises_exactly_as_squad_does(text):
    assume(apart(text) == text)
    assert normalize_answer(text) == squad_normalize(text)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Beatles!", "beatles"),
        ("  An  U.S.\tcity ", "us city"),
        ("a", ""),
        ("theatre and banana", "theatre and banana"),
        ("Côte d'Ivoire", "côte divoire"),
        ("2018–2019", "2018–2019"),
        ("jean-luc", "jeanluc"),
    ],
)
def test_normalize_answer(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "golden_answers", "expected"),
    [
        ("the Eiffel Tower.", ["Eiffel tower"], 1.0),
        ("Paris", ["London", "paris"], 1.0),
        ("Paris, France", ["Paris"], 0.0),
        (None, ["Paris"], 0.0),
        (None, [""], 0.0),
        ("", ["Paris"], 0.0),
        # nothing is never right, and what normalisation empties is compared before it
        ("", ["The The"], 0.0),
        (" \n", ["A"], 0.0),
        ("", ["+"], 0.0),
        ("", [""], 0.0),
        ("the", [""], 0.0),
        ("the  the", ["The The"], 1.0),
        ("A", ["The The"], 0.0),
        ("a", ["A"], 1.0),
        ("+", ["+"], 1.0),
        ("-", ["+"], 0.0),
        ("The", ["Oslo", "the"], 1.0),
    ],
)
def test_exact_match(prediction, golden_answers, expected):
    assert exact_match(prediction, golden_answers) == expected


@pytest.mark.parametrize(
    ("prediction", "golden_answers", "expected"),
    [
        ("cat sat on mat", ["the cat sat"], 2 / 3),  # precision 2/4, recall 2/2
        ("cat cat", ["cat"], 2 / 3),  # a token counts as often as both have it
        ("Jane Doe", ["John", "jane doe"], 1.0),
        ("yes", ["no"], 0.0),
        ("yes indeed", ["yes"], 2 / 3),  # no special case for yes and no
        ("the", ["a"], 0.0),
        ("the", ["The The"], 2 / 3),
        ("", ["The The"], 0.0),
        ("", [""], 0.0),
        ("", ["cat"], 0.0),
        ("挪威的首都", ["首都"], 4 / 7),  # precision 2/5, recall 2/2
        (None, ["cat"], 0.0),
        ("cat", [], 0.0),
    ],
)
def test_f1(prediction, golden_answers, expected):
    assert f1(prediction, golden_answers) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "golden_answers", "expected"),
    [
        # HotpotQA's script, hotpot_evaluate_v1.py: f1_score
        ("yes indeed", ["yes"], 0.0),
        ("yes", ["Yes."], 1.0),
        ("no", ["yes"], 0.0),
        ("noanswer", ["no answer"], 0.0),
        ("the no", ["No"], 1.0),
        ("yes", ["yes or no", "yes"], 1.0),
        ("cat sat on mat", ["the cat sat"], 2 / 3),
        (None, ["yes"], 0.0),
    ],
)
def test_f1_of_hotpotqa(prediction, golden_answers, expected):
    assert hotpot_f1(prediction, golden_answers) == pytest.approx(expected, abs=1e-12)


SPACELESS = "挪威的首都是奥斯陆，位于"


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("奥斯陆", SPACELESS, True),
        ("奥斯陆。", SPACELESS, True),
        ("奥陆", SPACELESS, False),
        ("オスロ", "首都はオスロです", True),
        ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร", True),
        ("오슬로", "수도는 오슬로이다", True),
        ("दिल", "मेरा दिल यहाँ है", True),
        ("द", "मेरा दिल यहाँ है", False),
        ("محمد", "كان مُحَمَّد هناك", True),
        ("مُحَمَّد", "كان محمد هناك", True),
        ("Café", "at the Cafe\u0301 Nord", True),
        ("Cafe\u0301", "at the Café Nord", True),
        ("２０２４", "in 2024", True),
        ("Cafe", "at the Café Nord", False),
    ],
)
def test_answers_in_other_scripts(answer, text, found):
    answers = [normalize_answer(answer)]
    assert occurs_in_raw(answers, text, "token") is found
    assert occurs(answers, normalize_answer(text), "token") is found


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_an_exact_match_has_the_greatest_f1(prediction, golden_answers):
    score = f1(prediction, golden_answers)
    assert 0.0 <= score <= 1.0
    if exact_match(prediction, golden_answers):
        assert score == 1.0


def test_substring_match():
    assert substring_match("It was Jane Doe, I think", ["jane doe"]) == 1.0
    assert substring_match("Jane", ["Jane Doe"]) == 0.0
    assert substring_match("anything", ["the"]) == 0.0
    assert substring_match(None, ["x"]) == 0.0


@pytest.mark.parametrize(
    ("answer", "text", "token", "substring"),
    [
        ("art", "the party ended", False, True),
        ("art", "modern art.", True, True),
        ("Art", "ART begins here", True, True),
        ("new york", "in New  York City", True, True),
        ("new york", "new shops of york", False, False),
        ("york new", "new york", False, False),
        ("bank of the west", "Bank of West", True, True),
        ("the", "the the", False, False),
        ("", "anything", False, False),
        ("b c", "ab cd", False, True),
        ("42", "", False, False),
    ],
)
def test_occurs(answer, text, token, substring):
    answers = [normalize_answer(answer)]
    for occurs_by, given_text in ((occurs, normalize_answer(text)), (occurs_in_raw, text)):
        assert occurs_by(answers, given_text, "token") is token
        assert occurs_by(answers, given_text, "substring") is substring


@given(st.lists(texts, max_size=3), texts, st.sampled_from(["token", "substring"]))
def test_the_short_cut_never_changes_the_result(answers, text, match):
    normalized = [normalize_answer(answer) for answer in answers]
    assert occurs_in_raw(normalized, text, match) == occurs(normalized, normalize_answer(text), match)


@given(texts, texts)
def test_token_occurrence_is_a_contiguous_run(answer, text):
    assume(apart(text) == text and apart(answer) == answer)
    tokens, run = squad_normalize(text).split(), squad_normalize(answer).split()
    expected = bool(run) and any(tokens[i : i + len(run)] == run for i in range(len(tokens)))
    assert occurs_in_raw([normalize_answer(answer)], text, "token") == expected
