"""How likely the policy finds the golden answer before each turn: what IGPO's reward wants of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from tspo.rewards.information_gain import FIELD, AnswerScorer
from tspo.rollout.codec import Codec
from tspo.trajectory import Trajectory


def score_answers(trajectories: Sequence[Trajectory], codec: Codec, scorer: AnswerScorer, cue: str) -> None:
    """Give each turn its `answer_log_probability`: the first golden answer's, after all before the turn and the cue.

    Trajectories must come from a rollout. What several of them have in common is scored once.
    """
    cue_ids = codec.policy(cue)
    asked: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    places = []
    for trajectory in trajectories:
        answer = tuple(codec.plain(f" {trajectory.golden_answers[0]}"))
        context = list(trajectory.prompt_token_ids or ())
        for turn in trajectory.turns:
            places.append((turn, asked.setdefault(((*context, *cue_ids), answer), len(asked))))
            context += [*(turn.token_ids or ()), *(turn.feedback_token_ids or ())]
    scores = scorer.answer_log_probabilities([prefix for prefix, _ in asked], [answer for _, answer in asked])
    for turn, place in places:
        turn.extra[FIELD] = scores[place]


def answer_rows(
    prefixes: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids (rows, tokens) padded on the left with 0, their mask, and which of the last tokens are the answer's.

    The last is (rows, longest answer); all are int64.
    """
    rows = [torch.tensor([*prefix, *answer]) for prefix, answer in zip(prefixes, answers, strict=True)]
    ids = pad_sequence(rows, batch_first=True, padding_side="left")
    attention = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    marks = [torch.ones(len(answer), dtype=torch.int64) for answer in answers]
    return ids, attention, pad_sequence(marks, batch_first=True, padding_side="left")
