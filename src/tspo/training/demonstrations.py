"""Demonstrations for SFT, made from supporting titles.

A small model does not know the protocol. A demonstration searches each supporting title, reads what the real retriever
returns for it, and gives the answer.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from tspo.config import RunConfig
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.retrieval.base import Retriever
from tspo.rewards.matching import normalize_answer
from tspo.rollout.codec import Codec
from tspo.trajectory import StopReason, Trajectory, Turn

_FIRST = "<think>I should look up {title}.</think>\n<search>{title}</search>"
_NEXT = "<think>That leads to {title}. I should look it up.</think>\n<search>{title}</search>"
_LAST = "<think>Now I know enough to answer.</think>\n<answer>{answer}</answer>"


def demonstrations(
    questions: Sequence[Question], retriever: Retriever, codec: Codec, config: RunConfig
) -> list[Trajectory]:
    """One demonstration for each question whose hops fit in the limits; raises BadInput if there is none."""
    limits = config.rollout.limits()
    hops = [[codec.neutral(title) for title in hop_order(question)] for question in questions]
    wanted = [title for titles in hops for title in titles]
    results = dict(zip(wanted, retriever.search(wanted, limits.top_k), strict=True)) if wanted else {}
    made = []
    for question, titles in zip(questions, hops, strict=True):
        if not titles or len(titles) + 1 > limits.max_turns:
            continue
        turns = []
        for hop, title in enumerate(titles):
            text = (_NEXT if hop else _FIRST).format(title=title)
            contents = [passage.contents for passage in results[title]]
            feedback, feedback_ids = codec.feedback(contents, limits.max_feedback_tokens)
            turns.append(demonstrated_turn(text, codec, query=title, feedback=feedback, feedback_ids=feedback_ids))
        answer = codec.neutral(question.golden_answers[0]).strip()
        turns.append(demonstrated_turn(_LAST.format(answer=answer), codec))
        trajectory = Trajectory(
            group_id=question.id,
            trajectory_id=f"{question.id}-demonstration",
            question=question.question,
            golden_answers=list(question.golden_answers),
            turns=turns,
            answer=answer,
            stop_reason=StopReason.ANSWER,
            prompt_token_ids=codec.prompt(question.question),
            extra={"data_source": question.data_source},
        )
        longest = max(len(turn.token_ids or []) for turn in turns)
        if longest <= limits.max_turn_tokens and trajectory.num_tokens <= limits.max_total_tokens:
            made.append(trajectory)
    if not made:
        raise BadInput(
            "warmup: no demonstration could be made; the training questions need 'supporting_titles' whose "
            "number is below rollout.max_turns, and room in rollout.max_turn_tokens and rollout.max_total_tokens"
        )
    return made[: config.warmup.max_demonstrations]


def hop_order(question: Question) -> list[str]:
    """Supporting titles in the order they can be found in: those that the question names come first."""
    asked = set(normalize_answer(question.question).split())

    def named(title: str) -> float:
        words = normalize_answer(title).split()
        return sum(word in asked for word in words) / max(len(words), 1)

    titles = [_searchable(title) for title in question.supporting_titles]
    return sorted((title for title in titles if title), key=named, reverse=True)


def demonstrated_turn(
    text: str,
    codec: Codec,
    query: str | None = None,
    feedback: str | None = None,
    feedback_ids: list[int] | None = None,
) -> Turn:
    """A turn that somebody wrote, as if the policy had."""
    token_ids = codec.policy(text)
    # A demonstration was not sampled: its tokens have no log-probability of their own.
    return Turn(text, query, feedback, token_ids, [0.0] * len(token_ids), feedback_ids)


def _searchable(title: str) -> str:
    """A title as a person would type it: entities decoded, no brackets, nothing that could be a tag."""
    return re.sub(r"[<>]|\s*\([^)]*\)", "", html.unescape(title)).strip()
