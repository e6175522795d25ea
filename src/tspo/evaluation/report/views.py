"""Trajectories as the page's template wants them: text cut to size, credit as numbers and bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tspo.credit import Credit, CreditConfig, score
from tspo.evaluation.report.choose import Chosen, Kind, State, state
from tspo.evaluation.report.headline import signed
from tspo.evaluation.report.text import Piece, cut, shorten, split_tags
from tspo.protocol import Answer, parse_action
from tspo.rewards.answer_span import answer_span
from tspo.trajectory import StopReason, Trajectory, Turn

_MOST_MEMBERS = 8
_MOST_TURNS = 8
_MOST_ANSWERS = 5

STOPS = {
    StopReason.ANSWER: "",
    StopReason.MAX_TURNS: "searched in its last turn",
    StopReason.MAX_TOKENS: "reached the limit of tokens",
    StopReason.NO_ACTION: "neither searched nor answered",
    StopReason.RETRIEVER_ERROR: "the retriever failed; outside the loss",
}
"""What is said of a trajectory that did not end with an answer."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What one method gives a turn."""

    method: str
    reward: str
    advantage: str
    sign: str
    """plus, minus or zero."""
    width: int
    """Per cent of the widest bar of the group."""


@dataclass(frozen=True, slots=True)
class TurnView:
    """One turn."""

    number: int
    action: str
    text: list[Piece]
    query: str | None
    feedback: list[Piece] | None
    is_first_occurrence: bool
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class TrajectoryView:
    """One attempt at a question."""

    name: str
    state: State
    answer: str | None
    stop: str
    turns: list[TurnView]
    turns_in_all: int


@dataclass(frozen=True, slots=True)
class GroupView:
    """A question of training and the attempts at it."""

    step: int
    phase: str
    kind: Kind
    question: str
    golden_answers: str
    lesson: str
    members: list[TrajectoryView]
    members_in_all: int


@dataclass(frozen=True, slots=True)
class QuestionView:
    """A held-out question and what became of it in each evaluation."""

    question: str
    golden_answers: str
    source: str
    attempts: list[TrajectoryView]


def group_view(chosen: Chosen, config: CreditConfig, limit: int) -> GroupView:
    """A group of training; `limit` is about how many characters of a longer text are shown."""
    members = chosen.group.trajectories
    widest = max(
        abs(advantage)
        for credits in chosen.credits.values()
        for credit in credits
        for advantage in credit.turn_advantages
    )
    views = []
    for i in _members_shown(chosen.credits["tspo"]):
        credits = {method: credits[i] for method, credits in chosen.credits.items()}
        views.append(trajectory_view(members[i], f"Trajectory {i + 1}", config, limit, credits, widest))
    return GroupView(
        step=chosen.step,
        phase=chosen.phase,
        kind=chosen.kind,
        question=shorten(members[0].question, limit),
        golden_answers=_golden(members[0], limit),
        lesson=lesson(chosen.credits),
        members=views,
        members_in_all=len(members),
    )


def question_view(attempts: dict[str, Trajectory], config: CreditConfig, limit: int) -> QuestionView:
    """The attempts at one held-out question, by what they are to be called."""
    first = next(iter(attempts.values()))
    source = first.extra.get("data_source")
    return QuestionView(
        question=shorten(first.question, limit),
        golden_answers=_golden(first, limit),
        source=shorten(source, limit) if isinstance(source, str) else "",
        attempts=[trajectory_view(attempt, name, config, limit) for name, attempt in attempts.items()],
    )


def trajectory_view(
    trajectory: Trajectory,
    name: str,
    config: CreditConfig,
    limit: int,
    credits: dict[str, Credit] | None = None,
    widest: float = 0.0,
) -> TrajectoryView:
    """One trajectory, with each method's bars on its turns where there is credit."""
    _, first = score(trajectory, config)
    views = []
    for k in _turns_shown(len(trajectory.turns), first):
        bars = [_bar(method, credit, k, widest) for method, credit in (credits or {}).items()]
        span = None
        if k == first:
            span = answer_span(
                trajectory.turns[k].feedback or "", trajectory.golden_answers, config.match, config.ignore
            )
        views.append(_turn_view(trajectory.turns[k], k, k == first, span, bars, limit))
    return TrajectoryView(
        name=name,
        state=state(trajectory, config),
        answer=None if trajectory.answer is None else shorten(trajectory.answer, limit),
        stop=STOPS[trajectory.stop_reason],
        turns=views,
        turns_in_all=len(trajectory.turns),
    )


def _turn_view(
    turn: Turn, k: int, is_first: bool, span: tuple[int, int] | None, bars: list[Bar], limit: int
) -> TurnView:
    return TurnView(
        number=k + 1,
        action=action_of(turn),
        text=split_tags(cut(turn.text, limit)),
        query=None if turn.query is None else shorten(turn.query, limit),
        feedback=None if turn.feedback is None else cut(turn.feedback, limit, span),
        is_first_occurrence=is_first,
        bars=bars,
    )


def action_of(turn: Turn) -> str:
    """What the policy did in a turn, in a word or two."""
    answers = isinstance(parse_action(turn.text), Answer)
    return "search" if turn.query is not None else "answer" if answers else "no action"


def _bar(method: str, credit: Credit, k: int, widest: float) -> Bar:
    advantage = credit.turn_advantages[k]
    return Bar(
        method=method.upper(),
        reward=f"{credit.turn_rewards[k]:g}",
        advantage=signed(advantage, 2),
        sign="plus" if advantage > 0 else "minus" if advantage < 0 else "zero",
        width=round(100 * abs(advantage) / widest) if widest else 0,
    )


def lesson(by_method: dict[str, list[Credit]]) -> str:
    """What a group shows, in a sentence or three, from its credit under TSPO and GRPO."""
    credits = by_method["tspo"]
    many, right = len(credits), sum(credit.outcome == 1.0 for credit in credits)
    near = sum(credit.outcome == 0.0 and credit.first_occurrence is not None for credit in credits)
    said = [f"All {many} answers are wrong." if not right else f"{right} of {many} answers are right."]
    if near:
        said.append(f"In {near} of the wrong ones the feedback held the answer.")
    grpo, tspo = (any(c.teaches for c in by_method[method]) for method in ("grpo", "tspo"))
    if not grpo and not tspo:
        said.append("Neither method gives any turn an advantage: nothing is learned here.")
    elif not grpo:
        said.append("GRPO gives every turn 0; TSPO tells the turns apart.")
    elif _advantages(credits) == _advantages(by_method["grpo"]):
        said.append("Both methods give the same advantages.")
    else:
        said.append("GRPO gives all turns of a trajectory the same advantage; TSPO gives each its own.")
    return " ".join(said)


def _advantages(credits: Sequence[Credit]) -> list[list[float]]:
    return [credit.turn_advantages for credit in credits]


def _members_shown(credits: Sequence[Credit]) -> list[int]:
    """Places of the members that are shown: one of each way to end, then the first ones."""
    endings: dict[tuple[float, int | None], int] = {}
    for i, credit in enumerate(credits):
        endings.setdefault((credit.outcome, credit.first_occurrence), i)
    order = list(dict.fromkeys([*endings.values(), *range(len(credits))]))
    return sorted(order[:_MOST_MEMBERS])


def _turns_shown(turns: int, first: int | None) -> list[int]:
    """The turns that are shown: the first ones, the one that found the answer, and the last."""
    if turns <= _MOST_TURNS:
        return list(range(turns))
    return sorted({*range(_MOST_TURNS - 2), turns - 1, turns - 1 if first is None else first})


def _golden(trajectory: Trajectory, limit: int) -> str:
    shown = [shorten(answer, limit) for answer in trajectory.golden_answers[:_MOST_ANSWERS]]
    more = len(trajectory.golden_answers) - len(shown)
    return " / ".join(shown) + (f" (and {more:,} more)" if more else "")
