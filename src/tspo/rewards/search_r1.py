"""Search-R1's rewards for format and retrieval (v0.3; Jin et al. 2025, arXiv 2505.15117): one for the trajectory.

    format kept:      1 if right, else format_score, and retrieval_score more if a passage held an answer
    format not kept:  1 - format_score if right, else broken_format_score

The paper's format reward is format_score 0.2 and nothing for a wrong answer in a broken format; the authors' scripts
give that 0.1. retrieval_score is 0 in their scripts and 0.1 in a comment of their code. As in their code, an answer is
in a passage if the normalised passage contains it anywhere (`match: substring`); `match: token` wants whole words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tspo.protocol import TAGS
from tspo.rewards.folr import first_occurrence
from tspo.rewards.matching import Match, exact_match
from tspo.trajectory import OPENED, Trajectory, Turn

_BODY = rf"(?:(?!</?(?:{'|'.join(TAGS)})>).)*"
_SEARCH_TURN = re.compile(rf"\s*<think>{_BODY}</think>\s*<search>{_BODY}</search>\s*", re.DOTALL)
_ANSWER_TURN = re.compile(rf"\s*<think>{_BODY}</think>\s*<answer>{_BODY}</answer>\s*", re.DOTALL)


def search_r1_rewards(
    trajectory: Trajectory,
    *,
    match: Match = "token",
    format_score: float = 0.2,
    broken_format_score: float = 0.0,
    retrieval_score: float = 0.0,
) -> list[float]:
    """The trajectory's one reward, on each of its turns."""
    feedbacks = [turn.feedback for turn in trajectory.turns]
    opened = trajectory.extra.get(OPENED)
    kept = keeps_format(trajectory.turns, opened if isinstance(opened, str) else "")
    if exact_match(trajectory.answer, trajectory.golden_answers) == 1.0:
        reward = 1.0 if kept else 1.0 - format_score
    elif not kept:
        reward = 0.0 if trajectory.answer is None else broken_format_score
    elif first_occurrence(feedbacks, trajectory.golden_answers, match, ignore=()) is not None:
        reward = format_score + retrieval_score
    else:
        reward = format_score
    return [reward] * len(feedbacks)


def keeps_format(turns: Sequence[Turn], opened: str = "") -> bool:
    """Whether every turn thinks and then searches and gets passages, but the last, which thinks and answers.

    `opened` is what the template wrote of the first turn.
    """
    texts = [opened + turns[0].text, *(turn.text for turn in turns[1:])]
    searched = all(map(_SEARCH_TURN.fullmatch, texts[:-1])) and all(turn.feedback is not None for turn in turns[:-1])
    return searched and _ANSWER_TURN.fullmatch(texts[-1]) is not None
