import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.scripts import apart, clusters, in_pairs, word_pattern


def words(text: str) -> list[str]:
    return re.findall(word_pattern(), in_pairs(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The capital, Oslo (1,410)", ["The", "capital", "Oslo", "1", "410"]),
        ("Café André 2018–2019 Москва Αθήνα", ["Café", "André", "2018", "2019", "Москва", "Αθήνα"]),
        ("挪威的首都", ["挪威", "威的", "的首", "首都"]),
        ("水", ["水"]),
        ("iPhone手机", ["iPhone", "手机"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("ไทย", ["ไท", "ทย"]),
        ("ที่", ["ที่"]),
        ("오슬로는", ["오슬", "슬로", "로는"]),
        ("दिल की बात", ["दिल", "की", "बात"]),
        ("كَتَبَ كتب", ["كتب", "كتب"]),
        ("Cafe\u0301", ["Café"]),
        ("ＡＢＣ　１２", ["ABC", "12"]),
        ("i\u0307stanbul", ["i\u0307stanbul"]),
        ("\u0301 x", ["x"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(st.characters(max_codepoint=0x2FF)))
def test_latin_text_stays_what_it_is(text: str) -> None:
    assert apart(text) == in_pairs(text) == text
    assert words(text) == re.findall(r"(?u)\b\w+\b", text)


@given(st.text())
def test_text_is_composed(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    if not re.search("[\uff01-\uff9f]", text):
        assert apart(unicodedata.normalize("NFD", text)) == apart(composed)


@given(st.text())
def test_clusters_are_the_text_in_pieces_that_can_be_taken_apart_alone(text: str) -> None:
    pieces = clusters(text)
    assert "".join(pieces) == text
    assert "".join(map(apart, pieces)).split() == apart(text).split()


@given(st.text())
def test_taking_apart_twice_changes_nothing(text: str) -> None:
    assert apart(apart(text)).split() == apart(text).split()


def test_every_mark_of_unicode_is_known() -> None:
    """Those of this Python's Unicode that are letters of no script with a rule of its own."""
    pattern = re.compile(word_pattern())
    marks = [chr(point) for point in range(0x110000) if unicodedata.category(chr(point)) in ("Mn", "Mc")]
    unknown = [mark for mark in marks if pattern.fullmatch(f"x{mark}") is None]
    # marks of symbols, which stand beside no letters
    assert {unicodedata.name(mark, "") for mark in unknown if not "\u20d0" <= mark <= "\u20ff"} <= {
        "COPTIC COMBINING NI ABOVE",
        "COPTIC COMBINING SPIRITUS ASPER",
        "COPTIC COMBINING SPIRITUS LENIS",
    }
