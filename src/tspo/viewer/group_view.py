"""One group as the page draws it: its trajectories turn by turn, tokens, and the credit of every estimator."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from tspo.advantages import ADVANTAGES
from tspo.credit import Credit, CreditConfig, assign_credit, score
from tspo.errors import BadInput
from tspo.evaluation.report.choose import state
from tspo.evaluation.report.text import TAG, Piece, clean, cut, shorten, split_tags
from tspo.evaluation.report.views import STOPS, action_of, lesson
from tspo.rewards.answer_span import answer_span
from tspo.training.token_details import log_ratio_file
from tspo.trajectory import Trajectory, Turn, trajectory_from_json
from tspo.viewer.index import Index, Place
from tspo.viewer.listing import history

_MOST_MEMBERS = 64
_LONGEST_TEXT = 20_000
_LONGEST_NAME = 2_000
_RECORDED = ("turn_rewards", "turn_advantages")
"""The credit in a step's file."""


def group_view(index: Index, attempts: int) -> dict[str, Any] | None:
    """The group as JSON, or None where there is no such group; raises BadInput where its file has changed."""
    places = index.places(attempts)
    if not places:
        return None
    members = [read_trajectory(place) for place in places]
    config = index.credit
    by_name = _credit_under_each(members, config)
    own = config.algorithm if config.algorithm in by_name else "tspo"
    first = [credit.first_occurrence for credit in by_name[own]]
    return {
        "id": attempts,
        "question": _shown(members[0].question),
        "golden_answers": [_shown(answer) for answer in members[0].golden_answers],
        "history": history(index, attempts),
        "members_in_all": len(members),
        "members": [
            _member(members[i], first[i], config, _log_ratios(places[i], members[i]))
            for i in range(min(len(members), _MOST_MEMBERS))
        ],
        "credit": {
            name: [
                {"rewards": credit.turn_rewards, "advantages": credit.turn_advantages}
                for credit in credits[:_MOST_MEMBERS]
            ]
            for name, credits in by_name.items()
        },
        "lesson": lesson(by_name),
        "trained_with": own,
        "as_recorded": _as_recorded(members, by_name[own]),
    }


def read_trajectory(place: Place) -> Trajectory:
    """The trajectory at a place; raises BadInput where something else stands there now."""
    try:
        with place.path.open("rb") as stream:
            stream.seek(place.start)
            line = json.loads(stream.read(place.length).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"{place.path}: has changed since it was read; load the page again") from None
    return trajectory_from_json(line, str(place.path), default_id="")


def _member(
    trajectory: Trajectory, first: int | None, config: CreditConfig, log_ratios: Sequence[float] | None
) -> dict[str, Any]:
    turns = []
    start = 0
    for k, turn in enumerate(trajectory.turns):
        count = len(turn.token_ids or ())
        own = None if log_ratios is None else log_ratios[start : start + count]
        start += count
        span = None
        if k == first:
            span = answer_span(turn.feedback or "", trajectory.golden_answers, config.match, config.ignore)
        turns.append(
            {
                "action": action_of(turn),
                "text": _pieces(split_tags(cut(turn.text, _LONGEST_TEXT))),
                "tokens": _tokens(turn, own),
                "query": None if turn.query is None else _shown(turn.query),
                "feedback": None if turn.feedback is None else _pieces(cut(turn.feedback, _LONGEST_TEXT, span)),
                "first_occurrence": k == first,
            }
        )
    return {
        "state": str(state(trajectory, config)),
        "answer": None if trajectory.answer is None else _shown(trajectory.answer),
        "stop": STOPS[trajectory.stop_reason],
        "turns": turns,
    }


def _tokens(turn: Turn, log_ratios: Sequence[float] | None) -> list[dict[str, Any]] | None:
    """The turn's sampled tokens, or None where the file does not tell how they make up the text."""
    ends, logprobs = turn.extra.get("token_ends"), turn.logprobs
    if not isinstance(ends, list) or logprobs is None or not len(ends) == len(logprobs) == len(turn.token_ids or ()):
        return None
    tags = [match.span() for match in TAG.finditer(turn.text)]
    tokens: list[dict[str, Any]] = []
    start = 0
    for i, end in enumerate(ends):
        if type(end) is not int or not start <= end <= len(turn.text):
            return None
        tokens.append(
            {
                "text": clean(turn.text[start:end]),
                "tag": any(start < last and first < end for first, last in tags),
                "logprob": _number(logprobs[i]),
                "ratio": None if log_ratios is None else _number(math.exp(log_ratios[i])),
            }
        )
        start = end
    return tokens if start == len(turn.text) else None


def _log_ratios(place: Place, trajectory: Trajectory) -> list[float] | None:
    """The log ratio of each of the trajectory's policy tokens, NaN where the update did not see it; None if unknown."""
    path = log_ratio_file(place.path)
    if not path.is_file():
        return None
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    count = sum(len(turn.token_ids or ()) for turn in trajectory.turns)
    own = array[place.first_token : place.first_token + count]
    return own.astype(np.float64).tolist() if own.shape == (count,) else None


def _credit_under_each(members: Sequence[Trajectory], config: CreditConfig) -> dict[str, list[Credit]]:
    """The group's credit by estimator: those whose reward these trajectories carry all for, and that a group decides.

    One that compares over the whole step is shown only as the run recorded it.
    """
    found = {}
    for name, estimator in ADVANTAGES.items():
        if estimator.over == "batch":
            if name == config.algorithm and all(member.extra.keys() >= set(_RECORDED) for member in members):
                found[name] = [
                    Credit(*score(member, config), **{field: member.extra[field] for field in _RECORDED})
                    for member in members
                ]
            continue
        with suppress(BadInput):
            found[name] = assign_credit(members, config.with_algorithm(name))
    return found


def _as_recorded(members: Sequence[Trajectory], credits: Sequence[Credit]) -> bool:
    """Whether nothing in the file contradicts this credit: training may have had other settings than are known."""
    for member, credit in zip(members, credits, strict=True):
        for name in _RECORDED:
            recorded = member.extra.get(name)
            if recorded is not None and not _same(recorded, getattr(credit, name)):
                return False
    return True


def _same(recorded: Any, numbers: Sequence[float]) -> bool:
    try:
        return len(recorded) == len(numbers) and bool(np.allclose(recorded, numbers, atol=1e-6))
    except (TypeError, ValueError):
        return False


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _pieces(pieces: Sequence[Piece]) -> list[list[str]]:
    return [[piece.kind, clean(piece.text)] for piece in pieces]


def _shown(text: str) -> str:
    return clean(shorten(text, _LONGEST_NAME))
