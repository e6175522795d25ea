"""Words in any script: what an index, its queries and the matching of answers agree on.

Text is composed (NFC), full-width forms are plain ones, and vowel marks of Arabic and Hebrew, which are written or not,
are left out. Scripts that put no space between words, and Korean, whose words are compounds, are taken apart:
into characters where answers are compared, into pairs of neighbours where they are searched for. Text in Latin,
Cyrillic or Greek stays what it is.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import chain, pairwise
from typing import NamedTuple

ANALYSIS = "unicode-1"
"""This module's rules, by the name that an index records; another name for every change of what it does."""


def _ranges(*pairs: tuple[int, int]) -> str:
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in pairs)


_VOWEL_MARKS = _ranges((0x0591, 0x05BD), (0x05BF, 0x05BF), (0x05C1, 0x05C2), (0x05C4, 0x05C5), (0x05C7, 0x05C7)) + (
    _ranges((0x0610, 0x061A), (0x0640, 0x0640), (0x064B, 0x0652), (0x0670, 0x0670))
)

_SPACELESS = _ranges(
    (0x0E01, 0x0E30),  # Thai, without its marks, signs and digits
    (0x0E32, 0x0E33),
    (0x0E40, 0x0E45),
    (0x0E81, 0x0EB0),  # Lao
    (0x0EB2, 0x0EB3),
    (0x0EBD, 0x0EC4),
    (0x0EDC, 0x0EDF),
    (0x1000, 0x102A),  # Burmese
    (0x103F, 0x103F),
    (0x1050, 0x1055),
    (0x1780, 0x17B3),  # Khmer
    (0x1100, 0x11FF),  # Hangul
    (0x3130, 0x318F),
    (0xA960, 0xA97F),
    (0xAC00, 0xD7FF),
    (0x3005, 0x3007),  # Han, Hiragana, Katakana, Bopomofo
    (0x3041, 0x3096),
    (0x309D, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x312F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)

_LEADING = "\u1100-\u115f\ua960-\ua97f\uac00-\ud7a3"
_FOLLOWING = "\u1160-\u11ff\ud7b0-\ud7ff"
"""Korean letters that begin a syllable, or are one, and those that go on with it."""

_PUNCTUATION = (
    "\u060c\u061b\u061f\u066a-\u066d\u06d4\u0964\u0965\u0e2f\u0e5a\u0e5b\u17d4-\u17d6\u3001-\u3003\u3008-\u3011"
)
_PUNCTUATION += "\u3014-\u301f\u3030\u30a0\u30fb"
"""Punctuation of the scripts that are taken apart, and of Arabic and Hindi."""

_USUAL = "\x00-\u02ff\u0370-\u0482\u048a-\u058a\u1e00-\u20cf\u2100-\u2bff\U0001f000-\U0001faff"
"""Latin, Greek, Cyrillic and Armenian, punctuation and symbols: nothing to do, and no marks."""
_USUAL_BYTES = bytes([*range(0xC0), *range(0xC2, 0xCC), 0xCE, 0xCF, 0xD0, 0xD1, 0xD3, 0xD4, 0xE2])
"""Of UTF-8: what begins most of these, and what goes on with any character. bytes.translate is faster than a regex."""

_FULL_WIDTH = re.compile("[\uff01-\uff9f\u3000]+")
_LEFT_OUT = re.compile(f"[{_VOWEL_MARKS}]+")
_OF_OTHER_SCRIPTS = re.compile(f"[{_PUNCTUATION}]")


class _Patterns(NamedTuple):
    """What needs to know which characters are marks; making it takes 20 ms, which no start-up is to pay."""

    unit: re.Pattern[str]
    run: re.Pattern[str]
    cluster: re.Pattern[str]
    word: str


@cache
def _patterns() -> _Patterns:
    last = 0x1E94A, 0xE01EF  # no mark is past these, nor between the second plane's and the selectors
    points = chain(range(0x300, last[0] + 1), range(0xE0100, last[1] + 1))
    marks = "".join(chr(point) for point in points if unicodedata.category(chr(point)) in ("Mn", "Mc"))
    unit = f"[{_SPACELESS}][{marks}]*"
    return _Patterns(
        unit=re.compile(unit),
        run=re.compile(f"(?:{unit})+"),
        cluster=re.compile(f"[{_LEADING}][{_FOLLOWING}]*|.[{marks}]*", re.DOTALL),
        # the class of marks is large: it is asked only where one may stand
        word=f"(?u)\\w+(?:(?=[^{_USUAL}])[\\w{marks}]+)*",
    )


def word_pattern() -> str:
    """A regex of the words in text that `in_pairs` made ready: letters and digits, with the marks that they have."""
    return _patterns().word


def clusters(text: str) -> list[str]:
    """`text` in pieces, each of which is composed by itself: a character with its marks, a Korean syllable."""
    return list(text) if _is_plain(text) else _patterns().cluster.findall(text)


def apart(text: str) -> str:
    """`text` with a space around each character of a script without spaces, and without punctuation of its like."""
    if _is_plain(text):
        return text
    return _patterns().unit.sub(r" \g<0> ", _OF_OTHER_SCRIPTS.sub("", _composed(text)))


def in_pairs(text: str) -> str:
    """`text` with each run of a script without spaces as its pairs of neighbours: a character alone stays one."""
    if _is_plain(text):
        return text
    return _patterns().run.sub(_pairs, _composed(text))


def _is_plain(text: str) -> bool:
    return text.isascii() or not text.encode("utf-8", "surrogatepass").translate(None, delete=_USUAL_BYTES)


def _composed(text: str) -> str:
    text = _FULL_WIDTH.sub(lambda found: unicodedata.normalize("NFKC", found.group()), text)
    return _LEFT_OUT.sub("", unicodedata.normalize("NFC", text))


def _pairs(run: re.Match[str]) -> str:
    units = _patterns().unit.findall(run.group())
    pairs = [first + second for first, second in pairwise(units)] or units
    return f" {' '.join(pairs)} "
