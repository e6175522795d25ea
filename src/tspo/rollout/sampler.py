"""What the agent loop asks of whatever samples from the policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from tspo.errors import BadInput

Finish = Literal["stop", "end", "length"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """The policy's tokens of one turn, with the log-probability (natural log) each was sampled with.

    `logprobs` is None where the sampler does not know them: such a turn can be evaluated, not trained on.
    `finish` is "stop" where the policy closed a search or an answer, "end" where it sampled an end token,
    and "length" where it reached the limit. `reason` is why a server ended it, where that is none of these; such a turn
    may have no token.
    """

    token_ids: list[int]
    logprobs: list[float] | None
    text: str
    finish: Finish
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Which tokens are sampled, and how readily; by default all, as the policy has them.

    A `temperature` of 0 is greedy, whatever else is said. After the temperature `top_k` keeps so many of the most
    likely tokens (0: all), then `top_p` the fewest of those, the most likely first, that have this share of their
    probability, then `min_p` those that have this share of the probability of the most likely one: transformers' order,
    and SGLang's. vLLM takes `min_p` first; where both are set, its `top_p` is a share of what that left. What is kept
    is sampled in proportion, and log-probabilities are of that distribution. Raises BadInput for values out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Raise BadInput for values out of range."""
        if not 0 <= self.temperature < math.inf:
            raise BadInput(f"temperature: {self.temperature} is not a number from 0 on")
        if self.top_k < 0:
            raise BadInput(f"top_k: {self.top_k} is less than 0, which keeps all tokens")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p: {self.top_p} is not above 0 and at most 1, which keeps all tokens")
        if not 0 <= self.min_p <= 1:
            raise BadInput(f"min_p: {self.min_p} is not from 0, which keeps all tokens, to 1")

    @property
    def truncates(self) -> bool:
        """Whether any token may be left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


FULL = SamplingOptions()
"""The policy as it is."""

GREEDY = SamplingOptions(temperature=0.0)
"""Always the most likely token."""


class Session(Protocol):
    """One episode's place in the sampler; what it has seen stays in its key-value cache between turns."""

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        """Append tokens from outside, then sample one turn of 1 to `max_tokens` tokens."""
        ...


@runtime_checkable
class StreamingSession(Session, Protocol):
    """A session whose turns can be followed token by token."""

    async def stream(
        self, new_token_ids: list[int], max_tokens: int, on_tokens: Callable[[Sequence[int]], None]
    ) -> Sampled:
        """The same turn as `sample` gives; `on_tokens` sees all its tokens so far after each."""
        ...


class Sampler(Protocol):
    """Samples many sessions side by side."""

    def refresh(self) -> None:
        """Take over the weights of the model it was made from; no session may be open."""
        ...

    def close(self) -> None:
        """Give back what it holds; nothing can be sampled any more."""
        ...

    def session(self, seed: str) -> AbstractAsyncContextManager[Session]:
        """A new session, once there is room for it; equal seeds sample equal texts."""
        ...
