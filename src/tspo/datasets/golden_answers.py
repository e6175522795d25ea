"""Golden answers as files of questions have them: a list of texts, or a text that is a list."""

from __future__ import annotations

import ast
import json
import logging
from functools import cache
from typing import Any

from tspo.errors import BadInput
from tspo.trajectory import check_golden_answers

_SPLIT = "<|answer_split|>"
"""What some data sets for verl put between answers."""

_LONGEST = 10_000
"""Characters of a text that is looked into for a list."""

logger = logging.getLogger(__name__)


def golden_answers(value: Any, where: str) -> tuple[str, ...]:
    """The answers in `value`: a list of texts, of which none is blank; raises BadInput, which names `where`, otherwise.

    A text that is itself a list of texts, in JSON or as Python writes one, or that has <|answer_split|> between
    answers, is read as those; a line in the log says so, once a file.
    """
    answers: list[str] = []
    for text in check_golden_answers(value, where):
        listed = _listed(text)
        if listed != [text]:
            _say(where.partition(", line ")[0])
        answers += listed
    if not all(answer.strip() for answer in answers):
        raise BadInput(f"{where}: field 'golden_answers': a blank answer can never be right; leave it out")
    return tuple(answers)


def _listed(text: str) -> list[str]:
    if _SPLIT in text:
        return [part.strip() for part in text.split(_SPLIT)]
    inside = text.strip()
    if len(inside) > _LONGEST or not inside.startswith(('["', "['")) or not inside.endswith(('"]', "']")):
        return [text]
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(inside)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and found and all(isinstance(answer, str) for answer in found):
            return found
    return [text]


@cache
def _say(file: str) -> None:
    logger.warning("%s: golden answers that are lists written as text are read as lists", file)
