"""Questions with their golden answers: JSON Lines, and the Parquet files that Search-R1 prepares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo.datasets.golden_answers import golden_answers
from tspo.datasets.hops import known_hops
from tspo.datasets.parquet import is_parquet, read_rows
from tspo.errors import BadInput
from tspo.trajectory import read_json_lines

_PARQUET_COLUMNS = ("question", "golden_answers", "data_source", "prompt", "reward_model", "extra_info")
_QUESTION_MARK = "Question:"


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its golden answers.

    `supporting_titles` are the documents that hold the evidence, where that is known, and `supporting_passages` their
    texts, in the same order, where a reward wants them. `hops` is how many facts it goes through, None where nothing
    tells.
    """

    id: str
    question: str
    golden_answers: tuple[str, ...]
    data_source: str
    supporting_titles: tuple[str, ...] = ()
    hops: int | None = None
    supporting_passages: tuple[str, ...] = ()


def read_questions(paths: Iterable[str | Path]) -> list[Question]:
    """The questions of all files, in order; a name that ends in `.parquet` is Parquet, any other JSON Lines.

    Raises BadInput, which names the file, the line and the field, where a file cannot be read or holds
    no questions, a question is not whole, or an id is given twice.
    """
    questions: list[Question] = []
    places: dict[str, str] = {}
    for path in map(Path, paths):
        before = len(questions)
        for where, question in _read_parquet(path) if is_parquet(path) else _read_lines(path):
            if question.id in places:
                raise BadInput(
                    f"{where}: id {question.id!r} is taken by {places[question.id]}; "
                    "give each question its own id, or read these files one at a time"
                )
            places[question.id] = where
            questions.append(question)
        if len(questions) == before:
            raise BadInput(f"{path}: holds no questions; give a file with at least one")
    return questions


def _read_lines(path: Path) -> Iterator[tuple[str, Question]]:
    try:
        with open(path, "rb") as stream:
            for index, (where, line) in enumerate(read_json_lines(stream, str(path))):
                yield where, _question_from_json(line, where, path.stem, index)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give a file of questions") from None


def _question_from_json(line: Any, where: str, stem: str, index: int) -> Question:
    if not isinstance(line, dict):
        raise BadInput(f"{where}: expected a JSON object")
    source = _text(line.get("data_source", stem), "data_source", where)
    titles = line.get("supporting_titles")
    if titles is not None and not (isinstance(titles, list) and all(isinstance(t, str) for t in titles)):
        raise BadInput(f"{where}: field 'supporting_titles': expected a list of strings")
    identifier = line.get("id", f"{source}_{index}")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    return Question(
        id=_text(identifier, "id", where),
        question=_text(line.get("question"), "question", where),
        golden_answers=golden_answers(line.get("golden_answers"), where),
        data_source=source,
        supporting_titles=tuple(titles or ()),
        hops=_hops(line, source, str(identifier), where),
    )


def _hops(line: dict[str, Any], source: str, identifier: str, where: str) -> int | None:
    hops = line.get("hops")
    if hops is None:
        return known_hops(source, identifier, line.get("metadata"))
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 1:
        raise BadInput(f"{where}: field 'hops': expected a whole number from 1")
    return hops


def _read_parquet(path: Path) -> Iterator[tuple[str, Question]]:
    for index, (where, row) in enumerate(read_rows(path, _PARQUET_COLUMNS)):
        yield where, _question_from_row(row, where, path.stem, index)


def _question_from_row(row: dict[str, Any], where: str, stem: str, index: int) -> Question:
    source = _text(row.get("data_source") or stem, "data_source", where)
    extra = row.get("extra_info")
    # Search-R1's own `id` column restarts in each source, so that it cannot tell questions apart
    number = extra.get("index") if isinstance(extra, dict) else None
    identifier = f"{source}_{index if number is None else number}"
    return Question(
        id=identifier,
        question=_text(row.get("question") or _question_in_prompt(row.get("prompt")), "question", where),
        golden_answers=golden_answers(_row_answers(row), where),
        data_source=source,
        hops=known_hops(source, identifier),
    )


def _row_answers(row: dict[str, Any]) -> Any:
    reward_model = row.get("reward_model")
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    target = truth.get("target") if isinstance(truth, dict) else truth
    answers = row.get("golden_answers") if target is None else target
    return [answers] if isinstance(answers, str) else answers


def _question_in_prompt(prompt: Any) -> str | None:
    """What follows "Question:" in the last user message of a chat, or None."""
    messages = prompt if isinstance(prompt, list) else []
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            _, mark, question = str(message.get("content")).partition(_QUESTION_MARK)
            return question.strip() if mark else None
    return None


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{where}: field {name!r}: expected some text")
    return value
