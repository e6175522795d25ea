"""How well a retriever finds the documents that hold a question's evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tspo.datasets.corpus import Document, normalise_title
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.retrieval.base import Retriever

_BATCH = 64


@dataclass(frozen=True, slots=True)
class QuestionQuality:
    """What one question scores when it is searched for as it stands."""

    data_source: str
    recall: dict[int, float]
    """For each k the share of supporting titles among the first k passages."""
    reciprocal_rank: float
    """1 / the rank of the first passage with a supporting title, 0 where none came."""


def recall_at(titles: Sequence[str], supporting: Sequence[str], k: int) -> float:
    """The share of the distinct `supporting` titles that are among the first k `titles`; both normalised."""
    wanted = set(supporting)
    return len(wanted & set(titles[:k])) / len(wanted)


def reciprocal_rank(titles: Sequence[str], supporting: Sequence[str]) -> float:
    """1 / the rank, from 1, of the first of `titles` that is supporting; 0.0 where none is."""
    wanted = set(supporting)
    return next((1 / rank for rank, title in enumerate(titles, start=1) if title in wanted), 0.0)


def question_qualities(retriever: Retriever, questions: Sequence[Question], ks: Sequence[int]) -> list[QuestionQuality]:
    """The quality for each question that names supporting titles, with max(ks) passages each.

    Raises BadInput where no question does, and as the retriever does.
    """
    known = [question for question in questions if question.supporting_titles]
    if not known:
        raise BadInput("no question names its supporting_titles; without them there is nothing to compare with")
    qualities = []
    for start in range(0, len(known), _BATCH):
        batch = known[start : start + _BATCH]
        for question, passages in zip(
            batch, retriever.search([question.question for question in batch], max(ks)), strict=True
        ):
            titles = [normalise_title(Document(passage.id, passage.contents).title) for passage in passages]
            supporting = [normalise_title(title) for title in question.supporting_titles]
            qualities.append(
                QuestionQuality(
                    data_source=question.data_source,
                    recall={k: recall_at(titles, supporting, k) for k in ks},
                    reciprocal_rank=reciprocal_rank(titles, supporting),
                )
            )
    return qualities
