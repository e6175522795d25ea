"""Pages of the list of groups, and the history of one question, asked of the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tspo.evaluation.report.choose import State
from tspo.evaluation.report.run_files import STAGES
from tspo.evaluation.report.text import clean
from tspo.viewer.index import Index
from tspo.viewer.source import AFTER_TRAINING, BEFORE_TRAINING

PAGE = 60
"""Groups of one page."""

_COLUMNS = "id, at, question, members, right, near, wrong"
_COUNTS = {State.RIGHT: "right", State.NEAR_MISS: "near", State.WRONG: "wrong"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which groups are listed; what is None does not matter."""

    states: frozenset[State] = frozenset()
    """Groups with at least one member of each of these."""
    all_wrong: bool = False
    """Only groups without a right member: where GRPO has nothing to compare."""
    text: str = ""
    """Words of question, golden answers, queries or answers, as they stand but for case."""
    first: int | None = None
    last: int | None = None
    """Steps, both included."""


def page_of_groups(index: Index, wanted: Wanted, offset: int, size: int = PAGE) -> dict[str, Any]:
    """One page as `groups`, by step, and how many there are in all as `total`."""
    where, values = _conditions(wanted)
    connection = index.connection
    total, members = connection.execute(
        f"SELECT count(*), coalesce(sum(members), 0) FROM attempts WHERE {where}", values
    ).fetchone()
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM attempts WHERE {where} ORDER BY at, id LIMIT ? OFFSET ?", [*values, size, offset]
    )
    return {"groups": [_group(row) for row in rows], "total": total, "trajectories": members, "offset": offset}


def history(index: Index, attempts: int) -> list[dict[str, Any]]:
    """All groups of the question that this group is of, by step."""
    rows = index.connection.execute(
        f"SELECT {_COLUMNS} FROM attempts WHERE question_key = (SELECT question_key FROM attempts WHERE id = ?) "
        "ORDER BY at, id",
        (attempts,),
    )
    return [_group(row) for row in rows]


def spread_questions(index: Index, most: int) -> list[dict[str, Any]]:
    """All groups of questions that lie evenly over the run, of about `most` trajectories, with what is searched."""
    questions = index.connection.execute(
        "SELECT question_key, sum(members) FROM attempts GROUP BY question_key ORDER BY min(at), min(id)"
    ).fetchall()
    total = sum(members for _, members in questions)
    wanted = min(most * len(questions) // max(total, 1) or 1, len(questions))
    groups: list[dict[str, Any]] = []
    for number in range(wanted):
        key, _ = questions[number * len(questions) // wanted]
        rows = index.connection.execute(f"SELECT {_COLUMNS}, words FROM attempts WHERE question_key = ?", (key,))
        groups += [_group(row[:-1]) | {"words": row[-1]} for row in rows]
    return sorted(groups, key=lambda group: (group["at"], group["id"]))


def summary(index: Index) -> dict[str, Any]:
    """What the index holds, counted."""
    groups, members, *counts, first, last = index.connection.execute(
        "SELECT count(*), coalesce(sum(members), 0), coalesce(sum(right), 0), coalesce(sum(near), 0), "
        "coalesce(sum(wrong), 0), min(at) FILTER (WHERE at >= 0 AND at < ?1), "
        "max(at) FILTER (WHERE at >= 0 AND at < ?1) FROM attempts",
        (AFTER_TRAINING,),
    ).fetchone()
    return {
        "groups": groups,
        "trajectories": members,
        "states": {str(one): count for one, count in zip(_COUNTS, counts, strict=True)},
        "first": first,
        "last": last,
    }


def when(at: int) -> str:
    """A place on the axis of training steps, as people say it."""
    stages = {place: STAGES[stage] for stage, place in BEFORE_TRAINING.items()}
    return ({0: "no step", AFTER_TRAINING: "after training"} | stages).get(at) or f"step {at:,}"


def _conditions(wanted: Wanted) -> tuple[str, list[str | int]]:
    conditions: list[str] = ["1"]
    values: list[str | int] = []
    conditions += [f"{_COUNTS[one]} > 0" for one in wanted.states]
    if wanted.all_wrong:
        conditions.append("right = 0")
    if text := clean(wanted.text).casefold().strip():
        conditions.append("instr(words, ?) > 0")
        values.append(text)
    for sign, bound in ((">=", wanted.first), ("<=", wanted.last)):
        if bound is not None:
            conditions.append(f"at {sign} ?")
            values.append(bound)
    return " AND ".join(conditions), values


def _group(row: tuple[Any, ...]) -> dict[str, Any]:
    number, at, question, members, right, near, wrong = row
    return {
        "id": number,
        "at": at,
        "when": when(at),
        "question": question,
        "members": members,
        "right": right,
        "near miss": near,
        "wrong": wrong,
    }
