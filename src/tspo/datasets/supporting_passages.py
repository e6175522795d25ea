"""The texts behind a question's supporting titles, for rewards that compare what was found with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tspo.datasets.corpus import Document, normalise_title, read_corpus
from tspo.datasets.questions import Question
from tspo.errors import BadInput


def with_supporting_passages(questions: Sequence[Question], corpus: Path | None) -> list[Question]:
    """The questions with one text a supporting title, from one pass over the corpus; passages of one title are joined.

    Raises BadInput where there is no corpus, a question names no titles, or a title is not in the corpus.
    """
    if corpus is None:
        raise BadInput("data.corpus: reward stepsearch reads the golden passages from it; name the corpus")
    wanted = {normalise_title(title) for question in questions for title in question.supporting_titles}
    texts: dict[str, list[str]] = {}
    for document in read_corpus(corpus):
        if (title := normalise_title(document.title)) in wanted:
            texts.setdefault(title, []).append(_text(document))
    return [replace(question, supporting_passages=_passages_of(question, texts)) for question in questions]


def _passages_of(question: Question, texts: dict[str, list[str]]) -> tuple[str, ...]:
    if not question.supporting_titles:
        raise BadInput(f"question {question.id!r} has no 'supporting_titles'; reward stepsearch needs them in each")
    for title in question.supporting_titles:
        if normalise_title(title) not in texts:
            raise BadInput(f"question {question.id!r}: its supporting title {title!r} is not in the corpus")
    return tuple(" ".join(texts[normalise_title(title)]) for title in question.supporting_titles)


def _text(document: Document) -> str:
    return document.contents.partition("\n")[2]
