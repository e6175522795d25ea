"""Rows of the FlashRAG collection as lines of our question files."""

from __future__ import annotations

import ast
from typing import Any

from tspo.datasets.hops import known_hops


def convert_row(row: Any, name: str, split: str, number: int) -> dict[str, Any] | None:
    """Row `number` of the data set's split as a line of a question file; None where it has no question or answer.

    A question gets the question mark that it lacks, as Search-R1's scripts give it one: the prompt is theirs then.
    """
    if not isinstance(row, dict):
        return None
    question, answers = row.get("question"), row.get("golden_answers")
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(question, str) or not question.strip() or not isinstance(answers, list):
        return None
    known = [answer for answer in answers if isinstance(answer, str) and answer.strip()]
    if not known:
        return None
    question = question.strip()
    identifier = row.get("id")
    own = identifier if isinstance(identifier, str) and identifier else f"{split}_{number}"
    line: dict[str, Any] = {
        "id": f"{name}_{own}",
        "question": question if question.endswith("?") else f"{question}?",
        "golden_answers": known,
        "data_source": name,
    }
    metadata = row.get("metadata")
    if titles := supporting_titles(metadata):
        line["supporting_titles"] = titles
    if (hops := known_hops(name, own, metadata)) is not None:
        line["hops"] = hops
    return line


def supporting_titles(metadata: Any) -> list[str]:
    """The titles of the evidence, each once: `supporting_facts.title`, or those of MuSiQue's steps."""
    if not isinstance(metadata, dict):
        return []
    facts = metadata.get("supporting_facts")
    titles = facts.get("title") if isinstance(facts, dict) else None
    if not isinstance(titles, list):
        steps = metadata.get("question_decomposition")
        titles = [_title_of(step) for step in steps] if isinstance(steps, list) else []
    return list(dict.fromkeys(title for title in titles if isinstance(title, str) and title))


def _title_of(step: Any) -> Any:
    paragraph = step.get("support_paragraph") if isinstance(step, dict) else None
    if isinstance(paragraph, str):  # in some files it is the repr of a dict
        try:
            paragraph = ast.literal_eval(paragraph)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return paragraph.get("title") if isinstance(paragraph, dict) else None
