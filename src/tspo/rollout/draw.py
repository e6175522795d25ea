"""Which token is sampled: the distribution that is left of a model's logits, and a draw from it."""

from __future__ import annotations

import math

import torch

from tspo.errors import NotFinite
from tspo.rollout.sampler import SamplingOptions

_STRETCH = 256
"""Tokens of the vocabulary whose probabilities are summed together; it is less where that does not divide it."""


def distribution(logits: torch.Tensor, options: SamplingOptions) -> torch.Tensor:
    """Probabilities (rows, vocabulary) of what is sampled from `logits` (rows, vocabulary) at a temperature above 0.

    What `options` leave out has probability 0, and the rest sums to 1.
    """
    probabilities = (logits / options.temperature if options.temperature != 1 else logits).softmax(-1)
    if options.truncates:
        _leave_out(probabilities, options)
        probabilities /= probabilities.sum(-1, keepdim=True)
    return probabilities


def _leave_out(probabilities: torch.Tensor, options: SamplingOptions) -> None:
    """Set to 0 what the options leave out. Of tokens as likely as the last of top_k, all are kept."""
    if 0 < options.top_k < probabilities.shape[-1]:
        last = probabilities.topk(options.top_k).values[:, -1:]
        probabilities.masked_fill_(probabilities < last, 0)
    if options.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        up_to = ordered.cumsum(-1)
        enough_before = up_to - ordered >= options.top_p * up_to[:, -1:]
        probabilities.masked_fill_(torch.zeros_like(enough_before).scatter(-1, order, enough_before), 0)
    if options.min_p > 0:
        probabilities.masked_fill_(probabilities < options.min_p * probabilities.amax(-1, keepdim=True), 0)


def check_finite(values: torch.Tensor) -> None:
    """Raise NotFinite where a model's logits gave a nan or an infinity."""
    if not torch.isfinite(values).all():
        raise NotFinite(
            "model: its logits are nan or infinite. Look at its weights (a learning rate that is too high leaves "
            "such), and at the precision it is sampled in (rollout.dtype)"
        )


def draw(probabilities: torch.Tensor, uniform: torch.Tensor, of: torch.Tensor | None = None) -> torch.Tensor:
    """The token (draws, 1) in which the running sum of `probabilities` passes `uniform` (draws, 1).

    `probabilities` are (distributions, vocabulary); `of` (draws,) says which one each draw is from, None that there is
    one draw of each. Sums of whole stretches come first, and the running sum only in the stretch that decides: one pass
    over all. Raises NotFinite.
    """
    count, vocabulary = probabilities.shape
    size = math.gcd(vocabulary, _STRETCH)
    stretches = probabilities.view(count, -1, size)
    up_to = stretches.sum(-1).cumsum(-1)
    check_finite(up_to[:, -1])
    if of is None:
        of = torch.arange(count, device=probabilities.device)
    else:
        up_to = up_to[of]
    wanted = _below(uniform * up_to[:, -1:], up_to[:, -1:])
    which = torch.searchsorted(up_to, wanted, right=True)
    stretch = stretches[of, which[:, 0]].cumsum(-1)
    rest = _below(wanted - up_to.gather(1, which) + stretch[:, -1:], stretch[:, -1:])
    return which * size + torch.searchsorted(stretch, rest, right=True)


def _below(values: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """`values` within [0, total): where rounding left them outside, a token that cannot be would be drawn."""
    return values.clamp(min=0.0).minimum(torch.nextafter(total, torch.zeros_like(total)))
