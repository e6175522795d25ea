"""How likely the policy finds the golden answer before each turn: what IGPO's reward wants of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from tspo.errors import BadInput
from tspo.rewards.information_gain import FIELD, AnswerScorer
from tspo.rollout.codec import Codec
from tspo.rollout.kv_cache import cache_argument
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


def check_can_score(model: PreTrainedModel) -> None:
    """Raise BadInput for a model with layers whose cache is a running state: it cannot go back to what rows share."""
    layers = DynamicCache(config=model.config.get_text_config()).layers
    if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers):
        raise BadInput(
            "credit.reward: information_gain needs attention in every layer, which "
            f"{model.config.model_type} models do not have; choose another model or reward"
        )


@torch.no_grad()
def mean_log_probabilities(
    model: PreTrainedModel,
    prefixes: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    temperature: float,
) -> list[float]:
    """For each prefix, the mean log-probability (natural) of its answer's tokens if they came next.

    In their lexicographic order rows share most with the row before: that stays in the cache, and each token of what
    several rows begin with goes through the model once.
    """
    means = [0.0] * len(prefixes)
    # made without the model's configuration, which keeps a sliding window whole, so that it can be cut back
    cache, held = DynamicCache(), list[int]()
    rows = [[*prefix, *answer] for prefix, answer in zip(prefixes, answers, strict=True)]
    for place in sorted(range(len(rows)), key=rows.__getitem__):
        row, answer = rows[place], answers[place]
        # the last token before the answer is always fed: the answer's first is told from its state
        shared = min(_shared(held, row), len(prefixes[place]) - 1)
        if shared < len(held):
            cache.crop(shared - len(held))
        fed = torch.tensor([row[shared:]], device=model.device)
        output = model(input_ids=fed, use_cache=True, logits_to_keep=len(answer) + 1, **{cache_argument(model): cache})
        logprobs = (output.logits[0, :-1].float() / temperature).log_softmax(-1)
        labels = torch.tensor(answer, device=logprobs.device)
        means[place] = float(logprobs.gather(-1, labels[:, None]).mean())
        held = row
    return means


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    unlike = (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(unlike, min(len(first), len(second)))
