"""Does a text match a golden answer: exact match, token F1, and the search for an answer in a passage.

Normalisation and F1 are those of SQuAD's evaluation script, as Search-R1 uses them, after `scripts.apart`, which
leaves English as it is. Nothing is never right: an empty answer equals none, and an answer that normalisation leaves
nothing of ("A", "The The", "+") is compared as it was before.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from tspo.scripts import apart

Match = Literal["token", "substring"]

_PUNCTUATION = string.punctuation.encode()
# \b(a|an|the)\b, each with its literal prefix first so that the regex engine can skip to it
_THE = re.compile(r"the(?<!\wthe)\b")
_A_AN = re.compile(r"a(?<!\wa)n?\b")
# where tokens part once articles are dropped: at white space, and at an article
_ARTICLE = r"\b(?:a|an|the)\b"
_GAP = re.compile(rf"(?:\s|{_ARTICLE})+")
_TOKEN_STARTS = re.compile(r"(?<!\S)|(?<=\ba\b)|(?<=\ban\b)|(?<=\bthe\b)")
_TOKEN_ENDS = re.compile(rf"(?!\S)|{_ARTICLE}")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, white space collapsed (SQuAD)."""
    return _drop_articles(_drop_case_and_punctuation(text))


def _compared(text: str) -> str:
    """What of an answer is compared: normalised, or where that leaves nothing, in lower case."""
    return normalize_answer(text) or " ".join(text.lower().split())


def exact_match(prediction: str | None, golden_answers: Iterable[str]) -> float:
    """1.0 if the prediction equals any golden answer after normalisation, else 0.0; None and "" never do."""
    compared = _compared(prediction or "")
    return float(compared != "" and any(compared == _compared(answer) for answer in golden_answers))


def substring_match(prediction: str | None, golden_answers: Iterable[str]) -> float:
    """1.0 if the prediction contains any golden answer after normalisation, else 0.0; None never does.

    A golden answer that is empty after normalisation is contained in nothing.
    """
    if prediction is None:
        return 0.0
    answers = [normalize_answer(answer) for answer in golden_answers]
    return float(occurs(answers, normalize_answer(prediction), "substring"))


def f1(prediction: str | None, golden_answers: Iterable[str]) -> float:
    """Token F1 in [0, 1] against the best golden answer after normalisation; None and "" earn 0.0."""
    tokens = _compared(prediction or "").split()
    return max((_token_f1(tokens, _compared(answer).split()) for answer in golden_answers), default=0.0)


def hotpot_f1(prediction: str | None, golden_answers: Iterable[str]) -> float:
    """F1 by HotpotQA's official script: 0.0 where either side is yes, no or noanswer and the other something else."""
    compared = _compared(prediction or "")
    return max((_hotpot_f1(compared, _compared(answer)) for answer in golden_answers), default=0.0)


def _hotpot_f1(prediction: str, golden: str) -> float:
    if prediction != golden and {prediction, golden} & {"yes", "no", "noanswer"}:
        return 0.0
    return _token_f1(prediction.split(), golden.split())


def occurs(normalized_answers: Iterable[str], normalized_text: str, match: Match = "token") -> bool:
    """Whether any of the answers occurs in the text, both sides normalised.

    `token`: the answer's tokens are a contiguous run of the text's tokens; `substring`: plain containment.
    An empty answer never occurs.
    """
    if match == "substring":
        return any(answer and answer in normalized_text for answer in normalized_answers)
    padded = f" {normalized_text} "
    return any(answer and f" {answer} " in padded for answer in normalized_answers)


def occurs_in_raw(normalized_answers: Iterable[str], text: str, match: Match = "token") -> bool:
    """`occurs(normalized_answers, normalize_answer(text), match)`, many times faster for tokens."""
    text = _drop_case_and_punctuation(text)
    if match == "substring":
        return occurs(normalized_answers, _drop_articles(text), match)
    return any(_has_run(text, answer.split()) for answer in normalized_answers)


def _has_run(text: str, tokens: list[str]) -> bool:
    """Whether `tokens`, of a normalised answer, are a run of `text` as it is before articles are dropped."""
    start = text.find(tokens[0]) if tokens else -1
    while start >= 0:
        end = _end_of_run(text, tokens, start)
        if end is not None and _TOKEN_STARTS.match(text, start) and _TOKEN_ENDS.match(text, end):
            return True
        start = text.find(tokens[0], start + 1)
    return False


def _end_of_run(text: str, tokens: list[str], start: int) -> int | None:
    """Where `tokens` end that follow each other in `text` from `start` on; None if they do not."""
    end = start + len(tokens[0])
    for token in tokens[1:]:
        gap = _GAP.match(text, end)
        if gap is None or not text.startswith(token, gap.end()):
            return None
        end = gap.end() + len(token)
    return end


def _drop_case_and_punctuation(text: str) -> str:
    text = apart(text)
    # In UTF-8 an ASCII byte is never part of another character; bytes.translate is many times str.translate.
    utf8 = text.lower().encode("utf-8", "surrogatepass")
    return utf8.translate(None, delete=_PUNCTUATION).decode("utf-8", "surrogatepass")


def _drop_articles(text: str) -> str:
    return " ".join(_A_AN.sub(" ", _THE.sub(" ", text)).split())


def _token_f1(prediction: list[str], golden: list[str]) -> float:
    if not prediction or not golden:
        return 0.0
    common = (Counter(prediction) & Counter(golden)).total()
    return 2.0 * common / (len(prediction) + len(golden))
