"""Exact match and substring match beside Search-R1's own functions.

The table's last two columns are what `em_check` and `subem_check` of Search-R1's verl/utils/reward_score/qa_em.py gave
(commit a14dc3a). With SEARCH_R1 set to a checkout of it, the functions themselves are compared on generated text.
"""

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tspo.protocol import PROMPT, last_answer
from tspo.rewards.matching import exact_match, normalize_answer, substring_match
from tspo.scripts import apart

CASES = [
    ("Paris", ["Paris"], 1, 1),
    ("paris.", ["Paris"], 1, 1),
    ("The Paris", ["Paris"], 1, 1),
    ("a  Paris\n", ["Paris"], 1, 1),
    ("Paris, France", ["Paris"], 0, 1),
    ("an apple", ["apple"], 1, 1),
    ("theatre", ["atre"], 0, 1),
    ("the the", ["the"], 1, 1),
    ("A", ["a"], 1, 1),
    ("", ["Paris"], 0, 0),
    ("", [""], 1, 1),
    ("the", [""], 1, 1),
    ("Paris", [""], 0, 1),
    ("U.S.A.", ["USA"], 1, 1),
    ("U.S.", ["US", "United States"], 1, 1),
    ("1,000", ["1000"], 1, 1),
    ("1 000", ["1000"], 0, 0),
    ("$5.1%", ["5.1"], 1, 1),
    ("51", ["5.1"], 1, 1),
    ("DeCavalcante crime family", ["DeCavalcante crime family"], 1, 1),
    ("the DeCavalcante family", ["DeCavalcante crime family"], 0, 0),
    ("Ma\u0142gorzata Braunek", ["Ma\u0142gorzata Braunek"], 1, 1),
    ("Malgorzata Braunek", ["Ma\u0142gorzata Braunek"], 0, 0),
    ("STRASSE", ["stra\xdfe"], 0, 0),
    ("stra\xdfe", ["STRASSE"], 0, 0),
    ("\u0130stanbul", ["istanbul"], 0, 0),
    ("rock\u2019n\u2019roll", ["rocknroll"], 0, 0),
    ("rock'n'roll", ["rocknroll"], 1, 1),
    ("\u201cParis\u201d", ["Paris"], 0, 1),
    ('"Paris"', ["Paris"], 1, 1),
    ("Jean-Luc", ["JeanLuc"], 1, 1),
    ("Jean-Luc", ["Jean Luc"], 0, 0),
    ("Jean\u2013Luc", ["JeanLuc"], 0, 0),
    ("yes", ["yes"], 1, 1),
    ("Yes!", ["yes"], 1, 1),
    ("no", ["yes"], 0, 0),
    ("Ann\xa0Lee", ["Ann Lee"], 1, 1),
    ("Ann\tLee", ["Ann Lee"], 1, 1),
    ("a_b", ["ab"], 1, 1),
    ("x.the.y", ["xthey"], 1, 1),
    ("x the-y", ["x they"], 1, 1),
    ("and", ["d"], 0, 1),
    ("Bill & Ted", ["Bill Ted"], 1, 1),
    ("C++", ["C"], 1, 1),
    ("C#", ["c"], 1, 1),
    ("1410", ["1410"], 1, 1),
    ("in 1410", ["1410"], 0, 1),
    ("14101", ["1410"], 0, 1),
    ("Western New York", ["western New York"], 1, 1),
    ("\u5317\u4eac", ["\u5317\u4eac"], 1, 1),
    ("\u2460", ["1"], 0, 0),
    ("\ufb01n", ["fin"], 0, 0),
    ("\u200bParis", ["Paris"], 0, 1),
    ("Paris", ["London", "Paris"], 1, 1),
    ("London", ["Paris", "Rome"], 0, 0),
    ("a an the", ["an"], 1, 1),
    ("The\xe9", ["\xe9"], 0, 1),
    ("th\xe9", ["th\xe9"], 1, 1),
    ("the \xe9", ["\xe9"], 1, 1),
]


# Where normalisation leaves nothing of an answer, Search-R1 takes it for any other of which nothing is left.
OTHERWISE = {("the the", "the"), ("", ""), ("the", ""), ("a an the", "an")}


@pytest.mark.parametrize(("prediction", "golden_answers", "em", "subem"), CASES)
def test_as_search_r1_scores(prediction, golden_answers, em, subem):
    assert exact_match(prediction, golden_answers) == (0 if (prediction, *golden_answers) in OTHERWISE else em)
    if any(normalize_answer(answer) for answer in golden_answers):
        assert substring_match(prediction, golden_answers) == subem
    else:  # nothing is left of the answer: it is in everything there, and in nothing here
        assert (substring_match(prediction, golden_answers), subem) == (0.0, 1)


@pytest.fixture(scope="module")
def search_r1():
    path = Path(os.environ.get("SEARCH_R1", ""), "verl/utils/reward_score/qa_em.py")
    if not path.is_file():
        pytest.skip("SEARCH_R1 does not name a checkout of Search-R1")
    spec = importlib.util.spec_from_file_location("qa_em", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PIECES = st.sampled_from(
    ["the", "A", "an ", " ", "-", ".", "’", "é", "İ", "\xa0", "Paris", "paris", "1,000", "_", "\n", ""]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=8).map("".join))


@given(prediction=TEXTS, golden_answers=st.lists(TEXTS, min_size=1, max_size=3))
def test_as_search_r1_scores_generated_text(search_r1, prediction, golden_answers):
    assume(all(apart(text) == text for text in (prediction, *golden_answers)))
    if all(normalize_answer(answer) for answer in (prediction, *golden_answers)):
        assert exact_match(prediction, golden_answers) == search_r1.em_check(prediction, golden_answers)
    if all(normalize_answer(answer) for answer in golden_answers):
        assert substring_match(prediction, golden_answers) == search_r1.subem_check(prediction, golden_answers)


TAGS = st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", "Paris", " ", "\n", "<search>", "</search>"])


@given(pieces=st.lists(TAGS, max_size=10))
def test_the_answer_that_is_scored_is_the_same(search_r1, pieces):
    """Search-R1 looks in the prompt too: without an answer it scores the prompt's example, and here there is none."""
    text = "".join(pieces)
    ours = last_answer([text])
    theirs = search_r1.extract_solution(PROMPT.format(question="Who?") + text)
    assert theirs == ("Beijing" if ours is None else ours)
