"""Turn, Trajectory, Group, and the trajectory file: the one thing that flows through the project.

The file is JSON Lines, one trajectory a line. Every engine, tool and check reads and writes it here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from tspo.errors import BadInput
from tspo.protocol import Search, last_answer, parse_action

OPENED = "opened"
"""What `extra` has where the template opens a thought: text that comes before the first turn's own."""


class StopReason(StrEnum):
    """Why a trajectory ended."""

    ANSWER = "answer"
    """The policy closed an answer."""
    MAX_TURNS = "max_turns"
    """The policy searched in its last allowed turn; that search was not run."""
    MAX_TOKENS = "max_tokens"
    """A turn, or the whole trajectory, reached its limit of tokens."""
    NO_ACTION = "no_action"
    """The policy ended its turn with neither a search nor an answer."""
    RETRIEVER_ERROR = "retriever_error"
    """The retriever did not answer; the trajectory is outside the loss and its group's baseline."""


@dataclass(slots=True)
class Turn:
    """The policy's own text of one turn and, if a search was run, what came back.

    `token_ids` and `logprobs` (natural log, of the sampling policy) hold one entry a sampled token;
    `feedback_token_ids` is what the environment appended, tags included. All three are None where a
    trajectory did not come from a rollout.
    """

    text: str
    query: str | None = None
    feedback: str | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    feedback_token_ids: list[int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Trajectory:
    """One attempt at one question: turns 0..K-1, and the answer or None."""

    group_id: str
    trajectory_id: str
    question: str
    golden_answers: list[str]
    turns: list[Turn]
    answer: str | None
    stop_reason: StopReason
    prompt_token_ids: list[int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def retriever_failed(self) -> bool:
        """Whether it was cut off by the retriever: then it says nothing about the policy, and nobody learns from it."""
        return self.stop_reason is StopReason.RETRIEVER_ERROR

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt, policy and observations together; 0 where it did not come from a rollout."""
        completion = sum(len(turn.token_ids or ()) + len(turn.feedback_token_ids or ()) for turn in self.turns)
        return len(self.prompt_token_ids or ()) + completion


@dataclass(slots=True)
class Group:
    """The trajectories sampled from one question; advantages are relative to it."""

    group_id: str
    trajectories: list[Trajectory]


def group_trajectories(trajectories: Iterable[Trajectory]) -> list[Group]:
    """Groups by `group_id`, in order of first appearance, members in the order they came."""
    groups: dict[str, Group] = {}
    for trajectory in trajectories:
        group = groups.setdefault(trajectory.group_id, Group(trajectory.group_id, []))
        group.trajectories.append(trajectory)
    return list(groups.values())


def derive_stop_reason(answer: str | None, last_turn: Turn) -> StopReason:
    """The stop reason that the turns themselves show; used where a file does not say it."""
    if answer is not None:
        return StopReason.ANSWER
    return StopReason.MAX_TURNS if last_turn.query is not None else StopReason.NO_ACTION


_TURN_FIELDS = ("text", "query", "feedback", "token_ids", "logprobs", "feedback_token_ids")
_TRAJECTORY_FIELDS = (
    "group_id",
    "trajectory_id",
    "question",
    "golden_answers",
    "turns",
    "answer",
    "stop_reason",
    "prompt_token_ids",
)


def trajectory_from_json(line: Any, where: str, default_id: str) -> Trajectory:
    """Check one decoded line and derive what may be missing.

    `where` names the file and line in errors; `default_id` is used where `trajectory_id` is missing.
    Raises BadInput that names the field.
    """
    if not isinstance(line, dict):
        raise BadInput(f"{where}: expected a JSON object, got {_kind(line)}")
    raw_turns = _require(line, "turns", list, where)
    if not raw_turns:
        raise BadInput(f"{where}: field 'turns': a trajectory needs at least one turn")
    turns = [_turn_from_json(turn, f"{where}: field 'turns[{k}]'") for k, turn in enumerate(raw_turns)]

    answer = _optional(line, "answer", str, where)
    if "answer" not in line:
        answer = last_answer([turn.text for turn in turns])
    stop_reason = _optional(line, "stop_reason", str, where)
    if stop_reason is not None and stop_reason not in list(StopReason):
        raise BadInput(f"{where}: field 'stop_reason': {stop_reason!r} is not one of {', '.join(StopReason)}")
    return Trajectory(
        group_id=_require(line, "group_id", str, where),
        trajectory_id=_optional(line, "trajectory_id", str, where) or default_id,
        question=_require(line, "question", str, where),
        golden_answers=check_golden_answers(line.get("golden_answers"), where),
        turns=turns,
        answer=answer,
        stop_reason=StopReason(stop_reason) if stop_reason else derive_stop_reason(answer, turns[-1]),
        prompt_token_ids=_optional(line, "prompt_token_ids", list, where),
        extra={name: value for name, value in line.items() if name not in _TRAJECTORY_FIELDS},
    )


def trajectory_to_json(trajectory: Trajectory) -> dict[str, Any]:
    """The JSON object of one line; token-level fields only where they are known."""
    line: dict[str, Any] = {
        "group_id": trajectory.group_id,
        "trajectory_id": trajectory.trajectory_id,
        "question": trajectory.question,
        "golden_answers": trajectory.golden_answers,
        "turns": [_turn_to_json(turn) for turn in trajectory.turns],
        "answer": trajectory.answer,
        "stop_reason": str(trajectory.stop_reason),
    }
    if trajectory.prompt_token_ids is not None:
        line["prompt_token_ids"] = trajectory.prompt_token_ids
    return line | trajectory.extra


def read_records(stream: Iterable[bytes], name: str) -> Iterator[tuple[dict[str, Any], Trajectory]]:
    """Each line of a trajectory file as it stands and as a Trajectory; blank lines are passed over.

    Raises BadInput that names the file, the line and the field.
    """
    members: dict[str, int] = {}
    for where, line in read_json_lines(stream, name):
        group_id = line.get("group_id") if isinstance(line, dict) else None
        member = members.get(str(group_id), 0)
        members[str(group_id)] = member + 1
        yield line, trajectory_from_json(line, where, default_id=f"{group_id}-{member}")


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """The trajectories of a file, one at a time; raises BadInput as `read_records`, and where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            for _, trajectory in read_records(stream, str(path)):
                yield trajectory
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give a trajectory file") from None


def read_json_lines(stream: Iterable[bytes], name: str, *, first_line: int = 1) -> Iterator[tuple[str, Any]]:
    """Each line's place ("file, line n") and its decoded value; raises BadInput where it is not JSON.

    `first_line` is the number of the stream's first line in the file.
    """
    for number, raw in enumerate(stream, start=first_line):
        where = f"{name}, line {number}"
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise BadInput(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        if not text:
            continue
        try:
            value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{where}: not JSON ({error})") from None
        yield where, value


def write_json_line(line: dict[str, Any], stream: TextIO) -> None:
    """Write one JSON line, readable UTF-8 unless the text holds half a surrogate pair."""
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(line)
    stream.write(text + "\n")


def write_trajectories(trajectories: Iterable[Trajectory], stream: TextIO) -> None:
    """Write a trajectory file."""
    for trajectory in trajectories:
        write_json_line(trajectory_to_json(trajectory), stream)


def check_golden_answers(value: Any, where: str) -> list[str]:
    """`value` if it is a list of at least one string; raises BadInput otherwise."""
    if not isinstance(value, list) or not value or not all(isinstance(answer, str) for answer in value):
        raise BadInput(f"{where}: field 'golden_answers': expected a list of at least one string")
    return value


def _turn_from_json(line: Any, where: str) -> Turn:
    if not isinstance(line, dict):
        raise BadInput(f"{where}: expected a JSON object, got {_kind(line)}")
    text = _require(line, "text", str, where)
    query = _optional(line, "query", str, where)
    if "query" not in line:
        action = parse_action(text)
        query = action.query if isinstance(action, Search) else None
    return Turn(
        text=text,
        query=query,
        feedback=_optional(line, "feedback", str, where),
        token_ids=_optional(line, "token_ids", list, where),
        logprobs=_optional(line, "logprobs", list, where),
        feedback_token_ids=_optional(line, "feedback_token_ids", list, where),
        extra={name: value for name, value in line.items() if name not in _TURN_FIELDS},
    )


def _turn_to_json(turn: Turn) -> dict[str, Any]:
    line: dict[str, Any] = {"text": turn.text, "query": turn.query, "feedback": turn.feedback}
    for name in ("token_ids", "logprobs", "feedback_token_ids"):
        if (value := getattr(turn, name)) is not None:
            line[name] = value
    return line | turn.extra


_KINDS = {str: "a string", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _require(line: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in line:
        raise BadInput(f"{where}: field {name!r} is missing")
    if not isinstance(line[name], kind):
        raise BadInput(f"{where}: field {name!r}: expected {_KINDS[kind]}, got {_kind(line[name])}")
    return line[name]


def _optional(line: dict[str, Any], name: str, kind: type, where: str) -> Any:
    return None if line.get(name) is None else _require(line, name, kind, where)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _finite_float(digits: str) -> float:
    # 1e999 would be read as infinity, which JSON cannot write back.
    if math.isinf(value := float(digits)):
        raise ValueError(f"{digits[:20]} is too large a number")
    return value
